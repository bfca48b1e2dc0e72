"""What a network does to a 0..1 image first: the input that its weights were trained with."""

from __future__ import annotations

from typing import Any

import keras

from lesionkeras.errors import RecipeError

# scale and offset of an image in 0..1, a channel: x * scale + offset
INPUT_SCALINGS = {
    "unit": ((4.0,) * 3, (-2.0,) * 3),  # about zero mean and unit variance for a liver window
    "none": ((1.0,) * 3, (0.0,) * 3),  # an image of zero mean and unit variance (P4, 3.2)
    "bytes": ((255.0,) * 3, (0.0,) * 3),  # 0..255 (P2, 3)
    "imagenet_caffe": ((255.0,) * 3, (-103.939, -116.779, -123.68)),  # keras.applications, BGR
    "imagenet_torch": (  # torchvision, RGB: (x - mean) / std
        (1 / 0.229, 1 / 0.224, 1 / 0.225),
        (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225),
    ),
}


def check_scaling(name: str, channels: int) -> None:
    """Check that an input scaling is one, and of as many channels.

    Args:
        name: A key of INPUT_SCALINGS.
        channels: Of the image.

    Raises:
        RecipeError: The name is another, or its scaling has another number of channels.
    """
    if name not in INPUT_SCALINGS:
        raise RecipeError(
            "An input scaling is not known",
            where="model.input_scaling",
            found=name,
            wanted=", ".join(INPUT_SCALINGS),
            next_step="choose one of them",
        )
    scale, offset = INPUT_SCALINGS[name]
    if len(set(zip(scale, offset, strict=True))) > 1 and len(scale) != channels:
        raise RecipeError(
            "An input scaling has another number of channels than the image",
            where="model.input_scaling",
            found=f"{name} for {channels}",
            wanted=f"{len(scale)}",
            next_step="set model.input_scaling=unit, or three channels",
        )


def scale_input(image_unit: Any, name: str) -> Any:
    """Scale the channels of a network's input.

    Args:
        image_unit: Float [B, H, W, C] in 0..1; C is 3, unless all channels are scaled alike.
        name: A key of INPUT_SCALINGS.

    Returns:
        Float [B, H, W, C].

    Raises:
        RecipeError: The name is another, or its scaling has another number of channels.
    """
    channels = image_unit.shape[-1]
    check_scaling(name, channels)
    scale, offset = INPUT_SCALINGS[name]
    if len(set(zip(scale, offset, strict=True))) == 1:
        scale, offset = scale[:1] * channels, offset[:1] * channels
    # lists, as they come back from a saved config
    return keras.layers.Rescaling(list(scale), list(offset), name="input_scaling")(image_unit)
