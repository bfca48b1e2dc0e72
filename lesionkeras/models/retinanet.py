"""RetinaNet: a feature pyramid with one small network for classes and one for boxes.

The papers: Lin et al. 2017, Feature Pyramid Networks (each map of a ResNet goes through a 1x1
convolution and is added to the next coarser one, doubled; a 3x3 convolution follows), and Lin et
al. 2017, Focal Loss for Dense Object Detection, figure 3 (maps at strides 8 to 128, two heads of
four 3x3 convolutions that all strides share, sigmoids, a bias that starts every class at .01).

Differs: anchors from 16 px, not 32, with stride 4 by choice (`AnchorConfig.strides_px`); hidden
convolutions start by He's rule, not at a standard deviation of .01, from which a head of four
passes on hardly any gradient; group norm in the heads by choice, as torchvision's second version.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from lesionkeras.boxes.anchors import make_anchors, num_anchors_per_cell
from lesionkeras.boxes.targets import assign_targets, decode_detections
from lesionkeras.config import (
    DecodeConfig,
    FocalLossConfig,
    MatchConfig,
    RetinaNetConfig,
    RetinaNetRecipe,
)
from lesionkeras.losses import focal_class_loss, sum_box_loss
from lesionkeras.models.backbones import (
    STRIDES_PX,
    build_resnet,
    check_freeze,
    check_strides,
    freeze,
)
from lesionkeras.models.detector import FromSettings
from lesionkeras.models.input_scaling import scale_input
from lesionkeras.models.sparse_head import choose_cells, count_positions, run_at_cells
from lesionkeras.models.ssd import UpTo
from lesionkeras.models.winograd import WinogradConv2D

COARSE_STRIDES_PX = (64, 128)  # made from the backbone's last map
MAX_GROUPS = 32  # of a group norm (Wu, He 2018; torchvision); fewer where channels do not divide
NORM_EPSILON = 1e-5
# Cells with a positive anchor for which a step has room, from the cheapest: a lesion has about 8.
CELLS_PER_IMAGE = (10, 16, 24, 40)


def check_retinanet(recipe: RetinaNetRecipe) -> None:
    """Check that every anchor stride can have a map, and frozen norms something to keep.

    Args:
        recipe: Of a RetinaNet.

    Raises:
        RecipeError: One cannot, or there are no weights.
    """
    _check(recipe.model)
    check_freeze(recipe.model)


def _check(config: RetinaNetConfig) -> None:
    check_strides(config.anchors.strides_px, (*STRIDES_PX, *COARSE_STRIDES_PX), "drop it")


def _build_pyramid(maps: dict[int, Any], config: RetinaNetConfig) -> dict[int, Any]:
    """The maps at the anchors' strides, all of `pyramid_channels`."""
    strides, channels, last = config.anchors.strides_px, config.pyramid_channels, STRIDES_PX[-1]
    pyramid, above = {}, None
    for stride in sorted((s for s in maps if s >= min(*strides, last)), reverse=True):
        lateral = keras.layers.Conv2D(channels, 1, name=f"lateral{stride}")(maps[stride])
        above = lateral if above is None else UpTo(name=f"add{stride}")([above, lateral])
        conv = WinogradConv2D(channels, 3, padding="same", name=f"pyramid{stride}")
        pyramid[stride] = conv(above)
    x = maps[last] if config.coarse_from == "c5" else pyramid[last]
    for stride in COARSE_STRIDES_PX:
        if stride > COARSE_STRIDES_PX[0]:
            x = keras.layers.ReLU(name=f"pyramid{stride}_relu")(x)
        conv = keras.layers.Conv2D(channels, 3, strides=2, padding="same", name=f"pyramid{stride}")
        x = pyramid[stride] = conv(x)
    return {stride: pyramid[stride] for stride in strides}  # what nobody asks for is not built


