"""Raw files for `experiments.benchmark data`: the user's, or a phantom's written for the while."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lesionkeras.ct.nifti import write_nifti
from lesionkeras.ct.png16 import to_stored
from lesionkeras.ct.volume import Volume
from tfds_builders.deeplesion.layout import check_tree
from tfds_builders.lits.layout import list_cases
from tfds_builders.lits.reading import read_case
from tfds_builders.liver_phantom.phantom import make_patient, render_slice
from tfds_builders.prepare import open_builder

SEED, PATIENTS = 7, 2  # any
KEY_SLICES_ALONE = 3  # a patient, beside its series


@dataclass(frozen=True)
class TimedFiles:
    """What is timed.

    Attributes:
        images_dir: PNG slices as in DeepLesion's `Images_png`.
        volumes: LiTS's .nii.gz images.
        build: Builds LiTS's slices from scratch.
        read: Reads and checks what `build` reads.
    """

    images_dir: Path
    volumes: tuple[Path, ...]
    build: Callable[[], object]
    read: Callable[[], object]


@contextmanager
def open_timed_files(
    data_dir: Path | None, lits_dir: Path | None, side_px: int
) -> Iterator[TimedFiles]:
    """Find the files that reading is timed on; what is written is gone afterwards.

    Args:
        data_dir: DeepLesion's folder, or None.
        lits_dir: LiTS's folder, or None.
        side_px: Of the phantom's slices, which stand for what is not given.

    Raises:
        DataError: A folder is not laid out as it should be.
    """
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        images_dir = check_tree(data_dir) / "Images_png" if data_dir else root / "Images_png"
        if not (data_dir and lits_dir):
            write_phantom(root, side_px)
        cases = list_cases(lits_dir or root).cases

        def build() -> None:
            with tempfile.TemporaryDirectory(dir=made) as prepared:
                open_builder("lits", "slices", Path(prepared), lits_dir or root, False)

        yield TimedFiles(
            images_dir,
            tuple(case.image for case in cases),
            build,
            lambda: [read_case(case, "") for case in cases],
        )


def write_phantom(root: Path, side_px: int) -> None:
    """Write patients of the phantom as DeepLesion's series and as LiTS's pairs of files.

    Args:
        root: The folder.
        side_px: Of the slices, which are enlarged to it.
    """
    for idx in range(PATIENTS):
        patient = make_patient(SEED, idx)
        slices = [render_slice(patient, z) for z in range(0, patient.num_slices, 2)]
        size = (side_px, side_px)
        images = [cv2.resize(image_hu, size) for image_hu, _ in slices]
        masks = [cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) for _, mask in slices]
        _write_series(root / "Images_png" / f"{idx:06d}_01_01", images, step=1)
        few = images[:: max(1, len(images) // KEY_SLICES_ALONE)]
        _write_series(root / "Images_png" / f"{idx:06d}_02_01", few, step=9)
        spacing_mm = (5.0, 360 / side_px, 360 / side_px)
        affine = np.diag([*spacing_mm, 1.0])[[2, 1, 0, 3]]  # z, y, x to left, dorsal, cranial
        for name, array in (("volume", images), ("segmentation", masks)):
            write_nifti(root / f"{name}-{idx}.nii.gz", Volume(np.stack(array), affine))


def _write_series(folder: Path, images: list[np.ndarray], step: int) -> None:
    folder.mkdir(parents=True)
    for i, image_hu in enumerate(images):
        cv2.imwrite(str(folder / f"{1 + i * step:03d}.png"), to_stored(image_hu))
