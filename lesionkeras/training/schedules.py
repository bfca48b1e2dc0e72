"""What the clock and the losses of past epochs decide: when a run ends, and its learning rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import keras

from lesionkeras.config import OptimizerConfig
from lesionkeras.training.checkpoints import TrainingState
from lesionkeras.training.optimizers import compute_budget_rate, compute_plateau_rate


class CpuClock(keras.callbacks.Callback):
    """Counts the CPU seconds of training, and ends a run that has used its budget.

    Reading, tracing and steps count; validation and writing do not.  Under a budget the schedule
    follows the share that is used, of it or of the steps, whichever is more.

    Args:
        state: Of the run; its `cpu_s` is counted on.
        optimizer: Of the recipe.
        budget_s: 0 only counts.
        total_steps: Steps that end the run if the budget does not; 0: none do.
        whole_s: Budget of the whole run, where `budget_s` ends a phase of it; 0: it is the whole.
        clock: Gives the seconds; the process's on all cores.
    """

    def __init__(
        self,
        state: TrainingState,
        optimizer: OptimizerConfig,
        budget_s: float,
        total_steps: int = 0,
        whole_s: float = 0.0,
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        super().__init__()
        self._whole_s = whole_s or budget_s
        self._state, self._config, self._budget_s = state, optimizer, budget_s
        self._total_steps, self._batch = total_steps, 0
        self._clock, self._mark = clock, clock()

    @property
    def share(self) -> float:
        """How much of the run is done, 0 to 1; of a run without a budget 0."""
        if not self._budget_s:
            return 0.0
        steps = (self._state.step + self._batch) / self._total_steps if self._total_steps else 0.0
        return min(max(self._state.cpu_s / self._whole_s, steps), 1.0)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._mark, self._batch = self._clock(), 0

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Sets the learning rate of a run with a budget."""
        self._batch = batch
        if self._budget_s and self._config.schedule != "plateau":
            self.model.optimizer.learning_rate = compute_budget_rate(self._config, self.share)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Counts, and stops where the budget is used."""
        now = self._clock()
        self._state.cpu_s += now - self._mark
        self._mark = now
        if self._budget_s and self._state.cpu_s >= self._budget_s:
            self.model.stop_training = True


class PlateauRate(keras.callbacks.Callback):
    """Lowers the learning rate where the loss falls no more (P5, 3.4), if that is the schedule.

    Args:
        state: Of the run, whose rows have each epoch's losses.
        optimizer: Of the recipe.
    """

    def __init__(self, state: TrainingState, optimizer: OptimizerConfig) -> None:
        super().__init__()
        self._state, self._config = state, optimizer

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Sets the rate that the epochs so far lead to."""
        if self._config.schedule != "plateau":
            return
        rows = self._state.rows
        validated = [row["val_loss"] for row in rows if "val_loss" in row]
        losses = validated or [row["loss"] for row in rows]
        self.model.optimizer.learning_rate = compute_plateau_rate(self._config, losses)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Sets the rate of the next epoch."""
        self.on_train_begin()
