"""95 % intervals by resampling patients; one matching serves all resamples.

A resample is a row of weights, how often each image counts, and a statistic maps rows of weights
to values, so nothing is matched or sorted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from lesionkeras.metrics.coco import compute_curve
from lesionkeras.metrics.matches import (
    COCO_IOU_THRESHOLDS,
    ClassMatches,
    ImageDetections,
    ImageTruth,
    match_detections,
)
from lesionkeras.metrics.operating import OPERATING_IOU, count_by_image

# Weights [R, N] -> values [R], NaN where the resample leaves the score undefined.
Statistic = Callable[[np.ndarray], np.ndarray]
# What a caller names: truth and detections in, the statistic of them out.
PrepareStatistic = Callable[[Sequence[ImageTruth], Sequence[ImageDetections]], Statistic]

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
# Resamples summed at once: 64 rows of a few thousand detections stay in the cache.
CHUNK_RESAMPLES = 64


class Interval(NamedTuple):
    """A percentile interval.

    Args:
        low: 2.5th percentile; NaN where no resample was defined, and of a score of one patient.
        high: 97.5th percentile.
        num_undefined: Resamples dropped because they left the score undefined.
    """

    low: float
    high: float
    num_undefined: int


def bootstrap_by_patient(
    truths: Sequence[ImageTruth],
    detections: Sequence[ImageDetections],
    patients: Sequence[str],
    statistic: PrepareStatistic,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Computes a score's 95 % percentile interval over patients drawn with replacement.

    Args:
        truths: One an image.
        detections: One an image, in the same order.
        patients: Who each image is of; all images of a drawn patient come together.
        statistic: For instance `prepare_map50`.
        num_resamples: How many draws.
        seed: Of the draws.

    Returns:
        The interval.

    Raises:
        ValueError: The sequences differ in length, or are empty.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; the patient
        as the unit because images of one patient are alike.

    >>> truth = ImageTruth(boxes=np.array([[0, 0, 10, 10]]))
    >>> found = ImageDetections(boxes=np.array([[0, 0, 10, 10]]), scores=np.array([0.9]))
    >>> bootstrap_by_patient([truth] * 3, [found] * 3, ["a", "b", "c"], prepare_map50)
    Interval(low=1.0, high=1.0, num_undefined=0)
    """
    if not len(truths) == len(detections) == len(patients):
        raise ValueError(
            f"{len(truths)} images of truth, {len(detections)} of detections and "
            f"{len(patients)} patients"
        )
    return resample(statistic(truths, detections), patients, num_resamples, seed)


def resample(
    statistic: Statistic,
    patients: Sequence[str],
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    has_part: np.ndarray | None = None,
) -> Interval:
    """Computes the interval of a statistic that is already prepared.

    Args:
        statistic: Weights [R, N] to values [R].
        patients: [N], who each image is of.
        num_resamples: How many draws.
        seed: Of the draws; the same seed draws the same patients for every statistic.
        has_part: As for `limit_weights`.

    Returns:
        The interval.

    Raises:
        ValueError: There is no image.
    """
    weights = draw_weights(patients, num_resamples, seed)
    if has_part is not None:
        weights = limit_weights(weights, patients, has_part)
    return to_interval(statistic(weights))


def limit_weights(weights: np.ndarray, patients: Sequence[str], has_part: np.ndarray) -> np.ndarray:
    """Returns rows of weights, or none for a score in which one patient alone has a part.

    Args:
        weights: [R, N], from `draw_weights`.
        patients: [N], who each image is of.
        has_part: [N], whether an image counts below the line: whether it has a lesion, of a
            sensitivity.  However often others are drawn, the score is that patient's.

    Returns:
        [R, N], or [0, N].

    >>> drawn = draw_weights(["a", "b", "b"], 9, seed=0)
    >>> limit_weights(drawn, ["a", "b", "b"], np.array([False, True, True])).shape
    (0, 3)
    """
    whose = {patient for patient, counts in zip(patients, has_part, strict=True) if counts}
    return weights[:0] if len(whose) == 1 else weights


def to_interval(values: np.ndarray) -> Interval:
    """Computes the 95 % percentile interval of a score's resamples.

    Args:
        values: [R], NaN where a resample leaves the score undefined.

    >>> to_interval(np.array([0.5, 0.5, np.nan]))
    Interval(low=0.5, high=0.5, num_undefined=1)
    """
    defined = values[~np.isnan(values)]
    if not defined.size:
        return Interval(float("nan"), float("nan"), len(values))
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return Interval(float(low), float(high), int(len(values) - defined.size))


