"""What a check of raw data finds: facts with a severity, and checks that go item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lesionkeras.ct.findings import CtError
from lesionkeras.errors import DataError

SEVERITIES = ("error", "warning", "corrected", "note")
MIN_CLIPPED_SHARE = 0.01  # of the voxels at one end of the range; a real CT has a few at most
STORED_HIGH = 1500  # above it without any negative value: stored values, bone at 1024 + 500
FULL_RANGE_HU = (-1000, 1000)  # air is below, bone and contrast reach above: not clipped there


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        severity: "error": the data set cannot be built or must not be trained on; "warning": look
            at it; "corrected": the builder sees to it; "note": good to know.
        name: A short name of the kind, the same for every such finding.
        where: File, row or case, relative to the raw folder.
        text: What was found, with numbers; never a patient's name or identifier.
    """

    severity: str
    name: str
    where: str
    text: str

    def __post_init__(self) -> None:
        assert self.severity in SEVERITIES, self.severity


@dataclass(frozen=True)
class Item:
    """A part of a raw data set that is checked by itself: a series, a case.

    Attributes:
        name: Its name in the data set.
        files: The files that its result depends on.
    """

    name: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class ItemResult:
    """What the check of an item gave.

    Attributes:
        findings: What was found.
        facts: What comparing items needs; numbers, strings and lists of them.
    """

    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class RawVerifier(Protocol):
    """The checks of one raw data set."""

    @property
    def root(self) -> Path:
        """The raw folder."""

    @property
    def findings(self) -> Sequence[Finding]:
        """What the tables and the folder's listing already say."""

    @property
    def items(self) -> Sequence[Item]:
        """What is checked one by one."""

    @property
    def prepared_bytes(self) -> int:
        """About how much disk the prepared data set takes."""

    def check_item(self, item: Item) -> ItemResult:
        """Open and check every file of an item; never raises DataError."""

    def compare(self, results: Mapping[str, ItemResult]) -> Sequence[Finding]:
        """Check items against each other: duplicates, patients, splits."""


def to_finding(error: DataError, where: str) -> Finding:
    """Return an error that a reader raised as a finding, without identifiers (`CtError.kept`).

    Args:
        error: The error.
        where: The item.
    """
    if isinstance(error, CtError):
        return Finding("error", error.name, where, error.kept)
    return Finding("error", "unusable", where, str(error))


def find_duplicates(images: Mapping[str, tuple[str, str]]) -> list[Finding]:
    """Name images that are there twice; in two splits, a leak.

    Args:
        images: Name to (hash of the pixels, split).

    Returns:
        One finding for all images of the same pixels.

    >>> find_duplicates({"a": ("1", "train"), "b": ("1", "test"), "c": ("2", "test")})[0].text
    'the same pixels as b: a leak between test and train'
    """
    places: dict[str, list[str]] = {}
    for name in sorted(images):
        places.setdefault(images[name][0], []).append(name)
    findings = []
    for names in places.values():
        if len(names) > 1:
            splits = sorted({images[name][1] for name in names})
            text = "the same pixels as " + ", ".join(names[1:])
            is_leak = len(splits) > 1
            text += f": a leak between {' and '.join(splits)}" if is_leak else ""
            severity = "error" if is_leak else "warning"
            findings.append(Finding(severity, "duplicate-image", names[0], text))
    return findings


def check_intensity(image_hu: np.ndarray, where: str) -> list[Finding]:
    """Check that values look like Hounsfield units, and say where they were clipped.

    Args:
        image_hu: int16, any shape.
        where: The item.

    Returns:
        At most one finding an issue.

    >>> image = np.full((4, 4), 40, np.int16)
    >>> [finding.name for finding in check_intensity(image, "a")]
    ['constant']
    >>> image[0], image[1] = -160, 240
    >>> check_intensity(image, "a")[0].text
    'values are clipped to -160..240 HU (25 % and 25 % of the voxels lie at the ends)'
    """
    low, high = int(image_hu.min()), int(image_hu.max())
    if low == high:
        return [Finding("error", "constant", where, f"every voxel is {low} HU")]
    if low >= 0:
        text = f"values from {low} to {high}: no air and no fat"
        if high < STORED_HIGH:
            return [Finding("warning", "no-fat", where, text)]
        return [Finding("error", "not-hu", where, text + ", so these are no HU")]
    shares = [float(np.mean(image_hu == end)) for end in (low, high)]
    inside = (low > FULL_RANGE_HU[0], high < FULL_RANGE_HU[1])
    if any(inside[i] and shares[i] >= MIN_CLIPPED_SHARE for i in range(2)):
        text = (
            f"values are clipped to {low}..{high} HU ({shares[0]:.0%} and {shares[1]:.0%} of the "
            "voxels lie at the ends)"
        )
        return [Finding("warning", "clipped", where, text.replace("%", " %"))]
    return []
