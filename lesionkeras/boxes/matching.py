"""Which anchor learns which lesion: threshold matching plus one forced anchor a box.

Static shapes throughout: it compiles under XLA as a part of the training step.

KerasCV 0.9's `BoxMatcher` matches by threshold as we do (an IoU at a threshold counts as above it
there, where P1 wants "greater than 0.5"), but its forced matches are wrong: anchor 0 is always a
positive of a box that does not exist, and where two boxes like one anchor best, one gets none
(tests/boxes/test_matching.py shows both).  At 37,485 anchors on a CPU it takes 5.7 times our
CPU time with 4 boxes in 20 rows, 1.4 times with 20.  Hence ours (DESIGN 3).
"""

from __future__ import annotations

from typing import Any

from keras import ops

from lesionkeras.boxes.overlap import compute_area, compute_iou
from lesionkeras.config import MatchConfig

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def match_anchors(anchors: Any, boxes: Any, classes: Any, config: MatchConfig) -> tuple[Any, Any]:
    """Match each anchor to a box of its image, or to background.

    An anchor is positive where its best IoU is above `positive_iou`, negative where it is below
    `negative_iou` (with equal thresholds: where it is not positive), ignored between the two.  Each
    real box also gets one forced positive anchor, whatever their IoU, if any anchor touches it:
    pairs are taken in order of falling IoU, each box and each anchor once, so that two boxes with
    the same best anchor get two anchors.  Ties go to the lower box, then to the lower anchor.

    Args:
        anchors: float32 `[A, 4]` xyxy in pixels.
        boxes: float32 `[B, M, 4]` xyxy in pixels, padding rows 0.
        classes: int `[B, M]`, padding rows -1.
        config: The thresholds.

    Returns:
        `matched_idx` int32 `[B, A]`, the row of `boxes` an anchor belongs to (0 where there is no
        box), and `state` int32 `[B, A]`: 1 positive, 0 negative, -1 ignored.

    Raises:
        ValueError: If `negative_iou` is above `positive_iou`.

    Source: SSD (Liu et al. 2016), 2.2; P1, 4.2 (IoU > .5).
    """
    if config.negative_iou > config.positive_iou:
        raise ValueError(f"negative_iou {config.negative_iou} is above {config.positive_iou}")
    anchors = ops.convert_to_tensor(anchors, dtype="float32")
    boxes = ops.convert_to_tensor(boxes, dtype="float32")
    if boxes.shape[1] == 0:
        nothing = ops.zeros((ops.shape(boxes)[0], anchors.shape[0]), dtype="int32")
        return nothing, nothing
    is_real = ops.logical_and(ops.convert_to_tensor(classes) >= 0, compute_area(boxes, ops) > 0)
    boxes = ops.where(is_real[..., None], boxes, 0.0)
    best_iou, best_idx, values, candidates = _compare(anchors, boxes, is_real)
    forced_idx = _scatter_forced(_choose_forced_anchors(values, candidates), best_idx)
    is_forced = forced_idx >= 0
    matched_idx = ops.where(is_forced, forced_idx, best_idx)
    state = _apply_thresholds(best_iou, config)
    return matched_idx, ops.cast(ops.where(is_forced, POSITIVE, state), "int32")


def _apply_thresholds(best_iou: Any, config: MatchConfig) -> Any:
    """State of each anchor by its best IoU alone."""
    # Equal thresholds leave nothing between them: an IoU of exactly .5 is negative, not ignored.
    is_gap = config.negative_iou < config.positive_iou
    below = ops.where(best_iou < config.negative_iou, NEGATIVE, IGNORED if is_gap else NEGATIVE)
    return ops.where(best_iou > config.positive_iou, POSITIVE, below)


