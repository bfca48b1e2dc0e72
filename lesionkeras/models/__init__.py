"""The networks, one a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from lesionkeras.config import (
    DetectionRecipe,
    FasterRCNNConfig,
    ResNet50UNetConfig,
    SegNetConfig,
    SSDConfig,
    UNetConfig,
)
from lesionkeras.models.blocks import check_size, inference_model
from lesionkeras.models.faster_rcnn import build_faster_rcnn, check_faster_rcnn
from lesionkeras.models.resnet50_unet import build_resnet50_unet
from lesionkeras.models.segnet import build_segnet
from lesionkeras.models.ssd import build_ssd
from lesionkeras.models.unet import build_unet

__all__ = [
    "BUILDERS",
    "DETECTORS",
    "build",
    "build_detector",
    "check_detector",
    "check_size",
    "inference_model",
]

BUILDERS: dict[type, Callable[[Any], keras.Model]] = {
    SSDConfig: build_ssd,
    UNetConfig: build_unet,
    SegNetConfig: build_segnet,
    ResNet50UNetConfig: build_resnet50_unet,
}


def build(config: SSDConfig | UNetConfig | SegNetConfig | ResNet50UNetConfig) -> keras.Model:
    """Return the network of a config with random weights.

    Args:
        config: One of BUILDERS.

    Returns:
        What its builder says; `inference_model` takes deep supervision off.

    Raises:
        RecipeError: The config does not make a network.
    """
    return BUILDERS[type(config)](config)


# Detectors are built from a whole recipe: their loss, matching and decoding are a part of them.
DETECTORS: dict[type, Callable[[Any], keras.Model]] = {
    SSDConfig: lambda recipe: build_ssd(recipe.model, recipe.match, recipe.loss, recipe.decode),
    FasterRCNNConfig: lambda recipe: build_faster_rcnn(
        recipe.model, recipe.match, recipe.loss, recipe.decode
    ),
}
# What of a recipe can be refused before anything is built or written; a detector may have none.
CHECKS: dict[type, Callable[[Any], None]] = {FasterRCNNConfig: check_faster_rcnn}


def build_detector(recipe: DetectionRecipe) -> keras.Model:
    """Return the detector of a recipe with random weights; see `models.detector.Detector`.

    Args:
        recipe: Its `model` is a key of DETECTORS; read are what else the detector has of `match`,
            `loss`, `decode` and `data`.

    Raises:
        RecipeError: The recipe does not make a network.
    """
    return DETECTORS[type(recipe.model)](recipe)


def check_detector(recipe: DetectionRecipe) -> None:
    """Check what makes no detector, before anything is built or written.

    Args:
        recipe: As for `build_detector`.

    Raises:
        RecipeError: Its parts do not fit together.
    """
    if type(recipe.model) in CHECKS:
        CHECKS[type(recipe.model)](recipe)
