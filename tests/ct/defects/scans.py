"""Made CT scans whose every value and place is known, and the comparison of a reading with them.

Nothing here uses `lesionkeras`: a scan's truth is an array and an affine in the order in which it
was made, and a reading is compared by place in the patient, whatever the order of its axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np

TOLERANCE_MM = 0.05
TOLERANCE_HU = 1
AIR_HU, LUNG_HU, FAT_HU, LIVER_HU, BONE_HU = -1000, -820, -100, 60, 700
HANDS = [  # the 48 ways to lay index axes along patient axes, as 3x3 signed permutations
    np.eye(3)[:, order] * np.array(signs)
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]


@dataclass(frozen=True)
class Scan:
    """Truth: values and the place of each.

    Attributes:
        array: integers [k, r, c]: slice, row, column as stored in DICOM; HU, or labels of a mask.
        affine: float64 [4, 4], index (k, r, c, 1) to LPS mm.
    """

    array: np.ndarray
    affine: np.ndarray

    @property
    def spacing_mm(self) -> np.ndarray:
        """Distance of neighbours along k, r, c."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def keep(self, first: int, last: int) -> Scan:
        """Return slices first to last (half-open)."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, 0] * first
        return Scan(self.array[first:last], affine)


@dataclass(frozen=True)
class Ramp:
    """Truth of a resampled scan: HU are linear in place, so that interpolation cannot change them.

    Attributes:
        per_mm: [3], HU per mm along L, P, S.
        offset: HU at (0, 0, 0) mm.
        affine: [4, 4], (k, r, c, 1) index to LPS mm of the box that was scanned; may be sheared.
        shape: Of that box.
    """

    per_mm: np.ndarray
    offset: float
    affine: np.ndarray
    shape: tuple[int, int, int]

    def at(self, points_mm: np.ndarray) -> np.ndarray:
        """Return HU at LPS points [..., 3]."""
        return points_mm @ self.per_mm + self.offset


def make_rotation(rng: np.random.Generator, degrees: float) -> np.ndarray:
    """Return a rotation by an angle about a random axis (Rodrigues)."""
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def make_affine(rng: np.random.Generator, shape, hand: np.ndarray, degrees: float) -> np.ndarray:
    """Return an affine of random spacing and position about a patient's middle."""
    pixel_mm = round(float(rng.uniform(0.5, 0.98)), 4)
    row_mm = pixel_mm if rng.random() < 0.8 else round(float(rng.uniform(0.5, 0.98)), 4)
    slice_mm = float(rng.choice([0.7, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 5.0]))
    affine = np.eye(4)
    affine[:3, :3] = make_rotation(rng, degrees) @ hand * [slice_mm, row_mm, pixel_mm]
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[:3, 3] = np.round(rng.uniform(-150, 150, 3), 3) - middle
    return affine


