"""Faster R-CNN (Ren et al. 2015), as P2, 4.3 takes it, and with a feature pyramid.

A region proposal network says, at each anchor, whether there is an object and where; its best boxes
are cut out of the maps by RoIAlign, and a second stage gives each a class and a better box.  Both
are trained jointly in one step (P2: "alternatively or at the same time").  Everything has static
shapes and compiles under XLA: proposals are a fixed number of rows, and so are the samples that the
losses look at.

Differs from P2: RoIAlign (He et al. 2017) in place of RoI max pooling, which moves a box by up to
half a cell of 16 px: half of a small lesion.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from lesionkeras.boxes.anchors import make_anchors
from lesionkeras.boxes.coding import decode_boxes, encode_boxes
from lesionkeras.boxes.matching import POSITIVE, match_anchors
from lesionkeras.boxes.overlap import clip_boxes, compute_area
from lesionkeras.boxes.roi_align import align_rois
from lesionkeras.boxes.sampling import match_proposals, sample_rows
from lesionkeras.boxes.suppression import select_detections
from lesionkeras.boxes.targets import fix_rows
from lesionkeras.config import (
    DecodeConfig,
    FasterRCNNConfig,
    FasterRCNNLossConfig,
    FasterRCNNMatchConfig,
    FasterRCNNRecipe,
)
from lesionkeras.losses import log_probabilities
from lesionkeras.models.backbones import check_freeze
from lesionkeras.models.detector import FromSettings
from lesionkeras.models.rcnn_parts import SINGLE_STRIDE_PX, build_parts, check_maps
from lesionkeras.rcnn_losses import roi_loss, rpn_loss

_LEVEL_SLACK = 1 + 7e-7  # a side on the border of two levels goes to the coarser (torchvision's)


def choose_levels(boxes: Any, strides_px: tuple[int, ...], canonical_px: float) -> Any:
    """Choose the map that each box is cut out of, by its size.

    Args:
        boxes: float32 [..., 4] xyxy px.
        strides_px: Of the maps, ascending powers of 2.
        canonical_px: From this side on a box is cut out of the map of stride 16, from half of it
            on out of that of stride 8, and so on.

    Returns:
        int32 [...], a place in `strides_px`.

    Source: Lin et al. 2017, Feature Pyramid Networks, equation 1.
    """
    side_px = ops.sqrt(compute_area(boxes, ops))
    wanted = side_px * (SINGLE_STRIDE_PX / canonical_px * _LEVEL_SLACK)
    return ops.sum(
        ops.cast(wanted[..., None] >= ops.array(strides_px[1:], dtype="float32"), "int32"), axis=-1
    )


@keras.saving.register_keras_serializable("lesionkeras")
class FasterRCNN(FromSettings, keras.Model):
    """A two-stage detector that takes images of any size and knows its anchors, loss and decoding.

    Calling it maps image_unit float [B, H, W, 3] in 0..1 to the first stage's outputs: `rpn_logits`
    [B, A] and `rpn_deltas` [B, A, 4], anchors in `make_anchors` order, and a `map{stride}` [B,
    H / stride, W / stride, C] for each.  The second stage runs where it is known on what: on some
    proposals in `compute_loss`, on all of them in `detect`.  `fit` wants targets {"boxes": float32
    [B, M, 4] px of the input, "classes": int32 [B, M], padding -1}.

    Args:
        config: The network.
        match: What is positive, and how much of it is looked at.
        loss: Weights of the two boxes' losses.
        decode: From proposals to detections.
        name: The model's name.

    Raises:
        RecipeError: Backbone or input scaling is not known, or an anchor stride has no map.

    Source: Ren et al. 2015, Faster R-CNN; P2, 4.3; Lin et al. 2017, Feature Pyramid Networks.
    """

    settings: ClassVar = {
        "config": ("rcnn_config", FasterRCNNConfig),
        "match": ("match", FasterRCNNMatchConfig),
        "loss": ("loss_config", FasterRCNNLossConfig),
        "decode": ("decode", DecodeConfig),
    }

    def __init__(
        self,
        config: FasterRCNNConfig,
        match: FasterRCNNMatchConfig | None = None,
        loss: FasterRCNNLossConfig | None = None,
        decode: DecodeConfig | None = None,
        name: str = "faster_rcnn",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.rcnn_config, self.match = config, match or FasterRCNNMatchConfig()
        self.loss_config, self.decode = loss or FasterRCNNLossConfig(), decode or DecodeConfig()
        self.backbone, self.regions, self.head = build_parts(config)
        self.seeds = keras.random.SeedGenerator(
            name="seeds"
        )  # a part of the checkpoint; from the run's seed
        self.rpn_class_loss = keras.metrics.Mean(name="rpn_class_loss")
        self.rpn_box_loss = keras.metrics.Mean(name="rpn_box_loss")
        self.class_loss = keras.metrics.Mean(name="class_loss")
        self.box_loss = keras.metrics.Mean(name="box_loss")
        self.built = True  # its parts are

    def call(self, image_unit: Any, training: bool | None = None) -> dict[str, Any]:
        """Return the first stage's outputs of [B, H, W, 3]."""
        return self.regions(image_unit, training=training)

    def anchors(self, height_px: int, width_px: int) -> Any:
        """Return the anchors of an input of this size, float32 [A, 4] xyxy px."""
        return make_anchors(self.rcnn_config.anchors, height_px, width_px)

    def propose(self, raw: dict[str, Any], height_px: int, width_px: int) -> Any:
        """Return the first stage's best boxes; no gradient flows through them (Ren, 3.2).

        Args:
            raw: The outputs of a call.
            height_px: Of the input.
            width_px: Of the input.

        Returns:
            float32 [B, P, 4] xyxy px within the image, the best first, padding rows 0.
        """
        raw = {name: ops.stop_gradient(raw[name]) for name in ("rpn_logits", "rpn_deltas")}
        anchors, variances = self.anchors(height_px, width_px), self.match.rpn.variances
        boxes = decode_boxes(ops.cast(raw["rpn_deltas"], "float32"), anchors, variances, xp=ops)
        scores = ops.sigmoid(ops.cast(raw["rpn_logits"], "float32"))[..., None]
        boxes = clip_boxes(boxes, height_px, width_px, xp=ops)
        return select_detections(boxes, scores, self.rcnn_config.proposals)["boxes"]

    def classify(self, raw: dict[str, Any], boxes: Any, training: bool) -> dict[str, Any]:
        """Run the second stage on boxes.

        Args:
            raw: The outputs of a call, for their maps.
            boxes: float32 [B, R, 4] xyxy px.
            training: Whether norms and dropout work as in training.

        Returns:
            `class_logits` [B, R, C], background's being 0, and `box_deltas` [B, R, C, 4].
        """
        config = self.rcnn_config
        strides = config.anchors.strides_px
        levels = choose_levels(boxes, strides, config.roi_canonical_px)
        regions = sum(
            align_rois(
                raw[f"map{stride}"],
                boxes,
                stride,
                config.roi_cells,
                config.roi_samples,
                is_used=ops.cast(ops.equal(levels, i), "float32") if len(strides) > 1 else None,
            )
            for i, stride in enumerate(strides)
        )
        num_boxes = boxes.shape[1]
        flat = self.head(ops.reshape(regions, (-1, *regions.shape[2:])), training=training)
        return {
            name: ops.reshape(value, (-1, num_boxes, *value.shape[1:]))
            for name, value in flat.items()
        }

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Return the sum of both stages' losses, a float32 scalar; static shapes throughout."""
        height_px, width_px = x.shape[1], x.shape[2]
        weights, match, y = self.loss_config, self.match, fix_rows(y)
        first = self._compute_rpn_loss(self.anchors(height_px, width_px), y, y_pred)
        proposals = self.propose(y_pred, height_px, width_px)
        # True boxes too (torchvision's and Detectron's): else nothing is positive at the start.
        proposals = ops.concatenate([proposals, ops.cast(y["boxes"], "float32")], axis=1)
        matched_idx, state = match_proposals(proposals, y["boxes"], y["classes"], match.rois)
        idx, drawn = self._draw(state, match.sampled_rois, match.positive_roi_fraction)
        matched_idx = ops.take_along_axis(matched_idx, idx, axis=1)
        boxes = ops.take_along_axis(proposals, idx[..., None], axis=1)
        is_positive = ops.equal(ops.take_along_axis(state, idx, axis=1), POSITIVE)
        classes = ops.take_along_axis(ops.cast(y["classes"], "int32"), matched_idx, axis=1)
        boxes = ops.where(drawn[..., None], boxes, _make_place(height_px, width_px))
        targets = ops.take_along_axis(y["boxes"], matched_idx[..., None], axis=1)
        deltas = encode_boxes(targets, boxes, match.rois.variances, xp=ops)
        found = self.classify(y_pred, boxes, training)
        second = roi_loss(
            found["class_logits"],
            found["box_deltas"],
            ops.where(is_positive, classes, -1),
            deltas,
            drawn,
            weights.smooth_l1_beta,
        )
        losses = [first[0], weights.rpn_box_weight * first[1]]
        losses += [second[0], weights.box_weight * second[1]]
        metrics = (self.rpn_class_loss, self.rpn_box_loss, self.class_loss, self.box_loss)
        for metric, loss in zip(metrics, losses, strict=True):
            metric.update_state(loss)
        return sum(losses)

    def _draw(self, state: Any, num_rows: int, positive_fraction: float) -> tuple[Any, Any]:
        noise = keras.random.uniform(ops.shape(state), dtype="float32", seed=self.seeds)
        return sample_rows(state, noise, num_rows, positive_fraction)

    def _compute_rpn_loss(self, anchors: Any, y: Any, raw: dict[str, Any]) -> tuple[Any, Any]:
        match = self.match
        matched_idx, state = match_anchors(anchors, y["boxes"], y["classes"], match.rpn)
        idx, drawn = self._draw(state, match.sampled_anchors, match.positive_anchor_fraction)
        matched_idx = ops.take_along_axis(matched_idx, idx, axis=1)
        boxes = ops.take_along_axis(y["boxes"], matched_idx[..., None], axis=1)
        own = ops.take(ops.convert_to_tensor(anchors), idx, axis=0)
        return rpn_loss(
            ops.take_along_axis(raw["rpn_logits"], idx, axis=1),
            ops.take_along_axis(raw["rpn_deltas"], idx[..., None], axis=1),
            encode_boxes(boxes, own, match.rpn.variances, xp=ops),
            ops.equal(ops.take_along_axis(state, idx, axis=1), POSITIVE),
            drawn,
            self.loss_config.rpn_smooth_l1_beta,
        )

    def detect(self, image_unit: Any) -> dict[str, Any]:
        """Return detections of images of one static size; see `models.detector.Detector`.

        Args:
            image_unit: float32 [B, H, W, 3] in 0..1; H and W static.

        Returns:
            `boxes` float32 [B, D, 4] px of the input, `scores` float32 [B, D] descending,
            `classes` int32 [B, D] (-1 is padding), `num_detections` int32 [B].
        """
        height_px, width_px = image_unit.shape[1], image_unit.shape[2]
        raw = self(image_unit, training=False)
        proposals = self.propose(raw, height_px, width_px)
        found = self.classify(raw, proposals, training=False)
        return self.decode_regions(found, proposals, height_px, width_px)

    def decode_regions(
        self, found: dict[str, Any], proposals: Any, height_px: int, width_px: int
    ) -> dict[str, Any]:
        """Decode the second stage's outputs, as `detect` returns them.

        Args:
            found: From `classify`.
            proposals: float32 [B, P, 4] that it ran on; padding rows are never detections.
            height_px: Of the input.
            width_px: Of the input.
        """
        count = self.rcnn_config.num_classes
        boxes = decode_boxes(
            ops.cast(found["box_deltas"], "float32"),
            proposals[:, :, None],
            self.match.rois.variances,
            xp=ops,
        )
        scores = ops.exp(log_probabilities(found["class_logits"])[1])
        # Each class has its own box: a row a pair, which scores in its class alone.
        scores = scores[..., None] * ops.eye(count)
        boxes = ops.reshape(clip_boxes(boxes, height_px, width_px, xp=ops), (-1, *_rows(boxes), 4))
        scores = ops.reshape(scores, (-1, *_rows(scores), count))
        return select_detections(boxes, scores, self.decode)


def _make_place(height_px: int, width_px: int) -> Any:
    """A box for rows that were not drawn: finite deltas of a padding row, whatever its weight."""
    return ops.array([0.0, 0.0, width_px, height_px], dtype="float32")


def _rows(pairs: Any) -> tuple[int]:
    return (pairs.shape[1] * pairs.shape[2],)


def build_faster_rcnn(
    config: FasterRCNNConfig,
    match: FasterRCNNMatchConfig | None = None,
    loss: FasterRCNNLossConfig | None = None,
    decode: DecodeConfig | None = None,
) -> FasterRCNN:
    """Return the detector with random weights; see `FasterRCNN`.

    Raises:
        RecipeError: As `FasterRCNN` does.
    """
    return FasterRCNN(config, match, loss, decode)


def check_faster_rcnn(recipe: FasterRCNNRecipe) -> None:
    """Check what makes no detector that could learn.

    Args:
        recipe: Of a run that would start.

    Raises:
        RecipeError: An anchor stride has no map, or norms are frozen and there are no weights whose
            statistics they would keep.
    """
    check_maps(recipe.model)
    check_freeze(recipe.model)
