"""A truth and a prediction, checked, cut to what holds them and counted once for both protocols."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lesionkeras.errors import DataError
from lesionkeras.metrics.components import Components, count_shared, find_components
from lesionkeras.metrics.overlap import (
    LIVER,
    NUM_LABELS,
    TUMOUR,
    Overlap,
    count_labels,
    find_overlap,
)
from lesionkeras.metrics.surface import SurfaceScores, measure_surfaces


@dataclass(frozen=True)
class MaskPair:
    """Two masks of one scan, cut to the box that holds the labels of both.

    Attributes:
        truth: uint8 [z, y, x], a view.
        prediction: uint8, the same shape.
        spacing_mm: Of voxels, z, y, x.
        origin_zyx: Index in the whole volume of the first voxel.
        counts: int64 [3, 3], voxels of the box by true and predicted label.
        num_voxels: Of the whole volume.
    """

    truth: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, float, float]
    origin_zyx: tuple[int, int, int]
    counts: np.ndarray
    num_voxels: int

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        z, y, x = self.spacing_mm
        return z * y * x

    @property
    def liver(self) -> Overlap:
        """Overlap of labels 1 and 2."""
        return find_overlap(self.counts, LIVER, self.num_voxels)

    @property
    def tumour(self) -> Overlap:
        """Overlap of label 2."""
        return find_overlap(self.counts, TUMOUR, self.num_voxels)

    @cached_property
    def liver_surfaces(self) -> SurfaceScores:
        """Distances between the livers' surfaces, in the organisers' convention."""
        return measure_surfaces(self.truth >= LIVER, self.prediction >= LIVER, self.spacing_mm)

    @cached_property
    def tumour_surfaces(self) -> SurfaceScores:
        """Distances between the surfaces of all tumour, in the organisers' convention."""
        return self.measure_voxels(
            np.flatnonzero(self.truth == TUMOUR), np.flatnonzero(self.prediction == TUMOUR)
        )

    def measure_voxels(self, truth: np.ndarray, prediction: np.ndarray) -> SurfaceScores:
        """Measures the surfaces of two sets of voxels, in the box that holds them.

        Args:
            truth: Flat indices in the box of the pair.
            prediction: The same.
        """
        shape = self.truth.shape
        places = np.stack(np.unravel_index(np.concatenate([truth, prediction]), shape))
        if not places.size:
            places = np.zeros((3, 1), np.int64)
        low = places.min(axis=1)
        sides = places.max(axis=1) - low + 1
        masks = np.zeros((2, *sides), bool)
        for mask, flat in zip(masks, (truth, prediction), strict=True):
            z, y, x = np.unravel_index(flat, shape)
            mask[z - low[0], y - low[1], x - low[2]] = True
        return measure_surfaces(masks[0], masks[1], self.spacing_mm)


@dataclass(frozen=True)
class Lesions:
    """Tumour components of truth and prediction, and what they share.

    Attributes:
        truth: Components of the truth's label 2.
        prediction: Components of the prediction's.
        shared: int64 [predicted, true], voxels that two components share.
    """

    truth: Components
    prediction: Components
    shared: np.ndarray


def find_lesions(pair: MaskPair, connectivity: int, x_first: bool = False) -> Lesions:
    """Finds the tumour components of both masks.

    Args:
        pair: The masks.
        connectivity: See `find_components`.
        x_first: See `find_components`.
    """
    of_truth, of_prediction = pair.truth == TUMOUR, pair.prediction == TUMOUR
    truth = find_components(of_truth, connectivity, x_first)
    prediction = find_components(of_prediction, connectivity, x_first)
    both = np.flatnonzero(of_truth & of_prediction)
    return Lesions(truth, prediction, count_shared(truth, prediction, both))


def pair_masks(
    truth: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: tuple[float, float, float],
    case: str = "",
) -> MaskPair:
    """Checks two masks of a scan and cuts them to what holds their labels.

    Args:
        truth: uint8 [z, y, x], 0 background, 1 liver, 2 tumour; the whole volume.
        prediction: The same shape.
        spacing_mm: Of voxels, z, y, x.
        case: What to call it in an error.

    Returns:
        The pair, as views.

    Raises:
        DataError: Not three axes, different shapes, another type or label, no voxel, or a spacing
            that is none.

    >>> truth = np.zeros((4, 5, 6), np.uint8)
    >>> truth[1:3, 2:4, 3], prediction = 2, np.ones((4, 5, 6), np.uint8)
    >>> pair_masks(truth, prediction, (5.0, 1.0, 0.5)).tumour.num_truth
    4
    """
    _check(truth, prediction, spacing_mm, case)
    low, high = _find_box(truth, prediction)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    inner_truth, inner_prediction = truth[box], prediction[box]
    for name, mask in (("truth", inner_truth), ("prediction", inner_prediction)):
        if mask.size and mask.max() >= NUM_LABELS:
            raise DataError(
                f"A mask of the {name} holds a label that has no meaning here",
                where=case,
                found=str(int(mask.max())),
                wanted="0 background, 1 liver, 2 tumour",
                next_step="map its labels to these",
            )
    counts = count_labels(inner_truth, inner_prediction)
    spacing = (float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2]))
    return MaskPair(inner_truth, inner_prediction, spacing, low, counts, truth.size)


def _check(
    truth: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: tuple[float, float, float],
    case: str,
) -> None:
    if truth.ndim != 3 or truth.shape != prediction.shape or not truth.size:
        raise DataError(
            "Truth and prediction are not of one grid",
            where=case,
            found=f"{truth.shape} and {prediction.shape}",
            wanted="the same three sides, z, y, x",
        )
    if truth.dtype != np.uint8 or prediction.dtype != np.uint8:
        raise DataError(
            "A mask is not of whole labels",
            where=case,
            found=f"{truth.dtype} and {prediction.dtype}",
            wanted="uint8",
        )
    if len(spacing_mm) != 3 or not all(np.isfinite(side) and side > 0 for side in spacing_mm):
        raise DataError(
            "A spacing is none",
            where=case,
            found=str(spacing_mm),
            wanted="three numbers of millimetres above 0",
        )


def _find_box(
    truth: np.ndarray, prediction: np.ndarray
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the first and last + 1 voxel with a label in either mask; empty masks give no box."""
    flat = np.bitwise_or.reduce(truth, axis=0) | np.bitwise_or.reduce(prediction, axis=0)
    rows, columns = np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))
    if not rows.size:
        return (0, 0, 0), (0, 0, 0)
    inner = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    slices = np.flatnonzero(
        [a.any() or b.any() for a, b in zip(truth[inner], prediction[inner], strict=True)]
    )
    found = [(int(places[0]), int(places[-1]) + 1) for places in (slices, rows, columns)]
    (z, z_end), (y, y_end), (x, x_end) = found
    return (z, y, x), (z_end, y_end, x_end)
