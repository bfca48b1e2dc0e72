"""What Faster R-CNN is made of: backbone and maps, the region proposal network, the second stage.

Two ways to have maps and a second stage, as `pyramid_channels` says:

- 0, as in the first papers and in Keras-FRCNN, which P2 ran: one map of stride 16; the second stage
  is the ResNet's last stage (on 7 x 7 cells, without its stride: Keras-FRCNN takes 14 x 14 cells,
  and v1 blocks then drop three of four) or, on a VGG16, two dense layers.
- Else a feature pyramid (Lin et al. 2017): maps of several strides, two dense layers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras

from lesionkeras.boxes.anchors import num_anchors_per_cell
from lesionkeras.config import FasterRCNNConfig
from lesionkeras.models.backbones import STRIDES_PX, build_resnet, check_strides, freeze
from lesionkeras.models.blocks import normalise
from lesionkeras.models.input_scaling import scale_input
from lesionkeras.models.ssd import UpTo
from lesionkeras.models.vgg16 import build_vgg16

SINGLE_STRIDE_PX = 16  # of the map without a pyramid (Ren et al. 2015, 3.3; Keras-FRCNN)
_VGG16_MAPS = ("block3_conv3", "block4_conv3", "block5_conv3", "block5_pool")  # at STRIDES_PX
_STDDEV = 0.01  # of new layers' weights (Ren et al. 2015, 3.1.3)


class Parts(NamedTuple):
    """The networks of a detector; the two stages share the backbone's layers."""

    backbone: keras.Model  # whole, as weights know it; never called itself
    regions: keras.Model  # image -> rpn_logits, rpn_deltas and the maps
    head: keras.Model  # [N, cells, cells, C] -> class_logits, box_deltas


def check_maps(config: FasterRCNNConfig) -> None:
    """Check that every anchor stride has a map: without a pyramid there is one.

    Args:
        config: Of a Faster R-CNN.

    Raises:
        RecipeError: One has none.
    """
    known = STRIDES_PX if config.pyramid_channels else (SINGLE_STRIDE_PX,)
    next_step = "drop it" if config.pyramid_channels else "drop it, or set model.pyramid_channels"
    check_strides(config.anchors.strides_px, known, next_step)


def build_parts(config: FasterRCNNConfig) -> Parts:
    """Build the networks of a config with random weights.

    Args:
        config: What they are made of.

    Returns:
        The parts; `regions` maps float [B, H, W, 3] in 0..1 to `rpn_logits` [B, A], `rpn_deltas`
        [B, A, 4] (anchors in `make_anchors` order) and `map{stride}` [B, ceil(H / s), ceil(W / s),
        C]; `head` gives `class_logits` [N, classes] and `box_deltas` [N, classes, 4].

    Raises:
        RecipeError: Backbone or input scaling is not known, or a stride has no map.
    """
    check_maps(config)
    strides = config.anchors.strides_px
    backbone = build_backbone(config)
    image_unit = keras.Input((None, None, 3), name="image_unit")
    maps = _run_backbone(backbone, scale_input(image_unit, config.input_scaling), strides, config)
    if config.pyramid_channels:
        maps = build_pyramid(maps, config.pyramid_channels, config.norm)
    maps = {stride: maps[stride] for stride in strides}
    channels = maps[strides[0]].shape[-1]
    propose = build_rpn(channels, config)
    rows = [propose(maps[stride]) for stride in strides]
    outputs = {f"map{stride}": maps[stride] for stride in strides}
    for name in ("rpn_logits", "rpn_deltas"):
        outputs[name] = _join([row[name] for row in rows], name)
    has_stage = not config.pyramid_channels and config.backbone != "vgg16"
    head = build_head(channels, config, _cut_last_stage(backbone) if has_stage else None)
    return Parts(backbone, keras.Model(image_unit, outputs, name="regions"), head)


def _join(rows: list[Any], name: str) -> Any:
    if len(rows) == 1:
        return rows[0]
    return keras.layers.Concatenate(axis=1, name=name)(rows)


def build_backbone(config: FasterRCNNConfig) -> keras.Model:
    """Build the whole backbone, the layers that shall not learn frozen.

    Args:
        config: `backbone`, `freeze_norm`, `frozen_stages`; without a pyramid a ResNet's last stage
            has no stride.

    Returns:
        A model of the backbone's name from float [B, H, W, 3] to maps of strides 4, 8, 16, 32.

    Raises:
        RecipeError: The backbone is not known.
    """
    if config.backbone == "vgg16":
        vgg16 = build_vgg16()
        maps = [vgg16.get_layer(name).output for name in _VGG16_MAPS]
        backbone = keras.Model(vgg16.inputs[0], maps, name="vgg16")
    else:
        backbone = build_resnet(config.backbone, last_stride=2 if config.pyramid_channels else 1)
    freeze(backbone, config.freeze_norm, config.frozen_stages)
    return backbone


