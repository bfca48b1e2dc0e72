"""Stored numbers to Hounsfield units or labels, a slab at a time, and whether they can be such.

`to_hu` and `to_labels` convert what is in the cache just then, so that a volume is never in memory
as float64; `check_hu` looks at the whole result for what no single value shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from lesionkeras.ct.findings import Correction, CtError, make_correction
from lesionkeras.ct.png16 import HU_RANGE

AIR_HU = HU_RANGE[0]
INT16 = np.iinfo(np.int16)
MOST_LABEL = 254  # 255 means "ignore" in some masks and "foreground" in others
# Below these sizes a volume is a test pattern or a thumbnail, and statistics say nothing.
LEAST_VOXELS = 4096
MOST_SAMPLES = 2**20
DEEP_HU, DEEP_STEP = -1100, 31  # noise does not take air there; a prime, to cross rows
CONVERT_AGAIN = "convert the scan again from its source, with its rescale slope and intercept"


@dataclass
class Met:
    """What a conversion met so far.

    Attributes:
        low: Least value before clipping.
        high: Greatest value.
        rounded_hu: Greatest change by rounding.
        deep: Histogram of a sample of what lies far below air, from int16's least value on.
    """

    low: float = math.inf
    high: float = -math.inf
    rounded_hu: float = 0.0
    deep: np.ndarray = field(default_factory=lambda: np.zeros(DEEP_HU - INT16.min, np.int64))

    def count_deep(self, values: np.ndarray) -> None:
        """Count one in `DEEP_STEP` of the values below `DEEP_HU`."""
        sample = values.reshape(-1)[::DEEP_STEP]
        deep = sample[sample < DEEP_HU].astype(np.int64) - INT16.min
        self.deep += np.bincount(deep, minlength=self.deep.size)


def _rescale(stored: np.ndarray, slope: float, inter: float) -> np.ndarray:
    """Return stored * slope + inter; whole numbers of 16 bits stay whole, without float64."""
    if (slope, inter) == (1, 0):
        return stored
    whole = stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2
    if whole and slope % 1 == 0 and inter % 1 == 0 and slope < 2**14 and abs(inter) < 2**30:
        return stored.astype(np.int32) * np.int32(slope) + np.int32(inter)
    with np.errstate(all="ignore"):
        return stored.astype(np.float64) * slope + inter


def check_rescale(slope: float, inter: float, where: str) -> tuple[float, float]:
    """Check a slope and intercept; a slope of 0 means that there is none (nifti1.h).

    Args:
        slope: HU a stored unit.
        inter: HU of a stored 0.
        where: What to call the file in an error.

    Returns:
        (slope, intercept) to use.

    Raises:
        CtError: "bad-rescale": not finite, or a negative slope.

    >>> check_rescale(0.0, 5.0, "a.nii")
    (1.0, 0.0)
    """
    if slope == 0:
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(inter)) or slope < 0:
        raise CtError(
            "bad-rescale",
            "A rescale slope or intercept is no CT's",
            where=where,
            found=f"slope {slope:g}, intercept {inter:g}",
            wanted="a positive slope and a finite intercept",
            next_step="set scl_slope to 1 and scl_inter to 0 if the stored values are HU",
        )
    return float(slope), float(inter)


def _check_finite(values: np.ndarray, low: float, high: float, where: str, outside: str) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):  # NaN survives min and max
        raise CtError(
            "not-finite",
            "A value is NaN or infinite",
            where=where,
            found=f"{int((~np.isfinite(values)).sum())} such voxels in one part",
            next_step=f"save the volume again with numbers, {outside}",
        )


def to_hu(stored: np.ndarray, slope: float, inter: float, met: Met, where: str) -> np.ndarray:
    """Convert a part of a volume to whole HU within int16.

    Args:
        stored: Any shape, any real type, native byte order.
        slope: HU a stored unit.
        inter: HU of a stored 0.
        met: Takes note of range and rounding; the same for all parts.
        where: What to call the file in an error.

    Returns:
        The same shape, whole values from -1024 to int16's greatest, in any type.

    Raises:
        CtError: "not-finite"; "not-hu": a value leaves int16.

    >>> met = Met()
    >>> to_hu(np.array([0, 2, 5], np.uint16), 0.5, -1024.0, met, "a.nii").tolist(), met.rounded_hu
    ([-1024.0, -1023.0, -1022.0], 0.5)
    """
    values = _rescale(stored, slope, inter)
    with np.errstate(all="ignore"):
        low, high = values.min().item(), values.max().item()
    if values.dtype.kind == "f":
        _check_finite(values, low, high, where, "-1024 outside the field of view")
        whole = np.rint(values)
        met.rounded_hu = max(met.rounded_hu, float(abs(values - whole).max()))
        values, low, high = whole, round(low), round(high)
    met.low, met.high = min(met.low, low), max(met.high, high)
    if low < INT16.min or high > INT16.max:
        raise CtError(
            "not-hu",
            "Values cannot be Hounsfield units",
            where=where,
            found=f"{low:g} to {high:g}",
            wanted="values around -1024 to 3071",
            next_step=CONVERT_AGAIN,
        )
    if low < AIR_HU:
        met.count_deep(values)
        values = np.maximum(values, np.int16(AIR_HU))
    return values


def to_labels(stored: np.ndarray, slope: float, inter: float, where: str) -> np.ndarray:
    """Convert a part of a mask to labels.

    Args:
        stored: Any shape, any real type, native byte order.
        slope: As in the header, 1 as a rule.
        inter: As in the header, 0 as a rule.
        where: What to call the file in an error.

    Returns:
        The same shape, whole values 0 to 254 in any type.

    Raises:
        CtError: "not-finite"; "bad-label": not whole, negative or above 254.
    """
    values = _rescale(stored, slope, inter)
    with np.errstate(all="ignore"):
        low, high = values.min().item(), values.max().item()
    found = ""
    if values.dtype.kind == "f":
        _check_finite(values, low, high, where, "0 for background")
        parts = values[values != np.rint(values)]
        found = f"{float(parts[0]):g}" if parts.size else ""
    if low < 0 or high > MOST_LABEL:
        found = f"{low if low < 0 else high:g}"
    if found:
        raise CtError(
            "bad-label",
            "A mask holds a value that is no label",
            where=where,
            found=found,
            wanted=f"whole numbers from 0 to {MOST_LABEL}",
            next_step="map its values to labels: 0 background, 1 liver, 2 tumour",
        )
    return values


def _find_why_not(array: np.ndarray, met: Met) -> str:
    """Return why a volume's values cannot be HU, or nothing.

    Each rule is of what the usual mistakes do to the whole distribution, so that crops of one
    organ and volumes clipped to a window (LiTS copies: -160 to 240) pass.
    """
    if met.rounded_hu > 1e-3 and met.high - met.low < 20:
        return "fractions in a range of less than 20, like values scaled to 0 to 1"
    if 0 <= met.low < met.high <= 20:
        return f"only whole numbers from {met.low:g} to {met.high:g}, like a mask's labels"
    if (met.low, met.high) == (0, 255):
        return "0 to 255 exactly, like a windowed picture"
    if met.low >= 0:
        sample = array.reshape(-1)[:: max(1, array.size // MOST_SAMPLES)]
        # Where 1024 was not subtracted, fat and soft tissue are most of what is above 200.  In true
        # HU that are cut at 0 that is bone and contrast, which few voxels of 850 to 1250 HU are.
        high = sample[sample > 200]
        soft = np.count_nonzero((high > 850) & (high < 1250))
        if high.size > sample.size / 100 and soft > high.size / 2:
            return "tissue near 1024 and no negative value, as if 1024 were not subtracted"
    # Padding is one value. Many values far below air are air from which 1024 was subtracted twice.
    num_deep = met.deep.sum()
    if num_deep * DEEP_STEP > array.size / 20 and met.deep.max() < num_deep / 10:
        return "noise far below air, as if 1024 were subtracted twice"
    return ""


def check_hu(array: np.ndarray, met: Met, where: str) -> tuple[Correction, ...]:
    """Check that a whole volume can be HU, and name what was changed.

    Args:
        array: int16 of any shape, contiguous: what `to_hu` gave.
        met: What `to_hu` met in its parts.
        where: What to call the file in an error.

    Returns:
        rounded-to-hu and padding-to-air, as far as they were made.

    Raises:
        CtError: "not-hu": a windowed picture, values scaled to 0..1, labels, 1024 not subtracted or
            subtracted twice.

    >>> met = Met()
    >>> image_hu = to_hu(np.array([-2000, 40], np.int16), 1, 0, met, "a.nii")
    >>> image_hu.tolist(), [str(correction) for correction in check_hu(image_hu, met, "a.nii")]
    ([-1024, 40], ['padding-to-air: values down to -2000 became -1024 HU'])
    """
    why = _find_why_not(array, met) if array.size >= LEAST_VOXELS else ""
    if why:
        raise CtError(
            "not-hu",
            "Values cannot be Hounsfield units",
            where=where,
            found=why,
            wanted="air at -1000 and water at 0",
            next_step=CONVERT_AGAIN,
        )
    corrections = []
    if met.rounded_hu > 1e-3:  # less is float32's own rounding of whole numbers
        detail = f"values moved by up to {met.rounded_hu:.3g} HU"
        corrections.append(make_correction("rounded-to-hu", detail))
    if met.low < AIR_HU:
        detail = f"values down to {met.low:g} became {AIR_HU} HU"
        corrections.append(make_correction("padding-to-air", detail))
    return tuple(corrections)
