"""One segmenter's training from a recipe: first weights in, best weights out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras

from lesionkeras.config import SegmentationLossConfig, SegmentationRecipe
from lesionkeras.data.segmentation import SegmentationSplits
from lesionkeras.data.segmentation_batches import make_segmentation_train
from lesionkeras.data.streams import count_steps
from lesionkeras.models import build, inference_model
from lesionkeras.models.weights import load_backbone_weights
from lesionkeras.segmentation_losses import segmentation_loss
from lesionkeras.training.determinism import set_determinism
from lesionkeras.training.fit import compile_model, finish, fit
from lesionkeras.training.log import Row
from lesionkeras.training.precision import resolve_precision
from lesionkeras.training.run import RunDirectory


def find_monitor(recipe: SegmentationRecipe) -> str:
    """Return the score of validation that chooses the best epoch.

    >>> find_monitor(SegmentationRecipe())
    'val_tumour_dice'
    """
    is_liver = recipe.model.head == "binary" and recipe.loss.target == "liver"
    return "val_liver_dice" if is_liver else "val_tumour_dice"


class SegmenterTraining(keras.Model):
    """A segmentation network that knows its loss; it shares the network's layers.

    Args:
        network: From `models.build`.
        loss_config: The losses.
    """

    def __init__(self, network: keras.Model, loss_config: SegmentationLossConfig) -> None:
        super().__init__(network.inputs, network.outputs, name=f"{network.name}_training")
        self.loss_config = loss_config

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the loss of the logits `y_pred` of one or several scales to the mask `y`."""
        return segmentation_loss(y_pred, y, self.loss_config)


def build_segmenter(recipe: SegmentationRecipe) -> tuple[keras.Model, SegmenterTraining]:
    """Build a recipe's network under its precision, and the model that trains it.

    Args:
        recipe: Of one of the segmentation experiments.

    Returns:
        The network with one output, from image [B, S, S, C] to float32 logits [B, S, S, 1 or 3],
        and the training model; they share all weights.

    Raises:
        RecipeError: The network's configuration or the image's size do not fit.
    """
    keras.config.set_dtype_policy(resolve_precision(recipe.train.precision))
    network = build(recipe.model)
    return inference_model(network), SegmenterTraining(network, recipe.loss)


def make_batches(splits: SegmentationSplits, recipe: SegmentationRecipe, epoch: int) -> Any:
    """Return the endless stream of training batches from an epoch (from 0) on."""
    size = recipe.train.batch_size
    steps = count_steps(len(splits.train), recipe.train.images_per_epoch, size)
    return make_segmentation_train(
        splits.train,
        recipe.data,
        recipe.augment,
        batch_size=size,
        seed=recipe.train.seed,
        first_example=epoch * steps * size,
    )


def train_segmenter(
    recipe: SegmentationRecipe,
    splits: SegmentationSplits,
    run: RunDirectory,
    validate: Callable[[keras.Model], dict[str, float]] | None,
) -> tuple[keras.Model, list[Row], int]:
    """Train the recipe's segmenter in a run directory, from wherever the run stands.

    Args:
        recipe: Everything that decides the result.
        splits: What is trained on.
        run: Where it is written.
        validate: Scores a network on validation patients; None where none are held out, and then
            the last epoch is the best.

    Returns:
        The network with the weights of its best epoch, the rows of log.csv, and that epoch.

    Raises:
        RunError: The loss is not finite, or a checkpoint does not fit.
        RecipeError, DataError: The network or its starting weights do not fit.
    """
    set_determinism(recipe.train.seed)
    network, model = build_segmenter(recipe)
    if not run.last.exists() and hasattr(recipe.model, "weights"):
        load_backbone_weights(network, recipe.model)
    train = recipe.train
    steps = count_steps(len(splits.train), train.images_per_epoch, train.batch_size)
    compile_model(model, recipe, steps * train.epochs)
    rows = fit(
        model,
        recipe,
        run,
        partial(make_batches, splits, recipe),
        steps,
        None if validate is None else lambda _: validate(network),
        monitor=find_monitor(recipe),
    )
    return network, rows, finish(model, run, saved=network)
