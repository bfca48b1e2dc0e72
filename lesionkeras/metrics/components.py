"""Connected components of a 3-D mask, as runs of voxels along x.

A tumour fills a thousandth of a scan: its runs take kilobytes where an array of component numbers
takes four bytes a voxel of all that lies between two lesions, and sizes, centroids and overlaps
follow from the runs without a pass over the volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Components:
    """Connected components, numbered from 1.

    Attributes:
        starts: int64 [R], flat index of each run's first voxel, ascending.
        lengths: int64 [R], voxels of each run.
        numbers: int64 [R], the component that each run is part of.
        shape: Of the mask, z, y, x.
        count: Number of components.
    """

    starts: np.ndarray
    lengths: np.ndarray
    numbers: np.ndarray
    shape: tuple[int, ...]
    count: int

    @property
    def sizes(self) -> np.ndarray:
        """int64 [count], voxels of each component."""
        sizes = np.bincount(self.numbers, self.lengths, minlength=self.count + 1)[1:]
        return sizes.astype(np.int64)

    @property
    def centroids_zyx(self) -> np.ndarray:
        """float64 [count, 3], mean index of each component's voxels."""
        z, y, x = np.unravel_index(self.starts, self.shape)
        middle = (z, y, x + (self.lengths - 1) / 2.0)
        sums = [
            np.bincount(self.numbers, axis * self.lengths, minlength=self.count + 1)[1:]
            for axis in middle
        ]
        return np.stack(sums, axis=1) / self.sizes[:, None]

    def find_numbers(self, flat: np.ndarray) -> np.ndarray:
        """Finds the components of voxels.

        Args:
            flat: Flat indices of voxels that are in the mask.

        Returns:
            int64, one number a voxel.
        """
        return self.numbers[np.searchsorted(self.starts, flat, side="right") - 1]

    def list_voxels(self, numbers: np.ndarray) -> np.ndarray:
        """Lists the voxels of some components.

        Args:
            numbers: Of the components.

        Returns:
            int64, flat indices, ascending.
        """
        chosen = np.isin(self.numbers, numbers)
        return _expand(self.starts[chosen], self.lengths[chosen])


def find_components(mask: np.ndarray, connectivity: int, x_first: bool = False) -> Components:
    """Finds the connected components of a mask.

    Args:
        mask: bool [z, y, x].
        connectivity: Voxels are neighbours across faces (1), also edges (2), also corners (3).
        x_first: Number components by the first voxel that is met when going through x slowest and z
            fastest, as `scipy.ndimage.label` does on NIfTI's [x, y, z]; False goes through z
            slowest, as it does on [z, y, x].

    Returns:
        The components.

    >>> mask = np.zeros((2, 2, 3), bool)
    >>> mask[0, 0, :2] = mask[1, 1, 2] = True  # they touch at a corner
    >>> [find_components(mask, c).sizes.tolist() for c in (1, 2, 3)]
    [[2, 1], [2, 1], [3]]
    """
    shape, width = mask.shape, mask.shape[2]
    flat = np.flatnonzero(mask)
    breaks = (np.diff(flat) > 1) | (flat[1:] % width == 0)
    firsts = np.flatnonzero(np.concatenate([np.ones(min(flat.size, 1), bool), breaks]))
    starts, lengths = flat[firsts], np.diff(np.append(firsts, flat.size))
    left, right = _find_touching(starts, lengths, shape, connectivity)
    graph = coo_array((np.ones(left.size, bool), (left, right)), shape=(starts.size,) * 2)
    count, labels = connected_components(graph, directed=False)
    z, y, x = np.unravel_index(starts, shape)
    order = np.ravel_multi_index((x, y, z), shape[::-1]) if x_first else starts
    met_at = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(met_at, labels, order)
    rank = np.empty(count, np.int64)
    rank[np.argsort(met_at)] = np.arange(1, count + 1)
    return Components(starts, lengths, rank[labels], shape, count)


def _find_touching(
    starts: np.ndarray, lengths: np.ndarray, shape: tuple[int, ...], connectivity: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of runs, in neighbouring rows, that touch.

    Rows are spread two voxels apart so that no run reaches into the next row.
    """
    rows, columns = np.divmod(starts, shape[2])
    heads = rows // shape[1] * (shape[1] + 1) + rows % shape[1]  # and one empty row a slice
    stride = shape[2] + 2
    first = heads * stride + columns
    last = first + lengths - 1
    pairs: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for slices, row in ((0, 1), (1, -1), (1, 0), (1, 1)):
        across = slices + abs(row)  # axes left behind already; x may be one more
        if across > connectivity:
            continue
        shift = (slices * (shape[1] + 1) + row) * stride
        slack = int(across < connectivity)
        low = np.searchsorted(last, first + shift - slack, side="left")
        high = np.searchsorted(first, last + shift + slack, side="right")
        times = np.maximum(high - low, 0)
        pairs[0].append(np.repeat(np.arange(starts.size), times))
        pairs[1].append(_expand(low, times))
    return np.concatenate(pairs[0]), np.concatenate(pairs[1])


def _expand(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return all whole numbers of [start, start + length), range after range."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if ends.size else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


def count_shared(truth: Components, prediction: Components, both: np.ndarray) -> np.ndarray:
    """Counts the voxels that each pair of components shares.

    Args:
        truth: Of a mask.
        prediction: Of another, of the same shape.
        both: Flat indices of the voxels that are in both masks.

    Returns:
        int64 [prediction.count, truth.count].
    """
    pairs = (prediction.find_numbers(both) - 1) * truth.count + truth.find_numbers(both) - 1
    shared = np.bincount(pairs, minlength=prediction.count * truth.count)
    return shared.reshape(prediction.count, truth.count)
