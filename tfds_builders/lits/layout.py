"""A LiTS folder to pairs of volume and segmentation, wherever in it they lie."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lesionkeras.errors import DataError

FILE_NAME = re.compile(r"(volume|segmentation|test-volume|test-segmentation)-(\d+)\.nii(?:\.gz)?")
NUM_TRAINING = 131  # volumes 0 to 130
TREE = """\
DATA_DIR/
    Training Batch 1/
        volume-0.nii
        segmentation-0.nii
        ...
        volume-27.nii
        segmentation-27.nii
    Training Batch 2/
        volume-28.nii
        ...
        segmentation-130.nii
"""
TREE_WORDS = (
    "{root}/volume-0.nii with {root}/segmentation-0.nii and so on up to 130, .nii or .nii.gz, or "
    "the same in folders such as '{root}/Training Batch 1'"
)


@dataclass(frozen=True)
class Case:
    """A training volume: its number and its two files."""

    number: int
    image: Path
    mask: Path

    @property
    def name(self) -> str:
        """Its name in the data set, such as "volume-4"."""
        return f"volume-{self.number}"

    @property
    def files(self) -> tuple[Path, ...]:
        """The two files."""
        return self.image, self.mask


@dataclass(frozen=True)
class Layout:
    """The pairs of a folder, by number, and how many test volumes lie there."""

    root: Path
    cases: tuple[Case, ...]
    num_test: int


def _check_root(root: Path | None) -> Path:
    if root is None:
        raise DataError(
            "LiTS needs its raw data",
            found="no data folder",
            wanted=TREE_WORDS.format(root="DATA_DIR"),
            next_step="give --data-dir DATA_DIR (tfds build: --manual_dir DATA_DIR)",
        )
    if not root.is_dir():
        raise _make_error(root, "no such folder")
    return root


def _make_error(root: Path, found: str) -> DataError:
    below = [root / name for name in ("lits", "LiTS", "LITS17") if (root / name).is_dir()]
    return DataError(
        "LiTS' data are not there",
        where=str(root),
        found=found,
        wanted=TREE_WORDS.format(root=root),
        next_step=f"try --data-dir {below[0]}" if below else "give the folder that holds them",
    )


def _list_files(root: Path) -> Iterator[tuple[str, int, Path]]:
    """Yield (kind, number, file); links to folders, which may run in a circle, are left alone."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            match = FILE_NAME.fullmatch(name)
            if match:
                yield match[1], int(match[2]), Path(folder) / name


def list_cases(root: Path | None) -> Layout:
    """Find the training volumes of a LiTS folder and their segmentations.

    Args:
        root: The folder; batches may lie anywhere below it.  Test volumes are counted only.

    Returns:
        The pairs, by number.

    Raises:
        DataError: No folder was given or it holds no pair (the tree is named); a volume is there
            twice, or without its segmentation, or a segmentation without its volume.
    """
    root = _check_root(root)
    files: dict[str, dict[int, Path]] = {
        kind: {} for kind in ("volume", "segmentation", "test-volume", "test-segmentation")
    }
    for kind, number, path in _list_files(root):
        other = files[kind].setdefault(number, path)
        if other != path:
            raise DataError(
                f"{kind}-{number} is there twice",
                where=str(root),
                found=f"{other.relative_to(root)} and {path.relative_to(root)}",
                wanted="one file",
                next_step="remove or move one of them",
            )
    images, masks = files["volume"], files["segmentation"]
    if not images and not masks:
        found = f"{len(files['test-volume'])} test volumes only" if files["test-volume"] else ""
        raise _make_error(root, found or "no file volume-N.nii or volume-N.nii.gz")
    for kind, there, partners in (("segmentation", images, masks), ("volume", masks, images)):
        alone = sorted(set(there) - set(partners))
        if alone:
            raise DataError(
                f"{kind}-{alone[0]} is missing",
                where=str(root),
                found=f"{there[alone[0]].relative_to(root)} without it"
                + (f", and {len(alone) - 1} more of the kind" if len(alone) > 1 else ""),
                wanted="a pair of volume and segmentation",
                next_step=f"copy {kind}-{alone[0]}.nii there, or remove its partner",
            )
    cases = tuple(Case(number, images[number], masks[number]) for number in sorted(images))
    return Layout(root, cases, len(files["test-volume"]))
