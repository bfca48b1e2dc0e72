"""What happens around a training step and at the end of an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lesionkeras.config import SegmentationTrainConfig, TrainConfig
from lesionkeras.errors import RunError
from lesionkeras.files import replacing
from lesionkeras.training.averaging import averaged_weights
from lesionkeras.training.checkpoints import TrainingState, view_array, write_best, write_last
from lesionkeras.training.log import Row, write_log
from lesionkeras.training.run import RunDirectory

MakeTrain = Callable[[int], tf.data.Dataset]
Validate = Callable[[keras.Model], dict[str, float]]


class FiniteGuard(keras.callbacks.Callback):
    """Ends a run whose loss or weights are no longer finite, and saves the batch.

    The mean loss of the epoch stays non-finite once a step's was, so no step is missed although
    each is looked at one step later: by then an accelerator has the next one in its queue and
    does not wait.  The batch is not kept: the stream is made again from the same epoch.

    Args:
        run: Where the batch goes.
        make_train: As `fit` takes it.
        steps_per_epoch: Batches of an epoch.
        show_step: Told epoch (from 1), steps done and mean loss.
    """

    def __init__(
        self,
        run: RunDirectory,
        make_train: MakeTrain,
        steps_per_epoch: int,
        show_step: Callable[[int, int, float], None],
    ) -> None:
        super().__init__()
        self._run, self._make_train, self._steps = run, make_train, steps_per_epoch
        self._show_step = show_step
        self._epoch = 0
        self._pending: tuple[int, Any] | None = None  # step, its loss on the device

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Starts counting steps."""
        self._epoch, self._pending = epoch, None

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Looks at the step before this one.

        Raises:
            RunError: Its loss is not finite.
        """
        self._check_pending()
        self._pending = (batch, (logs or {})["loss"])

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Looks at the last step and at every variable, before anything is written.

        Raises:
            RunError: One is not finite, or the epoch was too short.
        """
        done = self._pending[0] + 1 if self._pending else 0
        self._check_pending()
        if done != self._steps and not self.model.stop_training:  # a budget ends in mid-epoch
            raise RunError(
                "The stream of training batches ended",
                where=f"epoch {epoch + 1}",
                found=f"{done} batches",
                wanted=f"{self._steps}",
                next_step="repeat the data set in make_train",
            )
        for variable in self.model.variables:
            if not np.isfinite(view_array(variable)).all():
                self._stop(self._steps - 1, f"The variable {variable.path}", "NaN or infinity")

    def _check_pending(self) -> None:
        if self._pending:
            step, loss = self._pending[0], float(self._pending[1])
            if not math.isfinite(loss):
                self._stop(step, "The loss", str(loss))
            self._show_step(self._epoch + 1, step + 1, loss)

    def _stop(self, step: int, what: str, found: str) -> None:
        """Saves the batch of a step (from 0) and raises."""
        batch = next(iter(self._make_train(self._epoch).skip(step).take(1)))
        arrays: dict[str, Any] = dict(_name_arrays(batch))
        with replacing(self._run.nonfinite_batch) as partial:
            np.savez(partial, **arrays)
        broken = [
            name
            for name, array in arrays.items()
            if array.dtype.kind == "f" and not np.isfinite(array).all()
        ]
        cause = f"which holds NaN or infinity in {', '.join(broken)}" if broken else "which is fine"
        way_out = "correct the data" if broken else "lower --lr or set optimizer.clip_norm"
        kept = f"{self._run.last} holds epoch {self._epoch}" if self._epoch else "no epoch is kept"
        raise RunError(
            f"{what} is not finite",
            where=f"epoch {self._epoch + 1}, step {step + 1} of {self._steps}",
            found=f"{found} at the batch in {self._run.nonfinite_batch}, {cause}",
            next_step=f"{way_out} and start in a new --out ({kept})",
        )


class Recorder(keras.callbacks.Callback):
    """At the end of an epoch: validate, then write best, last and log, in this order.

    A kill between two of them repeats the epoch, which writes the same again.  Where the optimizer
    averages weights, the averaged ones are validated and best; `last` has both.

    Args:
        run: Where to write.
        state: Of the last finished epoch; changed in place.
        train: When to validate.
        validate: As `fit` takes it.
        monitor: As `fit` takes it.
        publish: Told the epoch's row once it is on disk.
    """

    def __init__(
        self,
        run: RunDirectory,
        state: TrainingState,
        train: TrainConfig | SegmentationTrainConfig,
        validate: Validate | None,
        monitor: str,
        publish: Sequence[Callable[[Row], None]],
    ) -> None:
        super().__init__()
        self._run, self._state, self._train = run, state, train
        self._validate, self._monitor, self._publish = validate, monitor, publish
        self._begin_s = 0.0
        self._steps = 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Starts the epoch's clock."""
        self._begin_s, self._steps = time.perf_counter(), 0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Counts steps."""
        self._steps += 1

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Validates and writes.

        Raises:
            RunError: The validation lacks the monitored score.
        """
        state = self._state
        row: Row = {"epoch": epoch + 1} | {k: float(v) for k, v in (logs or {}).items()}
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        if isinstance(self._train, SegmentationTrainConfig) or self._train.cpu_budget_s:
            row["cpu_seconds"] = round(state.cpu_s, 3)  # of all epochs so far
        state.epoch, state.step = epoch + 1, state.step + self._steps
        with averaged_weights(self.model):
            scores = self._compute_scores(epoch + 1)
            row |= {"seconds": round(time.perf_counter() - self._begin_s, 3)} | scores
            state.rows.append(row)
            if self._is_best(row):
                state.best_epoch, state.best_score = epoch + 1, row.get(self._monitor)
                write_best(self._run, self.model, epoch + 1)
        write_last(self._run, self.model, state)
        write_log(self._run.log_csv, state.rows)
        for tell in self._publish:
            tell(row)

    def _compute_scores(self, epoch: int) -> Row:
        is_due = epoch % self._train.validate_every_epochs == 0 or self._is_last(epoch)
        if self._validate is None or not is_due:
            return {}
        scores = self._validate(self.model)
        named = {f"val_{name.removeprefix('val_')}": float(s) for name, s in scores.items()}
        if self._monitor not in named:
            raise RunError(
                "The validation lacks the score that chooses the best epoch",
                found=", ".join(named) or "no score",
                wanted=self._monitor,
            )
        return named

    def _is_last(self, epoch: int) -> bool:
        return self.model.stop_training or epoch == self._train.epochs

    def _is_best(self, row: Row) -> bool:
        """Compares with the best so far; a tie goes to the later epoch, NaN loses."""
        if self._validate is None:
            return self._is_last(int(row["epoch"]))
        if self._monitor not in row:
            return False
        best = self._state.best_score
        return best is None or math.isnan(best) or row[self._monitor] >= best


def _name_arrays(batch: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Lists the arrays of a batch: (x, {"boxes": b}) gives 0 and 1.boxes."""
    if isinstance(batch, Mapping | tuple | list):
        items = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
        for key, item in items:
            yield from _name_arrays(item, f"{name}.{key}" if name else str(key))
    else:
        yield name or "batch", np.asarray(batch)
