"""The training loop: `model.fit` that resumes where it was, bit for bit.

The resume rule: a run's state is its variables, its optimizer's, its seed generators' and the
number of finished epochs; all are in `checkpoints/last`.  The stream of batches has no state: it
is made anew from the epoch it shall start at.  So a run that is killed in mid-epoch loses that
epoch's work and nothing else.  A budget's used CPU seconds are part of the state too, but how many
steps they buy is the clock's to say: a run with a budget does not repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any, Protocol

import keras

from lesionkeras.config import OptimizerConfig, SegmentationTrainConfig, TrainConfig
from lesionkeras.files import replacing
from lesionkeras.training.callbacks import FiniteGuard, MakeTrain, Recorder, Validate
from lesionkeras.training.checkpoints import TrainingState, read_best, read_last
from lesionkeras.training.log import Row, write_log
from lesionkeras.training.optimizers import build_optimizer
from lesionkeras.training.progress import Progress
from lesionkeras.training.run import RunDirectory
from lesionkeras.training.scalars import ScalarWriter
from lesionkeras.training.schedules import CpuClock, PlateauRate

ENDLESS_EPOCHS = 1_000_000  # of a run that its budget ends


class TrainingRecipe(Protocol):
    """What training needs of a recipe."""

    @property
    def optimizer(self) -> OptimizerConfig:
        """How weights move."""

    @property
    def train(self) -> TrainConfig | SegmentationTrainConfig:
        """How long, how much at once, and how exactly."""


def compile_model(
    model: keras.Model, recipe: TrainingRecipe, total_steps: int, **compile_arguments: Any
) -> None:
    """Gives a model its optimizer and says whether XLA compiles its step.

    Args:
        model: Built; under mixed_float16 Keras wraps the optimizer to scale the loss.
        recipe: The run's recipe.
        total_steps: Steps of the whole run.
        **compile_arguments: For `keras.Model.compile`, such as a loss where the model brings none.
    """
    optimizer = build_optimizer(recipe.optimizer, 0 if find_budget_s(recipe) else total_steps)
    model.compile(optimizer=optimizer, jit_compile=recipe.train.jit_compile, **compile_arguments)
    model.optimizer.build(model.trainable_variables)


def find_budget_s(recipe: TrainingRecipe) -> float:
    """Returns the CPU seconds that a recipe's training ends after; 0 where epochs end it."""
    return float(getattr(recipe.train, "cpu_budget_s", 0.0))


def fit(
    model: keras.Model,
    recipe: TrainingRecipe,
    run: RunDirectory,
    make_train: MakeTrain,
    steps_per_epoch: int,
    validate: Validate | None = None,
    *,
    monitor: str = "val_map50",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    total_epochs: int = 0,
    total_budget_s: float = 0.0,
) -> list[Row]:
    """Trains to the recipe's last epoch or to the end of its budget, from wherever the run stands.

    Args:
        model: From `compile_model`; its logs hold `loss` and its parts.
        recipe: The run's recipe.
        run: Where log, event file and checkpoints are written each epoch.
        make_train: Gives an endless stream of batches, always the same, from an epoch (0..) on.
        steps_per_epoch: Batches of an epoch.
        validate: Computes scores, every `validate_every_epochs` and after the last epoch.
        monitor: The score (with val_) whose highest value is the best epoch, the later of equals;
            without validation the last epoch is the best.
        callbacks: Of the caller; they run after an epoch is on disk.
        total_epochs: Of the whole run, for the estimate, where this recipe is a phase of it.
        total_budget_s: Likewise, for the learning rate.

    Returns:
        The rows of log.csv, those of earlier sittings included.

    Raises:
        RunError: The loss or a weight is not finite (its batch is saved), the stream ended, the
            validation lacks the monitored score, or the checkpoint is another network's.
    """
    state, budget_s = read_last(run, model) or TrainingState(), find_budget_s(recipe)
    epochs = recipe.train.epochs or ENDLESS_EPOCHS * bool(budget_s)
    write_log(run.log_csv, state.rows)
    if state.epoch >= epochs or (budget_s and state.cpu_s >= budget_s):
        return state.rows
    steps = recipe.train.epochs * steps_per_epoch
    clock = CpuClock(state, recipe.optimizer, budget_s, steps, total_budget_s)
    share = (lambda: clock.share) if budget_s else None
    progress = Progress(total_epochs or epochs, steps_per_epoch, monitor, share=share)
    guard = FiniteGuard(run, make_train, steps_per_epoch, progress.show_step)
    scalars = ScalarWriter(run.tensorboard, state.rows)
    told = (scalars.write, progress.show_epoch)
    recorder = Recorder(run, state, recipe.train, validate, monitor, told)
    model.train_function = None  # traced anew: a second shape would make sizes unknown, not static
    with closing(progress), closing(scalars):
        model.fit(
            make_train(state.epoch),
            initial_epoch=state.epoch,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            shuffle=False,  # the stream has its own order; True would only warn
            verbose=0,
            callbacks=[guard, clock, recorder, PlateauRate(state, recipe.optimizer), *callbacks],
        )
    return state.rows


def finish(model: keras.Model, run: RunDirectory, saved: keras.Model | None = None) -> int:
    """Puts the best weights into the model and saves it whole as model.keras.

    Args:
        model: The network of the run.
        run: A run whose training ended.
        saved: What is saved where it is not the trained model itself; it shares the weights.

    Returns:
        The best epoch, from 1.

    Raises:
        RunError: The run has no best checkpoint.
    """
    epoch = read_best(run, model)
    with replacing(run.model) as partial:
        (saved or model).save(partial, include_optimizer=False)
    return epoch
