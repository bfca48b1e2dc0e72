"""Slices at uneven distances, with gaps or at a tilt, onto an even grid at right angles.

Every slice is moved sideways to where it lies, and every new slice is taken linearly between the
two that are true neighbours: the way of Slicer's acquisition transform, on one grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lesionkeras.ct.findings import CtError

MAX_VOXELS = 1 << 31  # 4 GiB of int16


@dataclass(frozen=True)
class Resampled:
    """A resampled stack.

    Attributes:
        array: [N, H, W] of the input's type.
        step_mm: Between slices.
        shift_px: Of the new grid against the first slice, along rows and columns, at most 0.
    """

    array: np.ndarray
    step_mm: float
    shift_px: tuple[float, float]


def move_slice(
    image: np.ndarray, shift_px: tuple[float, float], size: tuple[int, int], fill: float
) -> np.ndarray:
    """Move a slice on a larger sheet, linearly.

    Args:
        image: [H, W].
        shift_px: By which rows and columns move, at least 0.
        size: Of the sheet; what lies outside of the slice is filled.
        fill: Value of the rest.

    Returns:
        float32 of shape `size`.

    >>> move_slice(np.array([[4.0, 8.0]]), (0.0, 0.5), (1, 3), 0.0).tolist()
    [[2.0, 6.0, 4.0]]
    """
    moved = image.astype(np.float32)
    for axis, shift in enumerate(shift_px):
        whole = math.floor(shift)
        part = np.float32(shift - whole)
        room = size[axis] - moved.shape[axis] - whole
        widths = [(0, 0), (0, 0)]
        widths[axis] = (whole, room)
        if part:
            before, after = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
            before[axis], after[axis] = (whole, room), (whole + 1, room - 1)
            moved = (1 - part) * np.pad(moved, before, constant_values=fill) + part * np.pad(
                moved, after, constant_values=fill
            )
        else:
            moved = np.pad(moved, widths, constant_values=fill)
    return moved


def _find_sheet(
    shifts_px: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, tuple[float, float], tuple[int, int]]:
    """Return each slice's shift on a sheet that holds all, the sheet's own shift, and its size."""
    low = shifts_px.min(axis=0)
    shifts = shifts_px - low
    shifts = np.where(abs(shifts - shifts.round()) < 1e-6, shifts.round(), shifts)
    room = np.ceil(shifts.max(axis=0)).astype(int)
    sheet = (size[0] + int(room[0]), size[1] + int(room[1]))
    return shifts, (float(low[0]), float(low[1])), sheet


def resample_stack(
    array: np.ndarray,
    positions_mm: np.ndarray,
    shifts_px: np.ndarray,
    fill: float,
) -> Resampled:
    """Resample slices from their true positions.

    The new slices begin at the first and end at the last position, at the median distance or the
    next smaller or larger one that fits.

    Args:
        array: [N, H, W], N at least 2; int16 HU or a uint8 mask of 0 and 1.
        positions_mm: [N], growing.
        shifts_px: [N, 2], each slice's place sideways in rows and columns.
        fill: Value where there is no slice.

    Returns:
        An array of the same type; HU and mask are rounded, a mask's .5 to 0.

    Raises:
        CtError: "too-large".
    """
    length = float(positions_mm[-1] - positions_mm[0])
    num_steps = max(1, round(length / float(np.median(np.diff(positions_mm)))))
    shifts, shift_px, sheet = _find_sheet(np.asarray(shifts_px, np.float64), array.shape[1:])
    shape = (num_steps + 1, *sheet)
    if math.prod(shape) > MAX_VOXELS:
        found = f"{' x '.join(map(str, shape))} voxels"
        raise CtError("too-large", "A resampled volume would be too large", found=found)
    result = np.empty(shape, array.dtype)
    targets = positions_mm[0] + np.arange(num_steps + 1) * (length / num_steps)
    below = np.clip(np.searchsorted(positions_mm, targets + 1e-6) - 1, 0, len(array) - 2)
    moved: dict[int, np.ndarray] = {}
    for number, (target, low) in enumerate(zip(targets, below.tolist(), strict=True)):
        for index in (low, low + 1):
            if index not in moved:
                shift = (float(shifts[index, 0]), float(shifts[index, 1]))
                moved[index] = move_slice(array[index], shift, sheet, fill)
        moved = {index: moved[index] for index in (low, low + 1)}
        share = (target - positions_mm[low]) / (positions_mm[low + 1] - positions_mm[low])
        share = np.float32(np.clip(share, 0, 1))
        result[number] = np.rint((1 - share) * moved[low] + share * moved[low + 1])
    return Resampled(result, length / num_steps, shift_px)
