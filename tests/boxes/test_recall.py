import csv

import numpy as np
import pytest

from lesionkeras.boxes import (
    RecallRow,
    compute_anchor_recall,
    compute_best_iou,
    compute_best_iou_on_grid,
    compute_grid_recall,
    make_anchors,
)
from lesionkeras.config import AnchorConfig
from lesionkeras.metrics.matches import ImageDetections, ImageTruth, match_detections
from lesionkeras.metrics.operating import compute_recall_by_size

SIDE_PX = 512  # of all liver images of DeepLesion
TWO_SCALES = (1.0, 2**0.5)
FROM_8 = (8, 16, 32, 64, 128, 256)
FROM_4 = (4, *FROM_8)


def _make_squares(sides):
    """Boxes of these sides around (32, 32)."""
    half = np.array(sides, np.float32)[:, None] / 2
    return np.concatenate([32 - half, 32 - half, 32 + half, 32 + half], axis=1)


def test_rows_bin_by_size_and_share_counts_reached_boxes():
    anchors = _make_squares([20])
    # IoU = (side / 20)^2 or its inverse: .25, exactly .5 is not above it, .81, .25.
    boxes = [_make_squares([10, 18]), np.zeros((2, 4)), _make_squares([20 * 0.5**0.5 - 1e-3, 40])]
    report = compute_anchor_recall(boxes, None, anchors)
    assert report.rows == (
        RecallRow("8 to 16 px", 2, 0.0),
        RecallRow("16 to 32 px", 1, 1.0),
        RecallRow("32 to 64 px", 1, 0.0),
    )
    assert (report.num_boxes, report.share, report.iou) == (4, 0.25, 0.5)


def test_sizes_in_mm_name_the_bins_and_skip_padding():
    boxes = [np.concatenate([_make_squares([20]), np.zeros((1, 4))]), _make_squares([18])]
    report = compute_anchor_recall(boxes, np.array([9.9, 0.0, 80.0]), _make_squares([20]))
    assert report.rows == (RecallRow("below 10 mm", 1, 1.0), RecallRow("80 mm and more", 1, 1.0))
    assert report.warning == ""


def test_bins_are_those_of_the_operating_point_by_size():
    sizes = np.float64([3, 8, 9.9, 10, 15, 16, 20, 31, 32, 39, 40, 63, 64, 79, 80, 200])
    boxes = _make_squares(sizes)
    for sizes_mm in (None, sizes):
        ours = compute_anchor_recall([boxes], sizes_mm, boxes[:1]).rows
        truth = ImageTruth(boxes=boxes, diameters_mm=sizes_mm)
        matches = match_detections([truth], [ImageDetections(boxes[:0], np.zeros(0))], (0.5,))
        theirs = compute_recall_by_size([truth], matches, 0.5)
        assert [(row.label, row.num_boxes) for row in ours] == [
            (row["label"], row["count"]) for row in theirs
        ]


def test_sizes_must_fit_the_boxes():
    with pytest.raises(ValueError, match=r"sizes_mm has shape \(1,\) for 2 boxes"):
        compute_anchor_recall([_make_squares([1, 2])], np.array([3.0]), _make_squares([4]))


@pytest.mark.parametrize(
    ("side", "advice"),
    [
        (6, "side of 6.0 px is below the smallest anchor's 20.0 px: raise --image-size"),
        (60, "side of 60.0 px is above the largest anchor's 40.0 px: add a stride"),
        (28.28, "side of 28.3 px is within the anchors' 20.0 to 40.0 px: add to model.anchors"),
    ],
)
def test_the_warning_says_where_and_what_next(side, advice):
    boxes = [_make_squares([20] * 9 + [side])]
    report = compute_anchor_recall(boxes, None, _make_squares([20, 40]), iou=0.6)
    assert report.warning.startswith("The anchors reach 90.0% of 10 training boxes at IoU 0.6")
    assert f"lesions of {report.rows[-1 if side > 20 else 0].label}, where they" in report.warning
    assert advice in report.warning and report.warning.endswith(".")


