"""From the probabilities of a segmentation network to boxes with scores."""

from __future__ import annotations

import cv2
import numpy as np

from lesionkeras.metrics import ImageDetections

LEAST_PROBABILITY = 0.1  # where less is a lesion's, nothing is found
SHARE_OF_PEAK = 0.5  # a box bounds what is at least so probable: its width at half maximum
LEAST_PX = 4  # of a box's pixels; fewer are noise
NEAR_LIVER_PX = 3  # what has no sound liver so near is no lesion of it


def find_boxes(tumour: np.ndarray, liver: np.ndarray | None = None) -> ImageDetections:
    """Return the pieces of a probability map as detections.

    A piece is connected (with diagonals) and has LEAST_PROBABILITY everywhere.  Its score is its
    peak; its box bounds the pixels of SHARE_OF_PEAK of that.

    Args:
        tumour: float32 [H, W], the probability of a lesion.
        liver: float32 [H, W], of the liver with its lesions, where the network knows it: pieces
            that lie away from it are left out.

    Returns:
        Tight boxes xyxy px, the surest first, all of class 0.

    >>> tumour = np.zeros((6, 8), np.float32)
    >>> tumour[1:4, 2:6], tumour[1:4, 1] = 0.8, 0.3
    >>> found = find_boxes(tumour)
    >>> found.boxes.tolist(), found.scores.round(2).tolist()
    ([[2.0, 1.0, 6.0, 4.0]], [0.8])
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (tumour >= LEAST_PROBABILITY).astype(np.uint8), connectivity=8
    )
    near = _grow(liver - tumour >= 0.5) if liver is not None else None
    boxes, scores = [], []
    for label in range(1, count):
        left, top, width, height, _ = stats[label]
        window = np.s_[top : top + height, left : left + width]
        inside = labels[window] == label
        if near is not None and not near[window][inside].any():
            continue
        peak = float(tumour[window][inside].max())
        rows, columns = np.nonzero(inside & (tumour[window] >= SHARE_OF_PEAK * peak))
        if len(rows) < LEAST_PX:
            continue
        low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
        boxes.append([left + low[0], top + low[1], left + high[0], top + high[1]])
        scores.append(peak)
    order = np.argsort(-np.array(scores, np.float32), kind="stable")
    return ImageDetections(
        np.array(boxes, np.float32).reshape(-1, 4)[order],
        np.array(scores, np.float32)[order],
        np.zeros(len(order), np.int32),
    )


def _grow(liver: np.ndarray) -> np.ndarray:
    kernel = np.ones((2 * NEAR_LIVER_PX + 1,) * 2, np.uint8)
    return cv2.dilate(liver.astype(np.uint8), kernel) > 0
