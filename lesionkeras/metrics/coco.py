"""COCO's average precision and recall in NumPy, equal to pycocotools.

Every sum takes a weight an image, so that a bootstrap resample is a row of weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lesionkeras.metrics.matches import (
    COCO_AREA_RANGES,
    COCO_IOU_THRESHOLDS,
    ClassMatches,
    ImageDetections,
    ImageTruth,
    match_detections,
)

RECALL_POINTS = np.linspace(0.0, 1.0, 101)  # COCOeval's Params.recThrs
UNDEFINED = -1.0  # what COCOeval writes where no true box counts


@dataclass(frozen=True)
class CocoResult:
    """COCO's summary; -1 where no true box counts.

    Args:
        ap: Mean over classes and IoU thresholds, all areas.
        ap50: At IoU .5.
        ap75: At IoU .75.
        ap_by_area: Area range -> mean AP.
        ar_by_max_detections: Detections an image -> mean recall, all areas.
        ar_by_area: Area range -> mean recall at the most detections.
    """

    ap: float
    ap50: float
    ap75: float
    ap_by_area: dict[str, float]
    ar_by_max_detections: dict[int, float]
    ar_by_area: dict[str, float]

    @property
    def stats(self) -> np.ndarray:
        """COCOeval's `stats` [12], in its order."""
        sizes = ("small", "medium", "large")
        by_area = [self.ap_by_area[name] for name in sizes]
        recalls = [*self.ar_by_max_detections.values(), *(self.ar_by_area[s] for s in sizes)]
        return np.array([self.ap, self.ap50, self.ap75, *by_area, *recalls])


def evaluate_coco(
    truths: Sequence[ImageTruth],
    detections: Sequence[ImageDetections],
    iou_thresholds: Sequence[float] = COCO_IOU_THRESHOLDS,
    area_ranges: Mapping[str, tuple[float, float]] = COCO_AREA_RANGES,
    max_detections: Sequence[int] = (1, 10, 100),
) -> CocoResult:
    """Computes what COCOeval summarises for boxes.

    Args:
        truths: One an image.
        detections: One an image, in the same order.
        iou_thresholds: Ascending; ap50 and ap75 are -1 where theirs is missing.
        area_ranges: Name -> (low, high) px^2; "all" must be among them.
        max_detections: Detections an image and class, ascending.

    Returns:
        The summary.

    Raises:
        ValueError: The two sequences differ in length.

    Source: pycocotools, cocoeval.py, COCOeval.accumulate and summarize.

    >>> truth = ImageTruth(boxes=np.array([[0, 0, 40, 40], [100, 100, 140, 140]]))
    >>> found = ImageDetections(boxes=np.array([[0, 0, 40, 40]]), scores=np.array([0.9]))
    >>> round(evaluate_coco([truth], [found]).ap50, 4)  # 51 of 101 recall points at precision 1
    0.505
    """
    names = list(area_ranges)
    most = max(max_detections)
    matches = match_detections(truths, detections, iou_thresholds, list(area_ranges.values()), most)
    weights = np.ones(len(truths))
    shape = (len(matches), len(names), len(iou_thresholds))
    precision = np.full(shape, np.nan)
    recall = np.full((*shape, len(max_detections)), np.nan)
    for k, of_class in enumerate(matches):
        for m, limit in enumerate(max_detections):
            curve, recall[k, :, :, m] = accumulate(of_class, weights, limit)
            if limit == most:
                precision[k] = curve.mean(axis=-1)
    everything = names.index("all")
    return CocoResult(
        ap=_mean(precision[:, everything]),
        ap50=_mean(precision[:, everything, _places(iou_thresholds, 0.5)]),
        ap75=_mean(precision[:, everything, _places(iou_thresholds, 0.75)]),
        ap_by_area={name: _mean(precision[:, a]) for a, name in enumerate(names)},
        ar_by_max_detections={
            limit: _mean(recall[:, everything, :, m]) for m, limit in enumerate(max_detections)
        },
        ar_by_area={
            name: _mean(recall[:, a, :, list(max_detections).index(most)])
            for a, name in enumerate(names)
        },
    )


def _places(iou_thresholds: Sequence[float], wanted: float) -> np.ndarray:
    return np.flatnonzero(np.isclose(np.asarray(iou_thresholds), wanted, atol=1e-9))


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else UNDEFINED


def accumulate(
    matches: ClassMatches, weights: np.ndarray, max_detections: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Runs down the scores for all area ranges and thresholds of a class.

    Args:
        matches: Of one class (axes A, T, D, N).
        weights: [N], how often each image counts.
        max_detections: The surest of each image; None takes all that were matched.

    Returns:
        Precision [A, T, 101] at the recall points and recall [A, T]; NaN where no truth counts.
    """
    kept = slice(None) if max_detections is None else matches.rank < max_detections
    matched, ignored = matches.matched[:, :, kept], matches.ignored[:, :, kept]
    of_detection = weights[matches.image_idx[kept]]
    num_truth = (matches.num_truth @ weights)[:, None]
    return compute_curve(
        (matched & ~ignored) * of_detection, (~matched & ~ignored) * of_detection, num_truth
    )


def compute_curve(
    true_positives: np.ndarray, false_positives: np.ndarray, num_truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Interpolated precision at COCO's 101 recall points.

    Args:
        true_positives: [..., D] weight of each detection that is right, surest first.
        false_positives: [..., D] weight of each that is wrong.
        num_truth: [...] (broadcast) weight of all true boxes.

    Returns:
        Precision [..., 101] and the last recall [...]; NaN where num_truth is 0.

    >>> curve, recall = compute_curve(np.array([1., 0, 1]), np.array([0., 1, 0]), np.array(2.0))
    >>> curve[[0, 50, 51, 100]].round(4).tolist(), float(recall)
    ([1.0, 1.0, 0.6667, 0.6667], 1.0)
    """
    right = np.cumsum(true_positives, axis=-1)
    wrong = np.cumsum(false_positives, axis=-1)
    lead = right.shape[:-1]
    total = np.broadcast_to(num_truth, lead).astype(np.float64)
    recall = right / np.where(total > 0, total, np.nan)[..., None]
    precision = right / (wrong + right + np.spacing(1))
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    # One column of zeros for the recall points that are never reached.
    padded = np.concatenate([envelope, np.zeros((*lead, 1))], axis=-1).reshape(
        -1, right.shape[-1] + 1
    )
    curve = np.empty((len(padded), len(RECALL_POINTS)))
    for row, reached in enumerate(recall.reshape(len(padded), -1)):
        curve[row] = padded[row, np.searchsorted(reached, RECALL_POINTS, side="left")]
    curve = curve.reshape(*lead, len(RECALL_POINTS))
    last = recall[..., -1] if recall.shape[-1] else np.zeros(lead)
    undefined = total <= 0
    return np.where(undefined[..., None], np.nan, curve), np.where(undefined, np.nan, last)
