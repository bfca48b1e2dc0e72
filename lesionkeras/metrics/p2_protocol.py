"""P2's figures: sensitivity at IoU > .1, the share of false predictions, the error of one box.

P2 (Aluko, Hari and Yakubenko), 5.1.2: a prediction is accurate if its IoU is greater than .1; 5.2:
the false-positive rate is the share of the predictions that are false.  A second accurate box on a
lesion is not false, and finds nothing new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lesionkeras.metrics.bootstrap import NUM_RESAMPLES, draw_weights, limit_weights
from lesionkeras.metrics.froc import compute_froc
from lesionkeras.metrics.froc_matching import CONVENTIONS, Criterion
from lesionkeras.metrics.froc_summary import to_score
from lesionkeras.metrics.matches import ImageDetections, ImageTruth

P2_CRITERION = Criterion("iou", 0.1)


def evaluate_p2(
    truths: Sequence[ImageTruth],
    detections: Sequence[ImageDetections],
    patients: Sequence[str],
    sizes_px: np.ndarray | None,
    score_threshold: float,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Any]:
    """Computes what P2 reports, each figure with its interval over patients.

    Args:
        truths: One an image.
        detections: One an image, in the same order.
        patients: Who each image is of.
        sizes_px: [N, 2], height and width of each image; None leaves the error of the box out.
        score_threshold: Kept are scores from here on; the error is of the surest box, kept or not.
        seed: Of the bootstrap.
        num_resamples: Of the bootstrap.

    Returns:
        "sensitivity", "false_share", "fp_per_image" and "box_mse" as {"value", "low", "high",
        "num_undefined"} with None for undefined.

    Raises:
        ValueError: The sequences differ in length, or are empty.
    """
    if len(truths) != len(patients):
        raise ValueError(f"{len(truths)} images of truth but {len(patients)} patients")
    froc = compute_froc(truths, detections, CONVENTIONS["p2"], P2_CRITERION)
    right, wrong, found, lesions = froc.count_by_image(score_threshold)
    parts = {
        "sensitivity": (found, lesions),
        "false_share": (wrong, right + wrong),
        "fp_per_image": (wrong, np.ones(len(truths))),
    }
    if sizes_px is not None:
        errors = compute_box_errors(truths, detections, sizes_px)
        parts["box_mse"] = (np.nan_to_num(errors), (~np.isnan(errors)).astype(float))
    weights = draw_weights(patients, num_resamples, seed)
    scores = {}
    for name, (above, below) in parts.items():
        rows = limit_weights(weights, patients, below > 0)
        resampled = _divide(rows @ above, rows @ below)
        scores[name] = to_score(_divide(above.sum(), below.sum()), resampled)
    return scores


def _divide(above: np.ndarray, below: np.ndarray) -> Any:
    undefined = np.full(np.shape(below), np.nan)
    return np.divide(above, below, out=undefined, where=np.asarray(below) > 0)


def compute_box_errors(
    truths: Sequence[ImageTruth], detections: Sequence[ImageDetections], sizes_px: np.ndarray
) -> np.ndarray:
    """Computes P2's mean squared error of a box in shares of the image (P2, 4.1.1 and Figure 3).

    Args:
        truths: One an image.
        detections: One an image; the surest box is taken.
        sizes_px: [N, 2], height and width of each image.

    Returns:
        [N] mean over the four coordinates of the squared difference to the nearest true box that
        is no crowd; NaN without such a box or a detection.

    >>> truth = ImageTruth(np.array([[10.0, 0, 20, 40]]))
    >>> found = ImageDetections(np.array([[15.0, 0, 20, 40]]), np.array([1.0]))
    >>> compute_box_errors([truth], [found], np.array([[100, 50]])).round(6).tolist()  # .1**2 / 4
    [0.0025]
    """
    errors = np.full(len(truths), np.nan)
    for i, (truth, found) in enumerate(zip(truths, detections, strict=True)):
        lesions = truth.boxes[~truth.crowd]
        if len(lesions) and len(found.boxes):
            height, width = sizes_px[i]
            surest = found.boxes[int(np.argmax(found.scores))]
            apart = (lesions - surest) / np.array([width, height, width, height])
            errors[i] = (apart**2).mean(axis=1).min()
    return errors
