"""FROC by hand, against plain loops written from the conventions' descriptions, and its speed."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest

from lesionkeras.metrics.bootstrap import draw_weights
from lesionkeras.metrics.froc import FP_PER_IMAGE, compute_froc, count_froc
from lesionkeras.metrics.froc_matching import (
    CONVENTIONS,
    NEITHER,
    NEVER,
    RIGHT,
    WRONG,
    Criterion,
    find_lesions,
    pool_boxes,
)
from lesionkeras.metrics.froc_summary import CRITERIA, evaluate_froc, thin_curve
from lesionkeras.metrics.matches import ImageDetections, ImageTruth

IOU_10, IOU_50, IOBB_50 = Criterion("iou", 0.1), Criterion("iou", 0.5), Criterion("iobb", 0.5)
A, B = [0, 0, 10, 10.0], [20, 0, 30, 10.0]
NOWHERE = [90, 90, 99, 99.0]
DEEPLESION, NNDETECTION, P2 = (CONVENTIONS[key] for key in ("deeplesion", "nndetection", "p2"))


def truth(*boxes: list[float], **columns: Any) -> ImageTruth:
    return ImageTruth(np.array(boxes, float).reshape(-1, 4), **columns)


def found(*pairs: tuple[list[float], float]) -> ImageDetections:
    boxes = np.array([box for box, _ in pairs], float).reshape(-1, 4)
    return ImageDetections(boxes, np.array([score for _, score in pairs]))


def outcomes(truths: Any, detections: Any, criterion: Criterion = IOU_50) -> dict[str, list[int]]:
    pooled = pool_boxes(truths, detections)
    return {
        key: find_lesions(pooled, convention, criterion)[0].tolist()
        for key, convention in CONVENTIONS.items()
    }


def test_two_hits_on_one_lesion() -> None:
    twice = outcomes([truth(A)], [found((A, 0.9), (NOWHERE, 0.8), (A, 0.7))])
    assert twice["deeplesion"] == [RIGHT, WRONG, NEITHER]
    assert twice["nndetection"] == [RIGHT, WRONG, WRONG]
    assert twice["p2"] == [RIGHT, WRONG, RIGHT]


def test_one_box_on_two_lesions() -> None:
    # IoU of the wide box is 100 / 240 with either: above .1, below .5; its IoBB is .417 with each.
    wide, near = [0, 0, 24, 10.0], [14, 0, 24, 10.0]
    truths, detections = [truth(A, near)], [found((wide, 0.9), (near, 0.5))]
    for convention in (DEEPLESION, P2):
        froc = compute_froc(truths, detections, convention, IOU_10)
        assert froc.found_scores.tolist() == [0.9, 0.9]
        assert froc.compute_curve().sensitivity.tolist() == [1.0, 1.0]
    # One to one, the wide box takes the last of equals, and the other lesion is left.
    alone = compute_froc(truths, detections, NNDETECTION, IOU_10)
    assert alone.found_scores.tolist() == [-np.inf, 0.9]
    assert alone.outcome.tolist() == [RIGHT, WRONG]
    both = compute_froc(truths, [found((wide, 0.9), (A, 0.5))], NNDETECTION, IOU_10)
    assert both.found_scores.tolist() == [0.5, 0.9]
    assert outcomes(truths, detections)["nndetection"] == [WRONG, RIGHT]


def test_a_better_box_takes_the_better_lesion_whatever_comes_later() -> None:
    shifted = [2, 0, 12, 10.0]  # IoU 80 / 120 with A
    first, second = [1, 0, 11, 10.0], [-4, 0, 6, 10.0]  # 90/110 with both; 60/140 and 40/160
    froc = compute_froc(
        [truth(A, shifted)],
        [found((first, 0.9), (second, 0.8))],
        NNDETECTION,
        Criterion("iou", 0.4),
    )
    # `first` fits both equally and takes the last, so that `second` may have A.
    assert froc.found_scores.tolist() == [0.8, 0.9]
    alone = compute_froc([truth(A, shifted)], [found((second, 0.8))], NNDETECTION, IOU_10)
    assert alone.found_scores.tolist() == [0.8, -np.inf]


def test_the_threshold_itself_is_reached_but_not_passed() -> None:
    half = found(([0, 0, 10, 5.0], 0.9))  # IoU .5 and IoBB 1
    for key, hit in (("deeplesion", True), ("nndetection", True), ("p2", False)):
        froc = compute_froc([truth(A)], [half], CONVENTIONS[key], IOU_50)
        assert (froc.found_by.tolist() != [NEVER]) is hit, key
    ten = found(([0, 0, 10, 1.0], 0.9))  # IoU exactly .1
    assert compute_froc([truth(A)], [ten], P2, IOU_10).compute_curve().sensitivity.tolist() == [0]


def test_iobb_asks_how_much_of_the_prediction_is_lesion() -> None:
    small, large = [2, 2, 4, 4.0], [0, 0, 20, 20.0]  # IoU .04 and .25; IoBB 1 and .25
    assert outcomes([truth(A)], [found((small, 0.9))], IOBB_50)["deeplesion"] == [RIGHT]
    assert outcomes([truth(A)], [found((small, 0.9))])["deeplesion"] == [WRONG]
    assert outcomes([truth(A)], [found((large, 0.9))], IOBB_50)["deeplesion"] == [WRONG]
    assert outcomes([truth(A)], [found((large, 0.9))], IOU_10)["deeplesion"] == [RIGHT]
    with pytest.raises(ValueError, match="'giou' is none of iou, iobb"):
        outcomes([truth(A)], [found((A, 1.0))], Criterion("giou", 0.5))


def test_the_curve_of_two_images_by_hand() -> None:
    truths = [truth(A, B), truth(), truth(A), truth()]
    detections = [
        found((A, 0.9), (NOWHERE, 0.7), (B, 0.4)),
        found((NOWHERE, 0.8)),
        found((A, 0.6)),
        found(),
    ]
    froc = compute_froc(truths, detections, P2, IOU_50)
    curve = froc.compute_curve()
    assert curve.scores.tolist() == [0.9, 0.8, 0.7, 0.6, 0.4]
    assert curve.fp_per_image.tolist() == [0, 0.25, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(curve.sensitivity, np.array([1, 1, 1, 2, 3]) / 3)
    np.testing.assert_allclose(froc.compute_sensitivity((0.1, 0.25, 0.5, 16))[0] * 3, [1, 1, 3, 3])
    assert [froc.find_threshold(fp) for fp in (0.1, 0.3, 0.5)] == [0.9, 0.8, 0.4]
    assert froc.count_by_image(0.7).tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 0, 0, 0],
        [2, 0, 1, 0],
    ]
    assert thin_curve(froc)["score"] == [0.9, 0.7, 0.6, 0.4]


def test_equal_scores_stand_or_fall_together() -> None:
    # At .5 come two false boxes and one lesion at once; 2 images, so 1 false positive an image.
    truths = [truth(A, B), truth()]
    detections = [found((A, 0.5), (NOWHERE, 0.5), (B, 0.2)), found((NOWHERE, 0.5))]
    step = compute_froc(truths, detections, P2, IOU_50)
    assert step.compute_sensitivity((0.5, 0.999, 1.0))[0].tolist() == [0, 0, 1.0]
    assert step.find_threshold(0.5) == np.inf and step.find_threshold(1.0) == 0.2
    line = compute_froc(truths, detections, NNDETECTION, IOU_50)
    # A straight line from (0, 0) to (1, .5), then straight up to 1.
    assert line.compute_sensitivity((0.25, 0.5, 0.75, 1.0))[0].tolist() == [0.125, 0.25, 0.375, 1.0]
    for order in ((0, 1), (1, 0)):  # the order of images and boxes plays no part
        turned = [detections[0], detections[1]]
        turned[0] = ImageDetections(detections[0].boxes[::-1], detections[0].scores[::-1])
        again = compute_froc([truths[i] for i in order], [turned[i] for i in order], P2, IOU_50)
        assert again.compute_curve().sensitivity.tolist() == [0.5, 1.0]


def test_a_budget_that_rounding_misses_by_a_hair_is_kept() -> None:
    truths = [truth(A)] + [truth()] * 99
    detections = [found((A, 0.1))] + [found((NOWHERE, 0.9))] * 29 + [found()] * 70
    assert 0.29 * 100 < 29
    for convention in CONVENTIONS.values():
        froc = compute_froc(truths, detections, convention, IOU_50)
        assert froc.compute_sensitivity((0.28, 0.29))[0].tolist() == [0.0, 1.0]
        assert froc.find_threshold(0.29) == 0.1


def test_no_detections_find_nothing_and_no_lesions_leave_it_undefined() -> None:
    for convention in CONVENTIONS.values():
        silent = compute_froc([truth(A), truth()], [found(), found()], convention, IOU_50)
        assert silent.compute_sensitivity()[0].tolist() == [0.0] * 8
        assert silent.find_threshold(1.0) == np.inf and len(silent.compute_curve().scores) == 0
        healthy = compute_froc([truth()], [found((A, 0.5))], convention, IOU_50)
        assert np.isnan(healthy.compute_sensitivity()).all()
        assert healthy.compute_curve().fp_per_image.tolist() == [1.0]
        nothing = compute_froc([], [], convention, IOU_50)
        assert np.isnan(nothing.compute_sensitivity()).all()


def test_only_boxes_of_the_same_class_meet() -> None:
    other = ImageTruth(np.array([A]), classes=np.array([1]))
    assert outcomes([other], [found((A, 0.9))])["nndetection"] == [WRONG]
    padded = ImageTruth(np.array([A, [0, 0, 0, 0]]), classes=np.array([0, -1]))
    froc = compute_froc([padded], [found((A, 0.9))], NNDETECTION, IOU_50)
    assert froc.compute_curve().sensitivity.tolist() == [1.0]


def test_a_crowd_is_never_missed_and_excuses_boxes() -> None:
    crowd = truth([0, 0, 50, 50], B, crowd=np.array([True, False]))
    inside = [30, 30, 40, 40.0]
    got = outcomes([crowd], [found((B, 0.9), (inside, 0.8), (inside, 0.7), (NOWHERE, 0.6))])
    assert set(map(tuple, got.values())) == {(RIGHT, NEITHER, NEITHER, WRONG)}
    froc = compute_froc([crowd], [found((inside, 0.8))], NNDETECTION, IOU_50)
    assert froc.compute_sensitivity()[0].tolist() == [0.0] * 8


def test_nndetection_looks_at_the_surest_hundred_of_an_image() -> None:
    many = found(*[(NOWHERE, 0.9)] * 100, (A, 0.5))
    got = outcomes([truth(A)], [many])
    assert got["nndetection"][-1] == NEITHER and got["nndetection"].count(WRONG) == 100
    assert got["deeplesion"][-1] == RIGHT
    fewer = found(*[(NOWHERE, 0.9)] * 99, (A, 0.5))
    assert outcomes([truth(A), truth()], [fewer, many])["nndetection"].count(RIGHT) == 1


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="1 images of truth but 0 of detections"):
        pool_boxes([truth(A)], [])
    with pytest.raises(ValueError, match="1 images of truth but 2 patients"):
        evaluate_froc([truth(A)], [found()], ["a", "b"])


def make_images(seed: int, count: int = 12, levels: int = 7) -> tuple[list[Any], list[Any]]:
    """Images of up to four lesions with many ties of scores and boxes that meet several lesions."""
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for _ in range(count):
        corner = rng.integers(0, 30, size=(rng.integers(0, 5), 2)).astype(float)
        lesions = np.hstack([corner, corner + rng.integers(6, 20, size=corner.shape)])
        corner = rng.integers(0, 30, size=(rng.integers(0, 9), 2)).astype(float)
        boxes = np.hstack([corner, corner + rng.integers(6, 20, size=corner.shape)])
        scores = rng.integers(1, levels, size=len(boxes)) / levels
        kinds = [rng.integers(0, 2, size=len(rows)) for rows in (lesions, boxes)]
        crowd = rng.random(len(lesions)) < 0.1
        truths.append(ImageTruth(lesions, kinds[0], crowd))
        detections.append(ImageDetections(boxes, scores, kinds[1]))
    return truths, detections


def overlap_of(box: np.ndarray, lesion: np.ndarray, of_union: bool) -> float:
    width = min(box[2], lesion[2]) - max(box[0], lesion[0])
    height = min(box[3], lesion[3]) - max(box[1], lesion[1])
    shared = max(width, 0.0) * max(height, 0.0)
    area = (box[2] - box[0]) * (box[3] - box[1])
    other = (lesion[2] - lesion[0]) * (lesion[3] - lesion[1])
    return shared / (area + other - shared) if of_union else shared / area


def count_plainly(
    image: ImageTruth, boxes: ImageDetections, counting: str, strict: bool, criterion: Criterion
) -> tuple[list[tuple[float, int]], dict[int, float]]:
    """Goes through the boxes of an image; returns (score, outcome) and lesion -> found score."""
    results, found_at = [], {}
    for row in np.argsort(-boxes.scores, kind="stable"):
        met, excused = [], False
        for lesion in range(len(image.boxes)):
            if image.classes[lesion] != boxes.classes[row]:
                continue
            of_union = criterion.overlap == "iou" and not image.crowd[lesion]
            overlap = overlap_of(boxes.boxes[row], image.boxes[lesion], of_union)
            hit = overlap > criterion.threshold if strict else overlap >= criterion.threshold
            excused |= bool(hit and image.crowd[lesion])
            if hit and not image.crowd[lesion]:
                met.append((overlap, lesion))
        free = [pair for pair in met if pair[1] not in found_at]
        taken = [lesion for _, lesion in ([max(free)] if counting == "one_to_one" and free else [])]
        if counting != "one_to_one":
            taken = [lesion for _, lesion in free]
        for lesion in taken:
            found_at[lesion] = float(boxes.scores[row])
        outcome = RIGHT if taken else NEITHER if excused else WRONG
        if not taken and met and counting != "one_to_one":
            outcome = RIGHT if counting == "any_hit" else NEITHER
        results.append((float(boxes.scores[row]), outcome))
    return results, found_at


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("key", CONVENTIONS)
def test_all_conventions_equal_plain_loops(key: str, seed: int) -> None:
    convention = CONVENTIONS[key]
    truths, detections = make_images(seed)
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 3, size=(5, len(truths))).astype(float)
    for criterion in CRITERIA:
        froc = compute_froc(truths, detections, convention, criterion)
        plain = [
            count_plainly(t, d, convention.counting, convention.is_strict, criterion)
            for t, d in zip(truths, detections, strict=True)
        ]
        scores = [found_at.get(i, -np.inf) for (_, found_at), t in zip(plain, truths, strict=True)
                  for i in range(len(t.boxes))]  # fmt: skip
        assert froc.found_scores.tolist() == scores
        for row, times in zip(froc.compute_sensitivity(weights=weights), weights, strict=True):
            np.testing.assert_allclose(row, draw_plainly(plain, truths, times, convention))
        (whole,) = froc.compute_sensitivity()
        again = froc.compute_sensitivity(weights=np.ones((2, len(truths))))
        np.testing.assert_allclose(again, [whole, whole])


def draw_plainly(plain: Any, truths: Any, times: np.ndarray, convention: Any) -> list[float]:
    """Sensitivity at FP_PER_IMAGE from copies of images, threshold by threshold."""
    lesions = sum(int(n) * int((~t.crowd).sum()) for n, t in zip(times, truths, strict=True))
    if not lesions:
        return [np.nan] * len(FP_PER_IMAGE)
    levels = sorted({score for results, _ in plain for score, _ in results}, reverse=True)
    fp, share = [0.0], [0.0]
    for level in levels:
        wrong = sum(
            n * sum(score >= level and outcome == WRONG for score, outcome in results)
            for n, (results, _) in zip(times, plain, strict=True)
        )
        hits = sum(
            n * sum(score >= level for score in found_at.values())
            for n, (_, found_at) in zip(times, plain, strict=True)
        )
        fp.append(wrong / times.sum())
        share.append(hits / lesions)
    if convention.interpolates:
        return np.interp(FP_PER_IMAGE, fp, share).tolist()
    return [max(s for f, s in zip(fp, share, strict=True) if f <= most) for most in FP_PER_IMAGE]


def test_one_to_one_is_cocos_matching() -> None:
    from lesionkeras.metrics.matches import match_detections

    for seed in range(8):
        truths, detections = make_images(seed, levels=1000)
        of_class = match_detections(truths, detections, (0.3,))
        pooled = pool_boxes(truths, detections)
        outcome, _ = find_lesions(pooled, NNDETECTION, Criterion("iou", 0.3))
        theirs = np.concatenate([m.matched[0, 0] & ~m.ignored[0, 0] for m in of_class])
        scores = np.concatenate([m.scores for m in of_class])
        order = np.lexsort((theirs, -scores))
        ours = np.lexsort((outcome == RIGHT, -pooled.scores))
        assert (outcome == RIGHT)[ours].tolist() == theirs[order].tolist()


def test_sizes_are_counted_alone_with_all_false_positives() -> None:
    truths = [truth(A, B, diameters_mm=np.array([9.0, 35.0]))]
    detections = [found((NOWHERE, 0.9), (A, 0.8), (NOWHERE, 0.7), (NOWHERE, 0.6), (B, 0.5))]
    result = evaluate_froc(truths, detections, ["p"], num_resamples=5)
    of_half = [row for row in result["by_size"] if row["label"] == "IoU 0.5"]
    assert [(row["size"], row["count"]) for row in of_half] == [
        ("below 10 mm", 1),
        ("20 to 40 mm", 1),
    ]
    values = [[score["value"] for score in row["sensitivity"]] for row in of_half]
    assert values == [[0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1]]
    assert result["size_unit"] == "mm"


def test_the_summary_has_every_convention_and_is_json() -> None:
    truths, detections = make_images(3)
    patients = [str(i // 2) for i in range(len(truths))]
    result = evaluate_froc(truths, detections, patients, num_resamples=50)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    names = [(row["convention"], row["label"]) for row in result["rows"]]
    assert names == [(key, c.label) for key in CONVENTIONS for c in CRITERIA]
    row = result["rows"][3]
    froc = compute_froc(truths, detections, NNDETECTION, IOU_50)
    (values,) = froc.compute_sensitivity()
    assert [score["value"] for score in row["sensitivity"]] == pytest.approx(values.tolist())
    assert row["mean"]["value"] == pytest.approx(values[:7].mean())
    weights = draw_weights(patients, 50, 0)
    drawn = froc.compute_sensitivity(weights=weights)
    expected = np.quantile(drawn[:, 3][~np.isnan(drawn[:, 3])], [0.025, 0.975])
    assert [row["sensitivity"][3][k] for k in ("low", "high")] == pytest.approx(expected.tolist())
    assert row["score_thresholds"][-1] == min(d.scores.min() for d in detections if len(d.scores))
    assert result["rows"][-1]["mean"] is None and set(result["curves"]) == {
        c.label for c in CRITERIA
    }


def test_thin_curves_keep_their_ends() -> None:
    rng = np.random.default_rng(0)
    truths = [truth(A)] * 1000
    detections = [found((A, s), (NOWHERE, t)) for s, t in rng.random((1000, 2))]
    froc = compute_froc(truths, detections, DEEPLESION, IOU_50)
    thin, whole = thin_curve(froc, max_points=50), froc.compute_curve()
    assert 50 <= len(thin["score"]) <= 110
    assert (thin["fp_per_image"][-1], thin["sensitivity"][-1]) == (1.0, 1.0)
    at = np.searchsorted(-whole.scores, -np.array(thin["score"]))
    assert thin["sensitivity"] == whole.sensitivity[at].tolist()


def make_large() -> tuple[list[ImageTruth], list[ImageDetections]]:
    rng = np.random.default_rng(0)
    truths, detections = [], []
    for _ in range(4800):
        corner = rng.uniform(50, 450, size=(rng.integers(1, 3), 2))
        lesions = np.hstack([corner, corner + rng.uniform(8, 60, size=corner.shape)])
        corner = rng.uniform(50, 450, size=(100, 2))
        boxes = np.hstack([corner, corner + rng.uniform(8, 60, size=corner.shape)])
        boxes[:5] = lesions[0] + rng.normal(0, 3, size=(5, 4))
        truths.append(ImageTruth(lesions, diameters_mm=np.full(len(lesions), 20.0)))
        scores = rng.random(100)
        scores[:5] = 1 - scores[:5] ** 3 / 2
        detections.append(ImageDetections(boxes, scores))
    return truths, detections


def test_deeplesions_test_set_takes_a_third_of_a_second() -> None:
    truths, detections = make_large()
    seconds = []
    for _ in range(3):
        start = time.process_time()
        pooled = pool_boxes(truths, detections)
        (values,) = count_froc(pooled, DEEPLESION, IOU_50).compute_sensitivity()
        seconds.append(time.process_time() - start)
    assert 0.3 < values[3] < values[-1] < 1.0
    # Issue 10 asks for .3 s, which two cores in peace keep threefold; a busy machine may not.
    assert min(seconds) < 0.9
