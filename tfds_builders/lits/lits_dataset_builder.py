"""LiTS for TFDS: `tfds build` with `--manual_dir`, or `tfds_builders.open_builder`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from lesionkeras.ct.same_patient import ScanPrint, describe_scan, group_scans
from tfds_builders.lits.layout import NUM_TRAINING, TREE, Case, list_cases
from tfds_builders.lits.patients import GROUPS, name_patients
from tfds_builders.lits.reading import read_case
from tfds_builders.progress import make_progress
from tfds_builders.scan_builder import RawScans, ScanBuilder
from tfds_builders.segmentation import Scan


class Builder(ScanBuilder):
    """LiTS: liver and tumours of 131 training volumes."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.1.0": "Slices have the scan's affine and its file's orientation.",
        "1.0.0": "First release.",
    }
    HOMEPAGE = "https://competitions.codalab.org/competitions/17094"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download the training batches of LiTS from "
        "https://competitions.codalab.org/competitions/17094, unpack them, and give the folder "
        "that holds them as --manual_dir DATA_DIR; part of the volumes is enough."
        f"\n\n{TREE}"
    )
    read_case = staticmethod(read_case)

    @staticmethod
    def index_raw(data_dir: Path | None, config: str) -> RawScans:
        """List the raw files, for `tfds_builders.prepare`.

        Args:
            data_dir: The folder that holds the batches or the files.
            config: `slices` or `volumes`.

        Returns:
            The pairs of volume and segmentation.

        Raises:
            DataError: See `list_cases`.
        """
        layout = list_cases(data_dir)
        notes = [f"{len(layout.cases)} of {NUM_TRAINING} training volumes"]
        if layout.num_test:
            notes.append(f"{layout.num_test} test volumes without masks: left out")
        return RawScans(
            layout.root, layout.cases, config, tuple(notes), read_case, describe, find_patients
        )


def describe(scan: Scan) -> ScanPrint:
    """Return what comparing patients needs of a scan."""
    return describe_scan(scan.image, scan.mask)


def find_patients(shown: Sequence[tuple[Case, ScanPrint]]) -> dict[str, str]:
    """Return the patient of each case by the case's name.

    Scans that show one patient share the patient: those that are known, and those found by their
    anatomy or as copies.

    Args:
        shown: Each case and its print.
    """
    numbers = {case.name: case.number for case, _ in shown}
    known = [[f"volume-{number}" for number in group] for group in GROUPS]
    prints = {case.name: scan_print for case, scan_print in shown}
    progress = make_progress("compared", "pairs of scans")
    groups = group_scans(prints, known, progress=progress)
    patients = name_patients([{numbers[name] for name in group} for group in groups])
    return {name: patients[number] for name, number in numbers.items()}
