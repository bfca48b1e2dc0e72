"""Checks of a raw lits folder, for `experiments.verify`."""

from pathlib import Path

from tfds_builders.lits.lits_dataset_builder import Builder
from tfds_builders.verify_scans import ScanVerifier, open_scan_verifier


def open_verifier(data_dir: Path | None, config: str) -> ScanVerifier:
    """List the scans; see `Builder.index_raw`."""
    return open_scan_verifier(Builder, data_dir, config, is_one_patient_a_case=False)
