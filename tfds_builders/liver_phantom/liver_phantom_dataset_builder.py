"""The liver phantom for TFDS; made here, so nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds

from lesionkeras.ct.png16 import STORED_OFFSET_HU
from tfds_builders.detection import LESION_LABEL, detection_features
from tfds_builders.liver_phantom.phantom import (
    Box,
    Lesion,
    Patient,
    boxes_of_slice,
    key_slices,
    lesions_of_slice,
    make_patient,
    render_slice,
)

KEY_SLICES_A_PATIENT = 2.6  # on average
SEED = 20250  # of all patients of version 1.0.0
# Patients are numbered through all splits and configs: no number is in two splits.
FIRST_PATIENT = {"train": 0, "validation": 1000, "test": 2000}
IMAGE_FEATURES: dict[str, Any] = {
    "phase": tfds.features.Text(),
    "scanner": tfds.features.Text(),
    "orientation": tfds.features.Text(),
}
LESION_FEATURES: dict[str, Any] = {
    "lesion_id": np.int32,
    "radii_mm": tfds.features.Tensor(shape=(3,), dtype=np.float32),
    "contrast_hu": np.float32,
}


@dataclass(eq=False)
class PhantomConfig(tfds.core.BuilderConfig):
    """How many patients each split holds."""

    num_patients: tuple[int, int, int] = (0, 0, 0)  # train, validation, test


class Builder(tfds.core.GeneratorBasedBuilder):
    """Key slices of phantom patients with their neighbours, masks and boxes."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar[list[PhantomConfig]] = [
        PhantomConfig(
            name="default", description="140 + 16 + 40 patients.", num_patients=(140, 16, 40)
        ),
        PhantomConfig(
            name="tiny", description="6 + 3 + 3 patients, for tests.", num_patients=(6, 3, 3)
        ),
    ]

    @property
    def num_images_about(self) -> int:
        """How many examples there will be, roughly: what the progress line counts to."""
        return round(KEY_SLICES_A_PATIENT * sum(self.builder_config.num_patients))

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=detection_features(IMAGE_FEATURES, LESION_FEATURES)
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {
            split: self._generate_examples(list_patients(split, count))
            for split, count in zip(FIRST_PATIENT, self.builder_config.num_patients, strict=True)
        }

    @classmethod
    def make_examples(cls, patient_idx: int, config: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what one item of a split gives, with its keys; a worker of Beam runs this."""
        patient = make_patient(SEED, patient_idx)
        for z_idx in key_slices(patient):
            example = make_example(patient, z_idx)
            yield example["file"], example

    def _generate_examples(self, patients: range) -> Iterator[tuple[str, dict[str, Any]]]:
        for patient_idx in patients:
            yield from self.make_examples(patient_idx, self.builder_config.name)


def list_patients(split: str, count: int) -> range:
    """Return the numbers of a split's patients.

    >>> list_patients("test", 3)
    range(2000, 2003)
    """
    return range(FIRST_PATIENT[split], FIRST_PATIENT[split] + count)


def make_example(patient: Patient, z_idx: int) -> dict[str, Any]:
    """Render one key slice and its neighbours as an example of `detection_features`.

    Args:
        patient: From `make_patient`.
        z_idx: The key slice.

    Returns:
        The example; a neighbour beyond the scan's end is `b""`.
    """
    image_hu, mask = render_slice(patient, z_idx)
    height, width = image_hu.shape
    lesions = zip(lesions_of_slice(patient, z_idx), boxes_of_slice(patient, z_idx), strict=True)
    return {
        "png_previous": _render_png(patient, z_idx - 1),
        "png_key": _encode_png(_to_stored(image_hu)),
        "png_next": _render_png(patient, z_idx + 1),
        "has_previous": z_idx > 0,
        "has_next": z_idx + 1 < patient.num_slices,
        "mask_png": _encode_png(mask),
        "lesions": [_make_lesion(lesion, box, height, width) for lesion, box in lesions],
        "size_px": [height, width],
        "spacing_mm": patient.spacing_mm,
        "patient": patient.patient_id,
        "file": f"{patient.patient_id}/{z_idx:03d}.png",
        "slice": z_idx,
        "phase": patient.phase.name,
        "scanner": patient.scanner.name,
        "orientation": patient.orientation,
    }


def _make_lesion(lesion: Lesion, box: Box, height: int, width: int) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {
        "bbox": tfds.features.BBox(
            ymin=y1 / height, xmin=x1 / width, ymax=y2 / height, xmax=x2 / width
        ),
        "label": LESION_LABEL,
        "lesion_id": lesion.lesion_id,
        "radii_mm": lesion.radii_mm,
        "contrast_hu": lesion.contrast_hu,
    }


def _render_png(patient: Patient, z_idx: int) -> bytes:
    if not 0 <= z_idx < patient.num_slices:
        return b""
    return _encode_png(_to_stored(render_slice(patient, z_idx)[0]))


def _to_stored(image_hu: np.ndarray) -> np.ndarray:
    return (image_hu.astype(np.int32) + STORED_OFFSET_HU).astype(np.uint16)


def _encode_png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()
