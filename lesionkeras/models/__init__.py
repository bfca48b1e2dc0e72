"""The networks, one a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from lesionkeras.config import ResNet50UNetConfig, SegNetConfig, SSDConfig, UNetConfig
from lesionkeras.models.blocks import check_size, inference_model
from lesionkeras.models.resnet50_unet import build_resnet50_unet, check_resnet50_unet
from lesionkeras.models.segnet import build_segnet, check_segnet
from lesionkeras.models.ssd import build_ssd
from lesionkeras.models.unet import build_unet, check_unet

__all__ = ["BUILDERS", "build", "check_segmenter", "check_size", "inference_model"]

BUILDERS: dict[type, Callable[[Any], keras.Model]] = {
    SSDConfig: build_ssd,
    UNetConfig: build_unet,
    SegNetConfig: build_segnet,
    ResNet50UNetConfig: build_resnet50_unet,
}


SEGMENTER_CHECKS: dict[type, Callable[[Any], None]] = {
    UNetConfig: check_unet,
    SegNetConfig: check_segnet,
    ResNet50UNetConfig: check_resnet50_unet,
}


def check_segmenter(config: UNetConfig | SegNetConfig | ResNet50UNetConfig) -> None:
    """Check, without building it, that a config makes a segmentation network.

    Args:
        config: One of SEGMENTER_CHECKS.

    Raises:
        RecipeError: It does not.
    """
    SEGMENTER_CHECKS[type(config)](config)


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
