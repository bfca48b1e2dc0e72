"""Lines that say how far reading, comparing and building are, unless nothing is to be said."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

QUIET_S = 2.0  # shorter builds show no progress
TERMINAL_STEP_S, PROGRESS_STEP_S = 1.0, 10.0  # between two lines
Progress = Callable[[int, int], None]
# TFDS calls a builder between `open_builder` and what takes long, so no argument gets there.
_is_silent: ContextVar[bool] = ContextVar("is_silent", default=False)


@contextlib.contextmanager
def silenced(silent: bool = True) -> Iterator[None]:
    """Let what `make_progress` returns inside the block say nothing.

    Args:
        silent: False changes nothing.
    """
    token = _is_silent.set(silent or _is_silent.get())
    try:
        yield
    finally:
        _is_silent.reset(token)


def make_progress(verb: str, things: str) -> Progress:
    """Return what says every ten seconds on stderr how many things are done.

    Args:
        verb: Such as "checked".
        things: Such as "scans".
    """
    last_s, is_silent = time.monotonic(), _is_silent.get()

    def progress(done: int, total: int) -> None:
        nonlocal last_s
        if not is_silent and time.monotonic() - last_s > PROGRESS_STEP_S:
            last_s = time.monotonic()
            print(f"{verb} {done} of {total} {things}", file=sys.stderr, flush=True)

    return progress


class BuildProgress:
    """Says every so often how far a build is, once it has lasted two seconds."""

    def __init__(self, title: str, total: int | None) -> None:
        self.title, self.total = title, total
        self.count, self.start_s = 0, time.monotonic()
        self.first_s = 0.0  # when the first example was there: importing TensorFlow is no measure
        self.last_s, self.width = 0.0, 0

    def follow(self, generate: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        """Return `generate` with every example counted."""

        def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
            for example in generate(*args, **kwargs):
                self._step()
                yield example

        return counted

    def _step(self) -> None:
        self.count += 1
        passed_s = time.monotonic() - self.start_s
        self.first_s = self.first_s or passed_s
        terminal = sys.stdout.isatty()
        step_s = TERMINAL_STEP_S if terminal else PROGRESS_STEP_S
        too_soon = bool(self.last_s) and passed_s - self.last_s < step_s
        if not self.title or self.count < 2 or passed_s < QUIET_S or too_soon:
            return
        self.last_s = passed_s
        text = f"{self.title}: preparing image {self.count}"
        if self.total and self.count <= self.total:
            left_s = (passed_s - self.first_s) / (self.count - 1) * (self.total - self.count)
            text += f" of {self.total}, about {left_s:.0f} s left"
        self.width = max(self.width, len(text))
        print(text.ljust(self.width), end="\r" if terminal else "\n", flush=True)

    def close(self) -> None:
        """Clear the line of a terminal."""
        if self.width and sys.stdout.isatty():
            print(" " * self.width, end="\r", flush=True)
