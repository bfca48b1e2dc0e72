"""Rigid alignment of two small volumes of local detail, by normalised cross-correlation (NCC).

Coarse to fine: a Fourier search over all shifts for a few small turns gives the starts, and
Gauss-Newton steps on six degrees of freedom refine them.  No start is asked of the caller, so that
it does not matter where a scan begins or how the patient lay on the table.
Source: Baker and Matthews 2004, "Lucas-Kanade 20 Years On", 3.2 (inverse compositional steps);
Padfield 2012, "Masked Object Registration in the Fourier Domain".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np

TURN_RAD = np.deg2rad(8.0)  # starts turned about each axis; refining reaches as far again
MIN_OVERLAP = 0.4  # of the smaller scan; less would compare borders
PEAKS = 2  # starts taken from each turn: one vertebra further is a common false peak
STARTS = 5  # refined at the coarse level
FINALISTS = 2  # refined at the fine level
STEPS = 20  # Gauss-Newton steps a level; most end after 6 to 12
MIN_GAIN = 1e-4  # of the NCC in a step, below which a level has converged
POINTS = (8_000, 25_000)  # sampled at the coarse and the fine level: NCC good to .01
MIN_POINTS = 200
AXES = (0, 1, 2)  # z, y, x
ACROSS_VOXELS = 12  # trunks are cut to their outline: 96 mm at 8 mm is far to either side


@dataclass(frozen=True)
class Motion:
    """Places of one volume in another: q_mm = rotation @ p_mm + shift_mm, from both centres."""

    rotation: np.ndarray  # [3, 3], axes z, y, x
    shift_mm: np.ndarray  # [3]

    @property
    def angle_deg(self) -> float:
        """Angle of the rotation."""
        cosine = (np.trace(self.rotation) - 1.0) / 2.0
        return float(np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0))))


@dataclass(frozen=True, eq=False)
class Level:
    """One resolution of a volume, with what aligning needs of it.

    Attributes:
        detail: float32 [z, y, x], 0 outside.
        inside: float32 [z, y, x], 1 where detail is known, else 0.
        voxel_mm: Side of a voxel.
        num_points: How many voxels inside are compared at most.
    """

    detail: np.ndarray
    inside: np.ndarray
    voxel_mm: float
    num_points: int
    _rng_seed: int = field(default=0, repr=False)

    @property
    def centre(self) -> np.ndarray:
        """Index of the middle, [3, 1]."""
        return (np.array(self.detail.shape, np.float32)[:, None] - 1.0) / 2.0

    @cached_property
    def index(self) -> np.ndarray:
        """Flat indices of the compared voxels, [N]."""
        index = np.flatnonzero(self.inside.ravel())
        if len(index) > self.num_points:
            rng = np.random.default_rng(self._rng_seed)
            index = np.sort(rng.choice(index, self.num_points, replace=False))
        return index

    @cached_property
    def points_mm(self) -> np.ndarray:
        """Places of the compared voxels from the middle, float32 [3, N]."""
        grid = np.array(np.unravel_index(self.index, self.detail.shape), np.float32)
        return (grid - self.centre) * self.voxel_mm

    @cached_property
    def values(self) -> np.ndarray:
        """Detail at the compared voxels, [N]."""
        return self.detail.ravel()[self.index]

    @cached_property
    def jacobian(self) -> np.ndarray:
        """Change of `values` with shift (mm) and turn (rad), float32 [N, 6]."""
        slopes = np.stack(
            [slope.ravel()[self.index] for slope in np.gradient(self.detail, self.voxel_mm)]
        )
        turned = np.cross(self.points_mm.T, slopes.T)
        return np.concatenate([slopes.T, turned], axis=1).astype(np.float32)

    @cached_property
    def power(self) -> float:
        """Mean square of the detail inside."""
        return float(np.square(self.detail).sum() / max(self.inside.sum(), 1.0))


def halve(level: Level, num_points: int) -> Level:
    """Return a level with voxels of twice the size; a voxel counts if half of it is inside."""
    even = tuple(slice(size // 2 * 2) for size in level.detail.shape)

    def average(volume: np.ndarray) -> np.ndarray:
        z, y, x = (size // 2 for size in level.detail.shape)
        return volume[even].reshape(z, 2, y, 2, x, 2).mean((1, 3, 5))

    share = average(level.inside)
    inside = (share >= 0.5).astype(np.float32)
    detail = average(level.detail) / np.maximum(share, 0.5) * inside
    return Level(detail.astype(np.float32), inside, 2.0 * level.voxel_mm, num_points)


def sample(volumes: tuple[np.ndarray, ...], places: np.ndarray) -> list[np.ndarray]:
    """Interpolate linearly; 0 outside.

    Args:
        volumes: [z, y, x] each, of one shape.
        places: float [3, N] in voxels.

    Returns:
        [N] of each volume.

    >>> sample((np.arange(8.0).reshape(2, 2, 2),), np.array([[0.5], [0.5], [0.25]]))[0].tolist()
    [3.25]
    """
    _, height, width = shape = volumes[0].shape
    last = np.array(shape)[:, None] - 1
    known = ((places >= 0) & (places <= last)).all(0)
    low = np.clip(np.floor(places), 0, np.maximum(last - 1, 0)).astype(np.int32)
    part = (places - low).astype(np.float32)
    base = np.where(known, (low[0] * height + low[1]) * width + low[2], 0)
    strides = (height * width, width, 1)
    step = [int(n > 1) * stride for n, stride in zip(shape, strides, strict=True)]
    sums = [np.zeros(places.shape[1], np.float32) for _ in volumes]
    flat = [volume.ravel() for volume in volumes]
    for corner in np.ndindex(2, 2, 2):
        weight = known.astype(np.float32)
        for axis, up in enumerate(corner):
            weight *= part[axis] if up else 1.0 - part[axis]
        index = base + sum(up * by for up, by in zip(corner, step, strict=True))
        for total, volume in zip(sums, flat, strict=True):
            total += weight * volume[index]
    return sums


def turn(level: Level, rotation: np.ndarray) -> np.ndarray:
    """Return the detail of a level turned about its middle, on the same grid."""
    if np.array_equal(rotation, np.eye(3)):
        return level.detail
    grid = np.indices(level.detail.shape, np.float32).reshape(3, -1) - level.centre
    places = rotation.T.astype(np.float32) @ grid + level.centre
    return sample((level.detail,), places)[0].reshape(level.detail.shape)


def make_turns() -> list[np.ndarray]:
    """Return the rotations that the search starts from: none, and both ways about each axis."""
    axes = np.eye(3) * TURN_RAD
    vectors = [np.zeros(3), *axes, *-axes]
    return [cv2.Rodrigues(vector)[0] for vector in vectors]


@dataclass(frozen=True, eq=False)
class Moved:
    """Fourier transforms of the volume that is moved, conjugated.

    Attributes:
        shape: Of the transforms.
        rotations: The turns.
        turned: Transform of the detail for each turn, [turn, z, y, x].
        inside: Transform of the extent; small turns hardly change an overlap.
    """

    shape: tuple[int, ...]
    rotations: list[np.ndarray]
    turned: np.ndarray
    inside: np.ndarray


@dataclass(frozen=True, eq=False)
class Fixed:
    """Fourier transforms of the volume in which places are looked for.

    Attributes:
        detail: Of the detail.
        inside: Of the extent.
    """

    detail: np.ndarray
    inside: np.ndarray


def find_reach(size: int, axis: int) -> int:
    """Return how many voxels two centres may lie apart along an axis, for volumes up to a size.

    Beyond this share of the larger volume less than MIN_OVERLAP of the smaller one is left.
    """
    reach = math.ceil((1.0 - MIN_OVERLAP) * size)
    return reach if axis == 0 else min(reach, ACROSS_VOXELS)


def find_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape of the transforms, in which no shift within reach meets its alias.

    >>> find_shape([(30, 40, 50), (40, 30, 60)])
    (64, 54, 72)
    """
    sizes = np.max(shapes, axis=0).tolist()
    return tuple(
        cv2.getOptimalDFTSize(size + find_reach(size, axis)) for axis, size in enumerate(sizes)
    )


