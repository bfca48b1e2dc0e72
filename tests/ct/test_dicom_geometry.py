"""Order, distances, tilt and tolerance, with positions by hand."""

import numpy as np
import pytest

from lesionkeras.ct.dicom_files import FileEntry
from lesionkeras.ct.dicom_geometry import (
    check_alike,
    check_stack,
    find_step,
    make_affine,
    stack_slices,
)
from lesionkeras.ct.dicom_parse import Header
from lesionkeras.ct.dicom_slices import PixelFormat, Slice
from lesionkeras.ct.findings import CtError

ROW, COLUMN = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])


def make_part(place, name="", **options) -> Slice:
    facts = {
        "entry": FileEntry(name or f"z{place[2]:g}", 0, None),
        "header": Header(),
        "frame": 0,
        "num_frames": 1,
        "size": (4, 6),
        "spacing_mm": (0.8, 0.6),
        "row_direction": ROW,
        "column_direction": COLUMN,
        "position": np.array(place, float),
        "decimals": 6,
        "pixels": PixelFormat(16, 16, 15, False),
    }
    return Slice(**{**facts, **options})


def stack(zs, xs=None, ys=None, **options):
    zeros = np.zeros(len(zs))
    places = zip(zeros if xs is None else xs, zeros if ys is None else ys, zs, strict=True)
    parts = [make_part(place, f"f{number}", **options) for number, place in enumerate(places)]
    return stack_slices(parts, lambda first, second: False)


def refuse(*args, **options) -> CtError:
    with pytest.raises(CtError) as error:
        check_stack(stack(*args, **options))
    return error.value


def test_order_step_and_affine():
    made = stack([5.0, 0.0, 2.5, 7.5])
    assert [part.entry.name for part in made.slices] == ["f1", "f2", "f0", "f3"]
    check_stack(made)
    assert find_step(made) == pytest.approx(2.5)
    affine = make_affine(made, 2.5, 0.0, (0.8, -0.6))
    wanted = [[0, 0, 0.6, -0.6], [0, 0.8, 0, 0.8], [2.5, 0, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(affine, wanted, atol=1e-12)


def test_normal_is_row_times_column():
    parts = [make_part((0, 0, z), column_direction=-COLUMN) for z in (0.0, 1.0)]
    made = stack_slices(parts, lambda first, second: False)
    assert made.normal.tolist() == [0, 0, -1] and made.positions_mm.tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("zs", "missing", "files"),
    [
        ([0, 1, 3, 4, 5], "1 slice is", "f1 and f2"),
        ([0, 1, 2, 5, 6, 7], "2 slices are", "f2 and f3"),
        ([0, 1, 2, 4, 5, 8, 9, 10], "3 slices are", "f2 and f3"),
        ([0, 1.02, 2, 3.95, 5], "1 slice is", "f2 and f3"),
    ],
)
def test_missing_slices(zs, missing, files):
    error = refuse(np.array(zs) * 1.25)
    assert error.name == "missing-slice"
    assert error.what.startswith(missing) and error.where == f"the series between {files}"


@pytest.mark.parametrize(
    "zs",
    [
        [0, 1, 2.1, 3, 4, 5],
        [0, 1, 2, 3.6, 4.6, 5.6],
        [0, 1, 2, 3, 4.05, 5.1, 6.15, 7.2],  # another distance from the middle on
        [0, 1, 2, 4, 6, 8],
    ],
)
def test_uneven(zs):
    error = refuse(np.array(zs) * 2.0)
    assert error.name == "uneven-slices" and error.where.startswith("the series near f")


@pytest.mark.parametrize("step", [0.7, 1.25, 2.5, 3.27])
@pytest.mark.parametrize("decimals", [1, 2, 3, 6])
def test_rounded_positions_are_even(step, decimals):
    zs = np.round(-123.456 + np.arange(400) * step, decimals)
    made = stack(zs, decimals=decimals)
    check_stack(made)
    assert find_step(made) == pytest.approx(step, abs=1e-3)


def test_few_decimals_hide_no_shift():
    zs = np.arange(12) * 1.0
    zs[5] += 0.1
    assert refuse(zs, decimals=1).name == "uneven-slices"


@pytest.mark.parametrize("degrees", [0.3, 1.0, 2.9, 20.0, -5.0])
def test_tilt(degrees):
    zs = np.arange(30) * 2.0
    error = refuse(zs, ys=zs * np.tan(np.radians(degrees)))
    assert error.name == "gantry-tilt"
    assert error.found.startswith(f"{abs(degrees):.2f} degrees")


def test_rounding_is_no_tilt():
    """Cosines of six digits and positions of three: up to .0002 mm sideways over 400 mm."""
    turn = np.radians(7.3)
    row = np.round([np.cos(turn), np.sin(turn), 0], 6)
    column = np.array([0, 0, -1.0])
    normal = np.cross([np.cos(turn), np.sin(turn), 0], column)
    parts = [
        make_part(np.round(normal * k, 3), row_direction=row, column_direction=column, decimals=3)
        for k in range(400)
    ]
    check_stack(stack_slices(parts, lambda first, second: False))


def test_one_slice_beside_the_others():
    xs = np.zeros(9)
    xs[4] = 0.5
    error = refuse(np.arange(9) * 1.0, xs=xs)
    assert (error.name, error.where) == ("gantry-tilt", "f4")
    assert error.what == "A slice is shifted sideways"


def test_copies_and_duplicates():
    parts = [make_part((0, 0, z), f"f{n}") for n, z in enumerate((0.0, 1.0, 1.0, 2.0, 1.0))]
    kept = stack_slices(parts, lambda first, second: True)
    assert [part.entry.name for part in kept.slices] == ["f0", "f1", "f3"]
    with pytest.raises(CtError) as error:
        stack_slices(parts, lambda first, second: False)
    assert (error.value.name, error.value.where) == ("duplicate-slice", "f1, f2")
    with pytest.raises(CtError) as error:
        stack_slices(parts[:1], lambda first, second: True)
    assert error.value.name == "too-few-slices"


def turn(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), 0])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"size": (6, 4)}, "mixed-matrix"),
        ({"spacing_mm": (0.6, 0.8)}, "mixed-spacing"),
        ({"spacing_mm": (0.8, 0.601)}, "mixed-spacing"),
        ({"row_direction": turn(0.1), "column_direction": turn(90.1)}, "mixed-orientation"),
        ({"row_direction": -ROW}, "mixed-orientation"),
    ],
)
def test_mixed(options, name):
    parts = [make_part((0, 0, z), f"f{z}") for z in range(5)]
    check_alike(parts)
    parts[3] = make_part((0, 0, 3), "odd", **options)
    with pytest.raises(CtError) as error:
        check_alike(parts)
    assert (error.value.name, error.value.where) == (name, "odd")
    assert error.value.found == "2 kinds in 5 slices"
