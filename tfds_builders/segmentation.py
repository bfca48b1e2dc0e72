"""What data sets of outlined scans share: the schema, the splits, and scans to examples.

A slice example is a detection example (`tfds_builders.detection`) with more, so that one pipeline
trains detectors on both kinds of data.  Slices are canonical: rows grow to dorsal, columns to left.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from lesionkeras.ct.components import MIN_BOX_MM, find_boxes
from lesionkeras.ct.png16 import encode_mask_png, encode_png16, to_stored
from lesionkeras.ct.volume import Volume
from tfds_builders.detection import LESION_LABEL, detection_features

LIVER, LESION = 1, 2  # labels of a mask; liver is what is liver and no lesion
CONFIGS = ("slices", "volumes")
SPLIT_FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}  # of the patients
SPLIT_SEED = 0
THREADS = max(1, min(4, os.cpu_count() or 1))
SLICE_FEATURES: dict[str, Any] = {
    "volume": tfds.features.Text(),
    "num_slices": np.int32,
    "liver_px": np.int32,
    "lesion_px": np.int32,
    "corrections": tfds.features.Text(),
    "affine": tfds.features.Tensor(shape=(4, 4), dtype=np.float64),
    "source_code": tfds.features.Text(),
}


@dataclass(frozen=True)
class Scan:
    """An image with its mask and what is known of both.

    Attributes:
        name: The scan in its data set, such as "volume-4".
        patient: Who; scans of one patient share it.
        image: int16 HU.
        mask: uint8 0 background, 1 liver, 2 lesion, in the place of the image.
        corrections: What was changed on reading, a clause each.
    """

    name: str
    patient: str
    image: Volume
    mask: Volume
    corrections: tuple[str, ...]


def slice_features() -> tfds.features.FeaturesDict:
    """Return the features of a slice: those of `detection_features`, and of its scan.

    `volume` names the scan, `slice` counts from caudal, of `num_slices`; `liver_px` (lesions
    included) and `lesion_px` count pixels of the mask, so that sampling need not decode it;
    `corrections` says what was changed on reading, clauses with "; " between; `affine` takes the
    scan's (z, y, x, 1) to LPS mm, and `source_code` is the orientation of its file with the axes in
    NIfTI's order, so that masks can be written back to where they belong.

    >>> sorted(set(slice_features()) - set(detection_features()))
    ['affine', 'corrections', 'lesion_px', 'liver_px', 'num_slices', 'source_code', 'volume']
    """
    return detection_features(SLICE_FEATURES)


def volume_features() -> tfds.features.FeaturesDict:
    """Return the features of a whole scan.

    `image_hu` int16 and `mask` uint8 are [z, y, x], growing to cranial, dorsal and left; `affine`
    float64 [4, 4] takes (z, y, x, 1) to LPS mm; `spacing_mm` float32 is (z, y, x); `source_code` is
    the orientation that the file had (see `lesionkeras.ct.orientation`).

    >>> volume_features()["image_hu"].shape
    (None, None, None)
    """
    tensor = tfds.features.Tensor
    return tfds.features.FeaturesDict(
        {
            # Not compressed: zlib would take ten times as long as reading (README, "Speed").
            "image_hu": tensor(shape=(None, None, None), dtype=np.int16, encoding="bytes"),
            "mask": tensor(shape=(None, None, None), dtype=np.uint8, encoding="zlib"),
            "affine": tensor(shape=(4, 4), dtype=np.float64),
            "spacing_mm": tensor(shape=(3,), dtype=np.float32),
            "patient": tfds.features.Text(),
            "volume": tfds.features.Text(),
            "source_code": tfds.features.Text(),
            "corrections": tfds.features.Text(),
        }
    )


def assign_splits(patients: Iterable[str], seed: int = SPLIT_SEED) -> dict[str, str]:
    """Divide patients into train, validation and test, 70 to 15 to 15.

    Patients are put in the order of a hash of seed and name, so neither the order of the files nor
    the platform matters.  Three patients or more fill all three splits; two make train and test.

    Args:
        patients: Names; repeated ones count once.
        seed: Another one divides otherwise.

    Returns:
        The split of each patient.

    >>> splits = assign_splits(["a", "b", "c", "a"])
    >>> sorted(splits), sorted(splits.values())
    (['a', 'b', 'c'], ['test', 'train', 'validation'])
    """
    names = sorted(
        set(patients), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()
    )
    num_test = max(round(SPLIT_FRACTIONS["test"] * len(names)), len(names) > 1)
    num_validation = max(round(SPLIT_FRACTIONS["validation"] * len(names)), len(names) > 2)
    ends = {"test": num_test, "validation": num_test + num_validation, "train": len(names)}
    return {
        name: next(split for split, end in ends.items() if i < end) for i, name in enumerate(names)
    }


def make_examples(scan: Scan, config: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the examples of a scan with their keys, which no other scan has.

    Args:
        scan: Image and mask.
        config: `slices` or `volumes`.
    """
    if config == "volumes":
        yield scan.name, make_volume_example(scan)
        return
    for example in make_slice_examples(scan):
        yield example["file"], example


