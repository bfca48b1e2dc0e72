"""P1's LiverLesionDetect SSD: a single-shot detector on a ResNet34 or ResNet50.

The paper: the backbone without its top, four extra convolution layers that make maps of several
scales, and on each map a class and a box convolution.  It writes "a 256 7x7 feature maps" for
ResNet34 at 224; ResNet34's last map there is 7x7 with 512 channels.  Ours is the reading that makes
both true: the first of the four extra layers keeps the 7x7 grid and gives 256 channels, the
other three halve the grid each (4x4, 2x2, 1x1).

Beyond the paper, by recipe: maps from stride 4 up (AnchorConfig.strides_px) and a top-down path
(`top_down_channels`) that adds coarse maps to fine ones, so that a small lesion is judged with the
organ around it (Lin et al. 2017, FPN, figure 3).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
from keras import ops

from lesionkeras.boxes.anchors import make_anchors, num_anchors_per_cell
from lesionkeras.boxes.targets import assign_targets, decode_detections
from lesionkeras.config import DecodeConfig, LossConfig, MatchConfig, SSDConfig, SSDRecipe
from lesionkeras.errors import RecipeError
from lesionkeras.losses import log_probabilities, multibox_loss
from lesionkeras.models.backbones import (
    NORM_MOMENTUM,
    STRIDES_PX,
    SymmetricConv2D,
    build_resnet,
    check_freeze,
    check_strides,
    freeze,
)
from lesionkeras.models.detector import FromSettings
from lesionkeras.models.input_scaling import scale_input


def _norm_relu(x: Any, name: str) -> Any:
    x = keras.layers.BatchNormalization(momentum=NORM_MOMENTUM, epsilon=1e-5, name=f"{name}_bn")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _extra_maps(x: Any, config: SSDConfig) -> dict[int, Any]:
    """P1's four extra convolution layers; the first keeps its grid, each other halves it."""
    maps, stride = {}, STRIDES_PX[-1]
    for i, channels in enumerate(config.extra_channels):
        step = 1 if i == 0 else 2
        stride *= step
        name = f"extra{i + 1}"
        if step == 1:
            x = keras.layers.Conv2D(
                channels, 3, padding="same", use_bias=False, name=f"{name}_conv"
            )(x)
        else:
            x = SymmetricConv2D(channels, 3, strides=2, use_bias=False, name=f"{name}_conv")(x)
        x = maps[stride] = _norm_relu(x, name)
    return maps


class UpTo(keras.layers.Layer):
    """Nearest upsampling by 2, cut to the finer map's size (odd sizes halve upwards), and added."""

    def call(self, inputs: Any) -> Any:
        """Return [B, H, W, C] of (coarse [B, H / 2, W / 2, C], fine [B, H, W, C])."""
        coarse, fine = inputs
        big = ops.repeat(ops.repeat(coarse, 2, axis=1), 2, axis=2)
        return big[:, : ops.shape(fine)[1], : ops.shape(fine)[2], :] + fine


def _top_down(maps: dict[int, Any], channels: int) -> dict[int, Any]:
    """Add each coarse map to the next finer one, from the backbone's last stride down."""
    out, above = dict(maps), None
    for stride in sorted((s for s in maps if s <= STRIDES_PX[-1]), reverse=True):
        lateral = keras.layers.Conv2D(channels, 1, use_bias=False, name=f"lateral{stride}_conv")
        x = lateral(maps[stride])
        x = keras.layers.BatchNormalization(
            momentum=NORM_MOMENTUM, epsilon=1e-5, name=f"lateral{stride}_bn"
        )(x)
        above = x if above is None else UpTo(name=f"add{stride}")([above, x])
        out[stride] = keras.layers.ReLU(name=f"merged{stride}_relu")(above)
    return out


def _heads(x: Any, stride: int, config: SSDConfig) -> tuple[Any, Any]:
    """Class logits [B, cells * k, C] and box deltas [B, cells * k, 4] of one map."""
    num_anchors, num_classes = num_anchors_per_cell(config.anchors), config.num_classes
    if config.head_channels:
        conv = keras.layers.Conv2D(
            config.head_channels, 3, padding="same", use_bias=False, name=f"head{stride}_conv"
        )
        x = _norm_relu(conv(x), f"head{stride}")
    prior_logit = math.log(config.prior_prob / (1 - num_classes * config.prior_prob))
    settings = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.01)}
    classes = keras.layers.Conv2D(
        num_anchors * num_classes,
        3,
        padding="same",
        bias_initializer=keras.initializers.Constant(prior_logit),
        name=f"class{stride}",
        **settings,
    )(x)
    deltas = keras.layers.Conv2D(
        num_anchors * 4, 3, padding="same", name=f"box{stride}", **settings
    )(x)
    reshape = keras.layers.Reshape
    return (
        reshape((-1, num_classes), name=f"class{stride}_rows")(classes),
        reshape((-1, 4), name=f"box{stride}_rows")(deltas),
    )


def check_ssd(recipe: SSDRecipe) -> None:
    """Check that the classes' prior is possible, anchors have maps, frozen norms something to keep.

    Args:
        recipe: Of an SSD.

    Raises:
        RecipeError: It is not, one has none, or there are no weights.
    """
    _check(recipe.model)
    check_freeze(recipe.model)


