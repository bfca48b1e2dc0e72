"""DeepLesion for TFDS: `tfds build` with `--manual_dir`, or `tfds_builders.open_builder`.

Configs differ in the key slices they hold: `liver` those with at least one liver lesion, `all` all,
`p2` those with a lesion of the text-mined 'liver' list that P2 used, divided as that list is.
Every row of a key slice is one of its boxes, with its type, so nothing near a liver lesion is lost.
A split without an image is left out: TFDS refuses empty ones.  `liver` has no train split in the
official data, whose training rows have no type.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from lesionkeras.ct.png16 import keep_pixels
from tfds_builders.deeplesion.layout import TREE, KeySlice, RawDeepLesion, index_deeplesion
from tfds_builders.deeplesion.parse import SPLITS, LesionRow
from tfds_builders.detection import LESION_LABEL, detection_features

# The columns that belong to the image; the others belong to each lesion.
IMAGE_FEATURES: dict[str, Any] = {
    "patient_index": np.int64,
    "study_index": np.int64,
    "series_id": np.int64,
    "key_slice_index": np.int64,
    "slice_range": tfds.features.Tensor(shape=(2,), dtype=np.int64),
    "spacing_mm_px": tfds.features.Tensor(shape=(3,), dtype=np.float32),
    "image_size": tfds.features.Tensor(shape=(2,), dtype=np.int64),
    "dicom_windows": tfds.features.Tensor(shape=(2,), dtype=np.float32),
    "patient_gender": tfds.features.Text(),
    "patient_age": np.float32,
    "train_val_test": np.int64,
}
LESION_FEATURES: dict[str, Any] = {
    "measurement_coordinates": tfds.features.Tensor(shape=(8,), dtype=np.float32),
    "bounding_boxes": tfds.features.Tensor(shape=(4,), dtype=np.float32),
    "lesion_diameters_pixel": tfds.features.Tensor(shape=(2,), dtype=np.float32),
    "normalized_lesion_location": tfds.features.Tensor(shape=(3,), dtype=np.float32),
    "coarse_lesion_type": np.int64,
    "possibly_noisy": np.int64,
    "row": np.int64,  # in DL_info.csv, as a text editor counts
    "text": tfds.features.Tensor(shape=(18,), dtype=np.str_),  # the 18 fields verbatim
}


class Builder(tfds.core.GeneratorBasedBuilder):
    """DeepLesion: key slices, their neighbours and their boxes."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(name="liver", description="Key slices with a liver lesion."),
        tfds.core.BuilderConfig(name="all", description="All key slices."),
        tfds.core.BuilderConfig(name="p2", description="Key slices of P2's text-mined list."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download DeepLesion from the NIH (https://nihcc.app.box.com/v/DeepLesion), unpack it, and "
        "give the folder that holds DL_info.csv and Images_png as --manual_dir DATA_DIR; part of "
        f"the series is enough.\n\n{TREE}"
    )

    @staticmethod
    def index_raw(data_dir: Path | None, config: str) -> RawDeepLesion:
        """List the raw files that a config needs, for `tfds_builders.prepare`.

        Args:
            data_dir: The folder that holds `DL_info.csv` and `Images_png`.
            config: `liver`, `all` or `p2`.

        Returns:
            The index of the raw data.

        Raises:
            DataError: See `index_deeplesion`.
        """
        return index_deeplesion(data_dir, config)

    def _info(self) -> tfds.core.DatasetInfo:
        is_list = self.builder_config.name == "p2"
        lesion = LESION_FEATURES | ({"listed": np.bool_} if is_list else {})
        return self.dataset_info_from_configs(
            features=detection_features(IMAGE_FEATURES, lesion),
            homepage="https://nihcc.app.box.com/v/DeepLesion",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        raw = self.index_raw(Path(dl_manager.manual_dir), self.builder_config.name)
        raw.check()
        groups = {
            split: [key_slice for key_slice in raw.slices if key_slice.split == split]
            for split in SPLITS.values()
        }
        return {
            split: self._generate_examples(slices) for split, slices in groups.items() if slices
        }

    @classmethod
    def make_examples(
        cls, key_slice: KeySlice, config: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what one item of a split gives, with its key; a worker of Beam runs this."""
        yield key_slice.first.file_name, make_example(key_slice)

    def _generate_examples(self, slices: list[KeySlice]) -> Iterator[tuple[str, dict[str, Any]]]:
        for key_slice in slices:
            yield from self.make_examples(key_slice, self.builder_config.name)


def make_example(key_slice: KeySlice) -> dict[str, Any]:
    """Read one key slice's files, their pixels untouched, beside its rows.

    Args:
        key_slice: Rows and files of one image.

    Returns:
        An example as `detection_features` describes it; a missing neighbour is `b""`.

    Raises:
        DataError: A file is not a whole 16-bit grey PNG.
    """
    row = key_slice.first
    height, width = row.image_size
    image_fields = {name: getattr(row, name) for name in IMAGE_FEATURES}
    return {
        "png_previous": _read_png(key_slice.previous),
        "png_key": _read_png(key_slice.key),
        "png_next": _read_png(key_slice.next),
        "has_previous": key_slice.previous is not None,
        "has_next": key_slice.next is not None,
        "mask_png": b"",
        "lesions": [
            _make_lesion(lesion) | ({"listed": key_slice.listed[i]} if key_slice.listed else {})
            for i, lesion in enumerate(key_slice.rows)
        ],
        "size_px": [height, width],
        "spacing_mm": row.spacing_mm_px[::-1],
        "patient": row.patient,
        "file": row.file_name,
        "slice": row.key_slice_index,
        **image_fields,
    }


def _read_png(path: Path | None) -> bytes:
    if path is None:
        return b""
    return keep_pixels(path.read_bytes(), str(path))


def _make_lesion(row: LesionRow) -> dict[str, Any]:
    (x1, y1, x2, y2), (height, width) = row.box, row.image_size
    fields = {name: getattr(row, name) for name in LESION_FEATURES}
    bbox = tfds.features.BBox(ymin=y1 / height, xmin=x1 / width, ymax=y2 / height, xmax=x2 / width)
    return {"bbox": bbox, "label": LESION_LABEL, **fields}
