"""Boxes that bound a lesion, and boxes of its diameters with 5 px: from one to the other."""

import csv

import cv2
import numpy as np
import pytest

from lesionkeras.boxes.overlap import compute_iou
from lesionkeras.data.box_convention import (
    CONVENTIONS,
    MARGIN_PX,
    RECIST_PLUS_5,
    STRETCH,
    TIGHT,
    bound_ellipses,
    convert_boxes,
    estimate_boxes,
    find_stored,
    measure_diameters,
)


def paint(centre, axes, angle_deg, shape=(120, 160)):
    """An ellipse's pixels: centre and half axes x, y px, turned."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    angle = np.deg2rad(angle_deg)
    along = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    across = -(x - centre[0]) * np.sin(angle) + (y - centre[1]) * np.cos(angle)
    return (along / axes[0]) ** 2 + (across / axes[1]) ** 2 <= 1


def bound(mask):
    y, x = np.nonzero(mask)
    return np.float32([x.min(), y.min(), x.max() + 1, y.max() + 1])


def make_ends(centre, axes, angle_deg):
    """Ends of the two axes, as DeepLesion writes them."""
    angle = np.deg2rad(angle_deg)
    long = axes[0] * np.array([np.cos(angle), np.sin(angle)])
    short = axes[1] * np.array([-np.sin(angle), np.cos(angle)])
    return np.concatenate([centre - long, centre + long, centre - short, centre + short])


def test_data_sets_have_a_convention():
    assert find_stored("deeplesion") == RECIST_PLUS_5
    assert {find_stored(name) for name in ("lits", "ircadb01", "liver_phantom", "folder")} == {
        TIGHT
    }


@pytest.mark.parametrize("angle_deg", [0, 20, 45, 77, 90, 135])
def test_ellipses_on_diameters_bound_the_lesion(angle_deg):
    centre, axes = np.array([70.0, 55.0]), (30.0, 14.0)
    found = bound_ellipses(make_ends(centre, axes, angle_deg))
    np.testing.assert_allclose(found, bound(paint(centre, axes, angle_deg)), atol=1.0)


def test_ends_that_lie_off_the_ellipse_are_inside():
    ends = np.array([0.0, 10.0, 40.0, 10.0, 5.0, 8.0, 5.0, 22.0])  # crosses near one end, one-sided
    assert bound_ellipses(ends).tolist() == [0.0, 3.0, 40.0, 22.0]
    assert np.isnan(bound_ellipses(np.where(ends == 22.0, np.nan, ends))).any()


@pytest.mark.parametrize("angle_deg", [0, 30, 45, 80, 90, 150])
def test_diameters_of_a_mask_are_those_of_the_ellipse(angle_deg):
    centre, axes = np.array([70.0, 55.0]), (32.0, 13.0)
    ends = measure_diameters(paint(centre, axes, angle_deg), (1.0, 1.0)).reshape(4, 2)
    long, short = np.diff(ends.reshape(2, 2, 2), axis=1)[:, 0]
    assert np.hypot(*long) == pytest.approx(64, abs=1.5)
    assert np.hypot(*short) == pytest.approx(26, abs=1.5)
    assert abs(long @ short) < 0.05 * np.hypot(*long) * np.hypot(*short)
    wanted = make_ends(centre, axes, angle_deg).reshape(4, 2)
    np.testing.assert_allclose(ends.min(0), wanted.min(0), atol=1.5)
    np.testing.assert_allclose(ends.max(0), wanted.max(0), atol=1.5)


def test_diameters_are_of_millimetres():
    """20 x 12 px with pixels of 1 x 3 mm (x, y): the long diameter is across the rows."""
    mask = np.zeros((40, 40), bool)
    mask[10:22, 8:28] = True
    ends = measure_diameters(mask, (3.0, 1.0)).reshape(4, 2)
    long, short = np.diff(ends.reshape(2, 2, 2), axis=1)[:, 0]
    assert abs(long[1]) > 11 and np.hypot(long[0], 3 * long[1]) > 36
    in_mm = long * [1, 3], short * [1, 3]
    assert abs(in_mm[0] @ in_mm[1]) < 1e-6 * np.hypot(*in_mm[0]) * np.hypot(*in_mm[1])


def test_one_pixel_has_diameters():
    mask = np.zeros((5, 5), bool)
    mask[2, 3] = True
    ends = measure_diameters(mask, (0.7, 0.7))
    np.testing.assert_allclose(ends, [3.0, 2.5, 4.0, 2.5, 3.5, 2.0, 3.5, 3.0], atol=1e-6)


def test_estimates_by_hand_and_back():
    boxes = np.float32([[100, 50, 140, 70], [0, 0, 0, 0], [30, 30, 36, 33]])
    tight = estimate_boxes(boxes, RECIST_PLUS_5, TIGHT)
    assert tight.dtype == np.float32 and not tight[1].any()
    np.testing.assert_allclose(
        tight[0], [120 - 15 * STRETCH, 60 - 5 * STRETCH, 120 + 15 * STRETCH, 60 + 5 * STRETCH]
    )
    np.testing.assert_allclose(tight[2, 2:] - tight[2, :2], STRETCH, rtol=1e-5)  # nothing was left
    np.testing.assert_allclose(
        estimate_boxes(tight, TIGHT, RECIST_PLUS_5)[:2], boxes[:2], atol=1e-4
    )
    for convention in CONVENTIONS:
        assert estimate_boxes(boxes, convention, convention) is boxes


def test_masks_give_their_own_diameters():
    mask = np.where(paint((60.5, 50.5), (30, 10), 45), np.uint8(2), np.uint8(1))
    other = paint((130.0, 90.0), (8, 8), 0)
    mask[other] = 2
    boxes = np.stack([bound(mask[:80] == 2), bound(other), np.float32([3, 3, 9, 9])])
    words = {"size_px": (120, 160), "spacing_mm": (0.8, 0.8)}
    found = convert_boxes(boxes, TIGHT, mask=mask, **words)
    assert set(found) == set(CONVENTIONS) and np.array_equal(found[TIGHT], boxes)
    half = 30 / np.sqrt(2)  # of the long diameter's extent, which holds the short one's
    wanted = [60.5 - half - 5, 50.5 - half - 5, 60.5 + half + 5, 50.5 + half + 5]
    np.testing.assert_allclose(found[RECIST_PLUS_5][0], wanted, atol=1.5)
    assert (found[RECIST_PLUS_5][0, 2] - found[RECIST_PLUS_5][0, 0]) < 56 < 2 * half + 14
    # a box that is no component of the mask, and all without a mask, are estimated
    plain = convert_boxes(boxes, TIGHT, **words)[RECIST_PLUS_5]
    np.testing.assert_allclose(found[RECIST_PLUS_5][2], plain[2])
    np.testing.assert_allclose(plain, np.maximum(estimate_boxes(boxes, TIGHT, RECIST_PLUS_5), 0))


def test_known_diameters_make_tight_boxes():
    ends = np.stack([make_ends(np.array([70.0, 55.0]), (30, 14), 45), np.full(8, np.nan)])
    low, high = ends[0].reshape(4, 2).min(0) - MARGIN_PX, ends[0].reshape(4, 2).max(0) + MARGIN_PX
    boxes = np.float32([[*low, *high], [2, 2, 40, 40]])
    found = convert_boxes(
        boxes, RECIST_PLUS_5, size_px=(80, 90), spacing_mm=(1.0, 1.0), diameters=ends
    )
    assert np.array_equal(found[RECIST_PLUS_5], boxes)
    wanted = bound(paint((70.0, 55.0), (30, 14), 45))
    np.testing.assert_allclose(found[TIGHT][0], np.minimum(wanted, [90, 80, 90, 80]), atol=1)
    np.testing.assert_allclose(found[TIGHT][1], estimate_boxes(boxes, RECIST_PLUS_5, TIGHT)[1])


@pytest.mark.real
def test_on_the_shared_lesions(real_data):
    """DeepLesion's boxes are the diameters' ends and 5 px; pseudo-masks say what is tight."""
    folder = real_data / "deeplesion"
    with (folder / "DL_info.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    parse = lambda text: [float(part) for part in text.split(",")]  # noqa: E731
    ends = np.array([parse(row["Measurement_coordinates"]) for row in rows])
    stored = np.array([parse(row["Bounding_boxes"]) for row in rows])
    points = ends.reshape(-1, 4, 2)
    from_ends = np.concatenate([points.min(1) - MARGIN_PX, points.max(1) + MARGIN_PX], axis=1)
    assert np.abs(from_ends - stored).max() < 1e-3
    ellipses = bound_ellipses(ends)
    widths = (ellipses[:, 2:] - ellipses[:, :2]) / np.maximum(np.ptp(points, axis=1), 1)
    assert widths.mean() == pytest.approx(STRETCH, abs=0.005)
    scores = {}
    for number, row in enumerate(rows):
        path = folder / "masks_grabcut" / row["File_name"]
        if not path.exists():
            continue
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) > 0
        _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        x1, y1, x2, y2 = stored[number].astype(int)
        counts = np.bincount(labels[y1:y2, x1:x2].ravel())[1:]
        if not counts.any():  # a mask is of one lesion of its slice
            continue
        lesion = labels == counts.argmax() + 1
        tight, box = bound(lesion)[None], stored[number][None]
        drawn = measure_diameters(lesion, tuple(parse(row["Spacing_mm_px_"])[1::-1])).reshape(4, 2)
        drawn = np.concatenate([drawn.min(0) - MARGIN_PX, drawn.max(0) + MARGIN_PX])[None]
        pairs = {
            "as they are": (box, tight),
            "estimated": (estimate_boxes(box, RECIST_PLUS_5, TIGHT), tight),
            "ellipses": (ellipses[number][None], tight),
            "drawn": (drawn, box),
        }
        for name, pair in pairs.items():
            scores.setdefault(name, []).append(compute_iou(*pair)[0, 0])
    means = {name: np.mean(values) for name, values in scores.items()}
    assert len(scores["drawn"]) == 46
    assert means["as they are"] < 0.51 and means["estimated"] > 0.73
    assert means["ellipses"] > 0.74 and means["drawn"] > 0.8
