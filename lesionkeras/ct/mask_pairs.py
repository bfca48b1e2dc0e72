"""Two masks of one scan onto one grid: the one that the truth's file stores.

By the headers, before a voxel is read: shapes must agree, and affines must lay the masks in one
place.  Where they do not, geometry="stored" compares voxel by voxel, as the LiTS organisers do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from lesionkeras.ct.findings import CtError
from lesionkeras.ct.mask_files import FilePair, MaskFile
from lesionkeras.ct.nifti import read_nifti, read_nifti_header
from lesionkeras.ct.nifti_header import NiftiHeader, find_affine
from lesionkeras.ct.orientation import CANONICAL, find_code, reorient
from lesionkeras.ct.volume import Volume, check_same_place

GEOMETRIES = ("checked", "stored")
# What a header may have wrong about where its voxels lie.
NO_PLACE = (
    "no-geometry",
    "identity-affine",
    "affine-mismatch",
    "not-finite-affine",
    "singular-affine",
    "sheared-affine",
)
COMPARE_STORED = "if the arrays agree voxel by voxel, add --geometry stored"
GIVE_SPACING = "give the true affine, or add --spacing-mm Z,Y,X"
# Of a file that says nothing of its place, by case and number of slices: z, y, x in mm, or None.
FindSpacing = Callable[[str, int], tuple[float, float, float] | None]


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a pair lie.

    Attributes:
        truth_affine: float64 [4, 4], the truth's stored (i, j, k, 1) to LPS mm.
        prediction_affine: The same of the prediction.
        spacing_mm: Of the truth's voxels as stored, k, j, i.
        note: What was not taken from the files; "" is nothing.
    """

    truth_affine: np.ndarray
    prediction_affine: np.ndarray
    spacing_mm: tuple[float, float, float]
    note: str = ""


def find_grid(
    pair: FilePair, geometry: str = "checked", find_spacing: FindSpacing | None = None
) -> Grid:
    """Finds by the headers where the voxels of a pair lie.

    Args:
        pair: The files.
        geometry: "checked": the affines must agree; "stored": arrays are compared as stored, and
            where the affines do not agree, the note says so.
        find_spacing: Gives the spacing of a truth whose own affine is refused.

    Returns:
        The grid.

    Raises:
        CtError: shape-mismatch, affine-mismatch, and what `read_nifti_header` and `find_affine`
            raise; its next step names the way out.
    """
    assert geometry in GEOMETRIES, geometry
    truth, prediction = _read_header(pair.truth), _read_header(pair.prediction)
    affine, note = _find_truth_affine(pair, truth, find_spacing)
    x_mm, y_mm, z_mm = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    spacing_mm = (z_mm, y_mm, x_mm)
    if geometry == "stored" or (note and _find_affine(prediction, pair.prediction) is None):
        if truth.shape[:3] != prediction.shape[:3]:
            raise CtError(
                "shape-mismatch",
                "A prediction does not have its truth's shape",
                where=pair.prediction.where,
                found=f"{prediction.shape[:3]} voxels as stored",
                wanted=f"{truth.shape[:3]}",
                next_step="write the prediction on the grid of its truth",
            )
        apart = _find_apart(pair, truth, affine, prediction) if geometry == "stored" else ""
        return Grid(affine, affine, spacing_mm, ". ".join(filter(None, (note, apart))))
    return Grid(affine, _check_place(pair, truth, affine, prediction), spacing_mm, note)


def _find_apart(
    pair: FilePair, truth: NiftiHeader, affine: np.ndarray, prediction: NiftiHeader
) -> str:
    """Return why masks that are compared as stored do not lie in one place; "" if they do."""
    try:
        own = _check_place(pair, truth, affine, prediction)
    except CtError as error:
        return f"{error.what} ({error.found}); the arrays were compared as stored all the same"
    codes = find_code(affine), find_code(own)
    if codes[0] == codes[1]:
        return ""
    return (
        f"The files lie in one place but store their axes as {codes[0]} and {codes[1]}, so that "
        "comparing the arrays as stored compares other voxels; geometry checked would not"
    )


def _check_place(
    pair: FilePair, truth: NiftiHeader, affine: np.ndarray, prediction: NiftiHeader
) -> np.ndarray:
    """Return the prediction's affine, which lays it where the truth lies."""
    with _naming(pair.prediction, COMPARE_STORED):
        own = find_affine(prediction, "")
        check_same_place(_lay(truth, affine), _lay(prediction, own), "")
    return own


def read_pair(pair: FilePair, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Reads both masks onto the truth's stored grid.

    Args:
        pair: The files.
        grid: Of `find_grid`.

    Returns:
        Truth and prediction, uint8 [k, j, i] as the truth's file stores them; views.

    Raises:
        CtError: What `read_nifti` raises of pixels.
    """
    code = find_code(grid.truth_affine)
    masks = []
    for file, affine in (
        (pair.truth, grid.truth_affine),
        (pair.prediction, grid.prediction_affine),
    ):
        with _naming(file), file.open() as source:
            volume = read_nifti(source, "mask", affine=affine)
        masks.append(reorient(volume.array, volume.affine, code)[0].T)
    return masks[0], masks[1]


def _find_truth_affine(
    pair: FilePair, header: NiftiHeader, find_spacing: FindSpacing | None
) -> tuple[np.ndarray, str]:
    """Return the affine, and a note if it is not the file's."""
    try:
        with _naming(pair.truth):
            return find_affine(header, ""), ""
    except CtError as error:
        spacing_mm = find_spacing(pair.case, header.shape[2]) if find_spacing else None
        if error.name not in NO_PLACE:
            raise
        if spacing_mm is None:
            raise _rewrite(error, pair.truth, GIVE_SPACING) from error
        z_mm, y_mm, x_mm = spacing_mm
        millimetres = f"{z_mm:g} x {y_mm:g} x {x_mm:g} mm (z, y, x) were taken instead"
        note = f"The truth does not say where its voxels lie ({error.name}); {millimetres}"
        return np.diag([-x_mm, -y_mm, z_mm, 1.0]), note


def _find_affine(header: NiftiHeader, file: MaskFile) -> np.ndarray | None:
    """Return a header's affine, or None if it says nothing of a place."""
    try:
        return find_affine(header, file.where)
    except CtError as error:
        if error.name not in NO_PLACE:
            raise
        return None


def _read_header(file: MaskFile) -> NiftiHeader:
    with _naming(file), file.open() as source:
        header = read_nifti_header(source)
    if len(header.shape) < 3:
        raise CtError(
            "four-dimensional",
            "A mask is no volume",
            where=file.where,
            found=f"sizes {header.shape}",
            wanted="three axes",
        )
    return header


def _lay(header: NiftiHeader, affine: np.ndarray) -> Volume:
    """Return a volume without voxels where a header's voxels lie."""
    hollow = np.broadcast_to(np.uint8(0), header.shape[:3])
    return Volume(*reorient(hollow, affine, CANONICAL))


@contextmanager
def _naming(file: MaskFile, next_step: str = "") -> Iterator[None]:
    """Give errors of an open file the file's name, and those of its place a way out."""
    try:
        yield
    except CtError as error:
        raise _rewrite(error, file, next_step) from error


def _rewrite(error: CtError, file: MaskFile, next_step: str = "") -> CtError:
    return CtError(
        error.name,
        error.what,
        where=file.where,
        found=error.found,
        wanted=error.wanted,
        next_step=next_step if next_step and error.name in NO_PLACE else error.next_step,
    )
