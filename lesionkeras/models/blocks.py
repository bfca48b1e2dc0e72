"""What the segmentation networks are made of: convolutions, upsampling, heads."""

from __future__ import annotations

import math
from typing import Any

import keras

from lesionkeras.errors import RecipeError
from lesionkeras.models.backbones import NORM_MOMENTUM
from lesionkeras.models.norm import FusedBatchNormalization

NUM_LOGITS = {"binary": 1, "three_class": 3}
UPSAMPLINGS = ("transpose", "nearest", "bilinear")
NORMS = ("none", "batch", "instance", "group")
NORM_EPSILON = 1e-5
MAX_GROUPS = 8  # of a group norm; fewer where the channels do not divide


def check_known(config: Any) -> None:
    """Check the words and widths of a segmentation network's config.

    Args:
        config: Its `head`, `norm` and `upsampling` are looked at, where it has them.

    Raises:
        RecipeError: The first that is not known.
    """
    known = {"head": tuple(NUM_LOGITS), "norm": NORMS, "upsampling": UPSAMPLINGS}
    for field, words in known.items():
        value = getattr(config, field, words[0])
        if value not in words:
            raise RecipeError(
                f"model.{field} is unknown", found=repr(value), wanted=" or ".join(words)
            )


def check_size(config: Any, side_px: int | None, where: str = "data.image_size_px") -> None:
    """Check that a network can halve an image's side as often as it does.

    Args:
        config: Of a segmentation network, with `size_multiple_px`.
        side_px: Of the image; None, where it is not known yet, passes.
        where: The field that says so.

    Raises:
        RecipeError: It cannot.
    """
    check_side(config.size_multiple_px, side_px, where)


def check_side(multiple_px: int, side_px: int | None, where: str = "data.image_size_px") -> None:
    """Check that a side divides; None is not known yet.

    Args:
        multiple_px: What it must divide by.
        side_px: Of the image.
        where: The field that says so.

    Raises:
        RecipeError: It does not.
    """
    if side_px is None or side_px % multiple_px == 0:
        return
    below = side_px // multiple_px * multiple_px
    choices = [str(size) for size in (below, below + multiple_px) if size]
    raise RecipeError(
        "An image does not divide into the network's cells",
        where=where,
        found=f"{side_px} px",
        wanted=f"a multiple of {multiple_px} px",
        next_step=f"set {where}={' or '.join(choices)}",
    )


