"""KerasCV's ResNets with the padding that ImageNet weights were trained with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from lesionkeras.errors import RecipeError
from lesionkeras.models.norm import FusedBatchNormalization
from lesionkeras.models.small_maps import SmallMapConv2D, is_wide

BLOCK_TYPES = {"resnet34": "basic_block", "resnet50": "block"}
NORM_MOMENTUM = 0.95  # KerasCV's .99 still holds a tenth of the initial variance after 225 steps
LAST_NORMS = {"resnet34": "_2_bn", "resnet50": "_3_bn"}  # end of the name of a block's last norm
STRIDES_PX = (4, 8, 16, 32)  # of KerasCV's P2 to P5


def _pad(inputs: Any, window: tuple[int, int]) -> Any:
    """Pad [B, H, W, C] with zeros by half a window on every side."""
    high, wide = ((size - 1) // 2 for size in window)
    return keras.ops.pad(inputs, [(0, 0), (high, high), (wide, wide), (0, 0)])


def _pad_shape(shape: Any, window: tuple[int, int]) -> tuple[int | None, ...]:
    """The shape that `_pad` gives; an unknown side stays unknown."""
    sides = zip(shape[1:3], window, strict=True)
    padded = (side if side is None else side + 2 * ((size - 1) // 2) for side, size in sides)
    return (shape[0], *padded, shape[3])


@keras.saving.register_keras_serializable("lesionkeras")
class SymmetricConv2D(keras.layers.Conv2D):
    """A strided convolution padded by half its kernel on every side.

    KerasCV pads 'same', which at stride 2 and an even size adds nothing before and one row
    after: the picture moves half a pixel against ImageNet weights at every such layer.
    """

    def call(self, inputs: Any) -> Any:
        """Pad and convolve [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), filters]."""
        return super().call(_pad(inputs, self.kernel_size))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return what `call` gives; Keras' own would leave the padding out."""
        return super().compute_output_shape(_pad_shape(input_shape, self.kernel_size))


