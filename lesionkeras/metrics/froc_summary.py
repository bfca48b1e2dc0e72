"""FROC in every convention and at every overlap, with intervals over patients, as JSON values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lesionkeras.boxes.recall import SIZE_EDGES, name_size_bins
from lesionkeras.metrics.bootstrap import NUM_RESAMPLES, draw_weights, limit_weights, to_interval
from lesionkeras.metrics.froc import FP_PER_IMAGE, Froc, count_froc
from lesionkeras.metrics.froc_matching import CONVENTIONS, Criterion, pool_boxes
from lesionkeras.metrics.matches import ImageDetections, ImageTruth

# IoU .5 and IoBB .5: DeepLesion's (Yan et al. 2018); IoU .1: nnDetection's and P2's.
CRITERIA = (Criterion("iou", 0.5), Criterion("iou", 0.1), Criterion("iobb", 0.5))
MAIN_CONVENTION = "deeplesion"  # whose curves and sizes are told
MAX_CURVE_POINTS = 200  # of a curve in a file: more than a figure shows


def evaluate_froc(
    truths: Sequence[ImageTruth],
    detections: Sequence[ImageDetections],
    patients: Sequence[str],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Any]:
    """Computes sensitivity at .125 to 16 false positives an image in all conventions.

    Args:
        truths: One an image.
        detections: One an image, in the same order, with low scores too.
        patients: Who each image is of.
        seed: Of the bootstrap.
        num_resamples: Of the bootstrap.

    Returns:
        A dict that `json` writes without NaN (undefined is None): "fp_per_image"; "rows", each of a
        "convention" and an "overlap" ("iou" or "iobb") with "threshold", "label", "sensitivity"
        (a {"value", "low", "high", "num_undefined"} a value of fp_per_image), "score_thresholds",
        "mean" and "mean_over"; "curves" and "by_size" of the main convention; "size_unit"; and
        "convention", the main one.

    Raises:
        ValueError: The sequences differ in length, or are empty.
    """
    if len(truths) != len(patients):
        raise ValueError(f"{len(truths)} images of truth but {len(patients)} patients")
    pooled = pool_boxes(truths, detections)
    drawn = draw_weights(patients, num_resamples, seed)

    def limit(counted: np.ndarray) -> np.ndarray:
        has_part = np.isin(np.arange(pooled.num_images), pooled.lesion_image[counted])
        return limit_weights(drawn, patients, has_part)

    weights = limit(~pooled.is_crowd)
    rows, curves, by_size = [], {}, []
    for convention in CONVENTIONS.values():
        for criterion in CRITERIA:
            froc = count_froc(pooled, convention, criterion)
            rows.append(_describe(froc, weights))
            if convention.key == MAIN_CONVENTION:
                curves[criterion.label] = thin_curve(froc)
                by_size += _describe_sizes(froc, limit)
    return {
        "convention": MAIN_CONVENTION,
        "fp_per_image": list(FP_PER_IMAGE),
        "rows": rows,
        "curves": curves,
        "by_size": by_size,
        "size_unit": pooled.unit,
        "detections_per_image": len(pooled.scores) / pooled.num_images,
    }


def _describe(froc: Froc, weights: np.ndarray) -> dict[str, Any]:
    """A row of the table, with its mean over what the convention averages."""
    convention, criterion = froc.convention, froc.criterion
    (values,), resampled = froc.compute_sensitivity(), froc.compute_sensitivity(weights=weights)
    averaged = [FP_PER_IMAGE.index(fp) for fp in convention.mean_over]
    thresholds = [froc.find_threshold(fp) for fp in FP_PER_IMAGE]
    row = {
        "convention": convention.key,
        "overlap": criterion.overlap,
        "threshold": criterion.threshold,
        "is_strict": convention.is_strict,
        "label": criterion.label,
        "sensitivity": [to_score(value, resampled[:, place]) for place, value in enumerate(values)],
        "score_thresholds": [to_json(score) for score in thresholds],
        "mean": None,
        "mean_over": list(convention.mean_over),
    }
    if averaged:
        means = resampled[:, averaged].mean(axis=1)
        row["mean"] = to_score(values[averaged].mean(), means)
    return row


def _describe_sizes(froc: Froc, limit: Callable[[np.ndarray], np.ndarray]) -> list[dict[str, Any]]:
    """A row a size of lesion: {"label", "size", "count", "sensitivity"}."""
    rows = []
    bins = np.digitize(froc.pooled.sizes, SIZE_EDGES[froc.pooled.unit])
    for number, name in enumerate(name_size_bins(froc.pooled.unit)):
        of_size = (bins == number) & ~froc.pooled.is_crowd
        if not of_size.any():
            continue
        (values,) = froc.compute_sensitivity(counted=of_size)
        resampled = froc.compute_sensitivity(weights=limit(of_size), counted=of_size)
        scores = [to_score(value, resampled[:, place]) for place, value in enumerate(values)]
        count = int(np.count_nonzero(of_size))
        rows.append(
            {"label": froc.criterion.label, "size": name, "count": count, "sensitivity": scores}
        )
    return rows


def thin_curve(froc: Froc, max_points: int = MAX_CURVE_POINTS) -> dict[str, list[float | None]]:
    """Returns a curve in few points: those where sensitivity rises, and the last.

    Args:
        froc: The counts.
        max_points: About as many are kept, evenly over the rises.

    Returns:
        "fp_per_image", "sensitivity" and "score" lists.
    """
    curve = froc.compute_curve()
    rises = np.flatnonzero(np.diff(np.nan_to_num(curve.sensitivity), prepend=0.0) > 0)
    step = max(1, math.ceil(len(rises) / max_points))
    last = len(curve.scores) - 1
    # The point before a rise keeps the steps square.
    kept = np.unique(np.concatenate([rises[::step] - 1, rises[::step], [last]]))
    kept = kept[kept >= 0]
    return {
        "fp_per_image": curve.fp_per_image[kept].tolist(),
        "sensitivity": [to_json(value) for value in curve.sensitivity[kept]],
        "score": curve.scores[kept].tolist(),
    }


def to_score(value: float, resampled: np.ndarray) -> dict[str, Any]:
    """Returns a score with its interval, as metrics.json has them.

    Args:
        value: On all images.
        resampled: [R], of the resamples.

    >>> to_score(0.5, np.array([0.25, 0.25]))
    {'value': 0.5, 'low': 0.25, 'high': 0.25, 'num_undefined': 0}
    """
    interval = to_interval(resampled)
    return {
        "value": to_json(value),
        "low": to_json(interval.low),
        "high": to_json(interval.high),
        "num_undefined": interval.num_undefined,
    }


def to_json(value: float) -> float | None:
    """Returns a number that JSON has; None for what is undefined or infinite."""
    return float(value) if math.isfinite(value) else None
