"""A user's own data for TFDS: `tfds build` with `--manual_dir`, or `tfds_builders.open_builder`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from lesionkeras.ct.png16 import STORED_OFFSET_HU, decode_png16, encode_png16, keep_pixels
from lesionkeras.ct.same_patient import ScanPrint, describe_scan, group_scans
from lesionkeras.errors import DataError
from tfds_builders.detection import LESION_LABEL, detection_features
from tfds_builders.folder.box_image import BoxImage
from tfds_builders.folder.layout import TREE, find_kind, index_boxes
from tfds_builders.folder.scans import FolderCase, index_scans, read_case
from tfds_builders.scan_builder import RawScans, ScanBuilder
from tfds_builders.segmentation import CONFIGS, SPLIT_FRACTIONS, Scan

BOXES = "boxes"


class Builder(ScanBuilder):
    """A folder of scans with masks (`slices`, `volumes`), or of images with boxes (`boxes`)."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        *ScanBuilder.BUILDER_CONFIGS,
        tfds.core.BuilderConfig(name=BOXES, description="Images with COCO or Pascal VOC boxes."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Give your folder as --manual_dir DATA_DIR.\n\n{TREE}"
    read_case = staticmethod(read_case)

    @staticmethod
    def index_raw(data_dir: Path | None, config: str) -> Any:
        """List the raw files that a config needs, for `tfds_builders.prepare`.

        Args:
            data_dir: The user's folder.
            config: `slices`, `volumes` or `boxes`.

        Returns:
            Scans or images with boxes.

        Raises:
            DataError: The folder holds what the config is not for; see `index_scans` and
                `index_boxes`.
        """
        kind = find_kind(data_dir)
        assert data_dir is not None  # find_kind has seen to it
        fits = config in CONFIGS if kind == "scans" else config == BOXES
        if not fits:
            raise DataError(
                "A folder holds other data than the config is for",
                where=str(data_dir),
                found="scans with masks" if kind == "scans" else f"boxes ({kind})",
                wanted="scans with masks" if config in CONFIGS else "images with boxes",
                next_step="take folder/slices" if kind == "scans" else f"take folder/{BOXES}",
            )
        if kind != "scans":
            return index_boxes(data_dir, kind)
        cases, notes = index_scans(data_dir)
        return RawScans(
            data_dir,
            tuple(cases),
            config,
            tuple(notes),
            read_case,
            describe,
            name_patients,
            tables=(data_dir / "dataset.json",),
        )

    def _info(self) -> tfds.core.DatasetInfo:
        if self.builder_config.name != BOXES:
            return super()._info()
        features = detection_features(lesion_extra={"category": tfds.features.Text()})
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        if self.builder_config.name != BOXES:
            return super()._split_generators(dl_manager)
        raw = self.index_raw(Path(dl_manager.manual_dir), BOXES)
        raw.check()
        groups = {
            split: [
                (raw.root, raw.stored_offset_hu, image)
                for image in raw.images
                if image.split == split
            ]
            for split in SPLIT_FRACTIONS
        }
        return {split: self._generate_examples(group) for split, group in groups.items() if group}

    @classmethod
    def make_examples(cls, item: Any, config: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what one item of a split gives, with its key; a worker of Beam runs this."""
        if config != BOXES:
            yield from super().make_examples(item, config)
            return
        root, stored_offset_hu, image = item
        yield image.file, make_box_example(root, stored_offset_hu, image)

    def _generate_examples(self, items: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        if self.builder_config.name != BOXES:
            yield from super()._generate_examples(items)
            return
        for item in items:
            yield from self.make_examples(item, BOXES)


def describe(scan: Scan) -> ScanPrint:
    """Return what comparing patients needs of a scan."""
    return describe_scan(scan.image, scan.mask)


def name_patients(shown: Sequence[tuple[FolderCase, ScanPrint]]) -> dict[str, str]:
    """Return the patient of each case: the first case of those that show one person."""
    groups = group_scans({case.name: scan_print for case, scan_print in shown})
    return {name: min(group) for group in groups for name in group}


def make_box_example(root: Path, stored_offset_hu: int, image: BoxImage) -> dict[str, Any]:
    """Read one image's files beside its boxes.

    Args:
        root: The folder.
        stored_offset_hu: stored = HU + it, in the files.
        image: One of its images.

    Returns:
        An example as `detection_features` describes it.

    Raises:
        DataError: A file is not a whole 16-bit grey PNG.
    """
    previous, key, following = (
        _read_png(root, name, stored_offset_hu) for name in (image.previous, image.file, image.next)
    )
    height, width = image.size_px
    return {
        "png_previous": previous,
        "png_key": key,
        "png_next": following,
        "has_previous": bool(previous),
        "has_next": bool(following),
        "mask_png": b"",
        "lesions": [
            {
                "bbox": tfds.features.BBox(
                    ymin=y1 / height, xmin=x1 / width, ymax=y2 / height, xmax=x2 / width
                ),
                "label": LESION_LABEL,
                "category": category,
            }
            for (x1, y1, x2, y2), category in zip(image.boxes, image.categories, strict=True)
        ],
        "size_px": [height, width],
        "spacing_mm": image.spacing_mm,
        "patient": image.patient,
        "file": image.file,
        "slice": max(image.slice, 0),
    }


def _read_png(root: Path, name: str, stored_offset_hu: int) -> bytes:
    """Return a PNG's bytes, encoded again only where its offset is another."""
    if not name:
        return b""
    data = (root / name).read_bytes()
    if stored_offset_hu == STORED_OFFSET_HU:
        return keep_pixels(data, name)
    stored = decode_png16(data, name).astype(np.int32) - stored_offset_hu + STORED_OFFSET_HU
    return encode_png16(np.clip(stored, 0, 2**16 - 1).astype(np.uint16))
