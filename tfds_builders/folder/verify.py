"""Checks of a user's own folder, for `experiments.verify`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lesionkeras.ct.png16 import STORED_OFFSET_HU, read_png16, to_hu
from lesionkeras.ct.verification import (
    Finding,
    Item,
    ItemResult,
    RawVerifier,
    check_intensity,
    find_duplicates,
    to_finding,
)
from lesionkeras.errors import DataError
from tfds_builders.folder.box_image import BoxImage
from tfds_builders.folder.folder_dataset_builder import BOXES, Builder
from tfds_builders.folder.layout import RawBoxes, find_kind, index_boxes
from tfds_builders.verify_scans import open_scan_verifier


@dataclass(frozen=True)
class BoxVerifier:
    """Satisfies `RawVerifier`; an item is an image with its neighbours."""

    raw: RawBoxes
    refused: Sequence[DataError] = ()  # of the annotations

    @property
    def root(self) -> Path:
        """The user's folder."""
        return self.raw.root

    @property
    def findings(self) -> Sequence[Finding]:
        """What the annotations say."""
        findings = [Finding("note", "contents", "annotations", note) for note in self.raw.notes]
        return findings + [
            Finding("error", "annotation", "annotations", str(error)) for error in self.refused
        ]

    @cached_property
    def items(self) -> Sequence[Item]:
        """Every image with its neighbours."""
        return [
            Item(image.file, tuple(self.root / name for name in image.files))
            for image in self.raw.images
        ]

    @cached_property
    def images(self) -> dict[str, BoxImage]:
        """The images by their file."""
        return {image.file: image for image in self.raw.images}

    @property
    def prepared_bytes(self) -> int:
        """PNG bytes are stored as they are, once for each image that uses them."""
        return sum(path.stat().st_size for item in self.items for path in item.files)

    def check_item(self, item: Item) -> ItemResult:
        """Decode an image and its neighbours: whole, 16 bit, of the annotation's size, in HU."""
        image = self.images[item.name]
        findings, digest = [], ""
        for name, path in zip(image.files, item.files, strict=True):
            try:
                stored = read_png16(path)
            except DataError as error:
                findings.append(to_finding(error, name))
                continue
            if stored.shape != image.size_px:
                text = "{}x{} px, but its annotation says {}x{}".format(
                    *stored.shape, *image.size_px
                )
                findings.append(Finding("error", "size", name, text))
            offset = self.raw.stored_offset_hu - STORED_OFFSET_HU
            image_hu = to_hu(np.clip(stored.astype(np.int32) - offset, 0, 65535).astype(np.uint16))
            findings += check_intensity(image_hu, name)
            if name == image.file:
                digest = hashlib.sha256(stored.tobytes()).hexdigest()
        facts = {"digest": digest, "split": image.split} if digest else {}
        return ItemResult(tuple(findings), facts)

    def compare(self, results: Mapping[str, ItemResult]) -> Sequence[Finding]:
        """Name images that are there twice."""
        known = {name: result.facts for name, result in results.items() if result.facts}
        return find_duplicates({n: (facts["digest"], facts["split"]) for n, facts in known.items()})


def open_verifier(data_dir: Path | None, config: str) -> RawVerifier:
    """Read the annotations or list the scans.

    Args:
        data_dir: The user's folder.
        config: `slices`, `volumes` or `boxes`.

    Raises:
        DataError: See `Builder.index_raw`.
    """
    if config != BOXES:
        return open_scan_verifier(Builder, data_dir, config)
    kind = find_kind(data_dir)
    assert data_dir is not None  # find_kind has seen to it
    if kind == "scans":
        Builder.index_raw(data_dir, config)  # says which config is meant
    refused: list[DataError] = []
    return BoxVerifier(index_boxes(data_dir, kind, refused), refused)