def draw_weights(patients: Sequence[str], num_resamples: int, seed: int) -> np.ndarray:
    """Draws as many patients as there are, with replacement.

    Args:
        patients: [N], who each image is of.
        num_resamples: R.
        seed: Of the draws.

    Returns:
        [R, N] float, how often each image counts in each resample; of one patient [0, N]: nothing
        says how others would differ.

    Raises:
        ValueError: There is no image.
    """
    if not len(patients):
        raise ValueError("no image to resample")
    names, patient_idx = np.unique(
        np.asarray(patients, dtype=object).astype(str), return_inverse=True
    )
    if len(names) == 1:
        return np.zeros((0, len(patients)))
    drawn = np.random.default_rng(seed).integers(len(names), size=(num_resamples, len(names)))
    flat = drawn + len(names) * np.arange(num_resamples)[:, None]
    times = np.bincount(flat.ravel(), minlength=num_resamples * len(names))
    return times.reshape(num_resamples, len(names))[:, patient_idx].astype(np.float64)


def prepare_map50(truths: Sequence[ImageTruth], detections: Sequence[ImageDetections]) -> Statistic:
    """Prepares the mean AP at IoU .5 for `bootstrap_by_patient`."""
    return average_precision(match_detections(truths, detections, (OPERATING_IOU,)))


def prepare_map50_95(
    truths: Sequence[ImageTruth], detections: Sequence[ImageDetections]
) -> Statistic:
    """Prepares the mean AP over IoU .50, .55, ... .95 for `bootstrap_by_patient`."""
    return average_precision(match_detections(truths, detections, COCO_IOU_THRESHOLDS))


def average_precision(
    matches: Sequence[ClassMatches], threshold_idx: Sequence[int] | None = None
) -> Statistic:
    """Prepares the mean AP of matches, first area range.

    Args:
        matches: One a class.
        threshold_idx: IoU thresholds to average; None takes all.

    Returns:
        The statistic; classes without truth in a resample are left out of its mean, as in COCO.
    """

    def statistic(weights: np.ndarray) -> np.ndarray:
        starts = range(0, len(weights), CHUNK_RESAMPLES)
        chunks = [weights[start : start + CHUNK_RESAMPLES] for start in starts]
        values = [_mean_precision(matches, threshold_idx, rows) for rows in chunks]
        return np.concatenate([np.zeros(0), *values])

    return statistic


def _mean_precision(
    matches: Sequence[ClassMatches], threshold_idx: Sequence[int] | None, weights: np.ndarray
) -> np.ndarray:
    total, defined = np.zeros(len(weights)), np.zeros(len(weights))
    for of_class in matches:
        of_detection = weights[:, of_class.image_idx]
        num_truth = weights @ of_class.num_truth[0]
        has_truth = num_truth > 0
        places = range(of_class.matched.shape[1]) if threshold_idx is None else threshold_idx
        seen, unseen = None, np.zeros(0, bool)
        for place in places:
            matched, ignored = of_class.matched[0, place], of_class.ignored[0, place]
            if seen is None or (ignored != unseen).any():
                seen, unseen = np.cumsum(of_detection * ~ignored, axis=-1), ignored
            # Precision is highest where something is right: all else counts at the next such place.
            right = np.flatnonzero(matched & ~ignored)
            true = of_detection[:, right]
            wrong = seen[:, right] - np.cumsum(true, axis=-1)
            curve, _ = compute_curve(true, np.diff(wrong, axis=-1, prepend=0.0), num_truth)
            total += np.where(has_truth, curve.mean(axis=-1), 0.0)
            defined += has_truth
    return np.divide(total, defined, out=np.full(len(weights), np.nan), where=defined > 0)


def operating_score(
    matches: Sequence[ClassMatches], score_threshold: float, num_images: int, name: str
) -> Statistic:
    """Prepares a score at one threshold.

    Args:
        matches: One a class; first area range and IoU threshold.
        score_threshold: Kept are scores from here on.
        num_images: N.
        name: "precision", "recall" or "fp_per_image".

    Returns:
        The statistic; NaN where it would be 0 / 0.

    Raises:
        ValueError: The name is another.
    """
    right, wrong, truth = count_by_image(matches, score_threshold, num_images)
    parts = {
        "precision": (right, right + wrong),
        "recall": (right, truth),
        "fp_per_image": (wrong, np.ones(num_images)),
    }
    if name not in parts:
        raise ValueError(f"{name!r} is none of {', '.join(parts)}")
    above, below = parts[name]

    def statistic(weights: np.ndarray) -> np.ndarray:
        whole = weights @ below
        undefined = np.full(len(weights), np.nan)
        return np.divide(weights @ above, whole, out=undefined, where=whole > 0)

    return statistic
