"""One detector's training from a recipe: first weights in, best weights out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from lesionkeras.config import DetectionRecipe
from lesionkeras.data.opening import Splits
from lesionkeras.data.pipeline import make_train, steps_per_epoch
from lesionkeras.models import build_detector
from lesionkeras.models.weights import load_backbone_weights
from lesionkeras.training.callbacks import Validate
from lesionkeras.training.determinism import set_determinism
from lesionkeras.training.fit import compile_model, finish, fit
from lesionkeras.training.log import Row
from lesionkeras.training.precision import resolve_precision
from lesionkeras.training.run import RunDirectory

if TYPE_CHECKING:
    import keras


def list_phases(recipe: DetectionRecipe, steps: int) -> list[DetectionRecipe]:
    """Return the recipes of a run's phases, each with the epoch or the budget that it ends with.

    Under a budget `train.epochs` is 0: no phase ends with an epoch.

    Crops are cheap and full of lesions, but a deep feature of a whole image sees other borders than
    one of a crop: of 0.71 mAP50 on whole test images a fifth more epochs on whole images made 0.82.

    Args:
        recipe: Of the run.
        steps: Batches of an epoch; the same in every phase.

    Returns:
        One recipe where nothing is cropped, else two.

    >>> phases = list_phases(DetectionRecipe(), 10)
    >>> [(phase.train.epochs, phase.train.batch_size) for phase in phases]
    [(60, 16), (75, 4)]
    """
    train, augment = recipe.train, recipe.augment
    if train.cpu_budget_s:
        train = replace(train, epochs=0)
        recipe = replace(recipe, train=train)
    if augment.mode != "online" or not augment.crop_size_px:
        return [recipe]
    crops = replace(
        train,
        epochs=train.epochs - round(train.whole_image_fraction * train.epochs),
        cpu_budget_s=train.cpu_budget_s * (1 - train.whole_image_fraction),
    )
    size = train.whole_image_batch_size
    whole = replace(train, batch_size=size, images_per_epoch=steps * size)
    return [
        replace(recipe, train=crops),
        replace(recipe, augment=replace(augment, crop_size_px=0), train=whole),
    ]


def train_detector(
    recipe: DetectionRecipe, splits: Splits, run: RunDirectory, validate: Validate | None
) -> tuple[keras.Model, list[Row], int]:
    """Train the recipe's detector in a run directory, from wherever the run stands.

    Args:
        recipe: Everything that decides the result.
        splits: What is trained on.
        run: Where it is written.
        validate: Scores a network on validation patients; None where none are held out.

    Returns:
        The network with the weights of its best epoch, the rows of log.csv, and that epoch.

    Raises:
        RunError: The loss is not finite, or a checkpoint does not fit.
        RecipeError, DataError: Backbone weights do not fit.
    """
    import keras

    set_determinism(recipe.train.seed)
    keras.config.set_dtype_policy(resolve_precision(recipe.train.precision))
    model = build_detector(recipe)
    if not run.last.exists():
        load_backbone_weights(model, recipe.model)
    steps = steps_per_epoch(splits.train, recipe)
    compile_model(model, recipe, steps * recipe.train.epochs)
    rows: list[Row] = []
    for phase in list_phases(recipe, steps):
        stream = partial(make_train, splits.train, phase)
        rows = fit(
            model,
            phase,
            run,
            stream,
            steps,
            validate,
            total_epochs=recipe.train.epochs,
            total_budget_s=recipe.train.cpu_budget_s,
        )
    return model, rows, finish(model, run)
