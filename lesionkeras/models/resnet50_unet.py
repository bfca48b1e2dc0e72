"""A U-Net whose encoder is a ResNet (P5, 3.1.2, "customized the decoder path", and its outlook).

P5 says no more than that an ImageNet ResNet50 encodes and upsampling layers decode, and names a
U-Net decoder on ResNet50 as future work.  Ours is that decoder: five times the sides double, are
joined with the encoder's map of that size (strides 16, 8, 4, the stem's at 2, the image's at 1) and
go through two 3x3 convolutions, as in Ronneberger's figure 1.  One slice, as P5's images are, is
given to ImageNet's three colours alike.
"""

from __future__ import annotations

from typing import Any

import keras

from lesionkeras.config import ResNet50UNetConfig
from lesionkeras.errors import RecipeError
from lesionkeras.models.backbones import build_resnet, check_backbone
from lesionkeras.models.blocks import (
    SizeCheck,
    check_deep_supervision,
    check_known,
    convolve,
    predict_scales,
    upsample,
)
from lesionkeras.models.input_scaling import check_scaling, scale_input

NUM_COLOURS = 3  # of ImageNet
NUM_STEPS = 5  # of the decoder: from stride 32 to 1
_STEM = "conv1_relu"  # KerasCV's name of the map at stride 2


def check_resnet50_unet(config: ResNet50UNetConfig) -> None:
    """Check that a config makes a network.

    Args:
        config: Backbone, decoder, head.

    Raises:
        RecipeError: A word is not known, or a width does not fit.
    """
    check_known(config)
    check_backbone(config.backbone)
    check_scaling(config.input_scaling, NUM_COLOURS)
    if config.in_channels not in (1, NUM_COLOURS):
        raise RecipeError(
            "An ImageNet encoder has three channels",
            where="model.in_channels",
            found=str(config.in_channels),
            wanted="3, or 1 that all three see",
            next_step="set data.slices=3",
        )
    if len(config.decoder_channels) != NUM_STEPS:
        raise RecipeError(
            "The decoder has five steps",
            where="model.decoder_channels",
            found=str(config.decoder_channels),
            wanted="five widths",
        )
    check_deep_supervision(config.deep_supervision, NUM_STEPS)


def build_resnet_encoder(config: ResNet50UNetConfig) -> keras.Model:
    """Return the ResNet with its stem's map beside its four others.

    Args:
        config: Which one, and whether its norms learn.

    Returns:
        A model of the backbone's name from float [B, H, W, 3] to maps at strides 2, 4, 8, 16, 32.

    Raises:
        RecipeError: The backbone is not known.
    """
    resnet = build_resnet(config.backbone, fused_norm=True)
    for layer in resnet.layers:
        if config.freeze_norm and isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False  # Keras then also takes the moving statistics in training
    maps = [resnet.get_layer(_STEM).output, *resnet.outputs]
    return keras.Model(resnet.inputs[0], maps, name=config.backbone)


def build_resnet50_unet(config: ResNet50UNetConfig) -> keras.Model:
    """Return a U-Net on a ResNet with random weights for images whose sides divide by 32.

    Args:
        config: Backbone, decoder, head; `models.weights.load_backbone_weights` fills the encoder.

    Returns:
        A model from float [B, H, W, 1 or 3] to float32 logits [B, H, W, 1 or 3]; with deep
        supervision to a list of them at 1, 1/2, 1/4 ... of the sides.

    Raises:
        RecipeError: A word is not known, or a width does not fit.  When called: the sides do not
            divide.
    """
    check_resnet50_unet(config)
    image_unit = keras.Input((None, None, config.in_channels), name="image_unit")
    x = SizeCheck(config.size_multiple_px, name="size_check")(image_unit)
    if config.in_channels == 1:
        x = keras.layers.Concatenate(name="colours")([x] * NUM_COLOURS)
    scaled = scale_input(x, config.input_scaling)
    *skips, x = build_resnet_encoder(config)(scaled)
    if config.dropout:
        x = keras.layers.Dropout(config.dropout, name="dropout")(x)
    if config.image_skip:
        finest = convolve(scaled, config.decoder_channels[-1], config.norm, "image_conv")
        skips.insert(0, finest)
    by_stride: dict[int, Any] = {
        stride: skip for stride, skip in zip((16, 8, 4, 2, 1), reversed(skips), strict=False)
    }
    maps: list[Any] = []
    for stride, channels in zip((16, 8, 4, 2, 1), config.decoder_channels, strict=True):
        x = upsample(x, channels, config.upsampling, f"up{stride}")
        if stride in by_stride:
            x = keras.layers.Concatenate(name=f"up{stride}_join")([by_stride[stride], x])
        for i in (1, 2):
            x = convolve(x, channels, config.norm, f"up{stride}_conv{i}")
        maps.insert(0, x)
    logits = predict_scales(maps, config.head, config.deep_supervision)
    outputs = logits if config.deep_supervision else logits[0]
    return keras.Model(image_unit, outputs, name="resnet50_unet")
