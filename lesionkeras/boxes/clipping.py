"""Boxes at the edge of a picture: clipped, and dropped where only a sliver is left."""

from __future__ import annotations

import numpy as np

MIN_VISIBLE_SHARE = 0.4  # of a box's area; a box of which less remains in the picture is dropped


def clip_to_square(boxes: np.ndarray, side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes to a square picture.

    Args:
        boxes: [..., 4] xyxy px; they may lie beyond it.
        side_px: Of the picture.

    Returns:
        [..., 4] of the same dtype, and bool [...]: whether MIN_VISIBLE_SHARE of the area is left.
        Empty boxes have nothing left.

    >>> clip_to_square(np.array([[-6.0, 0.0, 4.0, 5.0], [-7.0, 0.0, 3.0, 5.0]]), 20)[1].tolist()
    [True, False]
    """
    clipped = np.clip(boxes, 0, side_px)
    areas = [np.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (boxes, clipped)]
    return clipped, (areas[0] > 0) & (areas[1] >= MIN_VISIBLE_SHARE * areas[0])