def _compare(anchors: Any, boxes: Any, is_real: Any) -> tuple[Any, Any, Any, Any]:
    """Best IoU and box of each anchor `[B, A]`; best IoUs and anchors of each box `[B, M, K]`.

    It goes box by box and stops after the last real row of the batch: with 4 of 20 rows in use that
    takes a fifth of the time of one `[B, M, A]` table, which also leaves the processor's cache.
    K = M is enough for the forced anchors: other boxes can take at most M - 1 of a box's best.
    """
    batch_size, num_boxes, num_anchors = ops.shape(boxes)[0], boxes.shape[1], anchors.shape[0]
    num_candidates = min(num_boxes, num_anchors)
    row_axis = ops.arange(num_boxes, dtype="int32")
    num_rows = ops.max(ops.where(is_real, row_axis + 1, 0))

    def compare_row(row: Any, state: tuple[Any, Any, Any, Any]) -> tuple[Any, Any, Any, Any]:
        best_iou, best_idx, values, candidates = state
        iou = compute_iou(ops.take(boxes, row, axis=1)[:, None], anchors, ops)[:, 0]
        is_better = iou > best_iou
        row_values, row_candidates = ops.top_k(iou, num_candidates)
        is_row = (row_axis == row)[None, :, None]
        return (
            ops.where(is_better, iou, best_iou),
            ops.where(is_better, row, best_idx),
            ops.where(is_row, row_values[:, None], values),
            ops.where(is_row, ops.cast(row_candidates, "int32")[:, None], candidates),
        )

    by_anchor, by_box = (batch_size, num_anchors), (batch_size, num_boxes, num_candidates)
    start = (
        ops.zeros(by_anchor, dtype="float32"),
        ops.zeros(by_anchor, dtype="int32"),
        ops.zeros(by_box, dtype="float32"),
        ops.zeros(by_box, dtype="int32"),
    )
    return ops.fori_loop(0, num_rows, compare_row, start)


def _choose_forced_anchors(values: Any, candidates: Any) -> Any:
    """One anchor a box, greedily by falling IoU, from `[B, M, K]`; int32 `[B, M]`, -1: none."""
    batch_size, num_boxes, num_candidates = ops.shape(values)[0], values.shape[1], values.shape[2]
    flat_shape = (batch_size, num_boxes * num_candidates)
    values, candidates = ops.reshape(values, flat_shape), ops.reshape(candidates, flat_shape)
    owners = ops.repeat(ops.arange(num_boxes, dtype="int32"), num_candidates)[None]
    boxes_axis = ops.arange(num_boxes, dtype="int32")[None]
    forced = ops.full((batch_size, num_boxes), -1, dtype="int32")

    def take_best_pair(_: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        values, forced = state
        pick = ops.argmax(values, axis=1, keepdims=True)
        anchor = ops.take_along_axis(candidates, pick, axis=1)
        box = ops.cast(pick // num_candidates, "int32")
        is_overlap = ops.take_along_axis(values, pick, axis=1) > 0
        forced = ops.where(ops.logical_and(boxes_axis == box, is_overlap), anchor, forced)
        is_used = ops.logical_or(owners == box, candidates == anchor)
        return ops.where(is_used, 0.0, values), forced

    return ops.fori_loop(0, num_boxes, take_best_pair, (values, forced))[1]


def _scatter_forced(forced_anchors: Any, like: Any) -> Any:
    """From anchors by box `[B, M]` to boxes by anchor `[B, A]`, -1 where none is forced."""
    batch_size, num_boxes = ops.shape(forced_anchors)[0], forced_anchors.shape[1]
    num_anchors = like.shape[1]
    # Boxes without an anchor write to one cell past the end, which is cut off again.
    columns = ops.where(forced_anchors < 0, num_anchors, forced_anchors)
    rows = ops.arange(batch_size, dtype="int32")[:, None] + ops.zeros_like(columns)
    cells = ops.reshape(ops.stack([rows, columns], axis=-1), (-1, 2))
    values = ops.arange(num_boxes, dtype="int32")[None] + ops.zeros_like(columns)
    table = ops.full((batch_size, num_anchors + 1), -1, dtype="int32")
    return ops.scatter_update(table, cells, ops.reshape(values, (-1,)))[:, :num_anchors]
