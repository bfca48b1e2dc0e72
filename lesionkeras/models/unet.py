"""The U-Net (Ronneberger, Fischer, Brox 2015, figure 1), which P4 and P5 take.

The paper: two 3x3 convolutions with ReLU at each of five levels, 64 to 1024 channels; 2x2 max
pooling on the way down; 2x2 up-convolutions that halve the channels on the way up, each joined with
the map of its level; a 1x1 convolution at the end; He's initialisation.

Differs: convolutions are padded, so that a mask comes out in the image's size (the paper crops: 388
of 572); batch norm, unless `norm="none"`; width, depth, upsampling and dropout by recipe; logits at
coarser levels for deep supervision (Lee et al. 2015; Isensee et al. 2021).
"""

from __future__ import annotations

from typing import Any

import keras

from lesionkeras.config import UNetConfig
from lesionkeras.models.blocks import (
    SizeCheck,
    check_deep_supervision,
    check_known,
    convolve,
    predict_scales,
    upsample,
)


def check_unet(config: UNetConfig) -> None:
    """Check that a config makes a network.

    Args:
        config: Widths, depth, head.

    Raises:
        RecipeError: A word is not known, or deep supervision has more levels than the decoder.
    """
    check_known(config)
    check_deep_supervision(config.deep_supervision, config.depth - 1)


def build_unet(config: UNetConfig) -> keras.Model:
    """Return a U-Net with random weights for images whose sides divide by 2 ** (depth - 1).

    Args:
        config: Widths, depth, head.

    Returns:
        A model from float [B, H, W, in_channels] to float32 logits [B, H, W, 1 or 3]; with deep
        supervision to a list of them at 1, 1/2, 1/4 ... of the sides (`inference_model` has the
        first alone).

    Raises:
        RecipeError: A word is not known, or deep supervision has more levels than the decoder.
            When called: the sides do not divide.
    """
    check_unet(config)
    widths = [
        min(config.base_channels * 2**level, config.max_channels) for level in range(config.depth)
    ]
    image_unit = keras.Input((None, None, config.in_channels), name="image_unit")
    x = SizeCheck(config.size_multiple_px, name="size_check")(image_unit)
    skips = []
    for level, channels in enumerate(widths):
        if level:
            x = keras.layers.MaxPooling2D(2, name=f"pool{level}")(x)
        for i in (1, 2):
            x = convolve(x, channels, config.norm, f"down{level}_conv{i}")
        if config.dropout and level >= config.depth - 2:
            x = keras.layers.Dropout(config.dropout, name=f"down{level}_dropout")(x)
        skips.append(x)
    maps: list[Any] = []
    for level in reversed(range(config.depth - 1)):
        x = upsample(x, widths[level], config.upsampling, f"up{level}")
        x = keras.layers.Concatenate(name=f"up{level}_join")([skips[level], x])
        for i in (1, 2):
            x = convolve(x, widths[level], config.norm, f"up{level}_conv{i}")
        maps.insert(0, x)
    logits = predict_scales(maps, config.head, config.deep_supervision)
    outputs = logits if config.deep_supervision else logits[0]
    return keras.Model(image_unit, outputs, name="unet")
