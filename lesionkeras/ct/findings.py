"""What can be wrong with a CT file or series: every refusal and every correction has a name here.

A refusal is a `CtError` that carries its name; a correction is a `Correction`, logged when it is
made and kept with the volume.  Nothing else about a file is changed, and nothing passes silently.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from lesionkeras.errors import DataError

LOG = logging.getLogger("lesionkeras.ct")

ERRORS = {
    # What lies at the path
    "not-found": "there is no such file or folder",
    "unreadable-file": "the system does not let the file be read",
    "empty-folder": "there is no CT in the folder or archive",
    "unknown-format": "the file is neither DICOM nor NIfTI",
    "truncated": "the file ends early",
    "damaged": "the file contradicts its own format",
    "too-large": "the file claims or unpacks to more than it may",
    "unsafe-archive": "an archive holds a path that leaves it, or a link",
    "several-series": "there is more than one series and none was chosen",
    "several-patients": "one series holds more than one patient",
    "several-cases": "there is more than one case and none was chosen",
    # Slices of a series
    "missing-slice": "a slice is missing between or at an end",
    "duplicate-slice": "two different slices claim one position",
    "mixed-spacing": "pixel spacing differs between slices",
    "mixed-orientation": "orientation differs between slices",
    "mixed-matrix": "rows or columns differ between slices",
    "uneven-slices": "slices are not at even distances",
    "gantry-tilt": "slices are not stacked along their normal",
    "multi-frame": "a file holds several frames and no geometry for each",
    "too-few-slices": "one slice has no position along z to take a distance from",
    # Pixels
    "not-ct": "the modality is not CT",
    "no-pixels": "there are no pixel data",
    "not-16-bit": "pixels of 8 bits or of colours hold no HU",
    "monochrome1": "inverted grey: whether pixels or only display are meant cannot be known",
    "no-rescale": "rescale slope or intercept is missing",
    "bad-rescale": "rescale slope or intercept is zero, not finite or leaves CT's range",
    "not-decodable": "compressed pixels cannot be decoded or were compressed with loss",
    "not-hu": "values cannot be Hounsfield units",
    "not-finite": "a value is NaN or infinite",
    # Geometry
    "no-geometry": "position, orientation or spacing is missing",
    "identity-affine": "the affine is the identity: millimetres are unknown",
    "singular-affine": "the affine cannot be inverted",
    "not-finite-affine": "the affine holds NaN or infinity",
    "sheared-affine": "the axes of the affine are not at right angles",
    "affine-mismatch": "sform and qform disagree, or a mask's affine is not its image's",
    "shape-mismatch": "a mask's shape is not its image's",
    "four-dimensional": "there is more than one volume in the file",
    # Masks
    "bad-label": "a mask holds a value that is no label",
}

CORRECTIONS = {
    "other-files-left-out": "files that are not CT slices lie among them",
    "localizer-left-out": "a scout image lies in the series",
    "copies-left-out": "the same slice is there more than once, bit for bit",
    "padding-to-air": "padding outside the field of view became -1024 HU",
    "per-slice-rescale": "slices have rescale values of their own, and each got its own",
    "rounded-to-hu": "a slope or intercept that is not whole was rounded to whole HU",
    "no-meta-header": "a DICOM file has no preamble or meta header",
    "vr-corrected": "a DICOM element's type was wrong and its value was plain",
    "resampled": "uneven, missing or tilted slices were resampled from their true positions",
    "trailing-bytes-left-out": "a few bytes follow the last voxel",
    "squeezed": "axes of length one were dropped",
    "mask-to-uint8": "a mask of another type than uint8 held whole numbers",
    "known-affine": "a false affine was replaced by the published one",
    "mask-affine-from-image": "a mask's affine was replaced by its image's",
    "mask-flipped": "a mask or an image was flipped to agree with the anatomy",
    "labels-merged": "labels were mapped to 0, 1 and 2",
}


class CtError(DataError):
    """A CT file or series is refused.

    Args:
        name: A key of `ERRORS`.
        what: What is wrong, as the start of a sentence.
        where: File, files or folder.
        found: What is there.
        wanted: What should be there.
        next_step: What the user can do now.
        found_kept: `found` without identifiers, where it holds some that the user must see, such as
            the UIDs to choose a series by.

    Attributes:
        kept: The sentence for what is kept: reports, notebooks, logs.  It holds no identifiers;
            the error's own text is for the terminal alone.

    >>> error = CtError("truncated", "A file ends early", where="a.nii", found="3 bytes")
    >>> error.name, str(error)
    ('truncated', 'A file ends early in a.nii: found 3 bytes.')
    >>> CtError("several-series", "Two series", found="1.2.3 and 1.2.4", found_kept="two").kept
    'Two series: found two.'
    """

    def __init__(
        self,
        name: str,
        what: str,
        *,
        where: str = "",
        found: str = "",
        wanted: str = "",
        next_step: str = "",
        found_kept: str = "",
    ) -> None:
        assert name in ERRORS, name
        self.name = name
        rest = {"where": where, "wanted": wanted, "next_step": next_step}
        self.kept = str(DataError(what, found=found_kept or found, **rest))
        super().__init__(what, found=found, **rest)


@dataclass(frozen=True)
class Correction:
    """Something about a file that was changed on reading.

    Attributes:
        name: A key of `CORRECTIONS`.
        detail: What was changed, with numbers; never a patient's name or identifier.
    """

    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


def make_correction(name: str, detail: str) -> Correction:
    """Return a correction and log it.

    Args:
        name: A key of `CORRECTIONS`.
        detail: What was changed, with numbers; never a patient's name or identifier.
    """
    assert name in CORRECTIONS, name
    correction = Correction(name, detail)
    LOG.info("%s", correction)
    return correction