def build_head(config: RetinaNetConfig, name: str, width: int, bias: float) -> keras.Model:
    """Return one head: convolutions, then `width` numbers for each anchor.

    Args:
        config: Channels, convolutions, norm, anchors.
        name: "class" or "box"; layers are named after it.
        width: Numbers an anchor.
        bias: That the last convolution starts with.

    Returns:
        A model from float [B, H, W, pyramid_channels] to [B, H * W * anchors a cell, width].
    """
    x = features = keras.Input((None, None, config.pyramid_channels))
    for i in range(1, config.head_convs + 1):
        x = WinogradConv2D(
            config.pyramid_channels,
            3,
            padding="same",
            use_bias=config.norm == "none",
            kernel_initializer="he_normal",
            name=f"{name}_conv{i}",
        )(x)
        if config.norm == "group":
            groups = math.gcd(MAX_GROUPS, config.pyramid_channels)
            x = keras.layers.GroupNormalization(
                groups, epsilon=NORM_EPSILON, name=f"{name}_norm{i}"
            )(x)
        x = keras.layers.ReLU(name=f"{name}_relu{i}")(x)
    x = keras.layers.Conv2D(
        num_anchors_per_cell(config.anchors) * width,
        3,
        padding="same",
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        bias_initializer=keras.initializers.Constant(bias),
        name=name,
    )(x)
    rows = keras.layers.Reshape((-1, width), name=f"{name}_rows")(x)
    return keras.Model(features, rows, name=f"{name}_head")


def _network(config: RetinaNetConfig) -> tuple[Any, dict[str, Any]]:
    _check(config)
    image_unit = keras.Input((None, None, 3), name="image_unit")
    resnet = build_resnet(config.backbone, fused_norm=True)
    freeze(resnet, config.freeze_norm, config.frozen_stages)
    outputs = resnet(scale_input(image_unit, config.input_scaling))
    pyramid = _build_pyramid(dict(zip(STRIDES_PX, outputs, strict=True)), config)
    prior_logit = math.log(config.prior_prob / (1 - config.prior_prob))
    heads = {
        "class_logits": build_head(config, "class", config.num_classes, prior_logit),
        "box_deltas": build_head(config, "box", 4, 0.0),
    }
    rows = {name: [head(x) for x in pyramid.values()] for name, head in heads.items()}
    return image_unit, {
        name: keras.layers.Concatenate(axis=1, name=name)(parts)
        if len(parts) > 1
        else keras.layers.Identity(name=name)(parts[0])
        for name, parts in rows.items()
    } | {"pyramid": list(pyramid.values())}


