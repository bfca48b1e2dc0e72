"""Distances between the surfaces of two masks in millimetres.

Programs differ in which voxels they call surface and in how they average, so both are parameters
with names.  Distances are exact (float64): surface voxels that the masks share are at distance 0
and need no search, the rest is looked up in a k-d tree of the other surface.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from lesionkeras.metrics.overlap import SLAB_SLICES, UNDEFINED


@dataclass(frozen=True)
class SurfaceConvention:
    """What a surface is and how its distances are averaged.

    Attributes:
        connectivity: A voxel of the mask is surface if one of these neighbours is outside: 1 the 6
            across faces, 2 also the 12 across edges, 3 also the 8 across corners.  Outside of the
            array is outside of the mask.
        pooled: Whether ASSD is the mean over all surface voxels of both masks (Heimann 2009);
            False takes the mean of the two directions' means, which do not weigh the same where
            one surface has more voxels.
    """

    connectivity: int
    pooled: bool


# The organisers' `Surface`: 18 neighbours, ASSD as in Heimann et al., IEEE TMI 28 (2009) 1251.
# The ASSD that LiTS published with its sample submission is this one too (6.995965, 4.245046 and
# .310655 mm), the MSSD beside it is `MEDPY`'s.
LITS = SurfaceConvention(connectivity=2, pooled=True)
# medpy.metric.binary's hd and assd as called without a `connectivity`; before 0.5 assd averaged the
# two directions.
MEDPY = SurfaceConvention(connectivity=1, pooled=True)
MEDPY_0_4 = SurfaceConvention(connectivity=1, pooled=False)


@dataclass(frozen=True)
class SurfaceScores:
    """Distances between two surfaces; NaN where a mask is empty, as nothing can be measured.

    Attributes:
        assd_mm: Average symmetric surface distance.
        rmsd_mm: Root mean square symmetric surface distance.
        msd_mm: Maximum symmetric surface distance (MSSD, Hausdorff).
    """

    assd_mm: float
    rmsd_mm: float
    msd_mm: float


NO_SURFACE = SurfaceScores(UNDEFINED, UNDEFINED, UNDEFINED)


def measure_surfaces(
    truth: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: tuple[float, float, float],
    convention: SurfaceConvention = LITS,
) -> SurfaceScores:
    """Measures how far two masks' surfaces lie apart.

    Args:
        truth: bool [z, y, x]; cut to what holds both masks it takes the least time.
        prediction: bool, the same shape.
        spacing_mm: Of voxels, z, y, x.
        convention: What is surface, and how to average.

    Returns:
        The scores, NaN where a mask is empty.

    Source: Heimann et al., IEEE TMI 28 (2009) 1251, section II-C.

    >>> truth, prediction = np.zeros((2, 1, 1, 4), bool)
    >>> truth[..., 0], prediction[..., 2:] = True, True  # from 0 to 2; from 2 and 3 to 0
    >>> measure_surfaces(truth, prediction, (5.0, 1.0, 0.5), LITS).assd_mm
    1.1666666666666667
    >>> measure_surfaces(truth, prediction, (5.0, 1.0, 0.5), MEDPY_0_4).assd_mm
    1.125
    """
    to_prediction, to_truth = find_distances(truth, prediction, spacing_mm, convention.connectivity)
    if not to_prediction.size or not to_truth.size:
        return NO_SURFACE
    both = np.concatenate([to_prediction, to_truth])
    directed = (to_prediction.mean() + to_truth.mean()) / 2.0
    return SurfaceScores(
        assd_mm=float(both.mean() if convention.pooled else directed),
        rmsd_mm=float(np.sqrt(np.square(both).mean())),
        msd_mm=float(both.max()),
    )


def find_distances(
    truth: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: tuple[float, float, float],
    connectivity: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds each surface voxel's distance to the other surface.

    Args:
        truth: bool [z, y, x].
        prediction: bool, the same shape.
        spacing_mm: Of voxels, z, y, x.
        connectivity: See `SurfaceConvention`.

    Returns:
        float64 mm from the truth's surface voxels to the prediction's, and back; in no order, and
        both without any if one mask is empty.
    """
    if not truth.size:
        return np.zeros(0), np.zeros(0)
    shared, only_truth, only_prediction = _list_surfaces(truth, prediction, connectivity)
    num_truth = len(shared) + len(only_truth)
    num_prediction = len(shared) + len(only_prediction)
    if not num_truth or not num_prediction:
        return np.zeros(0), np.zeros(0)
    points = [
        np.stack(np.unravel_index(flat, truth.shape), axis=1) * np.asarray(spacing_mm, np.float64)
        for flat in (shared, only_truth, only_prediction)
    ]
    return (
        _search(points[1], (points[0], points[2]), num_truth),
        _search(points[2], (points[0], points[1]), num_prediction),
    )


def _search(points: np.ndarray, others: tuple[np.ndarray, np.ndarray], total: int) -> np.ndarray:
    """Return `total` distances: those of the points, and 0 of the voxels that are shared."""
    distances = np.zeros(total)
    if len(points):
        # Points come in the order of a grid: balancing the tree takes longer than it saves.
        tree = cKDTree(np.concatenate(others), balanced_tree=False, compact_nodes=False)
        distances[: len(points)] = tree.query(points)[0]
    return distances


def _list_surfaces(
    truth: np.ndarray, prediction: np.ndarray, connectivity: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return flat indices of surface voxels: of both masks, of the truth, of the prediction."""
    found: tuple[list[np.ndarray], ...] = ([], [], [])
    num_slices, plane = len(truth), truth[0].size
    for first in range(0, num_slices, SLAB_SLICES):
        last = min(first + SLAB_SLICES, num_slices)
        of_truth = _find_surface(truth, first, last, connectivity)
        of_prediction = _find_surface(prediction, first, last, connectivity)
        shared = of_truth & of_prediction
        for flat, mask in zip(found, (shared, of_truth, of_prediction), strict=True):
            flat.append(np.flatnonzero(mask if mask is shared else mask ^ shared) + first * plane)
    shared_flat, truth_flat, prediction_flat = (np.concatenate(parts) for parts in found)
    return shared_flat, truth_flat, prediction_flat


def _find_surface(mask: np.ndarray, first: int, last: int, connectivity: int) -> np.ndarray:
    """Return the surface in slices `first` to `last`, looking one slice further on either side."""
    start = max(first - 1, 0)
    part = mask[start : last + 1]
    inner = _erode(part, connectivity)
    if start == 0:
        inner[0] = False
    if last + 1 > len(mask):
        inner[-1] = False
    kept = slice(first - start, last - start)
    return part[kept] & ~inner[kept]


def _erode(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """Return the voxels whose neighbours are all inside; first and last slice know one side only.

    The 18-neighbourhood is the union of three 3x3 squares, so that its erosion is the intersection
    of theirs, and a square's erosion is a line's along one axis and then along the other.
    """
    along_x = _erode_along(mask, 2)
    if connectivity == 1:
        return along_x & _erode_along(mask, 1) & _erode_along(mask, 0)
    square_yx = _erode_along(along_x, 1)
    if connectivity == 3:
        return _erode_along(square_yx, 0)
    along_y = _erode_along(mask, 1)
    return square_yx & _erode_along(along_x & along_y, 0)


def _erode_along(mask: np.ndarray, axis: int) -> np.ndarray:
    inner = mask.copy()
    out, values = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
    out[1:] &= values[:-1]
    out[:-1] &= values[1:]
    if axis:  # along z the caller knows whether the volume ends here
        out[0] = out[-1] = False
    return inner
