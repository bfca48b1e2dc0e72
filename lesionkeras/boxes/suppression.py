"""From decoded boxes and scores to the detections of an image.

One function for evaluation and export.  KerasCV's `NonMaxSuppression` lets classes suppress one
another and takes five times the CPU time; `tf.image.combined_non_max_suppression` does not compile
under XLA.  tests/boxes/test_suppression.py shows both.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from lesionkeras.boxes.overlap import compute_area, compute_iou
from lesionkeras.config import DecodeConfig


def select_detections(boxes: Any, scores: Any, config: DecodeConfig) -> dict[str, Any]:
    """Keep the best boxes of each class that do not overlap a better one of that class.

    Scores above `score_threshold` compete; the best `candidates` pairs of anchor and class enter
    greedy suppression, where a box falls if its IoU with a kept better one of its class is above
    `iou_threshold`.  Equal scores: the lower anchor, then the lower class, comes first.  An empty
    box (such as one predicted wholly outside the image, once it is clipped) never competes.

    Args:
        boxes: float `[B, A, 4]` xyxy in pixels; B may be unknown.
        scores: float `[B, A, C]` in 0..1; NaN never competes.
        config: Thresholds and counts.

    Returns:
        `boxes` float32 `[B, D, 4]`, `scores` float32 `[B, D]` falling, `classes` int32 `[B, D]`,
        `num_detections` int32 `[B]`, with D = `max_detections`.  Padding rows have box 0, score 0
        and class -1.

    Source: greedy suppression as in SSD (Liu et al. 2016), 2.3.
    """
    boxes = ops.convert_to_tensor(boxes, dtype="float32")
    scores = ops.convert_to_tensor(scores, dtype="float32")
    num_anchors, num_classes = scores.shape[1], scores.shape[2]
    scores = ops.where(compute_area(boxes, ops)[..., None] > 0, scores, -1.0)
    scores = ops.reshape(scores, (-1, num_anchors * num_classes))
    scores = ops.where(scores > config.score_threshold, scores, -1.0)
    scores, pairs = ops.top_k(scores, min(config.candidates, num_anchors * num_classes))
    anchor_idx, classes = pairs // num_classes, pairs % num_classes
    boxes = ops.take_along_axis(boxes, anchor_idx[..., None], axis=1)
    is_kept = ops.logical_and(_suppress(boxes, classes, config.iou_threshold), scores > -1.0)
    return _take_first(boxes, scores, classes, is_kept, config.max_detections)


def _suppress(boxes: Any, classes: Any, iou_threshold: float) -> Any:
    """Greedy suppression of boxes in order of falling score; bool `[B, K]`, true where kept.

    A box is kept if no kept box before it beats it.  Starting from 'all kept', repeating that rule
    settles box after box; it ends when nothing changes, after as many rounds as the longest chain
    of boxes that beat one another (a few), not after K steps.
    """
    iou = compute_iou(boxes, boxes, ops)
    order = ops.arange(boxes.shape[1])
    is_before = order[:, None] < order[None, :]
    is_same_class = classes[:, :, None] == classes[:, None, :]
    beats = ops.logical_and(ops.logical_and(iou > iou_threshold, is_same_class), is_before)

    def is_unsettled(kept: Any, previous: Any) -> Any:
        return ops.any(kept != previous)

    def keep_unbeaten(kept: Any, _: Any) -> tuple[Any, Any]:
        is_beaten = ops.any(ops.logical_and(beats, kept[:, :, None]), axis=1)
        return ops.logical_not(is_beaten), kept

    nothing = ops.zeros_like(classes, dtype="bool")
    everything = ops.logical_not(nothing)
    return ops.while_loop(is_unsettled, keep_unbeaten, (everything, nothing))[0]


def _take_first(
    boxes: Any, scores: Any, classes: Any, is_kept: Any, max_detections: int
) -> dict[str, Any]:
    """Move the kept rows to the front, cut or pad to `max_detections`."""
    num_taken = min(max_detections, boxes.shape[1])
    scores, rows = ops.top_k(ops.where(is_kept, scores, -1.0), num_taken)
    is_real = scores > -1.0
    boxes = ops.take_along_axis(boxes, rows[..., None], axis=1)
    classes = ops.take_along_axis(classes, rows, axis=1)
    missing = max_detections - num_taken
    rows_padding = ((0, 0), (0, missing))
    return {
        "boxes": ops.pad(ops.where(is_real[..., None], boxes, 0.0), (*rows_padding, (0, 0))),
        "scores": ops.pad(ops.where(is_real, scores, 0.0), rows_padding),
        "classes": ops.pad(
            ops.cast(ops.where(is_real, classes, -1), "int32"), rows_padding, constant_values=-1
        ),
        "num_detections": ops.sum(ops.cast(is_real, "int32"), axis=1),
    }