@keras.saving.register_keras_serializable("lesionkeras")
class SizeCheck(keras.layers.Layer):
    """Passes an image on; refuses one whose sides do not divide.

    Without it Keras speaks of shapes that a Concatenate deep in the network cannot join.  Sides
    that are not known when TensorFlow traces are looked at when it runs.

    Args:
        multiple_px: What both sides must divide by.
    """

    def __init__(self, multiple_px: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.multiple_px = multiple_px

    def call(self, inputs: Any) -> Any:
        """Return [B, H, W, C] as it is."""
        try:
            for side_px in inputs.shape[1:3]:
                check_side(self.multiple_px, side_px)
        except RecipeError as error:
            error._keras_call_info_injected = True  # type: ignore[attr-defined]  # else Keras
            raise  # puts the arguments of every call on the way into the sentence
        if None in inputs.shape[1:3] and keras.backend.backend() == "tensorflow":
            return self._check_later(inputs)
        return inputs

    def _check_later(self, inputs: Any) -> Any:
        import tensorflow as tf  # keras.ops asserts nothing

        sides_px = tf.shape(inputs)[1:3]
        message = f"An image does not divide into the network's cells of {self.multiple_px} px"
        rest_px = sides_px % self.multiple_px
        with tf.control_dependencies([tf.debugging.assert_equal(rest_px, 0, message)]):
            return tf.identity(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape as it is."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "multiple_px": self.multiple_px}


def normalise(x: Any, norm: str, name: str) -> Any:
    """Apply the norm of a config to [B, H, W, C]."""
    if norm == "batch":
        layer = FusedBatchNormalization(momentum=NORM_MOMENTUM, epsilon=NORM_EPSILON, name=name)
    elif norm == "instance":
        layer = keras.layers.GroupNormalization(-1, epsilon=NORM_EPSILON, name=name)
    elif norm == "group":
        groups = math.gcd(MAX_GROUPS, x.shape[-1])
        layer = keras.layers.GroupNormalization(groups, epsilon=NORM_EPSILON, name=name)
    else:
        return x
    return layer(x)


def convolve(x: Any, channels: int, norm: str, name: str, use_bias: bool | None = None) -> Any:
    """Convolve by 3x3, 'same', then norm, then ReLU.

    Args:
        x: [B, H, W, C].
        channels: Of the result.
        norm: A word of NORMS.
        name: Of the convolution; its norm and ReLU are named after it.
        use_bias: None has one where no norm would take it away again.

    Returns:
        [B, H, W, channels].
    """
    if use_bias is None:
        use_bias = norm == "none"
    x = keras.layers.Conv2D(
        channels,
        3,
        padding="same",
        use_bias=use_bias,
        kernel_initializer="he_normal",  # Ronneberger 2015, 3: std sqrt(2 / N)
        name=name,
    )(x)
    return keras.layers.ReLU(name=f"{name}_relu")(normalise(x, norm, f"{name}_norm"))


@keras.saving.register_keras_serializable("lesionkeras")
class BilinearUpsampling(keras.layers.UpSampling2D):
    """Doubles both sides of [B, H, W, C], bilinearly; edges are repeated.

    Keras' own compares the sides of an image, and so cannot be traced where they are not known yet.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs | {"size": 2, "interpolation": "bilinear"})

    def call(self, inputs: Any) -> Any:
        """Return [B, 2 H, 2 W, C]."""
        return _double_side(_double_side(inputs, 1), 2)


def _double_side(x: Any, axis: int) -> Any:
    """Return [B, H, W, C] with a side doubled: three quarters of a pixel, one of the next to it."""
    padding = [(int(place == axis),) * 2 for place in range(4)]
    padded = keras.ops.pad(x, padding, mode="symmetric")
    before = padded[(slice(None),) * axis + (slice(None, -2),)]
    after = padded[(slice(None),) * axis + (slice(2, None),)]
    halves = [0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after]
    sides = list(keras.ops.shape(x))
    sides[axis] *= 2
    return keras.ops.reshape(keras.ops.stack(halves, axis + 1), sides)


def upsample(x: Any, channels: int, upsampling: str, name: str) -> Any:
    """Double the sides of [B, H, W, C] and change its channels.

    Args:
        x: [B, H, W, C].
        channels: Of the result.
        upsampling: "transpose" is the U-Net's 2x2 up-convolution; "nearest" and "bilinear" follow
            a 1x1 convolution, which commutes with them and costs a quarter before.
        name: Of the layers.

    Returns:
        [B, 2 H, 2 W, channels].
    """
    if upsampling == "transpose":
        return keras.layers.Conv2DTranspose(
            channels, 2, strides=2, kernel_initializer="he_normal", name=name
        )(x)
    x = keras.layers.Conv2D(channels, 1, kernel_initializer="he_normal", name=name)(x)
    layer = BilinearUpsampling if upsampling == "bilinear" else keras.layers.UpSampling2D
    return layer(name=f"{name}_{upsampling}")(x)


def predict(x: Any, head: str, name: str, kernel_px: int = 1) -> Any:
    """Return the logits of a map, float32 under every precision policy.

    Args:
        x: [B, H, W, C].
        head: A key of NUM_LOGITS.
        name: Of the convolution.
        kernel_px: Side of its kernel.

    Returns:
        float32 [B, H, W, NUM_LOGITS[head]].
    """
    return keras.layers.Conv2D(
        NUM_LOGITS[head], kernel_px, padding="same", dtype="float32", name=name
    )(x)


def check_deep_supervision(deep_supervision: int, num_maps: int) -> None:
    """Check that a decoder has the maps that deep supervision wants.

    Args:
        deep_supervision: How many are wanted beside the finest.
        num_maps: How many there are.

    Raises:
        RecipeError: There are fewer.
    """
    if not 0 <= deep_supervision < num_maps:
        raise RecipeError(
            "Deep supervision wants maps that the decoder has not",
            where="model.deep_supervision",
            found=str(deep_supervision),
            wanted=f"0 to {num_maps - 1}",
            next_step="lower it",
        )


def predict_scales(maps: list[Any], head: str, deep_supervision: int) -> list[Any]:
    """Return the logits of a decoder's maps.

    Args:
        maps: [B, H / 2^i, W / 2^i, C] from the finest.
        head: A key of NUM_LOGITS.
        deep_supervision: How many are wanted beside the finest.

    Returns:
        1 + deep_supervision maps of logits, from the finest: `logits`, `logits2`, `logits4` ...

    Raises:
        RecipeError: There are fewer maps.
    """
    check_deep_supervision(deep_supervision, len(maps))
    names = ["logits", *(f"logits{2**i}" for i in range(1, deep_supervision + 1))]
    return [predict(x, head, name) for x, name in zip(maps, names, strict=False)]


def inference_model(model: keras.Model) -> keras.Model:
    """Return a network with the logits at full resolution alone; weights are shared.

    Args:
        model: From a builder of this package; one without deep supervision comes back itself.

    Returns:
        A model from image to float32 [B, H, W, 1 or 3].
    """
    if len(model.outputs) == 1:
        return model
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
