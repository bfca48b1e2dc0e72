"""Boxes as a network predicts them: differences from an anchor, in float32 whatever the policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# No lesion is more than this factor larger than its anchor; keeps exp() finite early in training.
# Source: torchvision's and Detectron's BoxCoder.
_MAX_LOG_SIZE = math.log(1000.0 / 16.0)
# Keeps log() of a padding row finite, so that a masked loss is 0 and not NaN.
_MIN_SIDE_PX = 1e-3


def encode_boxes(boxes: Any, anchors: Any, variances: Sequence[float], xp: Any = np) -> Any:
    """Boxes as deltas from their anchors.

    Args:
        boxes: `[..., A, 4]` xyxy in pixels; row i belongs to anchor i.  An empty (padding) box
            gives finite deltas without meaning.
        anchors: `[A, 4]` xyxy in pixels, not empty.
        variances: Four positive divisors of the deltas (x, y, width, height).
        xp: `numpy` or `keras.ops`.

    Returns:
        float32 `[..., A, 4]`: shift of the centre in anchor sides (x, y) and log of the ratio of
        sides (width, height), each divided by its variance.

    Source: SSD (Liu et al. 2016), equation 2, with the variances of its published code.

    >>> encode_boxes(np.array([[12.0, 10.0, 22.0, 40.0]]), np.array([[10.0, 10.0, 20.0, 30.0]]),
    ...              (0.1, 0.1, 0.2, 0.2)).round(4)
    array([[2.    , 2.5   , 0.    , 2.0273]], dtype=float32)
    """
    centre, size = _to_centre_and_size(boxes, xp)
    anchor_centre, anchor_size = _to_centre_and_size(anchors, xp)
    shift = (centre - anchor_centre) / anchor_size
    log_size = xp.log(xp.maximum(size, _MIN_SIDE_PX) / anchor_size)
    return xp.concatenate([shift, log_size], axis=-1) / xp.array(variances, dtype="float32")


def decode_boxes(deltas: Any, anchors: Any, variances: Sequence[float], xp: Any = np) -> Any:
    """Boxes from a network's deltas; the inverse of `encode_boxes`.

    Args:
        deltas: `[..., A, 4]` as `encode_boxes` gives them, any floating dtype.
        anchors: `[A, 4]` xyxy in pixels.
        variances: As for `encode_boxes`.
        xp: `numpy` or `keras.ops`.

    Returns:
        float32 `[..., A, 4]` xyxy in pixels, not clipped to the image; no side is longer than 62.5
        times its anchor's, so that finite deltas never give NaN.

    >>> decode_boxes(np.array([[2.0, 2.5, 0.0, 0.0]]), np.array([[10.0, 10.0, 20.0, 30.0]]),
    ...              (0.1, 0.1, 0.2, 0.2))
    array([[12., 15., 22., 35.]], dtype=float32)
    """
    scaled = xp.array(deltas, dtype="float32") * xp.array(variances, dtype="float32")
    anchor_centre, anchor_size = _to_centre_and_size(anchors, xp)
    centre = anchor_centre + scaled[..., :2] * anchor_size
    half_size = xp.exp(xp.minimum(scaled[..., 2:], _MAX_LOG_SIZE)) * anchor_size / 2
    return xp.concatenate([centre - half_size, centre + half_size], axis=-1)


def _to_centre_and_size(boxes: Any, xp: Any) -> tuple[Any, Any]:
    """Split xyxy boxes into centres and sizes, `[..., 2]` each, float32."""
    boxes = xp.array(boxes, dtype="float32")
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
