"""nnU-Net's folder of scans: `dataset.json`, `imagesTr`, `labelsTr`, strict in everything."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lesionkeras.ct.findings import CtError, make_correction
from lesionkeras.ct.reading import CHANNEL, ENDING, read_pair
from lesionkeras.errors import DataError
from tfds_builders.folder.box_image import make_error
from tfds_builders.folder.coco import read_json
from tfds_builders.segmentation import LESION, LIVER, Scan

LESION_WORDS = ("tumor", "tumour", "lesion", "cancer", "metasta", "hcc")
LIVER_WORDS = ("liver", "leber", "foie")
# A tumour of one of these is no liver lesion, unless its name says liver too.
OTHER_ORGANS = (
    *("kidney", "renal", "lung", "pulmon", "pancrea", "colon", "spleen", "splen", "bladder"),
    *("prostat", "breast", "brain", "bone", "stomach", "gastric", "ovar", "esophag", "lymph"),
    *("thyroid", "uterus", "niere", "milz"),
)
IGNORE = "ignore"  # nnU-Net's voxels of which nobody knows what they are
MAX_LABEL = 254
ENDINGS = (".nii.gz", ".nii")
OTHER_MODALITY = re.compile(r"(mr|t1|t2|flair|dwi|adc|pet)", re.IGNORECASE)  # how names begin


@dataclass(frozen=True)
class FolderCase:
    """A case: its name, its two files, and what its labels mean."""

    name: str
    image: Path
    mask: Path
    labels: tuple[tuple[int, int], ...]  # (value in the file, 0, 1 or 2)

    @property
    def files(self) -> tuple[Path, ...]:
        """The two files."""
        return self.image, self.mask


def parse_labels(labels: Any, where: str) -> tuple[tuple[int, int], ...]:
    """Read nnU-Net's `labels` in either version: which value is the liver, which a lesion.

    Args:
        labels: {"background": 0, "liver": 1, "tumour": 2}, or {"0": "background", ...}; regions,
            {"liver": [1, 2], "tumour": [2]}, may share values: lesion goes before liver.
        where: What to call the file in an error.

    Returns:
        Pairs of value and 0, 1 (liver) or 2 (lesion); other names (organs and their tumours) are
        background, and nnU-Net's `ignore` is none of them.

    Raises:
        DataError: It is neither, names no lesion, or gives a value two names.

    >>> parse_labels({"background": 0, "Liver": 1, "hepatic tumor": 2, "spleen": 3}, "here")
    ((0, 0), (1, 1), (2, 2), (3, 0))
    >>> parse_labels({"liver": 1, "tumour": 2, "kidney tumour": 3}, "here")
    ((1, 1), (2, 2), (3, 0))
    """
    plain: dict[int, int] = {}
    regions: list[tuple[int, int]] = []
    for key, value in labels.items() if isinstance(labels, Mapping) else ():
        name, numbers = (value, key) if isinstance(value, str) else (key, value)
        meaning = _find_meaning(str(name).lower())
        values = _parse_values(str(name).lower(), numbers)
        is_double = not isinstance(numbers, list) and not plain.keys().isdisjoint(values)
        if not values or is_double or (meaning and 0 in values):
            found = f"{str(key)[:40]!r}: {str(value)[:40]!r}"
            wanted = f"one name for a value of 1 to {MAX_LABEL}, 0 for the background"
            raise make_error("A label cannot be used", where, found, wanted)
        if str(name).lower() == IGNORE:
            continue
        if isinstance(numbers, list):
            regions += [(each, meaning) for each in values]
        else:
            plain[values[0]] = meaning
    meanings = dict(sorted([*plain.items(), *regions]))  # a lesion's region comes last
    if LESION not in meanings.values():
        wanted = "a label whose name holds " + ", ".join(LESION_WORDS)
        raise make_error("No label is a lesion", where, repr(labels)[:120], wanted)
    return tuple(meanings.items())


def _parse_values(name: str, numbers: Any) -> list[int]:
    """Return the values of a label or a region, none where they cannot be told."""
    texts = [str(each).strip() for each in (numbers if isinstance(numbers, list) else [numbers])]
    if not all(text.isascii() and text.isdigit() and int(text) <= MAX_LABEL for text in texts):
        return []
    # "liver and tumours": [1, 2] may be both or the tumours of the liver.
    is_both = _find_meaning(name) == LESION and any(word in name for word in LIVER_WORDS)
    return [] if is_both and len(texts) > 1 else [int(text) for text in texts]


def _find_meaning(name: str) -> int:
    is_liver = any(word in name for word in LIVER_WORDS)
    if any(word in name for word in LESION_WORDS):
        return LESION if is_liver or not any(word in name for word in OTHER_ORGANS) else 0
    return LIVER if is_liver else 0


def index_scans(root: Path) -> tuple[list[FolderCase], list[str]]:
    """List the cases of an nnU-Net folder.

    Args:
        root: The folder.

    Returns:
        Cases by name, and what the user should know, a clause each.

    Raises:
        DataError: `dataset.json` is missing or names no lesion; an image has no mask.
    """
    where = root / "dataset.json"
    if not where.is_file():
        raise DataError(
            "nnU-Net's dataset.json is missing",
            where=str(root),
            wanted='{"labels": {"background": 0, "liver": 1, "tumour": 2}, ...}',
            next_step="write it beside imagesTr",
        )
    tree = read_json(where)
    tree = tree if isinstance(tree, dict) else {}
    labels = parse_labels(tree.get("labels"), "dataset.json")
    _check_form(tree)
    masks = _list_files(root / "labelsTr")
    images = _list_files(root / "imagesTr", masks)
    alone = sorted(set(images) - set(masks))
    if alone or not images:
        found = f"no mask of {alone[0]}" if alone else "no image"
        wanted = "imagesTr/CASE_0000.nii.gz with labelsTr/CASE.nii.gz"
        raise make_error("A case is not whole", str(root), found, wanted)
    cases = [FolderCase(name, images[name], masks[name], labels) for name in images]
    notes = [f"{len(cases)} scans; cases that show one person are one patient"]
    listed = (path for name in ("imagesTr", "labelsTr") for path in sorted((root / name).iterdir()))
    others = [p.name for p in listed if not (ENDING.search(p.name) or p.name.startswith("."))]
    if others:
        notes.append(f"{len(others)} files, such as {others[0]}, do not end in .nii.gz: left out")
    if len(masks) > len(images):
        notes.append(f"{len(masks) - len(images)} masks without an image: left out")
    claim = tree.get("numTraining")
    if isinstance(claim, int) and claim != len(cases):
        notes.append(f"dataset.json says that there are {claim}")
    if not any(meaning == LIVER for _, meaning in labels):
        notes.append("no label is the liver")
    return cases, notes


def _check_form(tree: Mapping[str, Any]) -> None:
    """Refuse what dataset.json itself says is no CT or no NIfTI."""
    ending = tree.get("file_ending", ENDINGS[0])
    if ending not in ENDINGS:
        wanted = " or ".join(ENDINGS)
        raise make_error("file_ending cannot be read", "dataset.json", repr(ending)[:40], wanted)
    channels = tree.get("channel_names", tree.get("modality"))
    for name in channels.values() if isinstance(channels, Mapping) else ():
        if isinstance(name, str) and OTHER_MODALITY.match(name):
            raise make_error("Images are not CT", "dataset.json", repr(name)[:40], "CT")


def _list_files(folder: Path, masks: Container[str] | None = None) -> dict[str, Path]:
    """Return case -> file; nnU-Net's channel number is not part of an image's case.

    Args:
        folder: imagesTr or labelsTr.
        masks: For images: the cases that have masks, which may end as a channel does.
    """
    cases: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        name = ENDING.sub("", path.name)
        if name == path.name or name.startswith("."):  # macOS leaves ._ files
            continue
        case = name if masks is None or name in masks else CHANNEL.sub("", name)
        other = cases.setdefault(case, path)
        if other != path:
            found, wanted = f"{other.name} and {path.name}", "one channel: CT"
            raise make_error(f"Case {case} has two files", folder.name, found, wanted)
    return cases


def read_case(case: FolderCase, patient: str) -> Scan:
    """Read a case; nothing about its geometry is put right.

    Args:
        case: The two files.
        patient: Whose scan it is.

    Raises:
        CtError: What `read_pair` raises; bad-label: a value that `dataset.json` does not name.
    """
    image, mask = read_pair(case.image, case.mask)
    table = np.full(256, 255, np.uint8)
    for value, meaning in case.labels:
        table[value] = meaning
    table[0] = 0
    merged = table[mask.array]
    if (merged == 255).any():
        unknown = sorted(set(np.unique(mask.array[merged == 255]).tolist()))
        raise CtError(
            "bad-label",
            "A mask holds a label that dataset.json does not name",
            where=str(case.mask),
            found=", ".join(map(str, unknown[:5])),
            wanted=", ".join(str(value) for value, _ in case.labels),
            next_step="name it in dataset.json, but not ignore, or correct the mask",
        )
    corrections = [*image.corrections, *mask.corrections]
    changed = [f"{value} to {meaning}" for value, meaning in case.labels if value != meaning]
    if changed and not np.array_equal(merged, mask.array):
        corrections.append(make_correction("labels-merged", ", ".join(changed)))
    mask = replace(mask, array=merged)
    return Scan(case.name, patient, image, mask, tuple(map(str, corrections)))
