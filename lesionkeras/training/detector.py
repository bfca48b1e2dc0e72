"""One detector's training from a recipe: first weights in, best weights out."""

from __future__ import annotations

from lesionkeras.config import SSDRecipe
from lesionkeras.data.opening import Splits
from lesionkeras.data.pipeline import make_train, steps_per_epoch
from lesionkeras.models.ssd import SSD, build_ssd
from lesionkeras.models.weights import load_backbone_weights
from lesionkeras.training.callbacks import Validate
from lesionkeras.training.determinism import set_determinism
from lesionkeras.training.fit import compile_model, finish, fit
from lesionkeras.training.log import Row
from lesionkeras.training.precision import resolve_precision
from lesionkeras.training.run import RunDirectory


def train_detector(
    recipe: SSDRecipe, splits: Splits, run: RunDirectory, validate: Validate | None
) -> tuple[SSD, list[Row], int]:
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
        validate,
    )
    return model, rows, finish(model, run)