@keras.saving.register_keras_serializable("lesionkeras")
class SymmetricMaxPooling2D(keras.layers.MaxPooling2D):
    """Max pooling padded by half its window; inputs are at least 0, so zeros never win."""

    def call(self, inputs: Any) -> Any:
        """Pad and pool [B, H, W, C]."""
        return super().call(_pad(inputs, self.pool_size))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return what `call` gives."""
        return super().compute_output_shape(_pad_shape(input_shape, self.pool_size))


def _rebuild(layer: keras.layers.Layer, last_norm: str, is_fused: bool) -> keras.layers.Layer:
    """Copy a layer; strided ones get our padding, a block's last norm starts at 0.

    With a last norm of 0 every block starts as the identity, so that a network without weights at
    hand learns from its first steps (Goyal et al. 2017, 5.1).
    """
    kind, config = layer.__class__, layer.get_config()
    if isinstance(layer, keras.layers.MaxPooling2D):
        kind, config["padding"] = SymmetricMaxPooling2D, "valid"
    elif isinstance(layer, keras.layers.Conv2D) and max(layer.strides) > 1:
        kind, config["padding"] = SymmetricConv2D, "valid"
    elif isinstance(layer, keras.layers.Conv2D) and is_wide(layer):
        kind = SmallMapConv2D
    elif isinstance(layer, keras.layers.BatchNormalization):
        kind = FusedBatchNormalization if is_fused else kind
        config["momentum"] = NORM_MOMENTUM
        if layer.name.endswith(last_norm):
            config["gamma_initializer"] = "zeros"
    return kind.from_config(config)


def build_kerascv_resnet(name: str, side_px: int | None = None, last_stride: int = 2) -> Any:
    """Return KerasCV's own ResNet without top and without rescaling, random weights.

    Args:
        name: A key of BLOCK_TYPES.
        side_px: Of the square input; None takes any size.
        last_stride: Of the last stage.
    """
    import keras_cv

    return keras_cv.models.ResNetBackbone(
        stackwise_filters=[64, 128, 256, 512],
        stackwise_blocks=[3, 4, 6, 3],
        stackwise_strides=[1, 2, 2, last_stride],
        include_rescaling=False,
        input_shape=(side_px, side_px, 3),
        block_type=BLOCK_TYPES[name],
    )


def check_backbone(name: str) -> None:
    """Check that a ResNet is known.

    Args:
        name: "resnet34" or "resnet50".

    Raises:
        RecipeError: The name is another.
    """
    if name not in BLOCK_TYPES:
        raise RecipeError(
            "A backbone is not known",
            where="model.backbone",
            found=name,
            wanted=" or ".join(BLOCK_TYPES),
            next_step="choose one of them",
        )


def check_strides(wanted_px: Sequence[int], known_px: Iterable[int], next_step: str) -> None:
    """Check that every anchor stride has a map.

    Args:
        wanted_px: Of the anchors.
        known_px: Of the network's maps.
        next_step: What else than dropping it helps.

    Raises:
        RecipeError: One has none.
    """
    known = sorted(set(known_px))
    if missing := [stride for stride in wanted_px if stride not in known]:
        raise RecipeError(
            "An anchor stride has no map",
            where="model.anchors.strides_px",
            found=str(missing[0]),
            wanted=f"some of {known}",
            next_step=next_step,
        )


def check_freeze(config: Any) -> None:
    """Check that frozen batch norms have statistics to keep.

    Args:
        config: Of a network with `backbone`, `weights` and `freeze_norm`.

    Raises:
        RecipeError: There are no weights, so that every block would stay the identity.
    """
    if config.freeze_norm and config.weights == "none" and config.backbone in BLOCK_TYPES:
        raise RecipeError(
            "Frozen norms keep the statistics of weights",
            where="model.freeze_norm",
            found="true with model.weights none",
            wanted="weights, or norms that learn",
            next_step="give --weights, or set model.freeze_norm=false",
        )


def build_resnet(name: str, fused_norm: bool = False, last_stride: int = 2) -> keras.Model:
    """Return KerasCV's ResNet without top, padded symmetrically, for inputs of any size.

    Args:
        name: "resnet34" or "resnet50".
        fused_norm: Whether batch norms are `FusedBatchNormalization`: the same but for rounding,
            which in a training of thousands of steps gives other weights.
        last_stride: Of the last stage; 1 leaves its map at stride 16.

    Returns:
        A model from float [B, H, W, 3] to the four maps at STRIDES_PX, each
        [B, ceil(H / s), ceil(W / s), 64 to 512 (34) or 256 to 2048 (50)]; layers keep KerasCV's
        names.

    Raises:
        RecipeError: The name is another.

    Source: He et al. 2016, table 1; KerasCV 0.9.0 `ResNetBackbone`.
    """
    check_backbone(name)
    plain = build_kerascv_resnet(name, last_stride=last_stride)
    maps = [plain.get_layer(layer).output for layer in plain.pyramid_level_inputs.values()]
    functional = keras.Model(plain.input, maps, name=name)
    return keras.models.clone_model(
        functional, clone_function=lambda layer: _rebuild(layer, LAST_NORMS[name], fused_norm)
    )


def freeze(backbone: keras.Model, norms: bool, stages: int) -> None:
    """Keep parts of a backbone as its weights have them.

    Args:
        backbone: From `build_resnet` or `vgg16.build_vgg16`, whose blocks are its stages.
        norms: Whether all batch norms keep scale, offset and statistics; Keras then takes the
            moving statistics in training too.
        stages: How many of the four stages, from the image on, are not trained; the stem goes with
            the first.
    """
    for layer in backbone.layers:
        stack = re.match(r"v2_stack_(\d)", layer.name)
        block = re.match(r"block(\d)", layer.name)
        stage = int(stack[1]) if stack else int(block[1]) - 1 if block else 0
        is_frozen = stage < stages
        if is_frozen or (norms and isinstance(layer, keras.layers.BatchNormalization)):
            layer.trainable = False
