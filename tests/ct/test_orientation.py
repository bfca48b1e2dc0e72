import numpy as np
import pytest

from lesionkeras.ct.orientation import CANONICAL, CODES, find_code, reorient
from lesionkeras.ct.volume import to_canonical, to_source

ARRAY = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
# One column an axis: S by 2.5 mm, R by .7 mm, P by .9 mm; voxel (0, 0, 0) at (10, -20, 30).
SRP = np.array([[0, -0.7, 0, 10], [0, 0, 0.9, -20], [2.5, 0, 0, 30], [0, 0, 0, 1]])
DIRECTIONS = {"L": (0, 1), "P": (1, 1), "S": (2, 1), "R": (0, -1), "A": (1, -1), "I": (2, -1)}


def make_affine(code: str, rotation: np.ndarray | None = None) -> np.ndarray:
    """Axes of 2.5, .7 and .9 mm along a code's directions, turned in the patient."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for i, (letter, spacing) in enumerate(zip(code, (2.5, 0.7, 0.9), strict=True)):
        axis, sign = DIRECTIONS[letter]
        affine[axis, i] = sign * spacing
    affine[:3, :3] = (np.eye(3) if rotation is None else rotation) @ affine[:3, :3]
    affine[:3, 3] = [10.5, -20.25, 30]
    return affine


def rotate(degrees: float, axis: int) -> np.ndarray:
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turned = np.eye(3)
    one, other = (i for i in range(3) if i != axis)
    turned[one, one], turned[one, other] = cos, -sin
    turned[other, one], turned[other, other] = sin, cos
    return turned


def place_all(array: np.ndarray, affine: np.ndarray) -> dict[int, tuple[float, ...]]:
    """Value -> its place in mm."""
    return {
        int(array[idx]): tuple(np.round((affine @ [*idx, 1])[:3], 9) + 0.0)
        for idx in np.ndindex(*array.shape)
    }


def test_there_are_48():
    assert len(set(CODES)) == 48
    assert {frozenset(code.translate(str.maketrans("RAI", "LPS"))) for code in CODES} == {
        frozenset("LPS")
    }


def test_code_is_found():
    for code in CODES:
        assert find_code(make_affine(code)) == code
        assert find_code(make_affine(code, rotate(20, 0) @ rotate(-15, 2))) == code


def test_hand_computed():
    view, affine = reorient(ARRAY, SRP, "LAI")
    # Axes of SRP are 0: S, 1: R, 2: P.  L is 1 turned, A is 2 turned, I is 0 turned.
    np.testing.assert_array_equal(view, ARRAY.transpose(1, 2, 0)[::-1, ::-1, ::-1])
    # The last R voxel lies 2 * .7 mm to the right, the last P 3 * .9 mm dorsal, the last S 2.5 up.
    np.testing.assert_allclose(affine[:3, 3], [10 - 1.4, -20 + 2.7, 32.5])
    np.testing.assert_allclose(affine[:3, :3], np.array([[0.7, 0, 0], [0, -0.9, 0], [0, 0, -2.5]]))


def test_input_is_not_changed():
    before = SRP.copy()
    view, _ = reorient(ARRAY, SRP, "IAL")
    np.testing.assert_array_equal(SRP, before)
    assert np.shares_memory(view, ARRAY)


def check_round_trip(stored: np.ndarray) -> None:
    volume = to_canonical(ARRAY, stored, "array")
    assert volume.source.code == find_code(stored)
    assert find_code(volume.affine) == CANONICAL
    assert place_all(volume.array, volume.affine) == place_all(ARRAY, stored)
    array, affine = to_source(volume)
    np.testing.assert_array_equal(array, ARRAY)
    np.testing.assert_allclose(affine, stored, atol=1e-12)


@pytest.mark.parametrize("degrees", [0, 10, 40])
def test_all_48_round_trip(degrees):
    for code in CODES:
        check_round_trip(make_affine(code, rotate(degrees, 2) @ rotate(degrees / 3, 1)))


@pytest.mark.parametrize("axis", range(3))
def test_ties_come_back(axis):
    """At 45 degrees two orientations are as near, and rounding must not choose another one."""
    for code in CODES:
        check_round_trip(make_affine(code, rotate(45, axis)))


def test_any_to_any():
    for target in CODES:
        view, affine = reorient(ARRAY, SRP, target)
        assert find_code(affine) == target
        assert place_all(view, affine) == place_all(ARRAY, SRP)
