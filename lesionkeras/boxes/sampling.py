"""Which anchors and which proposals of an image a two-stage detector learns from.

Static shapes: a sample is always as many rows as it may be, with a mask of those that count.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from lesionkeras.boxes.matching import IGNORED, NEGATIVE, POSITIVE
from lesionkeras.boxes.overlap import compute_area, compute_iou
from lesionkeras.config import MatchConfig


def sample_rows(state: Any, noise: Any, num_rows: int, positive_fraction: float) -> tuple[Any, Any]:
    """Draw rows at random: at most a share of positives, the rest negatives.

    Args:
        state: int `[B, A]`, static: 1 positive, 0 negative, -1 ignored.
        noise: float32 `[B, A]` in 0..1 (1 left out), drawn by the caller; the highest are taken,
            ties by the lower row.
        num_rows: Rows an image.
        positive_fraction: Of `num_rows`, the most positives; fewer leave their room to negatives.

    Returns:
        `idx` int32 `[B, num_rows]`, positives first, and `is_drawn` bool `[B, num_rows]`, false
        where there was nothing left to draw.

    Source: Ren et al. 2015, Faster R-CNN, 3.1.3; Girshick 2015, Fast R-CNN, 2.3.
    """
    num_anchors, most = state.shape[1], round(positive_fraction * num_rows)
    positives, is_positive = _take_best(ops.equal(state, POSITIVE), noise, min(most, num_anchors))
    negatives, is_negative = _take_best(
        ops.equal(state, NEGATIVE), noise, min(num_rows, num_anchors)
    )
    room = num_rows - ops.sum(ops.cast(is_positive, "int32"), axis=1, keepdims=True)
    is_negative = ops.logical_and(is_negative, ops.arange(negatives.shape[1]) < room)
    idx = ops.concatenate([positives, negatives], axis=1)
    is_drawn = ops.concatenate([is_positive, is_negative], axis=1)
    missing = max(0, num_rows - idx.shape[1])
    idx = ops.pad(idx, ((0, 0), (0, missing)))
    is_drawn = ops.pad(is_drawn, ((0, 0), (0, missing)), constant_values=False)
    _, front = ops.top_k(ops.cast(is_drawn, "float32"), num_rows)  # stable: ties by index
    return ops.take_along_axis(idx, front, axis=1), ops.take_along_axis(is_drawn, front, axis=1)


def _take_best(is_wanted: Any, noise: Any, count: int) -> tuple[Any, Any]:
    """The `count` wanted rows of highest noise: int32 idx and bool mask, `[B, count]`."""
    values, idx = ops.top_k(ops.where(is_wanted, noise, -1.0), count)
    return ops.cast(idx, "int32"), values >= 0.0


def match_proposals(
    proposals: Any, boxes: Any, classes: Any, config: MatchConfig
) -> tuple[Any, Any]:
    """Match each image's own proposals to its boxes, by threshold alone.

    A proposal is positive where its best IoU is `positive_iou` or more, negative where it is below
    `negative_iou`, ignored between the two; an empty one is always ignored.  No positive is forced.

    Args:
        proposals: float32 `[B, R, 4]` xyxy in pixels, padding rows 0.
        boxes: float32 `[B, M, 4]` xyxy in pixels, M at least 1, padding rows 0.
        classes: int `[B, M]`, padding rows -1.
        config: The thresholds.

    Returns:
        `matched_idx` int32 `[B, R]`, the row of `boxes` of the highest IoU (0 where there is none),
        and `state` int32 `[B, R]`: 1 positive, 0 negative, -1 ignored.

    Source: Girshick 2015, Fast R-CNN, 2.3.
    """
    boxes = ops.where((ops.convert_to_tensor(classes) >= 0)[..., None], boxes, 0.0)
    iou = compute_iou(proposals, boxes, ops)
    best_iou = ops.max(iou, axis=2)
    state = ops.where(best_iou < config.negative_iou, NEGATIVE, IGNORED)
    state = ops.where(best_iou >= config.positive_iou, POSITIVE, state)
    state = ops.where(compute_area(proposals, ops) > 0, state, IGNORED)
    return ops.cast(ops.argmax(iou, axis=2), "int32"), ops.cast(state, "int32")
