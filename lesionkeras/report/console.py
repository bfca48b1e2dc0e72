"""What a run says while it counts: nothing below two seconds, then how far and how long still."""

from __future__ import annotations

import sys
import time
from types import TracebackType

QUIET_S = 2.0
TERMINAL_STEP_S, LOG_STEP_S = 0.5, 10.0  # between two lines


class Counter:
    """A progress line: call it with what is done and what there is in all.

    Args:
        title: The start of the line.
    """

    def __init__(self, title: str) -> None:
        self._title, self._start_s, self._last_s = title, time.monotonic(), 0.0
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        """Show the state, if it is time to."""
        now = time.monotonic()
        passed_s, is_terminal = now - self._start_s, sys.stdout.isatty()
        step_s = TERMINAL_STEP_S if is_terminal else LOG_STEP_S
        if passed_s < QUIET_S or now - self._last_s < step_s:
            return
        self._last_s, self._shown = now, True
        left_s = passed_s / max(done, 1) * (total - done)
        text = f"{self._title}: {done} of {total}, about {left_s:.0f} s left"
        print(text, end="\r" if is_terminal else "\n", flush=True)

    def __enter__(self) -> Counter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown and sys.stdout.isatty():
            print(" " * 78, end="\r", flush=True)
