"""SegNet (Badrinarayanan, Kendall, Cipolla 2017, figure 2), which P4, 3.4 takes.

The paper: VGG16's 13 convolutions, each with batch norm and ReLU; 2x2 max pooling that remembers
where each maximum was; a decoder of 13 convolutions that mirrors the encoder and, instead of
learning to upsample, puts each value back where its maximum was, zeros around it.  The last of the
13 gives the classes.

Differs: indices are a maximum's place in its own 2x2 window, 0 to 3, not in the flattened image or
batch.  They need no scatter, cannot overflow, mean the same in any batch, compile under XLA, and
stay int32: as a 16-bit float an index into an image ends at 2,048 (float16) or 256 (bfloat16).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from lesionkeras.config import SegNetConfig
from lesionkeras.errors import RecipeError
from lesionkeras.models.blocks import SizeCheck, check_known, convolve, predict
from lesionkeras.models.input_scaling import check_scaling, scale_input

NUM_CONVS = (2, 2, 3, 3, 3)  # of VGG16's five blocks (Simonyan, Zisserman 2015, table 1, D)
VGG16_CHANNELS = (64, 128, 256, 512, 512)


@keras.saving.register_keras_serializable("lesionkeras")
class MaxPoolingWithIndices(keras.layers.Layer):
    """2x2 max pooling that also says where each maximum was.

    Calling it maps [B, 2 H, 2 W, C] to the maxima [B, H, W, C] and their place in the window, int32
    [B, H, W, C]: 0 above left, 1 above right, 2 below left, 3 below right.  Of equal values it is
    the first in this order.
    """

    def call(self, inputs: Any) -> tuple[Any, Any]:
        """Pool [B, 2 H, 2 W, C], any of B, H, W unknown while it is traced."""
        batch, height, width, channels = ops.shape(inputs)
        windows = ops.reshape(inputs, (batch, height // 2, 2, width // 2, 2, channels))
        a, b = windows[:, :, 0, :, 0], windows[:, :, 0, :, 1]
        c, d = windows[:, :, 1, :, 0], windows[:, :, 1, :, 1]
        # Not by comparison with the pooled values: XLA may keep those in another precision.
        below = ops.maximum(c, d) > ops.maximum(a, b)
        right = ops.cast(ops.where(below, d > c, b > a), "int32")
        pooled = ops.max_pool(inputs, 2, 2)  # its gradient is 8 times faster than maximum's
        return pooled, 2 * ops.cast(below, "int32") + right


@keras.saving.register_keras_serializable("lesionkeras")
class MaxUnpooling(keras.layers.Layer):
    """Puts values back where the maxima were.

    Calling it on values [B, H, W, C] and indices of `MaxPoolingWithIndices` [B, H, W, C] gives
    [B, 2 H, 2 W, C], zero everywhere else.
    """

    def call(self, inputs: Any) -> Any:
        """Unpool (values, indices)."""
        values, indices = inputs
        batch, height, width, channels = ops.shape(values)
        zeros = ops.zeros_like(values)
        a, b, c, d = (ops.where(ops.equal(indices, i), values, zeros) for i in range(4))
        above, below = ops.concatenate([a, b], axis=-1), ops.concatenate([c, d], axis=-1)
        rows = ops.stack([above, below], axis=2)  # [B, H, 2, W, 2 C]: the order of the pixels
        return ops.reshape(rows, (batch, 2 * height, 2 * width, channels))


def _check_weights(config: SegNetConfig) -> None:
    if config.weights != "none" and (config.channels != VGG16_CHANNELS or config.in_channels != 3):
        raise RecipeError(
            "VGG16's weights have another width than the encoder",
            where="model.channels",
            found=f"{config.in_channels} to {config.channels}",
            wanted=f"3 to {VGG16_CHANNELS}",
            next_step="set them so, or model.weights=none",
        )
    if len(config.channels) != len(NUM_CONVS):
        raise RecipeError(
            "SegNet has five blocks",
            where="model.channels",
            found=str(config.channels),
            wanted="five widths",
        )


def check_segnet(config: SegNetConfig) -> None:
    """Check that a config makes a network.

    Args:
        config: Widths, head, norm, weights.

    Raises:
        RecipeError: A word is not known, there are not five widths, or weights want others.
    """
    check_known(config)
    _check_weights(config)
    check_scaling(config.input_scaling, config.in_channels)


def build_vgg16_encoder(config: SegNetConfig) -> keras.Model:
    """Return VGG16's convolutions, named as Keras' own, with SegNet's norms and pooling.

    Args:
        config: Widths and norm.

    Returns:
        A model `vgg16` from float [B, H, W, in_channels] to [B, H / 32, W / 32, C] and the indices
        of its five poolings, from the finest.
    """
    x = image = keras.Input((None, None, config.in_channels))
    indices = []
    for block, (count, channels) in enumerate(zip(NUM_CONVS, config.channels, strict=True), 1):
        for i in range(1, count + 1):
            name = f"block{block}_conv{i}"
            x = convolve(x, channels, config.norm, name, use_bias=True)  # VGG16's have biases
        x, index = MaxPoolingWithIndices(name=f"block{block}_pool")(x)
        indices.append(index)
    return keras.Model(image, [x, *indices], name=config.backbone)


def build_segnet(config: SegNetConfig) -> keras.Model:
    """Return a SegNet with random weights for images whose sides divide by 32.

    Args:
        config: Widths, head, norm; `models.weights.load_backbone_weights` fills the encoder.

    Returns:
        A model from float [B, H, W, in_channels] to float32 logits [B, H, W, 1 or 3].

    Raises:
        RecipeError: A word is not known, there are not five widths, or weights want others.  When
            called: the sides do not divide.
    """
    check_segnet(config)
    image_unit = keras.Input((None, None, config.in_channels), name="image_unit")
    x = SizeCheck(config.size_multiple_px, name="size_check")(image_unit)
    x, *indices = build_vgg16_encoder(config)(scale_input(x, config.input_scaling))
    if config.dropout:
        x = keras.layers.Dropout(config.dropout, name="dropout")(x)
    narrower = (config.channels[0], *config.channels[:-1])
    for block in (5, 4, 3, 2, 1):
        x = MaxUnpooling(name=f"decoder{block}_unpool")([x, indices[block - 1]])
        for i in range(NUM_CONVS[block - 1], 1, -1):
            x = convolve(x, config.channels[block - 1], config.norm, f"decoder{block}_conv{i}")
        if block > 1:
            x = convolve(x, narrower[block - 1], config.norm, f"decoder{block}_conv1")
    logits = predict(x, config.head, "logits", kernel_px=3)
    return keras.Model(image_unit, logits, name="segnet")
