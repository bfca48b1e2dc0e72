"""Between a batch's ground truth and what a network of anchors predicts, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras import ops

from lesionkeras.boxes.coding import decode_boxes, encode_boxes
from lesionkeras.boxes.matching import match_anchors
from lesionkeras.boxes.overlap import clip_boxes
from lesionkeras.boxes.suppression import select_detections
from lesionkeras.config import DecodeConfig, MatchConfig


def assign_targets(
    anchors: Any, targets: Mapping[str, Any], match: MatchConfig
) -> tuple[Any, Any, Any]:
    """Give each anchor what it shall say.

    Args:
        anchors: float32 `[A, 4]` xyxy px.
        targets: "boxes" float32 `[B, M, 4]` px and "classes" int `[B, M]`, padding -1.
        match: Thresholds and variances.

    Returns:
        State int32 `[B, A]` (1 positive, 0 negative, -1 ignored), and of the positives classes int
        `[B, A]` and deltas float32 `[B, A, 4]`.
    """
    matched_idx, state = match_anchors(anchors, targets["boxes"], targets["classes"], match)
    boxes = ops.take_along_axis(targets["boxes"], matched_idx[..., None], axis=1)
    classes = ops.take_along_axis(targets["classes"], matched_idx, axis=1)
    return state, classes, encode_boxes(boxes, anchors, match.variances, xp=ops)


def decode_detections(
    box_deltas: Any,
    scores: Any,
    anchors: Any,
    size_px: tuple[int, int],
    variances: Sequence[float],
    decode: DecodeConfig,
) -> dict[str, Any]:
    """Turn what anchors say into detections, in float32.

    Args:
        box_deltas: Float `[B, A, 4]`.
        scores: float32 `[B, A, C]` in 0..1.
        anchors: float32 `[A, 4]` xyxy px.
        size_px: Height and width of the image, which boxes are cut to.
        variances: Of the deltas.
        decode: Thresholds and counts.

    Returns:
        As `select_detections`.
    """
    boxes = decode_boxes(ops.cast(box_deltas, "float32"), anchors, variances, xp=ops)
    return select_detections(clip_boxes(boxes, *size_px, xp=ops), scores, decode)
