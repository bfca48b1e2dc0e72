"""Rigid alignment finds motions that are known."""

import cv2
import numpy as np
import pytest

from lesionkeras.ct.rigid import (
    Level,
    Motion,
    align,
    compute_ncc,
    find_shape,
    halve,
    make_turns,
    refine,
    sample,
    search,
    transform_turned,
    turn,
)
from tests.ct.made_up_people import make_tissue

VOXEL_MM = 4.0


def make_levels(rotation=None, shift_mm=(0.0, 0.0, 0.0), shape=(32, 40, 48)):
    """A box of made-up tissue; with a motion, the volume in which q = R p + t finds each place."""
    tissue = make_tissue(4) / 100.0
    rotation = np.eye(3) if rotation is None else rotation
    centre = (np.array(tissue.shape)[:, None] - 1) / 2
    grid = np.indices(shape).reshape(3, -1) - (np.array(shape)[:, None] - 1) / 2
    places = rotation.T @ (grid * VOXEL_MM - np.array(shift_mm)[:, None])
    (values,) = sample((tissue,), places / 5.0 + centre)
    fine = Level(values.reshape(shape), np.ones(shape, np.float32), VOXEL_MM, 8000)
    return halve(fine, 4000), fine


def make_rotation(*degrees):
    return cv2.Rodrigues(np.deg2rad(np.array(degrees, float)))[0]


@pytest.mark.parametrize(
    ("degrees", "shift_mm"),
    [((0, 0, 0), (9, -14, 22)), ((8, 0, 0), (0, 0, 0)), ((-5, 4, 7), (-30, 6, -10))],
)
def test_a_known_motion_is_found(degrees, shift_mm):
    rotation = make_rotation(*degrees)
    (coarse_a, fine_a), (coarse_b, fine_b) = make_levels(), make_levels(rotation, shift_mm)
    moved = transform_turned(coarse_a, find_shape([coarse_a.detail.shape]))
    starts = search(moved, coarse_a, coarse_b)
    ncc, motion = align((coarse_a, coarse_b), (fine_a, fine_b), starts)
    assert ncc > 0.97
    assert motion.shift_mm == pytest.approx(shift_mm, abs=0.7)
    assert np.rad2deg(np.arccos((np.trace(motion.rotation @ rotation.T) - 1) / 2)) < 0.7


def test_refining_improves_a_start():
    (_, a), (_, b) = make_levels(), make_levels(make_rotation(3, 0, 0), (2, -3, 1))
    before = compute_ncc(a.values, b.detail.ravel()[a.index], np.ones(len(a.index)))
    ncc, motion = refine(a, b, Motion(np.eye(3), np.zeros(3)))
    assert ncc > 0.97 > 0.9 > before
    assert motion.angle_deg == pytest.approx(3.0, abs=0.3)


def test_the_search_reaches_every_shift_with_enough_overlap():
    (whole, _), (part, _) = make_levels(), make_levels(shape=(14, 36, 40), shift_mm=(-52, 24, -32))
    moved = transform_turned(whole, find_shape([whole.detail.shape, part.detail.shape]))
    ncc, motion = search(moved, whole, part)[0]
    assert ncc > 0.9
    assert motion.shift_mm == pytest.approx((-52, 24, -32), abs=4.0)
    assert np.array_equal(motion.rotation, np.eye(3))


def test_too_little_overlap_is_no_match():
    _, a = make_levels()
    assert refine(a, a, Motion(np.eye(3), np.array([0.0, 0.0, 120.0])))[0] == -1.0
    assert align((a, a), (a, a), []) == (0.0, None)


def test_sampling_is_linear_and_zero_outside():
    volume = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    places = np.array([[0, 1, 0.5, 0, -0.1], [0, 2, 1, 0, 0], [0, 3, 1.5, 3.2, 0]])
    assert sample((volume,), places)[0].tolist() == [0.0, 23.0, 11.5, 0.0, 0.0]


def test_halving_averages_what_is_inside():
    inside = np.ones((2, 2, 4), np.float32)
    inside[0, :, :2], inside[:, :, 2:] = 0, 0
    inside[0, 0, 2] = 1
    detail = inside * 3.0
    half = halve(Level(detail, inside, 4.0, 100), 100)
    assert half.voxel_mm == 8.0
    assert half.detail.tolist() == [[[3.0, 0.0]]]  # half inside counts, an eighth does not
    assert half.inside.tolist() == [[[1.0, 0.0]]]


def test_turning_moves_a_point_as_its_rotation_says():
    detail = np.zeros((9, 9, 9), np.float32)
    detail[4, 4, 7] = 1.0  # 3 along x
    level = Level(detail, np.ones_like(detail), 4.0, 1000)
    quarter = make_rotation(90, 0, 0)  # about z: (z, y, x) = (0, 0, 3) goes to quarter @ it
    place = np.rint(quarter @ [0, 0, 3]).astype(int) + 4
    assert turn(level, quarter)[tuple(place)] == pytest.approx(1.0, abs=1e-4)


def test_starts_are_turned_both_ways_about_each_axis():
    angles = [Motion(rotation, np.zeros(3)).angle_deg for rotation in make_turns()]
    assert angles == pytest.approx([0.0] + [8.0] * 6)
    assert np.allclose(sum(cv2.Rodrigues(rotation)[0] for rotation in make_turns()), 0.0)
