"""Slices and masks at the network's size, decoded once: what segmentation reads from.

Every slice is stored once, however many examples it is a neighbour in: in a data set of whole
volumes that is a third of the room, and a third of the decoding.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lesionkeras.config import SegmentationDataConfig
from lesionkeras.ct.grid import SliceGrid, find_grid, place_hu, place_mask
from lesionkeras.ct.orientation import CANONICAL
from lesionkeras.ct.png16 import decode_png16, to_hu
from lesionkeras.ct.volume import make_affine
from lesionkeras.data.cache import check_split, digest_facts, open_cache
from lesionkeras.data.liver_level import measure_liver
from lesionkeras.data.stacked import PackedMasks, Stacked
from lesionkeras.errors import DataError

CACHE_VERSION = 3  # raise where what `prepare_slices` writes changes
LIVER, LESION = 1, 2  # mask values; 0 is background
THREADS = 4  # decoding; more than two cores rarely help, as the disk is one
AHEAD = 16  # examples in work at once
WHOLE = 1 / 64  # of a slice: nearer than that a plane is the slice
REACH = 2  # neighbours on each side of a key slice that are kept
ROW_NAMES = (
    "neighbours",
    "patients",
    "volumes",
    "files",
    "numbers",
    "spacing_mm",
    "size_px",
    "resized_px",
    "affines",
    "source_codes",
)
TEXTS = ("patients", "volumes", "files", "source_codes")


@dataclass(frozen=True)
class PreparedSlices:
    """Slices of one split, or of several joined; rows belong together.

    Attributes:
        slices_hu: int16 [U, S, S] HU, every slice once.
        masks: uint8 [N, S, S], 0 background, 1 liver, 2 lesion, of the key slices.
        own_masks: N masks likewise, uint8 [H, W] of the slice's own size.
        neighbours: int64 [N, 3 or 5] rows of `slices_hu`, from caudal, the key slice in the middle;
            a missing neighbour is the next one to the middle.
        patients: N names; scans of one patient share one.
        volumes: N names of scans.
        files: N names of the key slices.
        numbers: int32 [N], number of the key slice in its volume.
        spacing_mm: float32 [N, 3] of a resized voxel, z, y and x.
        size_px: int32 [N, 2] of the source slice, H and W.
        resized_px: int32 [N, 2] of the slice after the resize, before it is cropped or padded.
        affines: float64 [N, 4, 4] of the volume, (z, y, x, 1) index to LPS mm.
        source_codes: N orientations of the volume's file, in NIfTI's order of axes.
        has_liver: bool [N], of the mask before it was resized.
        has_lesion: bool [N], likewise.
        liver_hu: float32 [N], median of the volume's liver without lesions; NaN where none is.
    """

    slices_hu: Stacked
    masks: Stacked
    own_masks: PackedMasks
    neighbours: np.ndarray
    patients: tuple[str, ...]
    volumes: tuple[str, ...]
    files: tuple[str, ...]
    numbers: np.ndarray
    spacing_mm: np.ndarray
    size_px: np.ndarray
    resized_px: np.ndarray
    affines: np.ndarray
    source_codes: tuple[str, ...]
    has_liver: np.ndarray
    has_lesion: np.ndarray
    liver_hu: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    @property
    def side_px(self) -> int:
        """Side of the square slices."""
        return self.slices_hu.row_shape[0]

    def read_image(
        self, row: int, num_slices: int, slice_mm: float = 0.0, stretch: float = 1.0
    ) -> np.ndarray:
        """Return one example's image.

        Args:
            row: Of the key slice.
            num_slices: Channels, from caudal; 1 is the key slice alone.
            slice_mm: From channel to channel; 0 is from slice to slice, however far that is.
            stretch: Of that distance.

        Returns:
            int16 [S, S, num_slices] HU, linear between two slices; beyond a volume's last slice,
            and beyond a slice that is not there, the nearest one towards the key slice.
        """
        reach = num_slices // 2
        step = stretch * (slice_mm / float(self.spacing_mm[row, 0]) if slice_mm else 1.0)
        planes = [self._read_plane(row, step * i) for i in range(-reach, reach + 1)]
        return cv2.merge(planes).reshape(*planes[0].shape, num_slices)

    def _read_plane(self, row: int, place: float) -> np.ndarray:
        """The plane at a place counted in slices from a key slice."""
        below = math.floor(place)
        above_share = place - below
        plane = self.slices_hu[self._find_slice(row, below)]
        if above_share < WHOLE:
            return plane
        above = self.slices_hu[self._find_slice(row, below + 1)]
        return above if above_share > 1 - WHOLE else _blend(plane, above, above_share)

    def _find_slice(self, row: int, offset: int) -> int:
        """The row in `slices_hu` of the slice so many from a key slice."""
        reach, volume = self.neighbours.shape[1] // 2, self.volumes[row]
        number, way = int(self.numbers[row]), 1 if offset > 0 else -1
        left = abs(offset)
        while left > reach:  # by way of key slices between
            further = self._rows.get((volume, number + way * reach))
            if further is None:
                break
            row, number, left = further, number + way * reach, left - reach
        return int(self.neighbours[row, reach + way * min(left, reach)])

    @cached_property
    def _rows(self) -> dict[tuple[str, int], int]:
        keys = zip(self.volumes, self.numbers.tolist(), strict=True)
        return {key: row for row, key in enumerate(keys)}

    def find_grid(self, row: int) -> SliceGrid:
        """Return where a key slice's own pixels lie on the square."""
        (height, width), (rows, columns) = self.size_px[row], self.resized_px[row]
        return SliceGrid((int(height), int(width)), (int(rows), int(columns)), self.side_px)

    def find_own_spacing_mm(self, row: int) -> tuple[float, float, float]:
        """Return z, y and x of a voxel of the source."""
        rows, columns = self.find_grid(row).scale
        z, y, x = (float(length) for length in self.spacing_mm[row])
        return z, y * rows, x * columns


