"""The training loop: `model.fit` that resumes where it was, bit for bit.

The resume rule: a run's state is its variables, its optimizer's, its seed generators' and the
number of finished epochs; all are in `checkpoints/last`.  The stream of batches has no state: it
is made anew from the epoch it shall start at.  So a run that is killed in mid-epoch loses that
epoch's work and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import keras

from lesionkeras.config import OptimizerConfig, TrainConfig
from lesionkeras.training.callbacks import FiniteGuard, MakeTrain, Recorder, Validate
from lesionkeras.training.checkpoints import TrainingState, read_best, read_last
from lesionkeras.training.log import Row, write_log
from lesionkeras.training.optimizers import build_optimizer
from lesionkeras.training.progress import Progress
from lesionkeras.training.run import RunDirectory, replacing
from lesionkeras.training.scalars import ScalarWriter


class TrainingRecipe(Protocol):
    """What training needs of a recipe."""

    @property
    def optimizer(self) -> OptimizerConfig:
        """How weights move."""

    @property
    def train(self) -> TrainConfig:
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
    optimizer = build_optimizer(recipe.optimizer, total_steps)
    model.compile(optimizer=optimizer, jit_compile=recipe.train.jit_compile, **compile_arguments)
    model.optimizer.build(model.trainable_variables)


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
) -> list[Row]:
    """Trains to the recipe's last epoch, from wherever the run stands.

    Args:
        model: From `compile_model`; its logs hold `loss` and its parts.
        recipe: The run's recipe.
        run: The run directory; log, event file and checkpoints are written there each epoch.
        make_train: Takes the epoch to start at (from 0) and gives an endless stream of batches,
            the same ones whenever it is asked.
        steps_per_epoch: Batches of an epoch.
        validate: Computes scores, every `validate_every_epochs` and after the last epoch.
        monitor: The score (with val_) whose highest value is the best epoch; a later epoch wins a
            tie.  Without validation the last epoch is the best.
        callbacks: Further ones of the caller; they run after an epoch is on disk.
        total_epochs: Of the whole run, for the estimate, where this recipe is one phase of it.

    Returns:
        The rows of log.csv, those of earlier sittings included.

    Raises:
        RunError: The loss or a weight is not finite (its batch is saved), the stream ended, the
            validation lacks the monitored score, or the checkpoint is of another network.
    """
    state = read_last(run, model) or TrainingState()
    write_log(run.log_csv, state.rows)
    if state.epoch >= recipe.train.epochs:
        return state.rows
    progress = Progress(total_epochs or recipe.train.epochs, steps_per_epoch, monitor)
    scalars = ScalarWriter(run.tensorboard, state.rows)
    guard = FiniteGuard(run, make_train, steps_per_epoch, progress.show_step)
    recorder = Recorder(
        run, state, recipe.train, validate, monitor, (scalars.write, progress.show_epoch)
    )
    model.train_function = None  # traced anew: a second shape would make sizes unknown, not static
    try:
        model.fit(
            make_train(state.epoch),
            initial_epoch=state.epoch,
            epochs=recipe.train.epochs,
            steps_per_epoch=steps_per_epoch,
            shuffle=False,  # the stream has its own order; True would only warn
            verbose=0,
            callbacks=[guard, recorder, *callbacks],
        )
    finally:
        progress.close()
        scalars.close()
    return state.rows


def finish(model: keras.Model, run: RunDirectory) -> int:
    """Puts the best weights into the model and saves it whole as model.keras.

    Args:
        model: The network of the run.
        run: A run whose training ended.

    Returns:
        The best epoch, from 1.

    Raises:
        RunError: The run has no best checkpoint.
    """
    epoch = read_best(run, model)
    with replacing(run.model) as partial:
        model.save(partial, include_optimizer=False)
    return epoch
