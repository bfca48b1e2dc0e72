"""The per-lesion table: where each lesion lies, how large it is and how well it was outlined."""

from __future__ import annotations

import numpy as np

from lesionkeras.metrics.components import Components
from lesionkeras.metrics.mask_pair import Lesions, MaskPair
from lesionkeras.metrics.overlap import divide
from lesionkeras.metrics.scores import Lesion


def list_lesions(
    pair: MaskPair,
    lesions: Lesions,
    members: np.ndarray,
    merged: np.ndarray,
    found: tuple[np.ndarray, np.ndarray],
) -> tuple[Lesion, ...]:
    """Lists the lesions of a case, then the predicted components that touch none.

    Args:
        pair: The masks.
        lesions: Their components.
        members: bool [predicted, true], which components are given to which lesion.
        merged: int64 [true], a number that lesions scored as one have in common.
        found: bool [true] each, at overlap above 0 and above .5.

    Returns:
        A row each.
    """
    truth, prediction = lesions.truth, lesions.prediction
    shared, true = _merge(lesions.shared, truth.sizes, merged)
    both, predicted = (shared * members).sum(axis=0), prediction.sizes @ members
    centroids = _place(pair, truth)
    rows = [
        Lesion(
            kind="lesion",
            number=place + 1,
            volume_mm3=int(truth.sizes[place]) * pair.voxel_mm3,
            centroid_zyx=centroids[place],
            predicted_mm3=int(predicted[place]) * pair.voxel_mm3,
            num_components=int(members[:, place].sum()),
            dice=divide(2 * both[place], true[place] + predicted[place]),
            iou=divide(both[place], true[place] + predicted[place] - both[place]),
            found=bool(found[0][place]),
            found_half=bool(found[1][place]),
        )
        for place in range(truth.count)
    ]
    return tuple(rows) + _list_false_components(pair, lesions)


def _merge(
    shared: np.ndarray, sizes: np.ndarray, merged: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return shared voxels [predicted, true] and sizes [true] of what lesions are merged into."""
    groups, group_idx = np.unique(merged, return_inverse=True)
    if len(groups) == len(merged):
        return shared, sizes
    is_of = group_idx[:, None] == np.arange(len(groups))
    of_group = np.rint(shared.astype(np.float64) @ is_of).astype(np.int64)  # BLAS has no integers
    return of_group[:, group_idx], (sizes @ is_of)[group_idx]


def _list_false_components(pair: MaskPair, lesions: Lesions) -> tuple[Lesion, ...]:
    sizes, centroids = lesions.prediction.sizes, _place(pair, lesions.prediction)
    return tuple(
        Lesion(
            kind="false component",
            number=int(place) + 1,
            volume_mm3=int(sizes[place]) * pair.voxel_mm3,
            centroid_zyx=centroids[place],
            predicted_mm3=int(sizes[place]) * pair.voxel_mm3,
            num_components=1,
            dice=0.0,
            iou=0.0,
            found=False,
            found_half=False,
        )
        for place in np.flatnonzero(~lesions.shared.any(axis=1))
    )


def _place(pair: MaskPair, components: Components) -> list[tuple[float, float, float]]:
    """Return centroids as indices of the whole volume."""
    centroids = components.centroids_zyx + pair.origin_zyx
    return [(float(z), float(y), float(x)) for z, y, x in centroids]
