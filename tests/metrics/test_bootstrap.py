"""Intervals over patients, and the whole of metrics.json."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from lesionkeras.metrics.bootstrap import (
    bootstrap_by_patient,
    draw_weights,
    operating_score,
    prepare_map50,
    prepare_map50_95,
    resample,
)
from lesionkeras.metrics.coco import evaluate_coco
from lesionkeras.metrics.evaluation import evaluate_detections
from lesionkeras.metrics.matches import ImageDetections, ImageTruth, match_detections
from lesionkeras.metrics.operating import compute_precision_recall

LESION = np.array([[0, 0, 20, 20.0]])


def make_images(
    count: int, per_image: int = 12, seed: int = 3
) -> tuple[list[ImageTruth], list[ImageDetections], list[str]]:
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(count):
        n = int(rng.integers(0, 4))
        corner = rng.uniform(0, 150, size=(n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 60, size=(n, 2))], axis=1)
        shift = rng.normal(0, 3, size=boxes.shape)
        corner = rng.uniform(0, 150, size=(per_image - n, 2))
        noise = np.concatenate([corner, corner + 25], axis=1)
        scores = np.concatenate([rng.beta(5, 2, size=n), rng.beta(1, 6, size=per_image - n)])
        classes = rng.integers(2, size=n)
        truths.append(ImageTruth(boxes=boxes, classes=classes))
        guessed = np.concatenate([classes, rng.integers(2, size=per_image - n)])
        found.append(ImageDetections(np.concatenate([boxes + shift, noise]), scores, guessed))
    return truths, found, [f"p{i // 3}" for i in range(count)]


@pytest.mark.parametrize(("prepare", "name"), [(prepare_map50, "ap50"), (prepare_map50_95, "ap")])
def test_a_resample_scores_as_its_images_repeated(prepare, name) -> None:
    truths, found, patients = make_images(24)
    weights = draw_weights(patients, 6, seed=1)
    values = prepare(truths, found)(weights)
    for row, value in zip(weights.astype(int), values, strict=True):
        copies = np.repeat(np.arange(24), row)
        result = evaluate_coco([truths[i] for i in copies], [found[i] for i in copies])
        assert value == pytest.approx(getattr(result, name), abs=1e-12)
    assert len(set(values.round(6))) == 6 and 0.05 < values.min() < values.max() < 1


def test_operating_scores_of_a_resample() -> None:
    truths, found, patients = make_images(24)
    weights = draw_weights(patients, 4, seed=2)
    matches = match_detections(truths, found, (0.5,))
    for name in ("precision", "recall", "fp_per_image"):
        values = operating_score(matches, 0.4, 24, name)(weights)
        for row, value in zip(weights.astype(int), values, strict=True):
            copies = np.repeat(np.arange(24), row)
            result = compute_precision_recall(
                [truths[i] for i in copies], [found[i] for i in copies], 0.4
            )
            # A draw holds as many patients, not always as many images: FP are of its own images.
            assert value == pytest.approx(getattr(result, name), abs=1e-12)
    with pytest.raises(ValueError, match="'f1' is none of precision, recall, fp_per_image"):
        operating_score(matches, 0.4, 24, "f1")


def test_patients_come_whole() -> None:
    patients = ["b", "a", "b", "c", "a", "b"]
    weights = draw_weights(patients, 200, seed=0)
    assert weights.shape == (200, 6)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 0] == weights[:, 5]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, 0] + weights[:, 1] + weights[:, 3] == 3).all()
    assert np.array_equal(weights, draw_weights(patients, 200, seed=0))
    assert not np.array_equal(weights, draw_weights(patients, 200, seed=1))


def test_interval_of_a_share_of_patients() -> None:
    # 100 patients of one image, 70 found: the binomial's interval is .70 +- 1.96 * sqrt(.21/100).
    hit = ImageDetections(boxes=LESION, scores=[0.9])
    miss = ImageDetections(boxes=LESION + 100, scores=[0.9])

    def prepare(truths, found):
        return operating_score(match_detections(truths, found, (0.5,)), 0.5, 100, "recall")

    interval = bootstrap_by_patient(
        [ImageTruth(boxes=LESION)] * 100,
        [hit] * 70 + [miss] * 30,
        [str(i) for i in range(100)],
        prepare,
        num_resamples=4000,
    )
    assert interval.low == pytest.approx(0.61, abs=0.015)
    assert interval.high == pytest.approx(0.79, abs=0.015)
    assert interval.num_undefined == 0


def test_undefined_resamples_are_dropped_and_counted() -> None:
    # One of two patients has a lesion: a quarter of the draws holds none.
    truths = [ImageTruth(boxes=LESION), ImageTruth(boxes=np.zeros((0, 4)))]
    found = [ImageDetections(boxes=LESION, scores=[0.9])] * 2
    interval = bootstrap_by_patient(truths, found, ["a", "b"], prepare_map50, num_resamples=1000)
    assert 190 < interval.num_undefined < 310
    assert 0 < interval.low <= interval.high == 1.0
    empty, none = [truths[1]] * 2, found[:1] * 2
    nothing = bootstrap_by_patient(empty, none, ["b", "c"], prepare_map50, num_resamples=50)
    assert np.isnan(nothing.low) and np.isnan(nothing.high) and nothing.num_undefined == 50


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_scores_that_rank_nothing_are_refused(score: float) -> None:
    truths, found, _ = make_images(3)
    found[0] = replace(found[0], scores=np.full_like(found[0].scores, score))
    with pytest.raises(ValueError, match="a score is NaN or infinite"):
        evaluate_detections(truths, found, ["a", "b", "c"], 0.4, num_resamples=20)


def test_scoring_says_how_far_it_is() -> None:
    truths, found, _ = make_images(3)
    told: list[tuple[int, int]] = []
    evaluate_detections(
        truths, found, ["a", "b", "b"], 0.4, num_resamples=20, progress=lambda *at: told.append(at)
    )
    shares = [done / total for done, total in told]
    assert shares == sorted(shares) and 0 < shares[0] < 0.5 < shares[-1] < 1


def test_one_patient_has_no_interval() -> None:
    """Not one without width: nothing says how others would differ."""
    truths, found, _ = make_images(3)
    metrics = evaluate_detections(truths, found, ["a"] * 3, 0.4, num_resamples=20)
    json.dumps(metrics, allow_nan=False)
    froc, p2 = metrics["froc"]["rows"][0], metrics["p2"]
    sizes = metrics["froc"]["by_size"][0]["sensitivity"]
    for score in (metrics["map50"], metrics["recall"], froc["sensitivity"][0], p2["sensitivity"]):
        assert score["value"] is not None
    for score in (*froc["sensitivity"], *sizes, metrics["map50"], metrics["recall"], froc["mean"]):
        assert (score["low"], score["high"]) == (None, None)
    assert draw_weights(["a"] * 3, 20, 0).shape == (0, 3)


def test_a_score_of_one_patient_among_several_has_no_interval() -> None:
    """One of three has lesions, of 20 px each; another has a false positive."""
    empty = np.zeros((0, 4))
    truths = [ImageTruth(boxes=LESION), ImageTruth(boxes=empty), ImageTruth(boxes=empty)]
    found = [ImageDetections(boxes=LESION, scores=[0.9]), ImageDetections(LESION, [0.8])]
    found.append(ImageDetections(empty, np.zeros(0)))
    metrics = evaluate_detections(truths, found, ["a", "b", "c"], 0.5, num_resamples=200)
    froc, p2 = metrics["froc"], metrics["p2"]
    of_lesions = [metrics[name] for name in ("recall", "map50", "map50_95")]
    of_lesions += [*froc["rows"][0]["sensitivity"], *froc["by_size"][0]["sensitivity"]]
    for score in (*of_lesions, p2["sensitivity"]):
        assert score["value"] is not None and (score["low"], score["high"]) == (None, None)
    for score in (metrics["precision"], metrics["fp_per_image"], p2["false_share"]):
        assert score["low"] < score["value"] < score["high"]


def test_five_hundred_resamples_of_seventy_images_take_under_five_seconds() -> None:
    truths, found, patients = make_images(70, per_image=50)
    start = time.process_time()
    interval = bootstrap_by_patient(truths, found, patients, prepare_map50, num_resamples=500)
    assert time.process_time() - start < 5.0
    assert 0 < interval.low < interval.high < 1


def test_wrong_lengths_are_named() -> None:
    with pytest.raises(ValueError, match="1 images of truth, 1 of detections and 2 patients"):
        bootstrap_by_patient(
            [ImageTruth(boxes=LESION)],
            [ImageDetections(boxes=LESION, scores=[0.5])],
            ["a", "b"],
            prepare_map50,
        )
    with pytest.raises(ValueError, match="no image to resample"):
        resample(lambda weights: weights[:, 0], [])


def test_metrics_json_holds_every_score_with_its_interval() -> None:
    truths, found, patients = make_images(30)
    metrics = evaluate_detections(truths, found, patients, 0.4, seed=5, num_resamples=200)
    metrics = json.loads(json.dumps(metrics, allow_nan=False))
    for name in ("precision", "recall", "map50", "map50_95", "fp_per_image"):
        score = metrics[name]
        assert score["low"] < score["value"] < score["high"], name
    result = compute_precision_recall(truths, found, 0.4)
    assert metrics["precision"]["value"] == pytest.approx(result.precision)
    assert metrics["recall"]["value"] == pytest.approx(result.recall)
    assert metrics["fp_per_image"]["value"] == pytest.approx(result.fp_per_image)
    coco = evaluate_coco(truths, found)
    assert metrics["map50"]["value"] == pytest.approx(coco.ap50)
    assert metrics["map50_95"]["value"] == pytest.approx(coco.ap)
    assert metrics["coco"]["ar_100"] == pytest.approx(coco.ar_by_max_detections[100])
    assert metrics["coco"]["ap_large"] is None
    assert metrics["counts"] == {
        "images": 30,
        "patients": 10,
        "lesions": sum(len(t.boxes) for t in truths),
        "true_positives": result.true_positives,
        "false_positives": result.false_positives,
        "misses": result.misses,
    }
    assert sum(row["count"] for row in metrics["recall_by_size"]) == metrics["counts"]["lesions"]
    assert sum(row["found"] for row in metrics["recall_by_size"]) == result.true_positives
    assert len(metrics["precision_recall_curve"]["precision"]) == 101
    again = evaluate_detections(truths, found, patients, 0.4, seed=5, num_resamples=200)
    assert again == metrics


def test_no_lesion_anywhere_writes_null() -> None:
    empty = ImageTruth(boxes=np.zeros((0, 4)))
    silent = ImageDetections(boxes=np.zeros((0, 4)), scores=np.zeros(0))
    metrics = evaluate_detections([empty] * 2, [silent] * 2, ["a", "b"], 0.5, num_resamples=20)
    json.dumps(metrics, allow_nan=False)
    assert metrics["map50"] == {"value": None, "low": None, "high": None, "num_undefined": 20}
    assert metrics["fp_per_image"]["value"] == 0.0
    with pytest.raises(ValueError, match="0 patients"):
        evaluate_detections([empty], [silent], [], 0.5)