@keras.saving.register_keras_serializable("lesionkeras")
class RetinaNet(FromSettings, keras.Model):
    """A detector that takes images of any size and knows its anchors, loss and decoding.

    Calling it maps image_unit float [B, H, W, 3] in 0..1 to `class_logits` [B, A, C] (a sigmoid
    each) and `box_deltas` [B, A, 4], anchors in `make_anchors` order, and to the heads' inputs,
    `pyramid`, a list of [B, H / s, W / s, channels].  `fit` wants targets
    {"boxes": float32 [B, M, 4] px of the input, "classes": int32 [B, M], padding -1}.

    Args:
        config: The network.
        match: Which anchors are positive; None takes RetinaNetRecipe's.
        loss: Focal loss and the weight of boxes.
        decode: From anchors to detections.
        name: The model's name.

    Raises:
        RecipeError: Backbone, input scaling or an anchor stride is not known.

    Source: Lin et al. 2017, Focal Loss for Dense Object Detection, 4.
    """

    settings: ClassVar = {
        "config": ("retinanet_config", RetinaNetConfig),
        "match": ("match", MatchConfig),
        "loss": ("loss_config", FocalLossConfig),
        "decode": ("decode", DecodeConfig),
    }

    def __init__(
        self,
        config: RetinaNetConfig,
        match: MatchConfig | None = None,
        loss: FocalLossConfig | None = None,
        decode: DecodeConfig | None = None,
        name: str = "retinanet",
        **kwargs: Any,
    ) -> None:
        inputs, outputs = _network(config)
        super().__init__(inputs=inputs, outputs=outputs, name=name, **kwargs)
        self.retinanet_config, self.match = config, match or RetinaNetRecipe().match
        self.loss_config, self.decode = loss or FocalLossConfig(), decode or DecodeConfig()
        self.class_loss = keras.metrics.Mean(name="class_loss")
        self.box_loss = keras.metrics.Mean(name="box_loss")

    def anchors(self, height_px: int, width_px: int) -> Any:
        """Return the anchors of an input of this size, float32 [A, 4] xyxy px."""
        return make_anchors(self.retinanet_config.anchors, height_px, width_px)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the loss of a batch, a float32 scalar; static shapes throughout."""
        anchors = self.anchors(x.shape[1], x.shape[2])
        state, target_classes, target_deltas = assign_targets(anchors, y, self.match)
        class_loss, num_positive = focal_class_loss(
            y_pred["class_logits"], target_classes, state, self.loss_config
        )
        box_loss = self._sum_box_loss(y_pred, target_deltas, ops.equal(state, 1))
        box_loss = self.loss_config.box_weight * box_loss / num_positive
        self.class_loss.update_state(class_loss)
        self.box_loss.update_state(box_loss)
        return class_loss + box_loss

    def _sum_box_loss(self, y_pred: Any, target_deltas: Any, is_positive: Any) -> Any:
        """The box loss, from cells with a positive alone where that is cheaper and they are few.

        Graphs then leave the whole `box_deltas` out: nothing else of a training step reads them.
        """
        config, beta = self.retinanet_config, self.loss_config.smooth_l1_beta
        per_cell, maps = num_anchors_per_cell(config.anchors), y_pred["pyramid"]
        batch, num_cells = is_positive.shape[0], is_positive.shape[1] // per_cell
        num_convs = config.head_convs + 1
        dense_cost = (batch or 0) * num_cells * num_convs
        rooms = [room * (batch or 0) for room in CELLS_PER_IMAGE]
        rooms = [room for room in rooms if 2 * room * count_positions(num_convs) < dense_cost]
        if config.norm != "none" or not rooms:
            return sum_box_loss(y_pred["box_deltas"], target_deltas, is_positive, beta)
        head = self.get_layer("box_head")
        convs = [layer for layer in head.layers if isinstance(layer, keras.layers.Conv2D)]
        by_cell = ops.reshape(is_positive, (-1, per_cell))
        targets = ops.reshape(target_deltas, (-1, per_cell, 4))

        is_wanted = ops.any(by_cell, axis=-1)

        def everywhere() -> Any:
            deltas = ops.concatenate([head(x) for x in maps], axis=1)
            return sum_box_loss(deltas, target_deltas, is_positive, beta)

        def at_cells(room: int) -> Any:
            cells = choose_cells(is_wanted, room)
            kernels, biases = [c.kernel for c in convs], [c.bias for c in convs]
            deltas = run_at_cells(maps, cells, kernels, biases)
            deltas = ops.reshape(deltas, (-1, per_cell, 4))
            wanted, positive = (ops.take(x, cells, axis=0) for x in (targets, by_cell))
            return sum_box_loss(deltas, wanted, positive, beta)

        too_small = ops.greater(ops.sum(ops.cast(is_wanted, "int32")), np.array(rooms, np.int32))
        branches = [*(partial(at_cells, room) for room in rooms), everywhere]
        return ops.switch(ops.sum(ops.cast(too_small, "int32")), branches)

    def detect(self, image_unit: Any) -> dict[str, Any]:
        """Return detections of images of one static size; see `models.detector.Detector`."""
        height, width = image_unit.shape[1], image_unit.shape[2]
        raw = self(image_unit, training=False)
        return decode_detections(
            raw["box_deltas"],
            ops.sigmoid(ops.cast(raw["class_logits"], "float32")),
            self.anchors(height, width),
            (height, width),
            self.match.variances,
            self.decode,
        )


def build_retinanet(
    config: RetinaNetConfig,
    match: MatchConfig | None = None,
    loss: FocalLossConfig | None = None,
    decode: DecodeConfig | None = None,
) -> RetinaNet:
    """Return the detector with random weights; see `RetinaNet`.

    Raises:
        RecipeError: As `RetinaNet` does.
    """
    return RetinaNet(config, match, loss, decode)