def make_hu(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Return a body with lung, liver, fat and bone in air; no mirror image equals it."""
    axes = [np.linspace(-1, 1, num) for num in shape]
    k, r, c = np.meshgrid(*axes, indexing="ij")
    hu = np.full(shape, float(AIR_HU))
    hu[(r / 0.85) ** 2 + (c / 0.9) ** 2 < 1] = FAT_HU
    hu[(r / 0.75) ** 2 + (c / 0.8) ** 2 < 1] = 30
    hu[(r + 0.2) ** 2 + (c + 0.35) ** 2 < 0.12 + 0.05 * k] = LIVER_HU
    hu[(r - 0.1) ** 2 + (c - 0.4) ** 2 < 0.08 - 0.04 * k] = LUNG_HU
    hu[(r - 0.55) ** 2 + c**2 < 0.02] = BONE_HU
    hu += rng.normal(0, rng.uniform(3, 15), shape)
    return np.clip(np.round(hu), -1024, 2000).astype(np.int16)


def make_scan(
    rng: np.random.Generator, hand: np.ndarray | None = None, degrees: float = 0.0
) -> Scan:
    """Return a scan of random size, spacing and place.

    Args:
        rng: Draws all.
        hand: One of `HANDS`; None: columns to the left, rows to dorsal, slices up or down.
        degrees: By how much it is turned off the patient's axes.
    """
    rows = int(rng.integers(32, 37))  # JPEG 2000 wants 32 for its six resolutions
    shape = (int(rng.integers(6, 9)), rows, rows + int(rng.integers(1, 7)))
    if hand is None:
        hand = np.eye(3)[:, ::-1] * [rng.choice([1, -1]), 1, 1]
    return Scan(make_hu(rng, shape), make_affine(rng, shape, hand, degrees))


def make_ramp(rng: np.random.Generator, scan: Scan, affine: np.ndarray | None = None) -> Ramp:
    """Return a linear field over the box of a scan, from about -900 to 900 HU at its corners."""
    affine = scan.affine if affine is None else affine
    shape = scan.array.shape
    last = np.array(shape) - 1
    corners = np.array([(*(last * bits), 1) for bits in np.ndindex(2, 2, 2)]) @ affine.T
    per_mm = rng.normal(size=3)
    values = corners[:, :3] @ per_mm
    per_mm *= 1800 / np.ptp(values)
    values *= 1800 / np.ptp(values)
    return Ramp(per_mm, -float(values.mean()), affine, shape)


def make_mask(rng: np.random.Generator, scan: Scan) -> Scan:
    """Return a liver with a tumour in the place of a scan: labels 0, 1, 2, uint8."""
    labels = np.zeros(scan.array.shape, np.uint8)
    shape = np.array(labels.shape)
    low, high = shape // 5, shape - shape // 4
    labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = 1
    tumour = low + rng.integers(0, 2, 3)
    labels[tumour[0], tumour[1] : tumour[1] + 4, tumour[2] : tumour[2] + 5] = 2
    return replace(scan, array=labels)


def find_fault(array: np.ndarray, affine: np.ndarray, truth: Scan | Ramp) -> str:
    """Return what is wrong with a reading, or "".

    Args:
        array: [a, b, c] in any order of axes.
        affine: [4, 4], array index to LPS mm.
        truth: What was made.
    """
    if array.ndim != 3 or not np.isfinite(affine).all():
        return f"shape {array.shape} or an affine that is not finite"
    if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        return "a singular affine"
    return (_find_ramp_fault if isinstance(truth, Ramp) else _find_scan_fault)(array, affine, truth)


def _find_scan_fault(array: np.ndarray, affine: np.ndarray, truth: Scan) -> str:
    mapping = np.linalg.inv(truth.affine) @ affine  # index read -> index made
    turn = np.round(mapping[:3, :3])
    order = np.argmax(abs(turn), axis=0)  # axis made that each axis read runs along
    if sorted(order) != [0, 1, 2] or not (abs(turn).sum(0) == 1).all():
        return "other axes or spacing"
    if array.shape != tuple(truth.array.shape[axis] for axis in order):
        return f"shape {array.shape}"
    flipped = [turn[axis, i] < 0 for i, axis in enumerate(order)]
    exact = np.eye(4)
    exact[:3, :3] = turn
    for i, axis in enumerate(order):
        exact[axis, 3] = truth.array.shape[axis] - 1 if flipped[i] else 0
    last = np.array(array.shape) - 1
    corners = np.array([(*(last * bits), 1) for bits in np.ndindex(2, 2, 2)], float).T
    apart_mm = np.linalg.norm((affine - truth.affine @ exact) @ corners, axis=0).max()
    if apart_mm > TOLERANCE_MM:
        return f"corners {apart_mm:.2f} mm off"
    wanted = np.transpose(truth.array, order)
    wanted = wanted[tuple(slice(None, None, -1 if flip else 1) for flip in flipped)]
    off_hu = abs(np.asarray(array, np.float64) - wanted).max()
    return "" if off_hu <= TOLERANCE_HU else f"values {off_hu:g} off"


def _find_ramp_fault(array: np.ndarray, affine: np.ndarray, truth: Ramp) -> str:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if abs(axes.T @ axes - np.eye(3)).max() > 1e-3:
        return "axes not at right angles"
    index = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij"), -1)
    points_mm = index @ affine[:3, :3].T + affine[:3, 3]
    inverse = np.linalg.inv(truth.affine)
    inside = points_mm @ inverse[:3, :3].T + inverse[:3, 3]
    inside = ((inside > -1e-3) & (inside < np.array(truth.shape) - 1 + 1e-3)).all(-1)
    covered = inside.sum() * abs(np.linalg.det(affine[:3, :3]))
    wanted = np.prod(np.array(truth.shape) - 1) * abs(np.linalg.det(truth.affine[:3, :3]))
    if covered < 0.8 * wanted:
        return f"only {covered / wanted:.0%} of the place is covered"
    off_hu = abs(array[inside] - truth.at(points_mm[inside])).max()
    return "" if off_hu <= 1.5 else f"values {off_hu:.1f} off"  # source and result are rounded
