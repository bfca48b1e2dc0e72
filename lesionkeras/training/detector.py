"""One detector's training from a recipe: weights in, validation by patient, best weights out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lesionkeras.config import SSDRecipe
from lesionkeras.data.opening import Splits
from lesionkeras.data.pipeline import make_train, steps_per_epoch
from lesionkeras.inference.detect import detect_split, make_detector
from lesionkeras.metrics import evaluate_coco
from lesionkeras.models.ssd import SSD, build_ssd
from lesionkeras.models.weights import load_backbone_weights
from lesionkeras.training.determinism import set_determinism
from lesionkeras.training.fit import compile_model, finish, fit
from lesionkeras.training.log import Row
from lesionkeras.training.precision import resolve_precision
from lesionkeras.training.run import RunDirectory


def make_validation(splits: Splits, recipe: SSDRecipe) -> Callable[[Any], dict[str, float]] | None:
    """Return a function that scores a network on the validation patients, if there are any.

    Args:
        splits: What was opened.
        recipe: Window, image size and decoding.

    Returns:
        From a network to val's map50 and map50_95, or None.
    """
    if splits.validation is None:
        return None
    split, detectors = splits.validation, {}

    def validate(model: SSD) -> dict[str, float]:
        if model not in detectors:
            detectors[model] = make_detector(model)
        found = detect_split(detectors[model], split, recipe)
        result = evaluate_coco(found.truths, found.detections)
        return {"map50": max(result.ap50, 0.0), "map50_95": max(result.ap, 0.0)}

    return validate


def train_detector(
    recipe: SSDRecipe, splits: Splits, run: RunDirectory
) -> tuple[SSD, list[Row], int]:
    """Train the recipe's detector in a run directory, from wherever the run stands.

    Args:
        recipe: Everything that decides the result.
        splits: What is trained on and chosen on.
        run: Where it is written.

    Returns:
        The network with the weights of its best epoch, the rows of log.csv, and that epoch.

    Raises:
        RunError: The loss is not finite, or a checkpoint does not fit.
        RecipeError, DataError: Backbone weights do not fit.
    """
    import keras

    set_determinism(recipe.train.seed)
    keras.config.set_dtype_policy(resolve_precision(recipe.train.precision))
    model = build_ssd(recipe.model, recipe.match, recipe.loss, recipe.decode)
    if not run.last.exists():
        load_backbone_weights(model, recipe.model)
    steps = steps_per_epoch(splits.train, recipe)
    compile_model(model, recipe, steps * recipe.train.epochs)
    rows = fit(
        model,
        recipe,
        run,
        lambda first_epoch: make_train(splits.train, recipe, first_epoch),
        steps,
        make_validation(splits, recipe),
    )
    return model, rows, finish(model, run)
