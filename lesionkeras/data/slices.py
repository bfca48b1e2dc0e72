"""Slices and masks at the network's size, decoded once: what segmentation reads from.

Every slice is stored once, however many examples it is a neighbour in: in a data set of whole
volumes that is a third of the room, and a third of the decoding.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lesionkeras.config import SegmentationDataConfig
from lesionkeras.ct.png16 import decode_png16, to_hu
from lesionkeras.data.cache import check_split, digest_facts, open_cache
from lesionkeras.errors import DataError

CACHE_VERSION = 1  # raise where what `prepare_slices` writes changes
LIVER, LESION = 1, 2  # mask values; 0 is background
THREADS = 4  # decoding; more than two cores rarely help, as the disk is one
AHEAD = 16  # examples in work at once
ROW_NAMES = ("neighbours", "patients", "volumes", "files", "numbers", "spacing_mm", "size_px")


class Stacked:
    """Arrays of equal row shape that are read as if they were one; may lie on disk (memmap)."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int) -> np.ndarray:
        """Return one row."""
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return np.asarray(self.parts[part][row - self.starts[part]])

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of a row."""
        return tuple(self.parts[0].shape[1:])


@dataclass(frozen=True)
class PreparedSlices:
    """Slices of one split, or of several joined; rows belong together.

    Attributes:
        slices_hu: int16 [U, S, S] HU, every slice once.
        masks: uint8 [N, S, S], 0 background, 1 liver, 2 lesion, of the key slices.
        neighbours: int64 [N, 3] rows of `slices_hu`: previous, key and next slice; a missing
            neighbour is the key slice.
        patients: N names; scans of one patient share one.
        volumes: N names of scans.
        files: N names of the key slices.
        numbers: int32 [N], number of the key slice in its volume.
        spacing_mm: float32 [N, 3] of a resized voxel, z, y and x.
        size_px: int32 [N, 2] of the source slice, H and W.
        has_liver: bool [N], of the mask before it was resized.
        has_lesion: bool [N], likewise.
    """

    slices_hu: Stacked
    masks: Stacked
    neighbours: np.ndarray
    patients: tuple[str, ...]
    volumes: tuple[str, ...]
    files: tuple[str, ...]
    numbers: np.ndarray
    spacing_mm: np.ndarray
    size_px: np.ndarray
    has_liver: np.ndarray
    has_lesion: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    @property
    def side_px(self) -> int:
        """Side of the square slices."""
        return self.slices_hu.row_shape[0]

    def read_image(self, row: int, num_slices: int) -> np.ndarray:
        """Return one example's image, int16 [S, S, num_slices] HU; 1 is the key slice alone."""
        if num_slices == 1:
            return self.slices_hu[self.neighbours[row, 1]][..., None]
        return cv2.merge([self.slices_hu[i] for i in self.neighbours[row]])


def join_slices(parts: Sequence[PreparedSlices]) -> PreparedSlices:
    """Return all slices of several splits or data sets as one, in order; nothing is copied."""
    columns: dict[str, Any] = {}
    for field in fields(PreparedSlices):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], Stacked):
            columns[field.name] = Stacked([array for value in values for array in value.parts])
        elif isinstance(values[0], tuple):
            columns[field.name] = sum(values, ())
        else:
            columns[field.name] = np.concatenate(values)
    starts = np.cumsum([0, *(len(part.slices_hu) for part in parts)])
    moved = [part.neighbours + start for part, start in zip(parts, starts, strict=False)]
    return replace(PreparedSlices(**columns), neighbours=np.concatenate(moved))


def resize_mask(mask: np.ndarray, side_px: int) -> np.ndarray:
    """Resize a mask to a square by the nearest pixel; see `ct.window.resize_mask_graph`."""
    from lesionkeras.ct.window import resize_mask_graph

    if mask.shape == (side_px, side_px):
        return mask
    return resize_mask_graph(mask[..., None], (side_px, side_px)).numpy()[..., 0]


def _resize_slice(png: bytes, side_px: int, file: str) -> np.ndarray:
    from lesionkeras.ct.window import resize_hu_graph

    image_hu = to_hu(decode_png16(png, file))
    if image_hu.shape == (side_px, side_px):
        return image_hu
    return resize_hu_graph(image_hu[..., None], (side_px, side_px)).numpy()[..., 0]


