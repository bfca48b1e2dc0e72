"""Connected components of a 2-D mask to boxes, by size in millimetres."""

from __future__ import annotations

import cv2
import numpy as np

MIN_BOX_MM = 3.0  # longer side; what is smaller in LiTS are stray voxels (lits/README.md)


def find_boxes(
    mask: np.ndarray, spacing_mm: tuple[float, float], min_mm: float = MIN_BOX_MM
) -> np.ndarray:
    """Return the boxes of a mask's 8-connected components.

    The size of a component is the longer side of its box, so that a sliver counts by its length
    and pixels that are not square are measured along each axis by their own spacing.

    Args:
        mask: bool or integer [H, W]; all that is not 0 belongs to a component.
        spacing_mm: Of a pixel, y and x.
        min_mm: Components of which the longer side is smaller are left out.

    Returns:
        float32 [n, 4] xyxy px, half-open, from top to bottom, then left to right.

    >>> mask = np.zeros((4, 6), np.uint8)
    >>> mask[1, 1] = mask[2, 2] = mask[0, 5] = 1  # a diagonal pair, and one pixel
    >>> find_boxes(mask, (1.0, 0.5), min_mm=2.0).tolist()
    [[1.0, 1.0, 3.0, 3.0]]
    >>> find_boxes(mask, (1.0, 0.5), min_mm=0.0).tolist()
    [[5.0, 0.0, 6.0, 1.0], [1.0, 1.0, 3.0, 3.0]]
    """
    foreground = (np.asarray(mask) != 0).astype(np.uint8)
    x, y, columns, rows = cv2.boundingRect(foreground)
    if not rows:  # most slices of a scan
        return np.zeros((0, 4), np.float32)
    # Labelling what holds the foreground, rather than all, takes a tenth of the time.
    part = foreground[y : y + rows, x : x + columns]
    _, _, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
    left, top, width, height = stats[1:, :4].T + np.array([[x], [y], [0], [0]])  # row 0: background
    size_mm = np.maximum(height * spacing_mm[0], width * spacing_mm[1])
    boxes = np.stack([left, top, left + width, top + height], axis=1)
    # Half a micrometre: 3 px of 1.0000001 or .9999999 mm are both 3 mm.
    boxes = boxes[size_mm >= min_mm - 5e-4]
    return boxes[np.lexsort((boxes[:, 0], boxes[:, 1]))].astype(np.float32)
