"""KerasCV's RetinaNet as a peer: built, and compared weight by weight with ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lesionkeras.boxes.anchors import make_anchors
from lesionkeras.config import (
    AnchorConfig,
    DataConfig,
    DecodeConfig,
    FocalLossConfig,
    MatchConfig,
    OptimizerConfig,
    RetinaNetConfig,
    RetinaNetRecipe,
    TrainConfig,
)
from lesionkeras.errors import RecipeError
from lesionkeras.models.backbones import build_kerascv_resnet, build_resnet
from lesionkeras.models.retinanet import RetinaNet
from lesionkeras.training.optimizers import build_optimizer

SCHEDULE_STEPS = 1000  # any: the schedule's length does not change a step's cost
PYRAMID_STRIDES_PX = {"c3": 8, "c4": 16, "c5": 32, "c6": 64, "c7": 128}  # of its layers' names
XYXY_OF_YXHW = [1, 0, 3, 2]  # its deltas are y, x, height, width


def make_twin(
    backbone: str,
    num_classes: int,
    data: DataConfig,
    optimizer: OptimizerConfig,
    train: TrainConfig,
) -> RetinaNetRecipe:
    """Make the recipe of our RetinaNet that is KerasCV's: its maps, heads, anchors and loss.

    Args:
        backbone: "resnet34" or "resnet50".
        num_classes: Of lesions.
        data: Image size.
        optimizer: As for any recipe.
        train: Batch size, precision, XLA.

    Returns:
        The recipe; `box_weight` is a quarter, because KerasCV takes the mean of four coordinates.
    """
    scales = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    return RetinaNetRecipe(
        name="kerascv",
        data=data,
        model=RetinaNetConfig(
            backbone=backbone,
            num_classes=num_classes,
            head_convs=3,
            coarse_from="c5",
            anchors=AnchorConfig(tuple(PYRAMID_STRIDES_PX.values()), 4.0, scales, (0.5, 1.0, 2.0)),
        ),
        match=MatchConfig(0.5, 0.4),
        loss=FocalLossConfig(alpha=0.25, gamma=2.0, box_weight=0.25, smooth_l1_beta=1.0),
        optimizer=optimizer,
        train=train,
        decode=DecodeConfig(score_threshold=0.5, iou_threshold=0.5, max_detections=100),
    )


def build_peer(recipe: RetinaNetRecipe) -> Any:
    """Build and compile KerasCV's RetinaNet on KerasCV's backbone, random weights.

    Args:
        recipe: From `make_twin`.
    """
    backbone = build_kerascv_resnet(recipe.model.backbone, recipe.data.image_size_px)
    return _compile(_build(backbone, recipe.model.num_classes), recipe)


def _build(backbone: Any, num_classes: int, **parts: Any) -> Any:
    import keras_cv

    return keras_cv.models.RetinaNet(
        backbone=backbone, num_classes=num_classes, bounding_box_format="xyxy", **parts
    )


def _compile(model: Any, recipe: RetinaNetRecipe) -> Any:
    """Losses have reduction "sum", because RetinaNet divides by the number of positives itself."""
    import keras_cv

    model.compile(
        classification_loss=keras_cv.losses.FocalLoss(from_logits=True, reduction="sum"),
        box_loss=keras_cv.losses.SmoothL1Loss(l1_cutoff=1.0, reduction="sum"),
        optimizer=build_optimizer(recipe.optimizer, SCHEDULE_STEPS),
        jit_compile=recipe.train.jit_compile,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def to_peer_targets(targets: dict[str, Any]) -> dict[str, Any]:
    """Turn our targets into KerasCV's: -1 also in the boxes of padding, float classes."""
    is_padding = targets["classes"] < 0
    return {
        "boxes": tf.where(is_padding[..., None], -1.0, targets["boxes"]),
        "classes": tf.cast(targets["classes"], tf.float32),
    }


