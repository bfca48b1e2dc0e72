"""The official folder to key slices: which rows and which PNG files make one example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lesionkeras.ct.png16 import check_png16_ends
from lesionkeras.errors import DataError
from tfds_builders.deeplesion.parse import LIVER, SPLITS, LesionRow, read_dl_info
from tfds_builders.deeplesion.text_mined import describe_listed, find_listed, list_tables

CONFIGS = ("liver", "all", "p2")
TREE = """\
DATA_DIR/
    DL_info.csv
    Images_png/
        000001_01_01/
            103.png
            104.png
            ...
        000001_02_01/
            008.png
            ...
"""
TREE_WORDS = (
    "{root}/DL_info.csv and {root}/Images_png/SERIES/SLICE.png, such as "
    "{root}/Images_png/000001_01_01/109.png"
)


@dataclass(frozen=True)
class KeySlice:
    """One image of the data set: its rows and its three files; a missing neighbour is None."""

    rows: tuple[LesionRow, ...]
    key: Path
    previous: Path | None
    next: Path | None
    list_split: str = ""  # of P2's list; "": the official split counts
    listed: tuple[bool, ...] = ()  # of each row, where there is a list

    @property
    def split(self) -> str:
        """The split that the image is in."""
        return self.list_split or self.first.split

    @property
    def first(self) -> LesionRow:
        """The row that speaks for the image: its image columns are those of all rows."""
        return self.rows[0]

    @property
    def files(self) -> list[Path]:
        """Key, previous and next file, as far as they exist."""
        return [path for path in (self.key, self.previous, self.next) if path is not None]


@dataclass(frozen=True)
class RawDeepLesion:
    """What of a DeepLesion folder a config uses; satisfies `tfds_builders.prepare.RawIndex`."""

    root: Path
    slices: tuple[KeySlice, ...]
    notes: tuple[str, ...]  # what the user should know, a clause each
    lists: tuple[Path, ...] = ()  # what else than DL_info.csv decides which slices are used

    @property
    def num_images(self) -> int:
        """How many examples will be written."""
        return len(self.slices)

    @property
    def tables(self) -> list[Path]:
        """Files that say what is prepared."""
        return [self.root / "DL_info.csv", *self.lists]

    @property
    def files(self) -> list[Path]:
        """Files below the root that are prepared."""
        return sorted({path for key_slice in self.slices for path in key_slice.files})

    def check(self) -> None:
        """Check that every file is a whole 16-bit grey PNG of the size that its rows say.

        Raises:
            DataError: The first file that is not.
        """
        for key_slice in self.slices:
            for path in key_slice.files:
                _check_image(path, key_slice.first)


def _check_image(path: Path, row: LesionRow) -> None:
    try:
        with path.open("rb") as file:
            size = check_png16_ends(file, str(path))
    except OSError as error:
        raise DataError("An image cannot be read", where=str(path), found=str(error)) from error
    if size != row.image_size:
        raise DataError(
            "An image has another size than its row",
            where=str(path),
            found=f"{size[0]}x{size[1]}",
            wanted="{}x{}".format(*row.image_size) + f" as in DL_info.csv row {row.row}",
            next_step="copy the file from the source again",
        )


def check_tree(root: Path | None) -> Path:
    """Check that a folder looks like DeepLesion's.

    Args:
        root: The folder that holds `DL_info.csv` and `Images_png`, or None where none was given.

    Returns:
        The folder.

    Raises:
        DataError: No folder was given, or it lacks one of the two; the exact tree is named.
    """
    wanted = TREE_WORDS.format(root="DATA_DIR" if root is None else root)
    if root is None:
        raise DataError(
            "DeepLesion needs its raw data",
            found="no data folder",
            wanted=wanted,
            next_step="give --data-dir DATA_DIR (tfds build: --manual_dir DATA_DIR)",
        )
    missing = [
        name
        for name, there in (
            ("DL_info.csv", (root / "DL_info.csv").is_file()),
            ("Images_png", (root / "Images_png").is_dir()),
        )
        if not there
    ]
    if not missing:
        return root
    below = [root / name for name in ("deeplesion", "DeepLesion") if (root / name).is_dir()]
    raise DataError(
        "DeepLesion's data are not there",
        where=str(root),
        found="no " + " and no ".join(missing) if root.is_dir() else "no such folder",
        wanted=wanted,
        next_step=f"try --data-dir {below[0]}" if below else "give the folder that holds both",
    )


def _list_series(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _find_slices(root: Path, images: dict[str, list[LesionRow]]) -> list[KeySlice]:
    """Return the key slices whose PNG is on disk."""
    names: dict[str, set[str]] = {}
    found = []
    for rows in images.values():
        folder = root / "Images_png" / rows[0].series
        if folder.name not in names:
            names[folder.name] = _list_series(folder)
        number = rows[0].key_slice_index
        previous, key, following = (
            folder / name if (name := f"{number + step:03d}.png") in names[folder.name] else None
            for step in (-1, 0, 1)
        )
        if key is not None:
            found.append(KeySlice(tuple(rows), key, previous, following))
    return found


def index_deeplesion(
    root: Path | None, config: str, refused: list[DataError] | None = None
) -> RawDeepLesion:
    """Read `DL_info.csv` and list the files that a config needs.

    Args:
        root: The folder that holds `DL_info.csv` and `Images_png`.
        config: `liver`: key slices with at least one liver lesion, with *all* their rows; `all`; or
            `p2`: those with a lesion of P2's list, divided as it is.
        refused: As in `read_dl_info`.

    Returns:
        The index.  Key slices whose PNG is absent are left out and counted in its notes.

    Raises:
        DataError: The tree is not there; no wanted key slice is on disk; see `read_dl_info` and
            `text_mined.find_listed`.
    """
    root = check_tree(root)
    table = read_dl_info(root / "DL_info.csv", refused)
    first: dict[tuple[str, ...], LesionRow] = {}
    for row in table:
        first.setdefault(row.text, row)
    rows = list(first.values())
    listed, totals = find_listed(root, rows) if config == "p2" else ({}, {})
    images: dict[str, list[LesionRow]] = {}
    for row in rows:
        images.setdefault(row.file_name, []).append(row)
    if config == "liver":
        images = {
            name: group
            for name, group in images.items()
            if any(row.coarse_lesion_type == LIVER for row in group)
        }
    if config == "p2":
        images = {
            name: group for name, group in images.items() if any(row.row in listed for row in group)
        }
    slices = [_mark(key_slice, listed) for key_slice in _find_slices(root, images)]
    if not slices:
        raise DataError(
            f"None of the {len(images)} key slices of config {config!r} is there",
            where=str(root / "Images_png"),
            wanted=TREE_WORDS.format(root=root),
            next_step="unpack the images of DeepLesion there",
        )
    notes = _describe(slices, len(images), rows)
    if len(rows) < len(table):
        notes.append(f"{len(table) - len(rows)} rows stood twice: they count once")
    if config != "p2":
        return RawDeepLesion(root, tuple(slices), tuple(notes))
    notes += describe_listed([row for one in slices for row in one.rows], listed, totals)
    return RawDeepLesion(root, tuple(slices), tuple(notes), tuple(list_tables(root)))


def _mark(key_slice: KeySlice, listed: dict[int, str]) -> KeySlice:
    """Say which rows are on P2's list, and in which of its splits the image is therefore.

    No image of the list is in two; were there one, it would be tested on.
    """
    if not listed:
        return key_slice
    marks = tuple(row.row in listed for row in key_slice.rows)
    splits = {listed[row.row] for row in key_slice.rows if row.row in listed}
    split = next(name for name in ("test", "validation", "train") if name in splits)
    return replace(key_slice, listed=marks, list_split=split)


def _describe(slices: Sequence[KeySlice], num_wanted: int, rows: list[LesionRow]) -> list[str]:
    used = [row for key_slice in slices for row in key_slice.rows]
    num_liver = sum(row.coarse_lesion_type == LIVER for row in used)
    splits = Counter(key_slice.split for key_slice in slices)
    num_patients = len({row.patient for row in used})
    clauses = [f"{num_patients} patients, {len(used)} boxes of which {num_liver} liver"]
    empty = [split for split in SPLITS.values() if not splits[split]]
    whose = "P2's" if slices[0].listed else "the official"
    if empty:
        clauses.append(f"no image in {whose} {' and '.join(empty)} split")
    if num_wanted > len(slices):
        clauses.append(
            f"{num_wanted - len(slices)} of {num_wanted} key slices are not on disk: left out"
        )
    lonely = sum(2 - len(key_slice.files[1:]) for key_slice in slices)
    if lonely:
        clauses.append(f"{lonely} of {2 * len(slices)} neighbouring slices are not on disk")
    over = [row.overhang_px for row in rows if row.overhang_px > 0]
    if over:
        clauses.append(
            f"{len(over)} of {len(rows)} boxes of DL_info.csv hang over their image's edge by up "
            f"to {max(over):.1f} px: clipped"
        )
    return clauses
