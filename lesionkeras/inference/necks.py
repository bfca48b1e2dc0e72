"""Cuts off what hangs on the liver by a neck: a heart or a spleen that was taken for liver.

A heart lies on the liver, a spleen touches its left lobe; where a network takes them for liver, the
largest piece of liver has them with it.  They hang on it by less than they are thick themselves.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

LIVER = 1
GRID_MM = 1.5  # voxels are skipped up to this distance: necks are ten times as thick
STEP_MM = 2.0  # from one thickness of neck that is tried to the next
LEAST_PIECE_MM3 = 10_000.0  # less is an uneven edge, no organ
LEAST_CORE_MM3 = 500.0  # of a part, where the neck is taken off all around: less is none
FACES = ndimage.generate_binary_structure(3, 1)


def cut_necks(
    mask: np.ndarray, neck_mm: float, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Make background of liver that hangs on the part with the most liver by a neck.

    Thin necks are tried first, so that each cut lies where the neck is.  Parts of 10 ml and more
    are cut off, of which at least half is liver: tumours may bulge.  Tumours stay everywhere:
    `keep_tumour_inside` is the step that drops them.

    Args:
        mask: uint8 [z, y, x], 0 background, 1 liver, 2 tumour; not changed.
        neck_mm: Thickness: a ball of this diameter does not pass.
        spacing_mm: Of a voxel, z, y and x.

    Returns:
        uint8 [z, y, x].

    >>> mask = np.zeros((40, 40, 120), np.uint8)
    >>> mask[5:35, 5:35, 5:60] = mask[5:35, 5:35, 70:100] = mask[18:22, 18:22, 60:70] = 1
    >>> mask[20, 20, 64:] = 1  # and a thread
    >>> [int(cut_necks(mask, neck, (1.0, 1.0, 1.0)).any((0, 1)).sum()) for neck in (2.0, 8.0)]
    [115, 60]
    """
    result = mask.copy()
    found = ndimage.find_objects((mask > 0).astype(np.uint8))
    if not found or not (mask == LIVER).any():
        return result
    steps = [max(1, int(GRID_MM / spacing)) for spacing in spacing_mm]
    thin = tuple(slice(None, None, step) for step in steps)
    part = mask[found[0]]
    body = _find_body(part[thin], neck_mm, np.multiply(steps, spacing_mm))
    for axis, step in enumerate(steps):
        body = body.repeat(step, axis)
    body = body[tuple(slice(length) for length in part.shape)]
    result[found[0]][~body & (part == LIVER)] = 0
    return result


def _find_body(part: np.ndarray, neck_mm: float, spacing_mm: np.ndarray) -> np.ndarray:
    """What is not cut off, bool [z, y, x]; what is background may be either."""
    kept, voxel_mm3 = np.ones(part.shape, bool), float(np.prod(spacing_mm))
    foreground = np.pad(part > 0, 1)
    depth_mm = ndimage.distance_transform_edt(foreground, sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    for radius_mm in np.append(np.arange(STEP_MM, neck_mm / 2, STEP_MM), neck_mm / 2):
        cores, count = ndimage.label((depth_mm > radius_mm) & kept, FACES)
        is_core = np.bincount(cores.ravel()) * voxel_mm3 >= LEAST_CORE_MM3
        is_core[0] = False
        if is_core.sum() < 2:
            continue
        cores[~is_core[cores]] = 0
        nearest = ndimage.distance_transform_edt(
            cores == 0, sampling=spacing_mm, return_distances=False, return_indices=True
        )
        owners = cores[tuple(nearest)]
        sizes, livers = (
            np.bincount(owners[kept & seen], minlength=count + 1)
            for seen in (part > 0, part == LIVER)
        )
        is_cut = (sizes * voxel_mm3 >= LEAST_PIECE_MM3) & (2 * livers >= sizes)
        is_cut[livers.argmax()] = False  # not of all: a tumour alone may be the largest
        kept &= ~is_cut[owners]
    return kept