def _run_backbone(
    backbone: keras.Model, x: Any, strides: tuple[int, ...], config: FasterRCNNConfig
) -> dict[int, Any]:
    """Maps of the finest wanted stride and all coarser ones; without a pyramid of the one stride.

    Only what the maps need is run: without a pyramid not a ResNet's last stage.
    """
    used = [s for s in STRIDES_PX if s >= min(strides)] if config.pyramid_channels else strides
    outputs = [backbone.outputs[STRIDES_PX.index(stride)] for stride in used]
    trunk = keras.Model(backbone.inputs[0], outputs, name="trunk")
    found = trunk(x)
    return dict(zip(used, found if isinstance(found, list) else [found], strict=True))


def build_pyramid(maps: dict[int, Any], channels: int, norm: str) -> dict[int, Any]:
    """Add each coarse map to the next finer one and smooth the sums.

    Args:
        maps: By stride, each [B, ceil(H / s), ceil(W / s), any].
        channels: Of every result.
        norm: "none" or "group".

    Returns:
        Maps of the same strides, [B, ceil(H / s), ceil(W / s), channels].

    Source: Lin et al. 2017, Feature Pyramid Networks, 3.
    """
    out, above = {}, None
    for stride in sorted(maps, reverse=True):
        lateral = keras.layers.Conv2D(channels, 1, name=f"lateral{stride}_conv")(maps[stride])
        lateral = normalise(lateral, norm, f"lateral{stride}_norm")
        above = lateral if above is None else UpTo(name=f"add{stride}")([above, lateral])
        smooth = keras.layers.Conv2D(channels, 3, padding="same", name=f"smooth{stride}_conv")
        out[stride] = normalise(smooth(above), norm, f"smooth{stride}_norm")
    return out


def _small() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=_STDDEV)


def _prior(prob: float) -> keras.initializers.Initializer:
    """The bias with which a logit starts at a probability (Lin et al. 2017, Focal Loss, 4.1)."""
    return keras.initializers.Constant(math.log(prob / (1 - prob)))


def build_rpn(channels: int, config: FasterRCNNConfig) -> keras.Model:
    """Build the region proposal network's head, one for all maps.

    Args:
        channels: Of the maps.
        config: `rpn_channels`, `norm`, and the anchors of a cell, k.

    Returns:
        A model from [B, H, W, channels] to `rpn_logits` [B, H W k] and `rpn_deltas` [B, H W k, 4].

    Source: Ren et al. 2015, 3.1; Lin et al. 2017, Feature Pyramid Networks, 4.1.
    """
    features = keras.Input((None, None, channels))
    conv = keras.layers.Conv2D(
        config.rpn_channels, 3, padding="same", kernel_initializer=_small(), name="rpn_conv"
    )
    x = normalise(conv(features), config.norm, "rpn_norm")
    x = keras.layers.ReLU(name="rpn_relu")(x)
    count, make = num_anchors_per_cell(config.anchors), keras.layers.Conv2D
    prior = _prior(config.prior_prob)
    logits = make(count, 1, kernel_initializer=_small(), bias_initializer=prior, name="rpn_class")(
        x
    )
    deltas = make(4 * count, 1, kernel_initializer=_small(), name="rpn_box")(x)
    rows = {
        "rpn_logits": keras.layers.Reshape((-1,), name="rpn_class_rows")(logits),
        "rpn_deltas": keras.layers.Reshape((-1, 4), name="rpn_box_rows")(deltas),
    }
    return keras.Model(features, rows, name="rpn")


def _cut_last_stage(resnet: keras.Model) -> keras.Model:
    """A ResNet's last stage; its layers are the ResNet's own."""
    start = resnet.outputs[STRIDES_PX.index(SINGLE_STRIDE_PX)]
    return keras.Model(start, resnet.outputs[-1], name="last_stage")


def build_head(
    channels: int, config: FasterRCNNConfig, last_stage: keras.Model | None = None
) -> keras.Model:
    """Build the second stage.

    Args:
        channels: Of a region.
        config: `roi_cells`, `num_classes`, and of the dense layers `head_channels` and `dropout`.
        last_stage: Of a ResNet, whose mean over the region is judged; None: two dense layers.

    Returns:
        A model from [N, cells, cells, channels] to `class_logits` [N, classes] and `box_deltas`
        [N, classes, 4].

    Source: Girshick 2015, 2.1; Ren et al. 2015, 3.2; He et al. 2016, 5.2 (the last stage).
    """
    x = region = keras.Input((config.roi_cells, config.roi_cells, channels))
    if last_stage is not None:
        x = keras.layers.GlobalAveragePooling2D(name="head_pool")(last_stage(x))
    else:
        x = keras.layers.Flatten(name="head_flatten")(x)
        for i in (1, 2):
            x = keras.layers.Dense(config.head_channels, name=f"head_dense{i}")(x)
            x = keras.layers.ReLU(name=f"head_relu{i}")(x)
            if config.dropout:
                x = keras.layers.Dropout(config.dropout, name=f"head_dropout{i}")(x)
    dense, count = keras.layers.Dense, config.num_classes
    deltas = dense(4 * count, kernel_initializer=_small(), name="head_box")(x)
    prior = _prior(config.prior_prob)
    found = {
        "class_logits": dense(
            count, kernel_initializer=_small(), bias_initializer=prior, name="head_class"
        )(x),
        "box_deltas": keras.layers.Reshape((count, 4), name="head_box_rows")(deltas),
    }
    return keras.Model(region, found, name="head")
