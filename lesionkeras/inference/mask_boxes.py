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

    A hill is what is connected (with diagonals) at SHARE_OF_PEAK of its peak.  Two peaks are two
    lesions where the way between them falls below half of the lower, or of the higher if the lower
    is not below that itself: then both end there.  A score is a peak; a box bounds a hill.

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
    for peak, rows, columns in _list_hills(tumour.astype(np.float32)):
        if near is not None and not near[rows, columns].any():
            continue
        if len(rows) >= LEAST_PX:
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            scores.append(peak)
    order = np.argsort(-np.array(scores, np.float32), kind="stable")
    return ImageDetections(
        np.array(boxes, np.float32).reshape(-1, 4)[order],
        np.array(scores, np.float32)[order],
        np.zeros(len(order), np.int32),
    )


def _list_hills(tumour: np.ndarray) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Peak, rows and columns of each hill, the highest of a piece first."""
    likely = tumour >= LEAST_PROBABILITY
    is_top = likely & (tumour == cv2.dilate(tumour, np.ones((3, 3))))
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(likely.astype(np.uint8))
    for piece in range(1, count):
        left, top, width, height, _ = stats[piece]
        window = np.s_[top : top + height, left : left + width]
        inside = pieces[window] == piece
        part = np.where(inside, tumour[window], 0)
        for rows, columns in _list_hills_of(part, is_top[window] & inside):
            yield float(part[rows, columns].max()), rows + top, columns + left


def _list_hills_of(part: np.ndarray, is_top: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    tops = np.argwhere(is_top)
    taken = np.zeros(part.shape, bool)
    for place in map(tuple, tops[np.argsort(-part[is_top], kind="stable")]):
        if taken[place]:
            continue
        peak = part[place]
        hill = _find_around(part, place, SHARE_OF_PEAK * peak)
        highest = part[hill].max()
        if highest > peak:
            # the way is below half of the higher one at least, or this is its shoulder
            hill = _find_around(part, place, SHARE_OF_PEAK * highest)
            if not hill[place] or part[hill].max() > peak:
                continue
        taken |= hill
        yield np.nonzero(hill)


def _find_around(part: np.ndarray, place: tuple[int, ...], level: float) -> np.ndarray:
    """What is connected to a place at a level; nothing where the place is below it."""
    _, labels = cv2.connectedComponents((part >= level).astype(np.uint8))
    return (labels == labels[place]) & (labels > 0)


def _grow(liver: np.ndarray) -> np.ndarray:
    kernel = np.ones((2 * NEAR_LIVER_PX + 1,) * 2, np.uint8)
    return cv2.dilate(liver.astype(np.uint8), kernel) > 0
