"""The networks, one a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from lesionkeras.config import (
    BaselineCNNConfig,
    DetectionRecipe,
    FasterRCNNConfig,
    ResNet50UNetConfig,
    RetinaNetConfig,
    SegNetConfig,
    SSDConfig,
    UNetConfig,
)
from lesionkeras.models.baseline_cnn import build_baseline_cnn, check_baseline_cnn
from lesionkeras.models.blocks import check_size, inference_model
from lesionkeras.models.faster_rcnn import build_faster_rcnn, check_faster_rcnn
from lesionkeras.models.resnet50_unet import build_resnet50_unet, check_resnet50_unet
from lesionkeras.models.retinanet import build_retinanet, check_retinanet
from lesionkeras.models.segnet import build_segnet, check_segnet
from lesionkeras.models.ssd import build_ssd, check_ssd
from lesionkeras.models.unet import build_unet, check_unet

__all__ = [
    "BUILDERS",
    "DETECTORS",
    "build",
    "build_detector",
    "check_detector",
    "check_segmenter",
    "check_size",
    "inference_model",
]

BUILDERS: dict[type, Callable[[Any], keras.Model]] = {
    SSDConfig: build_ssd,
    RetinaNetConfig: build_retinanet,
    FasterRCNNConfig: build_faster_rcnn,
    BaselineCNNConfig: build_baseline_cnn,
    UNetConfig: build_unet,
    SegNetConfig: build_segnet,
    ResNet50UNetConfig: build_resnet50_unet,
}


DetectorConfig = SSDConfig | RetinaNetConfig | FasterRCNNConfig | BaselineCNNConfig
SegmenterConfig = UNetConfig | SegNetConfig | ResNet50UNetConfig

SEGMENTER_CHECKS: dict[type, Callable[[Any], None]] = {
    UNetConfig: check_unet,
    SegNetConfig: check_segnet,
    ResNet50UNetConfig: check_resnet50_unet,
}


def check_segmenter(config: SegmenterConfig) -> None:
    """Check, without building it, that a config makes a segmentation network.

    Args:
        config: One of SEGMENTER_CHECKS.

    Raises:
        RecipeError: It does not.
    """
    SEGMENTER_CHECKS[type(config)](config)


def build(config: DetectorConfig | SegmenterConfig) -> keras.Model:
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
    RetinaNetConfig: lambda recipe: build_retinanet(
        recipe.model, recipe.match, recipe.loss, recipe.decode
    ),
    FasterRCNNConfig: lambda recipe: build_faster_rcnn(
        recipe.model, recipe.match, recipe.loss, recipe.decode
    ),
    BaselineCNNConfig: lambda recipe: build_baseline_cnn(
        recipe.model, recipe.data.image_size_px, recipe.decode
    ),
}
# What of a recipe can be refused before anything is built or written.
CHECKS: dict[type, Callable[[Any], None]] = {
    SSDConfig: check_ssd,
    RetinaNetConfig: check_retinanet,
    FasterRCNNConfig: check_faster_rcnn,
    BaselineCNNConfig: check_baseline_cnn,
}


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
    CHECKS[type(recipe.model)](recipe)
