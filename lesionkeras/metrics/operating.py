"""Precision, recall and false positives of one chosen score, as a reader would meet them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesionkeras.boxes.recall import SIZE_EDGES, name_size_bins
from lesionkeras.metrics.coco import RECALL_POINTS, compute_curve
from lesionkeras.metrics.matches import (
    ClassMatches,
    ImageDetections,
    ImageTruth,
    match_detections,
)

OPERATING_IOU = 0.5  # P1, 4.1 and 4.2


@dataclass(frozen=True)
class PrecisionRecall:
    """What one score threshold gives; precision or recall is NaN where it would be 0 / 0.

    Args:
        precision: Right among the shown.
        recall: Found among the true.
        fp_per_image: False positives an image.
        true_positives: Found boxes.
        false_positives: Shown boxes that are none.
        misses: True boxes not found.
    """

    precision: float
    recall: float
    fp_per_image: float
    true_positives: int
    false_positives: int
    misses: int


def compute_operating_point(
    truths: Sequence[ImageTruth],
    detections: Sequence[ImageDetections],
    iou: float = OPERATING_IOU,
) -> float:
    """Finds the score threshold of the greatest F1; to be called on validation images.

    Args:
        truths: One an image.
        detections: One an image, in the same order.
        iou: From which a detection is right.

    Returns:
        A threshold to keep `score >= threshold`; the highest among equals, and 1.0 where no
        detection is right.

    Raises:
        ValueError: The two sequences differ in length.

    >>> truth = ImageTruth(boxes=np.array([[0, 0, 10, 10]]))
    >>> found = ImageDetections(boxes=np.array([[0, 0, 10, 10], [50, 50, 60, 60]]),
    ...                         scores=np.array([0.75, 0.25]))
    >>> compute_operating_point([truth], [found])
    0.75
    """
    matches = match_detections(truths, detections, (iou,))
    scores, right, wrong, _ = _flatten(matches)
    num_truth = sum(of_class.num_truth.sum() for of_class in matches)
    if not right.any():
        return 1.0
    hits, errors = np.cumsum(right), np.cumsum(wrong)
    f1 = 2 * hits / (hits + errors + num_truth)
    # Equal scores stand or fall together: only the last of them is a threshold.
    f1[:-1][scores[1:] == scores[:-1]] = -1.0
    return float(scores[int(np.argmax(f1))])


def compute_precision_recall(
    truths: Sequence[ImageTruth],
    detections: Sequence[ImageDetections],
    score_threshold: float,
    iou: float = OPERATING_IOU,
) -> PrecisionRecall:
    """Counts what is right, wrong and missed among detections of at least `score_threshold`.

    Args:
        truths: One an image.
        detections: One an image, in the same order.
        score_threshold: Kept are scores from here on.
        iou: From which a detection is right.

    Returns:
        Shares and counts over all classes; crowd boxes count nowhere.

    Raises:
        ValueError: The two sequences differ in length.

    >>> truth = ImageTruth(boxes=np.array([[0, 0, 10, 10], [20, 20, 30, 30]]))
    >>> found = ImageDetections(boxes=np.array([[0, 0, 10, 10], [50, 50, 60, 60]]),
    ...                         scores=np.array([0.75, 0.25]))
    >>> result = compute_precision_recall([truth], [found], score_threshold=0.2)
    >>> result.precision, result.recall, result.fp_per_image, result.misses
    (0.5, 0.5, 1.0, 1)
    """
    matches = match_detections(truths, detections, (iou,))
    right, wrong, truth = count_by_image(matches, score_threshold, len(truths)).sum(axis=1)
    return PrecisionRecall(
        precision=float(right / (right + wrong)) if right + wrong else float("nan"),
        recall=float(right / truth) if truth else float("nan"),
        fp_per_image=float(wrong / len(truths)) if len(truths) else float("nan"),
        true_positives=int(right),
        false_positives=int(wrong),
        misses=int(truth - right),
    )


def count_by_image(
    matches: Sequence[ClassMatches], score_threshold: float, num_images: int
) -> np.ndarray:
    """Counts at the first area range and first IoU threshold of `matches`.

    Args:
        matches: One a class.
        score_threshold: Kept are scores from here on.
        num_images: N.

    Returns:
        [3, N] float: right, wrong, true boxes of each image.
    """
    scores, right, wrong, image_idx = _flatten(matches)
    kept = scores >= score_threshold
    truth = np.zeros(num_images)
    for of_class in matches:
        truth += of_class.num_truth[0]
    sums = [
        np.bincount(image_idx[kept & flags], minlength=num_images).astype(np.float64)
        for flags in (right, wrong)
    ]
    return np.stack([*sums, truth])


def compute_precision_recall_curve(
    matches: Sequence[ClassMatches],
) -> tuple[np.ndarray, np.ndarray]:
    """Interpolated precision at 101 recall points, all classes pooled, first IoU threshold.

    Args:
        matches: One a class.

    Returns:
        Recall [101] and precision [101]; NaN precision where there is no truth.
    """
    _, right, wrong, _ = _flatten(matches)
    num_truth = sum(of_class.num_truth[0].sum() for of_class in matches)
    curve, _ = compute_curve(right.astype(float), wrong.astype(float), np.array(num_truth))
    return RECALL_POINTS, curve


def compute_recall_by_size(
    truths: Sequence[ImageTruth], matches: Sequence[ClassMatches], score_threshold: float
) -> list[dict[str, object]]:
    """Recall at a score threshold by lesion diameter, or by box size where that is not known.

    Args:
        truths: One an image; with `diameters_mm` in every one, bins are in mm, otherwise of
            the box's longer side in px.
        matches: Of these truths, one a class; the first area range and IoU threshold are read.
        score_threshold: Kept are scores from here on.

    Returns:
        The bins of the anchor-recall report, to be read beside it: rows {"label", "count",
        "found", "recall"}; recall is None where count is 0.

    >>> truth = ImageTruth(boxes=np.array([[0, 0, 20, 20]]), diameters_mm=np.array([14.0]))
    >>> found = ImageDetections(boxes=np.array([[0, 0, 20, 20]]), scores=np.array([0.9]))
    >>> compute_recall_by_size([truth], match_detections([truth], [found], (0.5,)), 0.5)[1]
    {'label': '10 to 20 mm', 'count': 1, 'found': 1, 'recall': 1.0}
    """
    measured, unit = measure_lesions(truths)
    first_idx = np.cumsum([0] + [len(truth.boxes) for truth in truths])
    sizes, scores = [], []
    for of_class in matches:
        for (image, row), score in zip(
            of_class.truth_place, of_class.truth_scores[0, 0], strict=True
        ):
            if not truths[image].crowd[row]:
                sizes.append(measured[first_idx[image] + row])
                scores.append(score)
    found = np.array(scores) >= score_threshold
    return _bin_by_size(np.array(sizes), found, unit)


def measure_lesions(truths: Sequence[ImageTruth]) -> tuple[np.ndarray, str]:
    """Returns the sizes of all true boxes, image after image, and their unit.

    Args:
        truths: One an image; without `diameters_mm` in every one, sizes are in px.

    >>> measure_lesions([ImageTruth(boxes=np.array([[0, 0, 20, 10]]))])
    (array([20.]), 'px')
    """
    known_mm = [truth.diameters_mm for truth in truths if truth.diameters_mm is not None]
    if len(known_mm) == len(truths):
        return np.concatenate([np.zeros(0), *known_mm]), "mm"
    boxes = np.concatenate([truth.boxes for truth in truths])
    return (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0.0), "px"


def _bin_by_size(sizes: np.ndarray, found: np.ndarray, unit: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    bins = np.digitize(sizes, SIZE_EDGES[unit])
    for number, label in enumerate(name_size_bins(unit)):
        count, hits = int((bins == number).sum()), int((found & (bins == number)).sum())
        share = hits / count if count else None
        rows.append({"label": label, "count": count, "found": hits, "recall": share})
    return rows


def _flatten(
    matches: Sequence[ClassMatches],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores, right, wrong and image of all classes' detections, surest first."""
    if not matches:
        return np.zeros(0), np.zeros(0, bool), np.zeros(0, bool), np.zeros(0, np.int64)
    scores = np.concatenate([m.scores for m in matches])
    matched = np.concatenate([m.matched[0, 0] for m in matches])
    ignored = np.concatenate([m.ignored[0, 0] for m in matches])
    image_idx = np.concatenate([m.image_idx for m in matches])
    order = np.argsort(-scores, kind="stable")
    right, wrong = matched & ~ignored, ~matched & ~ignored
    return scores[order], right[order], wrong[order], image_idx[order]
