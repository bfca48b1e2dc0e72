"""Where the slices of a series lie: order, copies, even distances, tilt, and the affine.

Positions come from ImagePositionPatient along the normal of ImageOrientationPatient alone;
SliceThickness, SpacingBetweenSlices, SliceLocation and InstanceNumber are not asked, because they
are wrong in overlapping, thinned and anonymised series.
Source: DICOM PS3.3, C.7.6.2 (image plane).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from lesionkeras.ct.dicom_series import name_files
from lesionkeras.ct.dicom_slices import Slice
from lesionkeras.ct.findings import CtError
from lesionkeras.ct.volume import RIGHT_ANGLE

SAME_SPACING = 5e-4  # relative: a quarter of a pixel over 512
SAME_PLACE_MM = 0.01  # slices nearer than this claim one position; the thinnest CT has .1 mm
EVEN = 0.02  # of a step, by which a slice may lie beside an even grid
ROUNDING_MM = 0.1  # the coarsest decimals that pass for rounding
DRIFT_MM = 0.02  # sideways over the whole stack; 0.1 mm of a pixel is a sixth
WHOLE = 0.15  # of a step: a gap within it of a multiple is missing slices, else uneven
NEXT_STEP = "export the series again, or resample it from its true positions (--resample)"


@dataclass(frozen=True)
class Stack:
    """Slices in order and where they are.

    Attributes:
        slices: Along the normal.
        normal: Unit vector, row direction x column direction.
        positions_mm: float64 [N], along the normal, growing.
        shifts_mm: float64 [N, 2], sideways along (column direction, row direction), first slice 0.
        rounding_mm: By how much positions may be off because they were written with few decimals.
        step_mm: Distance of neighbours.
    """

    slices: list[Slice]
    normal: np.ndarray
    positions_mm: np.ndarray
    shifts_mm: np.ndarray
    rounding_mm: float
    step_mm: float


def _refuse_mixed(name: str, what: str, slices: list[Slice], keys: Sequence[Hashable]) -> CtError:
    """Make the error for slices that are unlike most others."""
    counts = Counter(keys)
    usual = counts.most_common(1)[0][0]
    odd = [part for part, key in zip(slices, keys, strict=True) if key != usual]
    return CtError(
        name,
        what,
        where=name_files(part.entry.name for part in odd),
        found=f"{len(counts)} kinds in {len(slices)} slices",
        wanted="one",
        next_step="keep the files of one reconstruction in the folder",
    )


def check_alike(slices: list[Slice]) -> None:
    """Check that slices have one matrix, one spacing and one orientation.

    Args:
        slices: At least one, in any order.

    Raises:
        CtError: "mixed-matrix", "mixed-spacing" or "mixed-orientation", naming the odd files.
    """
    sizes = [part.size for part in slices]
    if len(set(sizes)) > 1:
        raise _refuse_mixed("mixed-matrix", "Rows or columns differ", slices, sizes)
    spacings = np.array([part.spacing_mm for part in slices])
    if (abs(spacings / np.median(spacings, axis=0) - 1) > SAME_SPACING).any():
        keys = [f"{row:.6g} {column:.6g}" for row, column in spacings]
        raise _refuse_mixed("mixed-spacing", "Pixel spacing differs", slices, keys)
    turns = np.array([(*part.row_direction, *part.column_direction) for part in slices])
    if (abs(turns - np.median(turns, axis=0)) > RIGHT_ANGLE).any():
        keys = [" ".join(f"{cosine:.3f}" for cosine in turn) for turn in turns]
        raise _refuse_mixed("mixed-orientation", "Orientation differs", slices, keys)


def _drop_copies(
    slices: list[Slice], positions_mm: np.ndarray, are_same: Callable[[Slice, Slice], bool]
) -> list[int]:
    """Return the indices to keep: one of each position, if its files are the same bit for bit."""
    kept = [0]
    for index in range(1, len(slices)):
        last = kept[-1]
        if positions_mm[index] - positions_mm[last] >= SAME_PLACE_MM:
            kept.append(index)
        elif not are_same(slices[last], slices[index]):
            first, second = slices[last], slices[index]
            raise CtError(
                "duplicate-slice",
                "Two different slices claim one position",
                where=name_files([first.entry.name, second.entry.name]),
                found=f"{positions_mm[index]:.3f} mm twice",
                next_step="keep one phase or one reconstruction in the folder",
            )
    return kept


def stack_slices(slices: list[Slice], are_same: Callable[[Slice, Slice], bool]) -> Stack:
    """Put slices in order along their normal and drop copies.

    Args:
        slices: In any order, see `check_alike`.
        are_same: Whether two slices at one position are copies, bit for bit.

    Raises:
        CtError: "duplicate-slice" or "too-few-slices".
    """
    first = slices[len(slices) // 2]
    normal = np.cross(first.row_direction, first.column_direction)
    normal /= np.linalg.norm(normal)
    places = np.array([part.position for part in slices])
    order = np.argsort(places @ normal, kind="stable")
    ordered = [slices[index] for index in order]
    along = places[order] @ normal
    kept = _drop_copies(ordered, along, are_same)
    if len(kept) < 2:
        raise CtError(
            "too-few-slices",
            "One slice has no distance to a next one",
            where=slices[0].entry.name,
            found="1 slice",
            wanted="at least 2",
            next_step="name the folder that holds the whole series",
        )
    places = places[order][kept]
    axes = np.stack([first.column_direction, first.row_direction], axis=1)
    unit_mm = min(10.0 ** -max(part.decimals for part in slices), ROUNDING_MM)
    positions = along[kept]
    return Stack(
        slices=[ordered[index] for index in kept],
        normal=normal,
        positions_mm=positions,
        shifts_mm=(places - places[0]) @ axes,
        rounding_mm=0.6 * unit_mm,
        step_mm=float(np.median(np.diff(positions))),
    )


def _check_gaps(stack: Stack) -> None:
    """Refuse distances that are multiples of the usual one, or none at all."""
    steps = np.diff(stack.positions_mm) / stack.step_mm
    gaps = np.flatnonzero(np.round(steps) >= 2)
    is_whole = (abs(steps[gaps] - np.round(steps[gaps])) <= WHOLE).all()
    if len(gaps) and is_whole and 2 * len(gaps) < len(steps):
        first = int(gaps[0])
        names = [stack.slices[index].entry.name for index in (first, first + 1)]
        missing = int(np.round(steps[gaps]).sum()) - len(gaps)
        raise CtError(
            "missing-slice",
            f"{missing} slice{'s are' if missing > 1 else ' is'} missing",
            where=f"the series between {names[0]} and {names[1]}",
            found=f"a distance of {steps[first] * stack.step_mm:.3f} mm",
            wanted=f"{stack.step_mm:.3f} mm",
            next_step=NEXT_STEP,
        )


def _fit_line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the slope of y over x by least squares, and the residuals."""
    centred = x - x.mean()
    slope = centred @ (y - y.mean(axis=0)) / (centred @ centred)
    return slope, y - y.mean(axis=0) - np.multiply.outer(centred, slope)