def find_lags(a: Level, b: Level) -> list[np.ndarray]:
    """Return, for each axis, the shifts of a's indices to b's that are within reach."""
    found = []
    for axis, (size, other) in enumerate(zip(a.detail.shape, b.detail.shape, strict=True)):
        reach, middle = find_reach(max(size, other), axis), (other - size) / 2
        found.append(np.arange(math.ceil(middle - reach), math.floor(middle + reach) + 1))
    return found


def transform_turned(level: Level, shape: tuple[int, ...]) -> Moved:
    """Return what `search` needs of the level that is moved.

    Args:
        level: A coarse one.
        shape: From `find_shape`.
    """
    rotations = make_turns()
    turned = [np.conj(np.fft.rfftn(turn(level, each), shape, AXES)) for each in rotations]
    inside = np.conj(np.fft.rfftn(level.inside, shape, AXES))
    return Moved(shape, rotations, np.stack(turned), inside)


def transform_fixed(level: Level, shape: tuple[int, ...]) -> Fixed:
    """Return what `search` needs of the other level, of one shape with `transform_turned`."""
    return Fixed(*(np.fft.rfftn(part, shape, AXES) for part in (level.detail, level.inside)))


def search(
    moved: Moved, a: Level, b: Level, fixed: Fixed | None = None
) -> list[tuple[float, Motion]]:
    """Find the best shifts for each turn.

    Args:
        moved: Of a.
        a: The level that is moved.
        b: The other.
        fixed: Of b; None: made here.

    Returns:
        NCC (with the power of the whole scans) and motion, best first.
    """
    shape, lags = moved.shape, find_lags(a, b)
    within = np.ix_(*(lag % size for lag, size in zip(lags, shape, strict=True)))
    fixed = fixed or transform_fixed(b, shape)
    overlap = np.fft.irfftn(moved.inside * fixed.inside, shape, AXES)[within]
    needed = MIN_OVERLAP * min(a.inside.sum(), b.inside.sum())
    scale = 1.0 / max(float(np.sqrt(a.power * b.power)), 1e-9)
    weight = np.where(overlap > needed, scale / np.maximum(overlap, 1.0), 0.0)
    scores, found = np.fft.irfftn(moved.turned * fixed.detail, shape, (1, 2, 3)), []
    for rotation, score in zip(moved.rotations, scores, strict=True):
        score = score[within] * weight
        for _ in range(PEAKS):
            peak = np.unravel_index(int(np.argmax(score)), score.shape)
            if (ncc := float(score[peak])) <= 0.0:
                break
            # index in b = step + index in the turned a, whose middle stays in place
            step = np.array([lag[i] for lag, i in zip(lags, peak, strict=True)])
            shift_mm = (step + a.centre[:, 0] - b.centre[:, 0]) * a.voxel_mm
            found.append((ncc, Motion(rotation, shift_mm)))
            score[tuple(slice(max(0, i - 2), i + 3) for i in peak)] = 0.0
    return sorted(found, key=lambda start: -start[0])


