"""Between a batch's ground truth and what a network of anchors predicts, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from lesionkeras.boxes.coding import decode_boxes, encode_boxes
from lesionkeras.boxes.matching import match_anchors
from lesionkeras.boxes.overlap import clip_boxes
from lesionkeras.boxes.suppression import select_detections
from lesionkeras.config import DecodeConfig, MatchConfig

MOST_ROWS = 100  # where the number of rows is not known


def fix_rows(targets: Mapping[str, Any]) -> dict[str, Any]:
    """Return ground truth of one row or more, and of a number that is known.

    Once Keras' `fit` has seen batches of two numbers of rows, TensorFlow traces it for any.

    Args:
        targets: "boxes" float `[B, M, 4]` and "classes" int `[B, M]`; M may be 0 or not known.

    Returns:
        The same with padding rows: M as it is, 1 for 0, MOST_ROWS where it is not known.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, for more than MOST_ROWS where M is not known.
    """
    boxes, classes = (ops.convert_to_tensor(targets[name]) for name in ("boxes", "classes"))
    if boxes.shape[1]:
        return dict(targets)
    most = 1 if boxes.shape[1] == 0 else MOST_ROWS
    if most == MOST_ROWS and keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # keras.ops asserts nothing

        message = f"Boxes of an image have more than {most} rows, whose number is not known"
        with tf.control_dependencies(
            [tf.debugging.assert_less_equal(tf.shape(boxes)[1], most, message)]
        ):
            boxes = tf.identity(boxes)
    rows = ((0, 0), (0, most))
    boxes = ops.pad(boxes, (*rows, (0, 0)))[:, :most]
    classes = ops.pad(classes, rows, constant_values=-1)[:, :most]
    return {
        **targets,
        "boxes": ops.reshape(boxes, (-1, most, 4)),
        "classes": ops.reshape(classes, (-1, most)),
    }


def assign_targets(
    anchors: Any, targets: Mapping[str, Any], match: MatchConfig
) -> tuple[Any, Any, Any]:
    """Give each anchor what it shall say.

    Args:
        anchors: float32 `[A, 4]` xyxy px.
        targets: "boxes" float32 `[B, M, 4]` px and "classes" int `[B, M]`, padding -1; M as
            `fix_rows` takes it.
        match: Thresholds and variances.

    Returns:
        State int32 `[B, A]` (1 positive, 0 negative, -1 ignored), and of the positives classes int
        `[B, A]` and deltas float32 `[B, A, 4]`.
    """
    targets = fix_rows(targets)
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
