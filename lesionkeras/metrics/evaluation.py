"""All scores of a detector on one set of images, as the values of metrics.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lesionkeras.metrics.bootstrap import (
    CONFIDENCE,
    NUM_RESAMPLES,
    Statistic,
    average_precision,
    draw_weights,
    limit_weights,
    operating_score,
)
from lesionkeras.metrics.coco import evaluate_coco
from lesionkeras.metrics.froc_summary import evaluate_froc, to_json, to_score
from lesionkeras.metrics.matches import (
    ClassMatches,
    ImageDetections,
    ImageTruth,
    match_detections,
)
from lesionkeras.metrics.operating import (
    OPERATING_IOU,
    compute_precision_recall_curve,
    compute_recall_by_size,
    count_by_image,
)
from lesionkeras.metrics.p2_protocol import evaluate_p2


def evaluate_detections(
    truths: Sequence[ImageTruth],
    detections: Sequence[ImageDetections],
    patients: Sequence[str],
    score_threshold: float,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    sizes_px: np.ndarray | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Computes P1's four scores, P2's and FROC, each with its interval.

    Args:
        truths: One an image.
        detections: One an image, in the same order, with low scores too: mAP needs them.
        patients: Who each image is of.
        score_threshold: Of precision, recall and false positives; to be chosen on validation
            patients with `compute_operating_point`, never on these.
        seed: Of the bootstrap.
        num_resamples: Of the bootstrap.
        sizes_px: [N, 2], height and width of each image, for P2's error of the box.
        progress: Called with the per cent of the work that are done, and 100: a tenth for mAP50,
            two fifths for mAP50-95 and as much for FROC, of many images.

    Returns:
        A dict that `json` writes without NaN (undefined is None): "precision", "recall", "map50",
        "map50_95" and "fp_per_image" as {"value", "low", "high", "num_undefined"}; "counts";
        "coco" with pycocotools' other figures; "precision_recall_curve"; "recall_by_size"; "froc"
        (see `evaluate_froc`); "p2" (see `evaluate_p2`); and how all of it was computed.

    Raises:
        ValueError: The sequences differ in length, or are empty, or a score is not finite.
    """
    _check(truths, detections, patients)
    matches = match_detections(truths, detections)
    scores = _score_all(matches, patients, score_threshold, num_resamples, seed, progress)
    coco = _summarize_coco(truths, detections)
    progress(60, 100)
    froc = evaluate_froc(truths, detections, patients, seed, num_resamples)
    progress(95, 100)
    return {
        **scores,
        "counts": _count(matches, patients, score_threshold),
        "score_threshold": float(score_threshold),
        "iou_threshold": OPERATING_IOU,
        "bootstrap": {
            "unit": "patient",
            "num_resamples": num_resamples,
            "confidence": CONFIDENCE,
            "seed": seed,
        },
        "coco": coco,
        "precision_recall_curve": _draw_curve(matches),
        "recall_by_size": compute_recall_by_size(truths, matches, score_threshold),
        "froc": froc,
        "p2": evaluate_p2(
            truths, detections, patients, sizes_px, score_threshold, seed, num_resamples
        ),
    }


def _check(
    truths: Sequence[ImageTruth], detections: Sequence[ImageDetections], patients: Sequence[str]
) -> None:
    if not len(truths) == len(detections) == len(patients):
        raise ValueError(
            f"{len(truths)} images of truth, {len(detections)} of detections and "
            f"{len(patients)} patients"
        )
    if not all(np.isfinite(found.scores).all() for found in detections):
        raise ValueError("a score is NaN or infinite: detections cannot be ranked")


def _score_all(
    matches: Sequence[ClassMatches],
    patients: Sequence[str],
    score_threshold: float,
    num_resamples: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> dict[str, dict[str, Any]]:
    statistics: dict[str, Statistic] = {
        name: operating_score(matches, score_threshold, len(patients), name)
        for name in ("precision", "recall", "fp_per_image")
    }
    statistics["map50"] = average_precision(matches, (0,))
    statistics["map50_95"] = average_precision(matches)
    right, wrong, truth = count_by_image(matches, score_threshold, len(patients))
    # below the line of each: predictions, images, lesions
    below = {"precision": right + wrong, "fp_per_image": np.ones(len(patients))}
    drawn = draw_weights(patients, num_resamples, seed)
    scores = {}
    for name, statistic in statistics.items():
        (value,) = statistic(np.ones((1, len(patients))))
        weights = limit_weights(drawn, patients, below.get(name, truth) > 0)
        scores[name] = to_score(float(value), statistic(weights))
        progress({"map50": 10, "map50_95": 50}.get(name, 1), 100)
    return scores


def _draw_curve(matches: Sequence[ClassMatches]) -> dict[str, list[float | None]]:
    recall, precision = compute_precision_recall_curve(matches)
    return {"recall": recall.round(2).tolist(), "precision": [to_json(v) for v in precision]}


def _count(
    matches: Sequence[ClassMatches], patients: Sequence[str], score_threshold: float
) -> dict[str, int]:
    by_image = count_by_image(matches, score_threshold, len(patients))
    right, wrong, truth = by_image.sum(axis=1).astype(int).tolist()
    return {
        "images": len(patients),
        "patients": len(set(map(str, patients))),
        "lesions": truth,
        "true_positives": right,
        "false_positives": wrong,
        "misses": truth - right,
    }


def _summarize_coco(
    truths: Sequence[ImageTruth], detections: Sequence[ImageDetections]
) -> dict[str, float | None]:
    result = evaluate_coco(truths, detections)
    figures = {"ap": result.ap, "ap50": result.ap50, "ap75": result.ap75}
    figures |= {f"ap_{k}": v for k, v in result.ap_by_area.items() if k != "all"}
    figures |= {f"ar_{k}": v for k, v in result.ar_by_max_detections.items()}
    figures |= {f"ar_{k}": v for k, v in result.ar_by_area.items() if k != "all"}
    return {name: None if value < 0 else value for name, value in figures.items()}
