"""Our COCO figures against pycocotools, and by hand."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lesionkeras.metrics.coco import evaluate_coco
from lesionkeras.metrics.matches import ImageDetections, ImageTruth, match_detections

NUM_RANDOM_CASES = 1000


def to_xywh(box: np.ndarray) -> list[float]:
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


def pycocotools_stats(truths: list[ImageTruth], found: list[ImageDetections]) -> np.ndarray:
    num_classes = 1 + max((int(c) for t in (*truths, *found) for c in t.classes), default=0)
    images = [{"id": i + 1} for i in range(len(truths))]
    categories = [{"id": c} for c in range(num_classes)]
    rows = [
        {"image_id": i + 1, "category_id": int(c), "bbox": to_xywh(b), "area": float(a)}
        | {"iscrowd": int(k)}
        for i, t in enumerate(truths)
        for b, c, a, k in zip(t.boxes, t.classes, t.area, t.crowd, strict=True)
    ]
    results = [
        {"image_id": i + 1, "category_id": int(c), "bbox": to_xywh(b), "score": float(s)}
        for i, d in enumerate(found)
        for b, c, s in zip(d.boxes, d.classes, d.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth, result = COCO(), COCO()
        truth.dataset = {"images": images, "categories": categories}
        truth.dataset["annotations"] = [row | {"id": n + 1} for n, row in enumerate(rows)]
        truth.createIndex()
        if results:
            result = truth.loadRes(results)
        else:
            result.dataset = {"images": images, "categories": categories, "annotations": []}
            result.createIndex()
        judge = COCOeval(truth, result, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return np.array(judge.stats)


def random_boxes(rng: np.random.Generator, count: int, whole_px: bool) -> np.ndarray:
    side = np.exp(rng.uniform(np.log(8.0), np.log(200.0), size=(count, 2)))
    corner = rng.uniform(0.0, 120.0, size=(count, 2))
    boxes = np.concatenate([corner, corner + side], axis=1)
    # Whole pixels make exact ties in IoU, and areas of exactly 32 x 32.
    return np.rint(boxes / 4) * 4 + [0, 0, 4, 4] if whole_px else boxes.astype(np.float32)


def random_case(seed: int) -> tuple[list[ImageTruth], list[ImageDetections]]:
    rng = np.random.default_rng(seed)
    whole_px, tied = bool(rng.integers(2)), bool(rng.integers(2))
    num_classes = int(rng.integers(1, 4))
    most_truth, most_found = rng.choice([0, 1, 4, 7]), rng.choice([0, 2, 8, 14])
    truths, found = [], []
    for _ in range(int(rng.integers(1, 5))):
        n = int(rng.integers(0, most_truth + 1))
        boxes = random_boxes(rng, n, whole_px)
        truth = ImageTruth(
            boxes=boxes,
            classes=rng.integers(num_classes, size=n),
            crowd=rng.random(n) < rng.choice([0.0, 0.3]),
            area=rng.uniform(200.0, 2e4, size=n) if rng.integers(2) else None,
        )
        m = int(rng.integers(0, most_found + 1))
        guesses = random_boxes(rng, m, whole_px)
        classes = rng.integers(num_classes, size=m)
        if n and m:  # most guesses lie near a true box, several of them near the same
            source = rng.integers(n, size=m)
            near = rng.random(m) < 0.8
            shift = (
                rng.normal(0.0, 0.1, size=(m, 4)) * np.tile(boxes[:, 2:] - boxes[:, :2], 2)[source]
            )
            shift = np.rint(shift) if whole_px else shift
            guesses[near] = (boxes[source] + shift)[near]
            guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2] + 1)
            classes[near] = truth.classes[source][near]
        scores = rng.integers(1, 5, size=m) / 4 if tied else rng.random(m)
        truths.append(truth)
        found.append(ImageDetections(boxes=guesses, scores=scores, classes=classes))
    return truths, found


def test_thousand_random_cases_equal_pycocotools() -> None:
    worst, defined, interesting, crowds = 0.0, 0, 0, 0
    for seed in range(NUM_RANDOM_CASES):
        truths, found = random_case(seed)
        ours, theirs = evaluate_coco(truths, found).stats, pycocotools_stats(truths, found)
        assert ours.shape == (12,)
        worst = max(worst, float(np.abs(ours - theirs).max()))
        assert worst <= 1e-9, f"case {seed}: {ours} against {theirs}"
        defined += int((theirs > -1).sum())
        interesting += int(((theirs > 0) & (theirs < 1)).sum())
        crowds += any(t.crowd.any() for t in truths)
    # The cases say something: most figures are defined, thousands are neither 0 nor 1.
    assert defined > 6000 and interesting > 3000 and crowds > 200


def test_more_than_a_hundred_detections_are_cut_as_in_pycocotools() -> None:
    rng = np.random.default_rng(5)
    truth = ImageTruth(boxes=random_boxes(rng, 30, whole_px=False))
    boxes = np.concatenate([random_boxes(rng, 130, whole_px=False), truth.boxes])
    found = ImageDetections(boxes=boxes, scores=rng.random(160))
    ours = evaluate_coco([truth], [found]).stats
    np.testing.assert_allclose(ours, pycocotools_stats([truth], [found]), atol=1e-9)
    assert 0 < ours[6] < ours[7] < ours[8]


def test_equal_boxes_match_at_a_threshold_of_one() -> None:
    box = np.array([[0.1, 0.2, 10.3, 10.7]])
    truth, found = ImageTruth(boxes=box), ImageDetections(boxes=box, scores=[0.5])
    assert evaluate_coco([truth], [found], iou_thresholds=(1.0,)).ap == pytest.approx(1.0)


def test_nothing_at_all_is_undefined() -> None:
    nothing = ImageDetections(boxes=np.zeros((0, 4)), scores=np.zeros(0))
    empty = ImageTruth(boxes=np.zeros((0, 4)))
    assert evaluate_coco([empty], [nothing]).stats.tolist() == [-1.0] * 12
    assert evaluate_coco([], []).stats.tolist() == [-1.0] * 12
    only_found = ImageDetections(boxes=np.array([[0, 0, 5, 5]]), scores=[0.5])
    assert evaluate_coco([empty], [only_found]).ap == -1.0
    only_true = ImageTruth(boxes=np.array([[0, 0, 5, 5]]))
    assert evaluate_coco([only_true], [nothing]).ap == 0.0


def test_half_of_the_lesions_found_with_one_false_box_before() -> None:
    truth = ImageTruth(boxes=np.array([[0, 0, 40, 40], [100, 0, 140, 40]]))
    found = ImageDetections(
        boxes=np.array([[200, 200, 240, 240], [0, 0, 40, 40]]), scores=np.array([0.9, 0.8])
    )
    result = evaluate_coco([truth], [found])
    # Precision 1/2 up to recall 1/2: 51 of the 101 recall points.
    assert result.ap50 == pytest.approx(51 / 101 / 2)
    same = [result.ap, result.ap75, result.ap_by_area["all"], result.ap_by_area["medium"]]
    assert same == pytest.approx([result.ap50] * 4)
    assert result.ap_by_area["small"] == -1.0
    assert result.ar_by_max_detections == {1: 0.0, 10: 0.5, 100: 0.5}


def test_padding_rows_are_no_boxes() -> None:
    truth = ImageTruth(boxes=np.array([[0, 0, 9, 9], [0, 0, 0, 0]]), classes=np.array([0, -1]))
    found = ImageDetections(
        boxes=np.array([[0, 0, 9, 9], [0, 0, 0, 0]]),
        scores=np.array([0.5, 0.0]),
        classes=np.array([0, -1]),
    )
    (matches,) = match_detections([truth], [found])
    assert matches.num_truth.tolist() == [[1.0]]
    assert matches.scores.tolist() == [0.5]
    padding = ImageTruth(boxes=np.zeros((3, 4)), classes=np.full(3, -1))
    assert len(padding.boxes) == 0 and evaluate_coco([padding], [found]).ap == -1.0


def test_arguments_stay_as_they_are() -> None:
    truths, found = random_case(12)
    before = [a.copy() for t in truths for a in (t.boxes, t.classes, t.area, t.crowd)]
    evaluate_coco(truths, found)
    after = [a for t in truths for a in (t.boxes, t.classes, t.area, t.crowd)]
    assert before and all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_lengths_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match=r"2 boxes but scores of shape \(1,\)"):
        ImageDetections(boxes=np.zeros((2, 4)), scores=np.zeros(1))
    with pytest.raises(ValueError, match=r"2 boxes but classes of shape \(3,\)"):
        ImageTruth(boxes=np.zeros((2, 4)), classes=np.zeros(3))
    with pytest.raises(ValueError, match="1 images of truth but 0 of detections"):
        match_detections([ImageTruth(boxes=np.zeros((0, 4)))], [])


def test_metrics_need_no_tensorflow() -> None:
    code = (
        "import sys, lesionkeras.metrics;print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