def _check(config: SSDConfig) -> None:
    if config.num_classes * config.prior_prob >= 1:
        raise RecipeError(
            "The classes together are certain at the start",
            where="model.prior_prob",
            found=f"{config.prior_prob:g} for each of {config.num_classes} classes",
            wanted=f"below {1 / config.num_classes:g}",
            next_step="lower it",
        )
    extra = [STRIDES_PX[-1] * 2**i for i in range(len(config.extra_channels))]
    next_step = "drop it, or add a layer to model.extra_channels"
    check_strides(config.anchors.strides_px, [*STRIDES_PX, *extra], next_step)


def _network(config: SSDConfig) -> tuple[Any, dict[str, Any]]:
    _check(config)
    image_unit = keras.Input((None, None, 3), name="image_unit")
    resnet = build_resnet(config.backbone)
    freeze(resnet, config.freeze_norm, config.frozen_stages)
    outputs = resnet(scale_input(image_unit, config.input_scaling))
    maps = dict(zip(STRIDES_PX, outputs, strict=True)) | _extra_maps(outputs[-1], config)
    strides = config.anchors.strides_px
    maps = {s: m for s, m in maps.items() if s >= min(strides)}
    if config.top_down_channels:
        maps = _top_down(maps, config.top_down_channels)
    rows = [_heads(maps[s], s, config) for s in strides]
    return image_unit, {
        "class_logits": keras.layers.Concatenate(axis=1, name="class_logits")([c for c, _ in rows]),
        "box_deltas": keras.layers.Concatenate(axis=1, name="box_deltas")([d for _, d in rows]),
    }


@keras.saving.register_keras_serializable("lesionkeras")
class SSD(FromSettings, keras.Model):
    """A detector that takes images of any size and knows its anchors, loss and decoding.

    Calling it maps image_unit float [B, H, W, 3] in 0..1 to `class_logits` [B, A, C] (background's
    logit is 0) and `box_deltas` [B, A, 4], anchors in `make_anchors` order.  `fit` wants targets
    {"boxes": float32 [B, M, 4] px of the input, "classes": int32 [B, M], padding -1}.

    Args:
        config: The network.
        match: Which anchors are positive.
        loss: Weights of the multibox loss.
        decode: From anchors to detections.
        name: The model's name.

    Raises:
        RecipeError: Backbone, input scaling or an anchor stride is not known, or the prior
            probabilities of all classes reach 1.

    Source: P1, 3.3; Liu et al. 2016, SSD.
    """

    settings: ClassVar = {
        "config": ("ssd_config", SSDConfig),
        "match": ("match", MatchConfig),
        "loss": ("loss_config", LossConfig),
        "decode": ("decode", DecodeConfig),
    }

    def __init__(
        self,
        config: SSDConfig,
        match: MatchConfig | None = None,
        loss: LossConfig | None = None,
        decode: DecodeConfig | None = None,
        name: str = "ssd",
        **kwargs: Any,
    ) -> None:
        inputs, outputs = _network(config)
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.ssd_config, self.match = config, match or MatchConfig()
        self.loss_config, self.decode = loss or LossConfig(), decode or DecodeConfig()
        self.class_loss = keras.metrics.Mean(name="class_loss")
        self.box_loss = keras.metrics.Mean(name="box_loss")

    def anchors(self, height_px: int, width_px: int) -> Any:
        """Return the anchors of an input of this size, float32 [A, 4] xyxy px."""
        return make_anchors(self.ssd_config.anchors, height_px, width_px)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the multibox loss of a batch, a float32 scalar; static shapes throughout."""
        anchors = self.anchors(x.shape[1], x.shape[2])
        state, target_classes, target_deltas = assign_targets(anchors, y, self.match)
        class_loss, box_loss = multibox_loss(
            y_pred["class_logits"],
            y_pred["box_deltas"],
            target_classes,
            target_deltas,
            state,
            self.loss_config,
        )
        self.class_loss.update_state(class_loss)
        self.box_loss.update_state(box_loss)
        return class_loss + box_loss

    def detect(self, image_unit: Any) -> dict[str, Any]:
        """Return detections of images of one static size; see `models.detector.Detector`.

        Args:
            image_unit: float32 [B, H, W, 3] in 0..1; H and W static.

        Returns:
            `boxes` float32 [B, D, 4] px of the input, `scores` float32 [B, D] descending,
            `classes` int32 [B, D] (-1 is padding), `num_detections` int32 [B].
        """
        height, width = image_unit.shape[1], image_unit.shape[2]
        raw = self(image_unit, training=False)
        scores = ops.exp(log_probabilities(raw["class_logits"])[1])
        return decode_detections(
            raw["box_deltas"],
            scores,
            self.anchors(height, width),
            (height, width),
            self.match.variances,
            self.decode,
        )


def build_ssd(
    config: SSDConfig,
    match: MatchConfig | None = None,
    loss: LossConfig | None = None,
    decode: DecodeConfig | None = None,
) -> SSD:
    """Return the detector with random weights; see `SSD`.

    Raises:
        RecipeError: As `SSD` does.
    """
    return SSD(config, match, loss, decode)