def make_volume_example(scan: Scan) -> dict[str, Any]:
    """Return a scan as an example of `volume_features`."""
    return {
        "image_hu": scan.image.array,
        "mask": scan.mask.array,
        "affine": scan.image.affine,
        "spacing_mm": np.array(scan.image.spacing_mm, np.float32),
        "patient": scan.patient,
        "volume": scan.name,
        "source_code": scan.image.source.code,
        "corrections": "; ".join(scan.corrections),
    }


def make_slice_examples(scan: Scan) -> Iterator[dict[str, Any]]:
    """Yield the slices of a scan from caudal to cranial as examples of `slice_features`.

    Every slice is encoded once, by several threads, though three examples hold it.
    """
    image, mask = scan.image.array, scan.mask.array
    with ThreadPoolExecutor(THREADS) as pool:
        encoded: list[Future[bytes]] = []
        try:
            encoded += [pool.submit(_encode_slice, image[z]) for z in range(len(image))]
            pngs = (future.result() for future in encoded)
            previous, key = b"", next(pngs)
            for z in range(len(image)):
                following = next(pngs, b"")
                yield _make_slice_example(scan, z, mask[z], (previous, key, following))
                previous, key = key, following
                encoded[z] = encoded[-1]  # lets go of its bytes
        finally:
            pool.shutdown(cancel_futures=True)


def _encode_slice(image_hu: np.ndarray) -> bytes:
    return encode_png16(to_stored(image_hu))


def _make_slice_example(
    scan: Scan, z: int, mask: np.ndarray, pngs: tuple[bytes, bytes, bytes]
) -> dict[str, Any]:
    height, width = mask.shape
    previous, key, following = pngs
    spacing_mm, source = scan.image.spacing_mm, scan.image.source
    is_lesion = mask == LESION
    liver_px, lesion_px = int(np.count_nonzero(mask)), int(np.count_nonzero(is_lesion))
    boxes = find_boxes(is_lesion, spacing_mm[1:], MIN_BOX_MM) if lesion_px else ()
    return {
        "png_previous": previous,
        "png_key": key,
        "png_next": following,
        "has_previous": bool(previous),
        "has_next": bool(following),
        "mask_png": encode_mask_png(mask),
        "lesions": [_make_lesion(box, height, width) for box in boxes],
        "size_px": [height, width],
        "spacing_mm": spacing_mm,
        "patient": scan.patient,
        "file": f"{scan.name}/{z:04d}",
        "slice": z,
        "volume": scan.name,
        "num_slices": len(scan.image.array),
        "liver_px": liver_px,
        "lesion_px": lesion_px,
        "corrections": "; ".join(scan.corrections),
        "affine": scan.image.affine,
        "source_code": source.code if source.kind == "nifti" else source.code[::-1],
    }


def _make_lesion(box: np.ndarray, height: int, width: int) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(end) for end in box)
    bbox = tfds.features.BBox(ymin=y1 / height, xmin=x1 / width, ymax=y2 / height, xmax=x2 / width)
    return {"bbox": bbox, "label": LESION_LABEL}