def _read_mask(record: dict[str, Any], builder: Any) -> np.ndarray:
    file, png = record["file"].decode(), record["mask_png"]
    shape, mask = tuple(record["size_px"].tolist()), None
    if png:
        mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if mask is None or mask.shape != shape or mask.dtype != np.uint8 or mask.max() > LESION:
        raise DataError(
            "A slice has no mask" if not png else "A mask is damaged",
            where=f"{file} of data set {builder.info.name}",
            found="none" if not png else "other values or another size",
            wanted="an 8-bit PNG of 0, 1 and 2 of the slice's size",
            next_step="choose a data set with masks, or prepare this one again",
        )
    return mask


class _Slices:
    """Gives each slice a row, and decodes it when it is met first."""

    def __init__(self, pool: ThreadPoolExecutor, side_px: int) -> None:
        self.pool, self.side_px = pool, side_px
        self.rows: dict[bytes, int] = {}
        self.work: deque[Future[np.ndarray]] = deque()

    def find(self, png: bytes, file: str) -> int:
        name = hashlib.blake2b(png, digest_size=16).digest()
        if name not in self.rows:
            self.rows[name] = len(self.rows)
            self.work.append(self.pool.submit(_resize_slice, png, self.side_px, file))
        return self.rows[name]

    def pop(self, left: int) -> Iterator[np.ndarray]:
        """Give the decoded slices in order, until so many are left in work."""
        while len(self.work) > left:
            yield self.work.popleft().result()


def _make_row(record: dict[str, Any], slices: _Slices, side_px: int) -> tuple[Any, ...]:
    file, key_png = record["file"].decode(), record["png_key"]
    pngs = [record["png_previous"] or key_png, key_png, record["png_next"] or key_png]
    shrink = side_px / record["size_px"].astype(np.float32)  # y, x
    return (
        [slices.find(png, file) for png in pngs],
        record["patient"].decode(),
        record.get("volume", record["patient"]).decode(),
        file,
        record["slice"],
        record["spacing_mm"] / np.array([1.0, *shrink], np.float32),
        record["size_px"],
    )


def _write_slices(
    folder: Path, builder: Any, split: str, side_px: int, progress: Callable[[int, int], None]
) -> None:
    import tensorflow_datasets as tfds

    total = builder.info.splits[split].num_examples
    options = tfds.ReadConfig(interleave_cycle_length=1)  # in the order of the shards
    records = builder.as_dataset(split=split, read_config=options, shuffle_files=False)
    rows: list[tuple[Any, ...]] = []
    values: list[tuple[bool, bool]] = []
    with (
        (folder / "slices.int16").open("wb") as slice_file,
        (folder / "masks.uint8").open("wb") as mask_file,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        slices = _Slices(pool, side_px)
        for done, record in enumerate(tfds.as_numpy(records), 1):
            progress(done, total)
            mask = _read_mask(record, builder)
            resize_mask(mask, side_px).tofile(mask_file)
            values.append((bool(mask.any()), bool((mask == LESION).any())))
            rows.append(_make_row(record, slices, side_px))
            for image_hu in slices.pop(AHEAD):
                image_hu.tofile(slice_file)
        for image_hu in slices.pop(0):
            image_hu.tofile(slice_file)
    columns: dict[str, Any] = dict(
        zip(ROW_NAMES, map(np.asarray, zip(*rows, strict=True)), strict=True)
    )
    columns["has_liver"], columns["has_lesion"] = np.asarray(values).T
    np.savez(folder / "rows.npz", **columns)


def prepare_slices(
    builder: Any,
    split: str,
    data: SegmentationDataConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PreparedSlices:
    """Decode and resize a split once; later calls map the result from disk.

    Args:
        builder: A prepared TFDS builder with the shared detection schema, masks among it, and
            `volume` where a patient may have several scans.
        split: One of its splits.
        data: Its image size decides what is written.
        progress: Called with slices done and slices in all.

    Returns:
        The split, in the order of its files.

    Raises:
        DataError: The split is unknown or empty; a slice has no mask, or a damaged one.
    """
    check_split(builder, split)
    side_px = data.image_size_px
    folder = open_cache(
        builder,
        digest_facts(builder, split, CACHE_VERSION, ["segmentation", side_px]),
        lambda beside: _write_slices(beside, builder, split, side_px, progress),
    )
    with np.load(folder / "rows.npz") as rows:
        columns: dict[str, Any] = {key: rows[key] for key in rows.files}
    columns |= {key: tuple(columns[key].tolist()) for key in ("patients", "volumes", "files")}

    def map_file(name: str, dtype: type) -> Stacked:
        flat = np.memmap(folder / name, dtype, mode="r")
        return Stacked([flat.reshape(-1, side_px, side_px)])

    return PreparedSlices(
        slices_hu=map_file("slices.int16", np.int16),
        masks=map_file("masks.uint8", np.uint8),
        **columns,
    )
