"""Checks of a DeepLesion folder: rows, images, boxes, patients, duplicates."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lesionkeras.ct.png16 import read_png16, to_hu
from lesionkeras.ct.verification import (
    Finding,
    Item,
    ItemResult,
    check_intensity,
    find_duplicates,
    to_finding,
)
from lesionkeras.errors import DataError
from tfds_builders.deeplesion.layout import RawDeepLesion, index_deeplesion
from tfds_builders.deeplesion.parse import LesionRow


@dataclass(frozen=True)
class DeepLesionVerifier:
    """Satisfies `RawVerifier`; an item is a series."""

    raw: RawDeepLesion
    refused: Sequence[DataError] = ()  # of the table

    @property
    def root(self) -> Path:
        """The folder with `DL_info.csv` and `Images_png`."""
        return self.raw.root

    @cached_property
    def rows(self) -> dict[str, list[LesionRow]]:
        """The rows of each series that has a key slice on disk."""
        series: dict[str, list[LesionRow]] = defaultdict(list)
        for key_slice in self.raw.slices:
            series[key_slice.first.series] += key_slice.rows
        return dict(series)

    @cached_property
    def items(self) -> Sequence[Item]:
        """Every series with its files."""
        files: dict[str, set[Path]] = defaultdict(set)
        for key_slice in self.raw.slices:
            files[key_slice.first.series].update(key_slice.files)
        return [Item(name, tuple(sorted(paths))) for name, paths in sorted(files.items())]

    @property
    def prepared_bytes(self) -> int:
        """PNG bytes are stored as they are, once for each image that uses them."""
        return sum(path.stat().st_size for one in self.raw.slices for path in one.files)

    @cached_property
    def findings(self) -> Sequence[Finding]:
        """What the table says: boxes over the edge, noisy rows, what is not on disk."""
        findings = [Finding("note", "contents", "DL_info.csv", note) for note in self.raw.notes]
        findings += [Finding("error", "table", "DL_info.csv", str(error)) for error in self.refused]
        for row in (row for rows in self.rows.values() for row in rows):
            where = f"DL_info.csv row {row.row}"
            if row.overhang_px > 0:
                text = f"a box hangs {row.overhang_px:.1f} px over its image's edge: clipped"
                findings.append(Finding("corrected", "box-over-edge", where, text))
            if row.possibly_noisy:
                text = "DeepLesion marks the row as possibly noisy; data.keep_noisy=false drops it"
                findings.append(Finding("note", "noisy-row", where, text))
        return findings

    def check_item(self, item: Item) -> ItemResult:
        """Decode every slice of a series: whole, 16 bit, of its rows' size, in HU."""
        findings, digests = [], {}
        size = self.rows[item.name][0].image_size
        for path in item.files:
            where = path.relative_to(self.root / "Images_png").as_posix()
            try:
                stored = read_png16(path)
            except DataError as error:
                findings.append(to_finding(error, where))
                continue
            digests[where] = hashlib.sha256(stored.tobytes()).hexdigest()
            if stored.shape != size:
                text = "{}x{} px, but its row says {}x{}".format(*stored.shape, *size)
                findings.append(Finding("error", "size", where, text))
            findings += check_intensity(to_hu(stored), where)
        split = self.rows[item.name][0].split  # of the patient, so of all rows
        return ItemResult(tuple(findings), {"digests": digests, "split": split})

    def compare(self, results: Mapping[str, ItemResult]) -> Sequence[Finding]:
        """Name slices that are there twice."""
        facts = [result.facts for result in results.values() if result.facts]
        return find_duplicates(
            {
                where: (digest, each["split"])
                for each in facts
                for where, digest in each["digests"].items()
            }
        )


def open_verifier(data_dir: Path | None, config: str) -> DeepLesionVerifier:
    """Read the table and the listing.

    Args:
        data_dir: The folder with `DL_info.csv` and `Images_png`.
        config: `liver` or `all`.

    Raises:
        DataError: See `index_deeplesion`.
    """
    refused: list[DataError] = []
    return DeepLesionVerifier(index_deeplesion(data_dir, config, refused), refused)
