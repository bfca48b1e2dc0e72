"""A CT volume or mask with its place in the patient, in one orientation, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from lesionkeras.ct.findings import Correction, CtError
from lesionkeras.ct.orientation import CANONICAL, find_code, reorient

SAME_PLACE_MM = 0.01  # corners of two volumes that are this near are the same place
RIGHT_ANGLE = 1e-3  # cosine between axes up to which they are at right angles: .06 degrees
LEAST_MM, MOST_MM = 1e-6, 1e6  # of a voxel, and of anything in an affine
NEXT_STEP = "convert the scan again from its source"


@dataclass(frozen=True)
class Source:
    """Where a volume comes from, as far as it may be said.

    Attributes:
        kind: "dicom", "nifti" or "array".
        code: The orientation of the array as stored, see `orientation.CODES`.
        corrections: What was changed on reading.
    """

    kind: str = "array"
    code: str = CANONICAL
    corrections: tuple[Correction, ...] = ()


@dataclass(frozen=True)
class Volume:
    """A volume in canonical orientation: axes z, y, x grow to cranial, dorsal and left.

    Attributes:
        array: [z, y, x]; int16 HU of an image, uint8 of a mask.
        affine: float64 [4, 4], (z, y, x, 1) index of a voxel's centre to (L, P, S, 1) mm.
        source: Where it comes from.
    """

    array: np.ndarray
    affine: np.ndarray
    source: Source = field(default_factory=Source)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along z, y, x."""
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """What was changed on reading."""
        return self.source.corrections


def check_affine(affine: np.ndarray, where: str) -> None:
    """Check that an affine places voxels in a patient.

    Args:
        affine: [4, 4] array index to mm.
        where: What to call the file in an error.

    Raises:
        CtError: The affine is not finite, singular, or its axes are not at right angles.
    """
    facts = {"where": where, "next_step": NEXT_STEP}
    if not np.isfinite(affine).all():
        raise CtError("not-finite-affine", "An affine holds NaN or infinity", **facts)
    # Beyond a kilometre float64 has no room for the tenths of a millimetre between voxels.
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
    found = f"axes of {', '.join(f'{length:.4g}' for length in lengths)} mm"
    if abs(affine[:3]).max() > MOST_MM or lengths.min() < LEAST_MM:
        raise CtError("singular-affine", "An affine cannot be inverted", found=found, **facts)
    axes = affine[:3, :3] / lengths
    if abs(np.linalg.det(axes)) < 1e-6:
        raise CtError("singular-affine", "An affine cannot be inverted", found=found, **facts)
    worst = abs(axes.T @ axes - np.eye(3)).max()
    if worst > RIGHT_ANGLE:
        raise CtError(
            "sheared-affine",
            "The axes of an affine are not at right angles",
            found=f"a cosine of {worst:.4f}",
            wanted=f"at most {RIGHT_ANGLE}",
            **facts,
        )


def make_affine(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the affine of a canonical volume that begins at the origin: z is S, y is P, x is L.

    >>> make_affine((5.0, 0.7, 0.8))[:3].tolist()
    [[0.0, 0.0, 0.8, 0.0], [0.0, 0.7, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0]]
    """
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing_mm
    affine[3, 3] = 1.0
    return affine


def to_canonical(
    array: np.ndarray,
    affine: np.ndarray,
    kind: str,
    corrections: tuple[Correction, ...] = (),
    where: str = "the array",
) -> Volume:
    """Turn an array as stored into a canonical volume.

    Args:
        array: [a, b, c] in any orientation.
        affine: [4, 4], array index to LPS mm.
        kind: See `Source`.
        corrections: What was changed on reading.
        where: What to call the file in an error.

    Returns:
        A volume whose array is contiguous.

    Raises:
        CtError: What `check_affine` raises.
    """
    affine = np.asarray(affine, np.float64)
    check_affine(affine, where)
    view, turned = reorient(array, affine, CANONICAL)
    return Volume(
        np.ascontiguousarray(view), turned, Source(kind, find_code(affine), tuple(corrections))
    )


def to_source(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Return array and affine in the orientation that the source was stored in.

    Args:
        volume: Any; a prediction made with `like` has its image's orientation.

    Returns:
        The array, contiguous, and its affine to LPS mm.
    """
    view, affine = reorient(volume.array, volume.affine, volume.source.code)
    return np.ascontiguousarray(view), affine


def like(volume: Volume, array: np.ndarray) -> Volume:
    """Return another array in the place of a volume: a mask of an image, say.

    Args:
        volume: Gives affine and source.
        array: [z, y, x] of the same shape.

    Raises:
        CtError: "shape-mismatch".
    """
    if array.shape != volume.array.shape:
        raise CtError(
            "shape-mismatch",
            "An array does not fit its volume",
            found=f"shape {array.shape}",
            wanted=f"{volume.array.shape}",
        )
    return replace(volume, array=array)


def check_same_place(image: Volume, mask: Volume, where: str) -> None:
    """Check that a mask has its image's shape and lies where the image lies.

    Args:
        image: The image.
        mask: The mask.
        where: What to call the mask in an error.

    Raises:
        CtError: "shape-mismatch" or "affine-mismatch".
    """
    if image.array.shape != mask.array.shape:
        raise CtError(
            "shape-mismatch",
            "A mask does not have its image's shape",
            where=where,
            found=f"{mask.array.shape} (z, y, x)",
            wanted=f"{image.array.shape}",
            next_step="draw the mask on this image, or resample it there",
        )
    last = np.array(image.array.shape) - 1
    corners = np.array([(*(last * bits), 1) for bits in np.ndindex(2, 2, 2)], np.float64)
    apart_mm = np.linalg.norm((image.affine - mask.affine) @ corners.T, axis=0).max()
    if not apart_mm <= SAME_PLACE_MM:
        raise CtError(
            "affine-mismatch",
            "A mask does not lie where its image lies",
            where=where,
            found=f"corners up to {apart_mm:.2f} mm apart",
            wanted=f"at most {SAME_PLACE_MM} mm",
            next_step="give the mask its image's affine if the arrays agree",
        )
