"""From the probabilities of a segmentation network to boxes with scores."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from lesionkeras.metrics import ImageDetections

LEAST_PROBABILITY = 0.1  # where less is a lesion's, nothing is found
SHARE_OF_PEAK = 0.5  # a box bounds what is at least so probable: its width at half maximum
LEAST_PX = 4  # of a box's pixels; fewer are noise
NEAR_LIVER_PX = 3  # what has no sound liver so near is no lesion of it


def find_boxes(tumour: np.ndarray, liver: np.ndarray | None = None) -> ImageDetections:
    """Return the hills of a probability map as detections.

    A hill is what is connected (with diagonals) at SHARE_OF_PEAK of its peak and holds no higher
    one: two peaks are two lesions where the way between them falls below half of the lower.  Its
    score is its peak; its box bounds it.

    Args:
        tumour: float32 [H, W], the probability of a lesion.
        liver: float32 [H, W], of the liver with its lesions, where the network knows it: hills
            that lie away from it are left out.

    Returns:
        Tight boxes xyxy px, the surest first, all of class 0.

    >>> tumour = np.zeros((6, 8), np.float32)
    >>> tumour[1:4, 2:6], tumour[1:4, 1] = 0.8, 0.3
    >>> found = find_boxes(tumour)
    >>> found.boxes.tolist(), found.scores.round(2).tolist()
    ([[2.0, 1.0, 6.0, 4.0]], [0.8])
    """
    near = _grow(liver - tumour >= 0.5) if liver is not None else None
    boxes, scores = [], []
    for peak, rows, columns in _list_hills(np.ascontiguousarray(tumour, np.float32)):
        if near is not None and not near[rows, columns].any():
            continue
        if len(rows) >= LEAST_PX:
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            scores.append(peak)
    return ImageDetections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.zeros(len(scores), np.int32),
    )


def _list_hills(tumour: np.ndarray) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Peak, rows and columns of each hill, the highest first."""
    is_top = (tumour >= LEAST_PROBABILITY) & (tumour == cv2.dilate(tumour, np.ones((3, 3))))
    tops = np.argwhere(is_top)
    tops = tops[np.argsort(-tumour[is_top], kind="stable")]
    # What was connected to a higher top at half of that is so at half of its own, lower one.
    settled = np.zeros(tumour.shape, bool)
    for row, column in tops:
        if settled[row, column]:
            continue
        peak = float(tumour[row, column])
        _, labels = cv2.connectedComponents((tumour >= SHARE_OF_PEAK * peak).astype(np.uint8))
        hill = labels == labels[row, column]
        settled |= hill
        if tumour[hill].max() <= peak:
            yield peak, *np.nonzero(hill)


def _grow(liver: np.ndarray) -> np.ndarray:
    kernel = np.ones((2 * NEAR_LIVER_PX + 1,) * 2, np.uint8)
    return cv2.dilate(liver.astype(np.uint8), kernel) > 0
