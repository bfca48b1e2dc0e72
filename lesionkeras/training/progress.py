"""How far a run is, on one line that renews itself, or in lines of a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from lesionkeras.training.log import Row

_STEP_LINE_EVERY_S, _STEP_LINE_IN_FILE_EVERY_S = 0.5, 30.0
_CLEAR_TO_END = "\x1b[K"


class Progress:
    """Prints epoch, loss, last validation score, seconds an epoch and the remaining time.

    Args:
        epochs: Of the whole run.
        steps_per_epoch: Steps of one.
        monitor: Column of the log that is shown as the score.
        stream: Where to print; standard output if None.
        share: How much of its budget a run has used, 0 to 1, where that ends it and not `epochs`.
    """

    def __init__(
        self,
        epochs: int,
        steps_per_epoch: int,
        monitor: str,
        stream: TextIO | None = None,
        share: Callable[[], float] | None = None,
    ) -> None:
        self._epochs, self._steps, self._monitor = epochs, steps_per_epoch, monitor
        self._stream = stream or sys.stdout
        self._renews = self._stream.isatty()
        self._marks: list[float] = [time.monotonic()]  # start, and the end of each epoch
        self._shown_s = self._marks[0]
        self._first_step: tuple[int, float] | None = None  # which, when: the first one compiles
        self._score = ""
        self._share = share
        self._first_share = share() if share else 0.0

    def show_step(self, epoch: int, step: int, loss: float) -> None:
        """Shows the state within an epoch, at most twice a second; in a file after 30 s of silence.

        Args:
            epoch: Running epoch, from 1.
            step: Steps of it that are done.
            loss: Mean over the epoch so far.
        """
        now = time.monotonic()
        self._first_step = self._first_step or (step, now)
        every_s = _STEP_LINE_EVERY_S if self._renews else _STEP_LINE_IN_FILE_EVERY_S
        if now - self._shown_s >= every_s:
            estimate = self._estimate(epoch - 1) or self._estimate_first(epoch, step)
            self._print(
                f"{self._count(epoch)}  step {step}/{self._steps}  loss {loss:.3g}"
                f"{self._score}{estimate}"
            )

    def show_epoch(self, row: Row) -> None:
        """Shows an epoch that ended.

        Args:
            row: Its line of the log.
        """
        self._marks.append(time.monotonic())
        if self._monitor in row:
            self._score = f"  {self._monitor} {row[self._monitor]:.3g}"
        epoch = int(row["epoch"])
        self._print(
            f"{self._count(epoch)}  loss {row['loss']:.3g}{self._score}{self._estimate(epoch)}"
        )

    def close(self) -> None:
        """Ends the line that renews itself."""
        if self._renews:
            print(file=self._stream, flush=True)

    def _count(self, epoch: int) -> str:
        if self._share is None:
            return f"epoch {epoch}/{self._epochs}"
        return f"epoch {epoch}  {min(self._share(), 1.0):.0%} of the budget"

    def _estimate(self, done: int) -> str:
        """Says seconds an epoch (validation included) and the time left.

        The first epoch also traces and compiles; once there are others it does not count.
        """
        marks = self._marks[1:] if len(self._marks) > 2 else self._marks
        if len(marks) < 2:
            return ""
        seconds = (marks[-1] - marks[0]) / (len(marks) - 1)
        return f"  {seconds:.3g} s/epoch" + self._say_left(seconds * (self._epochs - done))

    def _estimate_first(self, epoch: int, step: int) -> str:
        """Says the time left within the first epoch of a sitting, from its steps but the first."""
        first, start_s = self._first_step or (step, 0.0)
        if step == first:
            return ""
        step_s = (time.monotonic() - start_s) / (step - first)
        return self._say_left(step_s * ((self._epochs - epoch + 1) * self._steps - step))

    def _say_left(self, left_s: float) -> str:
        """Says the time left: of the epochs, or of the budget where that ends the run."""
        if self._share is not None:
            share, passed_s = self._share(), time.monotonic() - self._marks[0]
            left_s = passed_s * max(1.0 - share, 0.0) / max(share - self._first_share, 1e-9)
        return f"  about {format_duration(left_s)} left" if left_s else ""

    def _print(self, line: str) -> None:
        self._shown_s = time.monotonic()
        if self._renews:
            print("\r" + line + _CLEAR_TO_END, end="", file=self._stream, flush=True)
        else:
            print(line, file=self._stream, flush=True)


def format_duration(seconds: float) -> str:
    """Writes a duration as people say it.

    >>> format_duration(40.2), format_duration(530), format_duration(4805)
    ('40 s', '9 min', '1 h 20 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