def _check_even(stack: Stack) -> None:
    """Refuse distances that are not even."""
    _check_gaps(stack)
    index = np.arange(len(stack.slices), dtype=np.float64)
    step, rest = _fit_line(index, stack.positions_mm)
    worst = int(abs(rest).argmax())
    if abs(rest[worst]) > EVEN * step + stack.rounding_mm:
        steps = np.diff(stack.positions_mm)
        raise CtError(
            "uneven-slices",
            "Slices are not at even distances",
            where=f"the series near {stack.slices[worst].entry.name}",
            found=f"distances of {steps.min():.3f} to {steps.max():.3f} mm",
            wanted=f"{stack.step_mm:.3f} mm",
            next_step=NEXT_STEP,
        )


def _check_straight(stack: Stack) -> None:
    """Refuse slices that are shifted sideways, each more than the last or one alone."""
    tilt, rest = _fit_line(stack.positions_mm, stack.shifts_mm)
    slope = float(np.linalg.norm(tilt))
    drift = slope * float(np.ptp(stack.positions_mm))
    facts = {"next_step": NEXT_STEP, "wanted": "slices along their normal"}
    if slope > RIGHT_ANGLE and drift > DRIFT_MM + stack.rounding_mm:
        raise CtError(
            "gantry-tilt",
            "Slices are stacked at a tilt",
            where=name_files(part.entry.name for part in stack.slices),
            found=f"{np.degrees(np.arctan(slope)):.2f} degrees, {drift:.2f} mm sideways",
            **facts,
        )
    apart = np.linalg.norm(rest, axis=1)
    worst = int(apart.argmax())
    if apart[worst] > DRIFT_MM + stack.rounding_mm:
        raise CtError(
            "gantry-tilt",
            "A slice is shifted sideways",
            where=stack.slices[worst].entry.name,
            found=f"{apart[worst]:.2f} mm",
            **facts,
        )


def check_stack(stack: Stack) -> None:
    """Check that slices lie along their normal at even distances.

    Args:
        stack: Two slices or more.

    Raises:
        CtError: "gantry-tilt", "missing-slice" or "uneven-slices", naming files.
    """
    _check_straight(stack)
    _check_even(stack)


def make_affine(
    stack: Stack, step_mm: float, first_mm: float, shift_mm: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """Return the affine from (slice, row, column) to LPS mm.

    Args:
        stack: Gives directions, pixel spacing and the place sideways of its first slice.
        step_mm: Between slices.
        first_mm: Of the first slice along the normal.
        shift_mm: Of the grid sideways, along columns and along rows.

    Returns:
        float64 [4, 4].
    """
    first = stack.slices[0]
    row_mm, column_mm = first.spacing_mm
    affine = np.eye(4)
    affine[:3, 0] = stack.normal * step_mm
    affine[:3, 1] = first.column_direction * row_mm
    affine[:3, 2] = first.row_direction * column_mm
    start = first.position + stack.normal * (first_mm - stack.positions_mm[0])
    sideways = first.column_direction * shift_mm[0] + first.row_direction * shift_mm[1]
    affine[:3, 3] = start + sideways
    return affine


def find_step(stack: Stack) -> float:
    """Return the step of even slices, from all of them, so that rounding averages out."""
    index = np.arange(len(stack.slices), dtype=np.float64)
    return float(_fit_line(index, stack.positions_mm)[0])
