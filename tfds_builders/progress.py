"""Lines that say how far the reading and comparing of scans is, unless nothing is to be said."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

PROGRESS_STEP_S = 10.0  # between two lines
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
