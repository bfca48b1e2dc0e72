"""Boxes of several detectors as one detector's: weighted boxes fusion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lesionkeras.boxes.overlap import compute_iou

IOU_OF_ONE = 0.55  # from which on two detectors mean the same lesion: the source's default


def fuse_boxes(
    boxes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    classes: Sequence[np.ndarray],
    iou_of_one: float = IOU_OF_ONE,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fuse what several detectors found in one image.

    The surest box first, each joins the group of its class that it overlaps most, of those to which
    its detector has not yet given one; from `iou_of_one` on, else it founds its own.  A group's box
    is the mean of its members' by their scores.  Its score is their sum over the number of
    detectors: who finds nothing there says 0.

    Args:
        boxes: One a detector: [n, 4] xyxy px.
        scores: One a detector: [n] in 0..1.
        classes: One a detector: [n] int.
        iou_of_one: From which overlap with a group's box on a box joins it.

    Returns:
        Boxes [m, 4] px, scores [m] descending and classes [m].

    Raises:
        ValueError: There is no detector, or a score is not in 0..1.

    Source: Solovyev, Wang and Gabruseva, Weighted boxes fusion, 2021; there a detector may give a
    group several boxes, of which the number of detectors count.

    >>> one, other = np.array([[0.0, 0.0, 10.0, 10.0]]), np.array([[0.0, 0.0, 10.0, 8.0]])
    >>> of_class = np.zeros(1, int)
    >>> fused, scores, _ = fuse_boxes([one, other], [[0.9], [0.3]], [of_class, of_class])
    >>> fused.round(6).tolist(), scores.round(6).tolist()
    ([[0.0, 0.0, 10.0, 9.5]], [0.6])
    """
    if not boxes:
        raise ValueError("no detector's boxes to fuse")
    owners = np.repeat(np.arange(len(boxes)), [len(each) for each in boxes])
    flat = np.concatenate([np.asarray(each, np.float64).reshape(-1, 4) for each in boxes])
    sure = np.concatenate([np.asarray(each, np.float64).reshape(-1) for each in scores])
    kinds = np.concatenate([np.asarray(each, np.int64).reshape(-1) for each in classes])
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("a score to fuse is not in 0..1")
    means, sums = np.zeros_like(flat), np.zeros_like(sure)
    of_kind, has_given = np.zeros_like(kinds), np.zeros((len(flat), len(boxes)), bool)
    count = 0
    for i in np.argsort(-sure, kind="stable"):
        group = np.flatnonzero((of_kind[:count] == kinds[i]) & ~has_given[:count, owners[i]])
        overlaps = compute_iou(flat[i : i + 1], means[group])[0]
        if len(group) and overlaps.max() >= iou_of_one:
            joined = group[overlaps.argmax()]
        else:
            joined, count = count, count + 1
            of_kind[joined] = kinds[i]
            means[joined] = flat[i]
        total = sums[joined] + sure[i]
        if total > 0:
            means[joined] += (flat[i] - means[joined]) * (sure[i] / total)
        sums[joined], has_given[joined, owners[i]] = total, True
    order = np.argsort(-sums[:count], kind="stable")
    return means[order], sums[order] / len(boxes), of_kind[order]