def compute_ncc(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> float:
    """Return the cross-correlation of two details, normalised by their power.

    >>> compute_ncc(np.array([1.0, -1.0, 5.0]), np.array([2.0, -2.0, 0.0]), np.array([1, 1, 0]))
    1.0
    """
    power = float((weight * a * a).sum()) * float((weight * b * b).sum())
    return float((weight * a * b).sum()) / power**0.5 if power > 0 else 0.0


def refine(a: Level, b: Level, start: Motion) -> tuple[float, Motion]:
    """Improve a motion by Gauss-Newton steps.

    Args:
        a: The level whose points are compared.
        b: The level that is sampled.
        start: Within about a voxel or two, and 10 degrees.

    Returns:
        The NCC over the overlap, -1 where that is too small, and the motion.
    """
    best, motion = (-1.0, start), start
    needed = max(MIN_POINTS, MIN_OVERLAP * min(len(a.index), len(b.index)))
    for _ in range(STEPS):
        places = motion.rotation @ a.points_mm + motion.shift_mm[:, None]
        values, inside = sample((b.detail, b.inside), places / b.voxel_mm + b.centre)
        weight = (inside >= 0.5).astype(np.float32)
        if weight.sum() < needed:
            break
        ncc = compute_ncc(a.values, values, weight)
        gain, best = ncc - best[0], max(best, (ncc, motion), key=lambda pair: pair[0])
        if gain < MIN_GAIN:
            break
        motion = _step(a, values, weight, motion)
    return best


def _step(a: Level, values: np.ndarray, weight: np.ndarray, motion: Motion) -> Motion:
    """Undo, in the frame of a, the small motion that explains the difference best."""
    ratio = (weight * a.values * values).sum() / max(float((weight * values**2).sum()), 1e-9)
    residual = (ratio * values - a.values) * weight
    weighted = a.jacobian * weight[:, None]
    normal = (weighted.T @ a.jacobian).astype(np.float64)
    normal += np.diag(1e-3 * np.diag(normal) + 1e-6)
    step = np.linalg.solve(normal, weighted.T @ residual)
    rotation = motion.rotation @ cv2.Rodrigues(step[3:])[0].T
    return Motion(rotation, motion.shift_mm - rotation @ step[:3])


def refine_starts(
    a: Level, b: Level, starts: list[tuple[float, Motion]]
) -> list[tuple[float, Motion]]:
    """Refine starts at the coarse level.

    Args:
        a: The coarse level that is moved.
        b: The other.
        starts: From `search`, best first.

    Returns:
        NCC and motion, best first; those without enough overlap are left out.
    """
    refined = [refine(a, b, motion) for _, motion in starts[:STARTS]]
    return sorted((pair for pair in refined if pair[0] > 0.0), key=lambda pair: -pair[0])


def refine_best(
    a: Level, b: Level, refined: list[tuple[float, Motion]]
) -> tuple[float, Motion | None]:
    """Refine the best starts at the fine level.

    Args:
        a: The fine level that is moved.
        b: The other.
        refined: From `refine_starts`.

    Returns:
        The NCC at the fine level and its motion; 0 and None where no start keeps enough overlap.
    """
    final = [refine(a, b, motion) for _, motion in refined[:FINALISTS]]
    ncc, motion = max(final, key=lambda pair: pair[0], default=(0.0, None))
    return max(ncc, 0.0), motion


def align(
    coarse: tuple[Level, Level], fine: tuple[Level, Level], starts: list[tuple[float, Motion]]
) -> tuple[float, Motion | None]:
    """Refine starts at the coarse level and the best of them at the fine one.

    Args:
        coarse: Levels of both scans.
        fine: Levels of both scans.
        starts: From `search`, best first.

    Returns:
        See `refine_best`.
    """
    return refine_best(*fine, refine_starts(*coarse, starts))
