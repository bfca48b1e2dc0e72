"""Axes of a volume against the patient: which way each points, and turning them.

Codes name the direction in which an array axis grows, one letter an axis: L, P, S and their
opposites R, A, I (DICOM's patient axes; NIfTI's RAS+ and ITK's LPS are codes of this kind).
"""

from __future__ import annotations

from itertools import permutations, product

import numpy as np

POSITIVE, NEGATIVE = "LPS", "RAI"  # patient axes x, y, z of DICOM, and their opposites
CANONICAL = "SPL"  # array axes z, y, x: cranial, dorsal, left
TIE = 1e-6  # of summed cosines: orientations that are equally near
# All 48 ways to lay three array axes along three patient axes.
CODES = tuple(
    "".join(letters)
    for axes in permutations(range(3))
    for letters in product(*((POSITIVE[axis], NEGATIVE[axis]) for axis in axes))
)


def find_code(affine: np.ndarray) -> str:
    """Return the orientation that an affine is nearest to.

    Args:
        affine: float [4, 4], array index to LPS mm, one column an array axis.

    Returns:
        Three letters, one an array axis, of three different patient axes.

    >>> find_code(np.diag([-2.0, 1.0, 1.0, 1.0])), find_code(np.eye(4)[[2, 1, 0, 3]])
    ('RPS', 'SPL')
    """
    columns = np.asarray(affine, np.float64)[:3, :3]
    cosines = columns / np.linalg.norm(columns, axis=0)
    sums = {axes: sum(abs(cosines[axes, range(3)])) for axes in permutations(range(3))}
    nearest = [
        "".join(
            POSITIVE[axis] if cosines[axis, i] > 0 else NEGATIVE[axis]
            for i, axis in enumerate(axes)
        )
        for axes, total in sums.items()
        if total >= max(sums.values()) - TIE
    ]
    # At 45 degrees two are as near; what `reorient` made canonical must then be found so again.
    return CANONICAL if CANONICAL in nearest else nearest[0]


def _place(letter: str) -> tuple[int, bool]:
    """Return (patient axis, whether it grows against it)."""
    flipped = letter in NEGATIVE
    return (NEGATIVE if flipped else POSITIVE).index(letter), flipped


def reorient(array: np.ndarray, affine: np.ndarray, code: str) -> tuple[np.ndarray, np.ndarray]:
    """Permute and flip the axes of a volume; no voxel changes its place in the patient.

    Args:
        array: [a, b, c].
        affine: float [4, 4], array index to LPS mm.
        code: The wanted orientation, one of `CODES`.

    Returns:
        A view of the array and the new affine, float64.

    >>> array, affine = reorient(np.arange(3).reshape(3, 1, 1), np.diag([2.0, 1, 1, 1]), "RPS")
    >>> array.ravel().tolist(), affine[0].tolist()
    ([2, 1, 0], [-2.0, 0.0, 0.0, 4.0])
    """
    affine = np.array(affine, np.float64)
    now = [_place(letter) for letter in find_code(affine)]
    wanted = [_place(letter) for letter in code]
    order = [[axis for axis, _ in now].index(axis) for axis, _ in wanted]
    turned = affine[:, [*order, 3]]
    view = np.transpose(array, order)
    for i, (source, (_, flipped)) in enumerate(zip(order, wanted, strict=True)):
        if now[source][1] != flipped:
            view = np.flip(view, i)
            turned[:3, 3] += turned[:3, i] * (view.shape[i] - 1)
            turned[:3, i] *= -1
    return view, turned
