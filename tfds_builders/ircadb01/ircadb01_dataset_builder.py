"""3D-IRCADb-01 for TFDS: `tfds build` with `--manual_dir`, or `tfds_builders.open_builder`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from tfds_builders.ircadb01.layout import NUM_CASES, TREE, Case, list_cases
from tfds_builders.ircadb01.reading import read_case
from tfds_builders.scan_builder import RawScans, ScanBuilder
from tfds_builders.segmentation import Scan


class Builder(ScanBuilder):
    """3D-IRCADb-01: liver and tumours of 20 patients, true HU and millimetres."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.1.0": "Slices have the scan's affine and its file's orientation.",
        "1.0.0": "First release.",
    }
    HOMEPAGE = "https://www.ircad.fr/research/data-sets/liver-segmentation-3d-ircadb-01/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Download 3D-IRCADb-01 from {HOMEPAGE}, unpack each case, whose own archives may stay "
        "packed, and give the folder that holds them as --manual_dir DATA_DIR; part of the cases "
        f"is enough.\n\n{TREE}"
    )
    read_case = staticmethod(read_case)

    @staticmethod
    def index_raw(data_dir: Path | None, config: str) -> RawScans:
        """List the raw files, for `tfds_builders.prepare`.

        Args:
            data_dir: The folder that holds the cases.
            config: `slices` or `volumes`.

        Returns:
            The cases.

        Raises:
            DataError: See `list_cases`.
        """
        cases = list_cases(data_dir)
        notes = (f"{len(cases)} of {NUM_CASES} cases",)
        assert data_dir is not None
        return RawScans(data_dir, cases, config, notes, read_case, describe, find_patients)


def describe(scan: Scan) -> None:
    """Return what comparing patients needs: nothing, as every case is a patient."""


def find_patients(shown: Sequence[tuple[Case, Any]]) -> dict[str, str]:
    """Return the patient of each case by the case's name."""
    return {case.name: case.patient for case, _ in shown}
