"""Checks of data sets of outlined scans: files, geometry, labels, HU, and whose scans they are."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lesionkeras.ct.same_patient import Pair, ScanPrint, describe_scan, find_pairs
from lesionkeras.ct.verification import Finding, Item, ItemResult, check_intensity
from lesionkeras.errors import DataError
from tfds_builders.scan_builder import RawScans, ScanCase, list_files
from tfds_builders.segmentation import CONFIGS, LESION, Scan

MM3_A_ML = 1000.0
# What a scan of a person and its liver look like; outside is worth a look, not an error.
SPACING_MM = {"between slices": (0.3, 10.0), "within a slice": (0.3, 1.5)}
LIVER_ML = (500.0, 6000.0)
LIVER_HU = (20.0, 220.0)  # median; fatty without contrast to enhanced


@dataclass(frozen=True)
class ScanVerifier:
    """Satisfies `RawVerifier`; an item is a scan."""

    raw: RawScans
    is_one_patient_a_case: bool = False  # whether the source says so

    @property
    def root(self) -> Path:
        """The raw folder."""
        return self.raw.root

    @property
    def findings(self) -> Sequence[Finding]:
        """What the listing says."""
        return [Finding("note", "contents", "the folder", note) for note in self.raw.notes]

    @property
    def items(self) -> Sequence[Item]:
        """Every scan with its files, and the tables that say what is in them."""
        return [
            Item(
                case.name,
                (*(file for path in case.files for file in list_files(path)), *self.raw.tables),
            )
            for case in self.raw.cases
        ]

    @property
    def prepared_bytes(self) -> int:
        """From the size of the files: `.nii.gz` and DICOM archives hold about half of it."""
        # A link to nothing is its case's error.
        return 4 * sum(path.stat().st_size for path in self.raw.files if path.is_file())

    def check_item(self, item: Item) -> ItemResult:
        """Read a scan as the builder would, and look at what came out."""
        case: ScanCase = next(case for case in self.raw.cases if case.name == item.name)
        scan: Scan = self.raw.read(case, "")
        findings = [_to_finding(text, item.name) for text in scan.corrections]
        findings += check_intensity(scan.image.array, item.name)
        findings += check_scan(scan)
        shown = describe_scan(scan.image, scan.mask)
        return ItemResult(tuple(findings), encode_print(shown))

    def compare(self, results: Mapping[str, ItemResult]) -> Sequence[Finding]:
        """Name scans of one patient, which a split must not divide."""
        prints = {
            name: decode_print(result.facts) for name, result in results.items() if result.facts
        }
        return [
            _describe_pair(pair, self.is_one_patient_a_case)
            for pair in find_pairs(prints)
            if pair.is_same
        ]


def _to_finding(correction: str, where: str) -> Finding:
    name, _, detail = correction.partition(": ")
    return Finding("corrected", name, where, detail)


def _describe_pair(pair: Pair, is_surprise: bool) -> Finding:
    first, second = pair.names
    text = f"one patient with {first}: similarity {pair.similarity:.2f}"
    if pair.copied_slices:
        text += f", {pair.copied_slices} slices are the same"
    text += "; both go to one split"
    return Finding("warning" if is_surprise else "corrected", "same-patient", second, text)


def check_scan(scan: Scan) -> list[Finding]:
    """Check a scan's spacing, liver and lesions against what people look like.

    Args:
        scan: Image and mask.

    Returns:
        Warnings, and one note of what is in the mask.
    """
    findings = []
    z_mm, y_mm, x_mm = scan.image.spacing_mm
    for (what, (low, high)), mm in zip(SPACING_MM.items(), (z_mm, max(y_mm, x_mm)), strict=True):
        if not low <= mm <= high:
            text = f"{mm:.3g} mm {what}, wanted {low} to {high}"
            findings.append(Finding("warning", "spacing", scan.name, text))
    voxel_ml = z_mm * y_mm * x_mm / MM3_A_ML
    mask = scan.mask.array
    liver_ml = np.count_nonzero(mask) * voxel_ml
    lesion_ml = np.count_nonzero(mask == LESION) * voxel_ml
    text = f"liver {liver_ml:.0f} ml, lesions {lesion_ml:.1f} ml"
    findings.append(Finding("note", "volume" if lesion_ml else "lesion-free", scan.name, text))
    if liver_ml and not LIVER_ML[0] <= liver_ml <= LIVER_ML[1]:
        text = f"{liver_ml:.0f} ml of liver, wanted {LIVER_ML[0]:.0f} to {LIVER_ML[1]:.0f}"
        findings.append(Finding("warning", "liver-volume", scan.name, text))
    healthy = scan.image.array[(mask > 0) & (mask < LESION)]
    median_hu = float(np.median(healthy)) if healthy.size else LIVER_HU[0]
    if not LIVER_HU[0] <= median_hu <= LIVER_HU[1]:
        text = f"a median of {median_hu:.0f} HU, wanted {LIVER_HU[0]:.0f} to {LIVER_HU[1]:.0f}"
        findings.append(Finding("warning", "liver-hu", scan.name, text))
    return findings


def encode_print(shown: ScanPrint) -> dict[str, Any]:
    """Return a print as text, for the notebook of a check."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, detail=shown.detail)
    detail = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"detail": detail, "slices": sorted(each.hex() for each in shown.slices)}


def decode_print(facts: Mapping[str, Any]) -> ScanPrint:
    """Return the print that `encode_print` wrote."""
    with np.load(io.BytesIO(base64.b64decode(facts["detail"])), allow_pickle=False) as arrays:
        return ScanPrint(arrays["detail"], frozenset(map(bytes.fromhex, facts["slices"])))


def open_scan_verifier(
    builder: Any, data_dir: Path | None, config: str, is_one_patient_a_case: bool = False
) -> ScanVerifier:
    """List the scans of a builder's raw folder.

    Args:
        builder: A `ScanBuilder`.
        data_dir: The raw folder.
        config: `slices` or `volumes`.
        is_one_patient_a_case: Whether the source says so: two alike scans are then a surprise.

    Raises:
        DataError: See the builder's `index_raw`.
    """
    raw = builder.index_raw(data_dir, config)
    if not isinstance(raw, RawScans):
        raise DataError("A folder holds no scans", wanted="one of " + ", ".join(CONFIGS))
    return ScanVerifier(raw, is_one_patient_a_case)