def compare_losses(ours: RetinaNet, recipe: RetinaNetRecipe) -> tuple[float, float]:
    """Compute the training loss of one batch with our network and, weights copied, KerasCV's.

    KerasCV's stands on our backbone here, whose strided layers pad on both sides, and does not cut
    anchors off at the image's edge; each lesion is near one anchor, as KerasCV forces no matches.

    Args:
        ours: Built from the recipe.
        recipe: From `make_twin`.

    Returns:
        Our loss and KerasCV's.
    """
    import keras_cv

    anchors = recipe.model.anchors
    backbone = build_resnet(recipe.model.backbone)
    levels = build_kerascv_resnet(recipe.model.backbone).pyramid_level_inputs
    backbone.pyramid_level_inputs = dict(levels)
    generator = keras_cv.layers.AnchorGenerator(
        bounding_box_format="xyxy",
        sizes=[anchors.size_factor * stride for stride in anchors.strides_px],
        scales=list(anchors.scales),
        aspect_ratios=[1 / ratio for ratio in anchors.ratios],  # theirs is width / height
        strides=list(anchors.strides_px),
        clip_boxes=False,
    )
    peer = _build(backbone, recipe.model.num_classes, anchor_generator=generator)
    peer = _compile(peer, recipe)
    copy_weights(ours, peer, recipe.model)
    image_unit, targets = _make_easy_batch(recipe)
    our_loss = ours.compute_loss(image_unit, targets, ours(image_unit, training=True))
    scaled = 4.0 * image_unit - 2.0  # our input scaling "unit"
    outputs = peer({"images": scaled}, training=True)
    peer_loss = peer.compute_loss(scaled, to_peer_targets(targets), outputs, None)
    return float(our_loss), float(peer_loss)


def copy_weights(ours: RetinaNet, peer: Any, config: RetinaNetConfig) -> None:
    """Copy our weights into KerasCV's network.

    Args:
        ours: The source.
        peer: KerasCV's RetinaNet on a backbone with our layers' names.
        config: Of ours.
    """
    for layer in ours.get_layer(config.backbone).layers:
        if layer.weights and layer.name in {each.name for each in peer.feature_extractor.layers}:
            peer.feature_extractor.get_layer(layer.name).set_weights(layer.get_weights())
    for theirs, name in _pair_layers(peer):
        theirs.set_weights(ours.get_layer(name).get_weights())
    heads = {"class": peer.classification_head, "box": peer.box_head}
    for name, head in heads.items():
        source = ours.get_layer(f"{name}_head")
        for i, layer in enumerate(head.conv_layers, 1):
            layer.set_weights(source.get_layer(f"{name}_conv{i}").get_weights())
        last = source.get_layer(name).get_weights()
        head.prediction_layer.set_weights(last if name == "class" else [_to_yxhw(a) for a in last])


def _pair_layers(peer: Any) -> Iterator[tuple[Any, str]]:
    """KerasCV's convolutions of the pyramid with the names of ours."""
    for level, stride in PYRAMID_STRIDES_PX.items():
        yield getattr(peer.feature_pyramid, f"conv_{level}_3x3"), f"pyramid{stride}"
        if hasattr(peer.feature_pyramid, f"conv_{level}_1x1"):
            yield getattr(peer.feature_pyramid, f"conv_{level}_1x1"), f"lateral{stride}"


def _to_yxhw(array: np.ndarray) -> np.ndarray:
    """Output channels of the box head, four an anchor, in KerasCV's order."""
    by_anchor = array.reshape(*array.shape[:-1], -1, 4)
    return by_anchor[..., XYXY_OF_YXHW].reshape(array.shape)


def _make_easy_batch(recipe: RetinaNetRecipe) -> tuple[Any, dict[str, Any]]:
    """A random image each, and a lesion in each quarter that is nearly an anchor.

    Raises:
        RecipeError: Images are too small for that.
    """
    side_px, batch = recipe.data.image_size_px, recipe.train.batch_size
    random = np.random.default_rng(recipe.train.seed)
    anchors = make_anchors(recipe.model.anchors, side_px, side_px)
    boxes = np.zeros((batch, recipe.data.max_boxes, 4), np.float32)
    classes = np.full(boxes.shape[:2], -1, np.int32)
    for i in range(batch):
        for quarter in range(min(4, recipe.data.max_boxes)):
            low = np.array([quarter % 2, quarter // 2]) * side_px / 2
            is_inside = (anchors[:, :2] >= low) & (anchors[:, 2:] <= low + side_px / 2)
            inside = anchors[is_inside.all(axis=1)]
            if not len(inside):  # losses of images without a lesion would show little
                raise RecipeError(
                    "No anchor fits into a quarter of an image",
                    where="data.image_size_px",
                    found=str(side_px),
                    wanted="128 or more",
                )
            box = inside[random.integers(len(inside))]
            shift = random.uniform(-0.05, 0.05, 4) * np.tile(box[2:] - box[:2], 2)
            boxes[i, quarter], classes[i, quarter] = (box + shift).clip(0, side_px), 0
    image_unit = random.random((batch, side_px, side_px, 3), np.float32)
    targets = {"boxes": tf.constant(boxes), "classes": tf.constant(classes)}
    return keras.ops.convert_to_tensor(image_unit), targets