def _blend(below: np.ndarray, above: np.ndarray, above_share: float) -> np.ndarray:
    return np.asarray(cv2.addWeighted(below, 1 - above_share, above, above_share, 0.0))


def join_slices(parts: Sequence[PreparedSlices]) -> PreparedSlices:
    """Return all slices of several splits or data sets as one, in order; nothing is copied."""
    columns: dict[str, Any] = {}
    for field in fields(PreparedSlices):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], Stacked | PackedMasks):
            kind = type(values[0])
            columns[field.name] = kind([array for value in values for array in value.parts])
        elif isinstance(values[0], tuple):
            columns[field.name] = sum(values, ())
        else:
            columns[field.name] = np.concatenate(values)
    starts = np.cumsum([0, *(len(part.slices_hu) for part in parts)])
    moved = [part.neighbours + start for part, start in zip(parts, starts, strict=False)]
    return replace(PreparedSlices(**columns), neighbours=np.concatenate(moved))


def _find_record_grid(record: dict[str, Any], data: SegmentationDataConfig) -> SliceGrid:
    height, width = record["size_px"].tolist()
    _, y, x = record["spacing_mm"].tolist()
    return find_grid((height, width), (y, x), data.image_size_px, data.pixel_mm)


def _place_slice(png: bytes, grid: SliceGrid, file: str) -> np.ndarray:
    return place_hu(to_hu(decode_png16(png, file)), grid)


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

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.pool = pool
        self.rows: dict[bytes, int] = {}
        self.work: deque[Future[np.ndarray]] = deque()

    def find(self, png: bytes, grid: SliceGrid, file: str) -> int:
        # the same bytes with pixels of another size are another slice
        name = hashlib.blake2b(png + repr(grid).encode(), digest_size=16).digest()
        if name not in self.rows:
            self.rows[name] = len(self.rows)
            self.work.append(self.pool.submit(_place_slice, png, grid, file))
        return self.rows[name]

    def pop(self, left: int) -> Iterator[np.ndarray]:
        """Give the decoded slices in order, until so many are left in work."""
        while len(self.work) > left:
            yield self.work.popleft().result()


def _make_row(record: dict[str, Any], slices: _Slices, grid: SliceGrid) -> tuple[Any, ...]:
    file, key_png = record["file"].decode(), record["png_key"]
    pngs = [record["png_previous"] or key_png, key_png, record["png_next"] or key_png]
    return (
        [slices.find(png, grid, file) for png in pngs],
        record["patient"].decode(),
        record.get("volume", record["patient"]).decode(),
        file,
        record["slice"],
        record["spacing_mm"] / np.array([1.0, *grid.scale], np.float32),
        record["size_px"],
        np.array(grid.resized_px, np.int32),
        record.get("affine", make_affine(tuple(record["spacing_mm"].tolist()))),
        record.get("source_code", CANONICAL[::-1].encode()).decode(),
    )