def test_the_warning_begins_below_95_percent():
    for missed, is_warned in ((1, False), (2, True)):
        boxes = [_make_squares([20] * (20 - missed) + [5] * missed)]
        assert bool(compute_anchor_recall(boxes, None, _make_squares([20])).warning) is is_warned


def test_no_boxes_are_said():
    report = compute_anchor_recall([np.zeros((3, 4)), np.zeros((0, 4))], None, _make_squares([8]))
    assert (report.rows, report.num_boxes) == ((), 0)
    assert report.warning == "There are no training boxes; check the split."


def test_the_nearest_centre_is_the_best_anchor_of_a_shape():
    rng = np.random.default_rng(7)
    config = AnchorConfig(strides_px=(8, 16, 32), size_factor=2.5, ratios=(0.4, 1.0, 3.0))
    centre, half = rng.uniform(-5, [205, 125], (300, 2)), rng.uniform(1, 60, (300, 2))
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    boxes[7] = 0
    on_grid = compute_best_iou_on_grid(boxes, config, 120, 200)
    one_by_one = compute_best_iou(boxes, make_anchors(config, 120, 200))
    np.testing.assert_allclose(on_grid, one_by_one, atol=1e-5)
    assert one_by_one[7] == 0 and one_by_one.max() > 0.8
    report = compute_grid_recall([boxes], None, config, (120, 200))
    assert report == compute_anchor_recall([boxes], None, make_anchors(config, 120, 200))


def test_blocks_of_anchors_give_the_same_as_one_table():
    rng = np.random.default_rng(8)
    anchors = _make_squares(rng.uniform(1, 12, 200_000))
    anchors[150_000] = _make_squares([30])[0]
    np.testing.assert_allclose(compute_best_iou(_make_squares([30, 24]), anchors), [1.0, 0.64])


@pytest.fixture(scope="module")
def liver(request):
    """Boxes (512 px images) and longer sides in mm of DeepLesion's liver lesions."""
    path = request.getfixturevalue("real_data") / "deeplesion" / "DL_info.csv"
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Coarse_lesion_type"] == "4"]
    assert {row["Image_size"] for row in rows} == {f"{SIDE_PX}, {SIDE_PX}"}
    boxes = np.array([[float(v) for v in row["Bounding_boxes"].split(",")] for row in rows])
    spacing = np.array([float(row["Spacing_mm_px_"].split(",")[0]) for row in rows])
    return boxes, (boxes[:, 2:] - boxes[:, :2]).max(axis=1) * spacing


@pytest.mark.real
@pytest.mark.parametrize(
    ("config", "at_512", "at_224"),
    [
        (AnchorConfig(FROM_8, 4.0, TWO_SCALES, (0.5, 1.0, 2.0)), 0.79, 0.21),
        (AnchorConfig(FROM_4, 4.0, TWO_SCALES, (0.5, 1.0, 2.0)), 1.00, 0.68),
        (AnchorConfig(FROM_4, 2.5, TWO_SCALES, (0.5, 1.0, 2.0)), 0.999, 0.96),
    ],
)
def test_real_liver_boxes_reach_the_known_shares(liver, config, at_512, at_224):
    boxes, sizes_mm = liver
    assert len(boxes) == 1284
    for side, share in ((512, at_512), (224, at_224)):
        report = compute_grid_recall([boxes * side / SIDE_PX], sizes_mm, config, (side, side))
        assert report.share == pytest.approx(share, abs=0.005)
        assert bool(report.warning) == (share < 0.95)


@pytest.mark.real
@pytest.mark.parametrize(("side", "wanted"), [(512, 0.99), (224, 0.95)])
def test_default_anchors_reach_the_real_liver_boxes(liver, side, wanted):
    boxes, sizes_mm = liver
    report = compute_grid_recall([boxes * side / SIDE_PX], sizes_mm, AnchorConfig(), (side, side))
    assert report.num_boxes == 1284 and report.share >= wanted
    assert report.warning == ""