def reach_further(
    neighbours: np.ndarray, volumes: Sequence[str], numbers: np.ndarray
) -> np.ndarray:
    """Add the slices two away from each key slice, which are neighbours of its neighbours.

    Args:
        neighbours: int64 [N, 3] rows of previous, key and next slice.
        volumes: N names of scans.
        numbers: int [N], number of the key slice in its volume.

    Returns:
        int64 [N, 5]; where the slice two away is not there, the nearer one.
    """
    rows = {key: row for row, key in enumerate(zip(volumes, numbers.tolist(), strict=True))}
    further = np.empty((len(neighbours), 2 * REACH + 1), neighbours.dtype)
    further[:, 1:4] = neighbours
    for row, (volume, number) in enumerate(zip(volumes, numbers.tolist(), strict=True)):
        before, after = rows.get((volume, number - 1)), rows.get((volume, number + 1))
        further[row, 0] = neighbours[row if before is None else before, 0]
        further[row, 4] = neighbours[row if after is None else after, 2]
    return further


def _write_slices(
    folder: Path,
    builder: Any,
    split: str,
    data: SegmentationDataConfig,
    progress: Callable[[int, int], None],
) -> None:
    import tensorflow_datasets as tfds

    total = builder.info.splits[split].num_examples
    options = tfds.ReadConfig(interleave_cycle_length=1)  # in the order of the shards
    records = builder.as_dataset(split=split, read_config=options, shuffle_files=False)
    rows: list[tuple[Any, ...]] = []
    values: list[tuple[bool, bool]] = []
    starts = [0]
    with (
        (folder / "slices.int16").open("wb") as slice_file,
        (folder / "masks.uint8").open("wb") as mask_file,
        (folder / "masks.png").open("wb") as png_file,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        slices = _Slices(pool)
        for done, record in enumerate(tfds.as_numpy(records), 1):
            progress(done, total)
            mask, grid = _read_mask(record, builder), _find_record_grid(record, data)
            place_mask(mask, grid).tofile(mask_file)
            starts.append(starts[-1] + png_file.write(record["mask_png"]))
            values.append((bool(mask.any()), bool((mask == LESION).any())))
            rows.append(_make_row(record, slices, grid))
            for image_hu in slices.pop(AHEAD):
                image_hu.tofile(slice_file)
        for image_hu in slices.pop(0):
            image_hu.tofile(slice_file)
    columns: dict[str, Any] = dict(
        zip(ROW_NAMES, map(np.asarray, zip(*rows, strict=True)), strict=True)
    )
    columns["has_liver"], columns["has_lesion"] = np.asarray(values).T
    columns["neighbours"] = reach_further(
        columns["neighbours"], columns["volumes"].tolist(), columns["numbers"]
    )
    slices_hu, masks = (
        np.memmap(folder / name, kind, mode="r").reshape(-1, data.image_size_px, data.image_size_px)
        for name, kind in (("slices.int16", np.int16), ("masks.uint8", np.uint8))
    )
    keys = columns["neighbours"][:, REACH]
    columns["liver_hu"] = measure_liver(slices_hu, masks, keys, columns["volumes"].tolist())
    np.savez(folder / "rows.npz", **columns)
    np.save(folder / "starts.npy", np.array(starts))


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
        data: Its image size and mm a pixel decide what is written.
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
        digest_facts(builder, split, CACHE_VERSION, ["segmentation", side_px, data.pixel_mm]),
        lambda beside: _write_slices(beside, builder, split, data, progress),
    )
    with np.load(folder / "rows.npz") as rows:
        columns: dict[str, Any] = {key: rows[key] for key in rows.files}
    columns |= {key: tuple(columns[key].tolist()) for key in TEXTS}

    def map_file(name: str, dtype: type) -> Stacked:
        flat = np.memmap(folder / name, dtype, mode="r")
        return Stacked([flat.reshape(-1, side_px, side_px)])

    return PreparedSlices(
        slices_hu=map_file("slices.int16", np.int16),
        masks=map_file("masks.uint8", np.uint8),
        own_masks=PackedMasks(
            [(np.memmap(folder / "masks.png", np.uint8, mode="r"), np.load(folder / "starts.npy"))]
        ),
        **columns,
    )
