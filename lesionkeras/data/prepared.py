"""Decoded and resized once, read ever after: the cache between a TFDS split and the batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lesionkeras.boxes.clipping import clip_to_square
from lesionkeras.config import DataConfig
from lesionkeras.ct.grid import SliceGrid, find_grid, place_mask
from lesionkeras.data.box_convention import AS_STORED, KEPT, convert_boxes, find_stored
from lesionkeras.data.cache import check_split, digest_facts, open_cache
from lesionkeras.data.stacked import Stacked
from lesionkeras.errors import DataError

CACHE_VERSION = 6  # raise where what `prepare` writes changes
LIVER = 1  # of a mask
# What a config is about where data.lesion_types says nothing: a slice with a liver lesion may show
# others too, which a liver detector must not be taught (DeepLesion's type 4 is liver).
CONFIG_LESION_TYPES = {"deeplesion/liver": (4,)}


@dataclass(frozen=True)
class Prepared:
    """The images of one split at the network's size; rows belong together.

    Attributes:
        images: int16 [N, S, S, 3] HU, previous, key and next slice; may lie on disk (memmap).
        boxes: float32 [N, M, 4] xyxy px of S, padded with 0: what is trained on.
        classes: int32 [N, M], padded with -1.
        patients: N patient numbers.
        files: N names of the key slices.
        spacing_mm: float32 [N, 2] of a resized pixel, y and x.
        size_px: int32 [N, 2] of the source image, H and W.
        resized_px: int32 [N, 2] of the image after the resize, before it is cropped or padded; None
            where every image fills the square.
        volumes: N names of scans; where there are none, the patients'.
        own_boxes: float32 [N, 3, M, 4] xyxy px of the source, padded with 0, in the three
            conventions of `box_convention.KEPT`: every lesion, also one that the square does not
            reach; None where they are not known.
        own_classes: int32 [N, M] of these.
        slice_mm: float32 [N], from a key slice to its neighbours; None where it is not known.
        liver_px: int32 [N], pixels of liver without lesions on the square; 0 without a mask.
        convention: Which of `own_boxes` became `boxes`.
        masks: uint8 [N, S, S] of the key slices, 0 background, 1 liver, 2 lesion; may lie on disk
            (memmap); None where the data set has none.
    """

    images: np.ndarray | Stacked
    boxes: np.ndarray
    classes: np.ndarray
    patients: tuple[str, ...]
    files: tuple[str, ...]
    spacing_mm: np.ndarray
    size_px: np.ndarray
    resized_px: np.ndarray | None = None
    volumes: tuple[str, ...] = ()
    own_boxes: np.ndarray | None = None
    own_classes: np.ndarray | None = None
    slice_mm: np.ndarray | None = None
    liver_px: np.ndarray | None = None
    convention: str = AS_STORED
    masks: np.ndarray | Stacked | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def side_px(self) -> int:
        """Side of the square images."""
        return int(self.images.shape[1])

    def take(self, rows: Sequence[int] | np.ndarray) -> Prepared:
        """Return the named images; what lies in a memmap is copied."""
        rows = np.asarray(rows, np.int64)
        columns = {name: _take(getattr(self, name), rows) for name in _COLUMNS}
        images = np.stack([self.images[i] for i in rows])
        masks = None if self.masks is None else np.stack([self.masks[i] for i in rows])
        return Prepared(images, convention=self.convention, masks=masks, **columns)

    def fill_masks(self) -> np.ndarray | Stacked:
        """Return the masks, of background where there are none."""
        return (
            np.broadcast_to(np.uint8(0), self.images.shape[:3])
            if self.masks is None
            else self.masks
        )

    def real_boxes(self, row: int) -> np.ndarray:
        """Return the boxes of one image without padding, float32 [n, 4] px of S."""
        return self.boxes[row][self.classes[row] >= 0]

    def find_grid(self, row: int) -> SliceGrid:
        """Return where an image's own pixels lie on the square."""
        side = self.side_px
        resized = (side, side) if self.resized_px is None else self.resized_px[row].tolist()
        height, width = self.size_px[row].tolist()
        return SliceGrid((height, width), (resized[0], resized[1]), side)

    def to_source(self, row: int, boxes: np.ndarray) -> np.ndarray:
        """Bring boxes of an image into pixels of its source.

        Args:
            row: Of the image.
            boxes: [..., 4] xyxy px of S.

        Returns:
            float64 [..., 4] xyxy px of the source.
        """
        grid = self.find_grid(row)
        if grid.resized_px == (self.side_px, self.side_px):
            height, width = grid.size_px
            return boxes * (np.array([width, height, width, height]) / self.side_px)
        scale, shift = (np.tile(pair[::-1], 2) for pair in (grid.scale, grid.shift_px))
        return (boxes - shift) / scale

    def from_source(self, row: int, boxes: np.ndarray) -> np.ndarray:
        """Bring boxes in pixels of an image's source onto the square; the way back of `to_source`.

        Args:
            row: Of the image.
            boxes: [..., 4] xyxy px of the source.

        Returns:
            float64 [..., 4] xyxy px of S, which may lie beyond it.
        """
        grid = self.find_grid(row)
        scale, shift = (np.tile(pair[::-1], 2) for pair in (grid.scale, grid.shift_px))
        return boxes * scale + shift

    def find_own_spacing_mm(self, row: int) -> np.ndarray:
        """Return float64 [2], y and x of a pixel of an image's source."""
        return self.spacing_mm[row].astype(np.float64) * self.find_grid(row).scale

    def find_truth(self, row: int, convention: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Return all lesions of an image, in pixels of its source.

        Args:
            row: Of the image.
            convention: "" is that of `boxes`.

        Returns:
            Boxes [n, 4] xyxy px and classes [n].
        """
        if self.own_boxes is not None and self.own_classes is not None:
            boxes = self.own_boxes[row, KEPT.index(convention or self.convention)]
            real = self.own_classes[row] >= 0
            return boxes[real], self.own_classes[row][real]
        real = self.classes[row] >= 0
        return self.to_source(row, self.boxes[row][real]), self.classes[row][real]


_COLUMNS = tuple(
    each.name for each in fields(Prepared) if each.name not in ("images", "convention", "masks")
)


def _take(column: Any, rows: np.ndarray) -> Any:
    if column is None or (isinstance(column, tuple) and not column):
        return column
    return tuple(column[i] for i in rows) if isinstance(column, tuple) else column[rows]


def concatenate(parts: Sequence[Prepared]) -> Prepared:
    """Return all images of several splits or data sets as one, in order; no image is copied."""
    columns = {name: _join([getattr(part, name) for part in parts]) for name in _COLUMNS}
    if any(part.masks is not None for part in parts):
        columns["masks"] = _stack([part.fill_masks() for part in parts])
    images = _stack([part.images for part in parts])
    return Prepared(images, convention=parts[0].convention, **columns)


def _stack(arrays: Sequence[Any]) -> Stacked:
    stacks = [each if isinstance(each, Stacked) else Stacked([each]) for each in arrays]
    return Stacked([part for stack in stacks for part in stack.parts])


def _join(columns: Sequence[Any]) -> Any:
    if any(column is None for column in columns):
        return None
    return sum(columns, ()) if isinstance(columns[0], tuple) else np.concatenate(columns)


def choose_lesion_types(builder: Any, data: DataConfig) -> tuple[int, ...]:
    """Return the lesion types whose boxes are targets; () is all.

    Args:
        builder: A prepared TFDS builder.
        data: Its `lesion_types`, where not empty, override what the builder's config is about.
    """
    name = f"{builder.info.name}/{builder.info.config_name}"
    return data.lesion_types or CONFIG_LESION_TYPES.get(name, ())


def _digest(builder: Any, split: str, data: DataConfig) -> str:
    facts: list[Any] = [data.image_size_px, data.pixel_mm, data.max_boxes, data.keep_noisy]
    facts.append(sorted(choose_lesion_types(builder, data)))
    return digest_facts(builder, split, CACHE_VERSION, facts)


def _pad_rows(boxes: np.ndarray, classes: np.ndarray, file: str, most: int) -> tuple[Any, Any]:
    if len(boxes) > most:
        raise DataError(
            "An image has more boxes than rows of ground truth",
            where=file,
            found=f"{len(boxes)} boxes",
            wanted=f"at most {most}",
            next_step=f"set data.max_boxes={len(boxes)}",
        )
    extra = most - len(boxes)
    return (
        np.pad(boxes, ((0, extra), (0, 0))).astype(np.float32),
        np.pad(classes, (0, extra), constant_values=-1).astype(np.int32),
    )


def _resized_examples(builder: Any, split: str, data: DataConfig) -> Any:
    """Iterate NumPy examples whose image has the network's size; boxes and spacing are its own."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from lesionkeras.ct.grid import place_hu_graph
    from lesionkeras.ct.window import resize_hu_graph
    from lesionkeras.data.decode import decode_example

    side = data.image_size_px

    def resize(record: dict[str, Any]) -> dict[str, Any]:
        example = decode_example(record)
        if data.pixel_mm:  # as `find_grid` does
            wanted = tf.cast(example["size_px"], tf.float64) * tf.cast(
                example["spacing_mm"], tf.float64
            )
            resized_px = tf.maximum(1, tf.cast(tf.round(wanted / data.pixel_mm), tf.int32))
            example["image_hu"] = place_hu_graph(example["image_hu"][None], resized_px, side)[0]
        else:
            example["image_hu"] = resize_hu_graph(example["image_hu"], (side, side))
        return example

    options = tfds.ReadConfig(interleave_cycle_length=1)  # in the order of the shards
    records = builder.as_dataset(split=split, read_config=options, shuffle_files=False)
    return tfds.as_numpy(records.map(resize, num_parallel_calls=tf.data.AUTOTUNE).prefetch(4))


def _find_targets(
    example: dict[str, Any], data: DataConfig, lesion_types: tuple[int, ...]
) -> np.ndarray:
    """Which of an example's lesions are targets, bool [n]."""
    from lesionkeras.data.decode import UNTYPED

    keep = (data.keep_noisy | ~example["noisy"]) & example["listed"]
    if lesion_types:
        keep &= np.isin(example["lesion_types"], (*lesion_types, UNTYPED))
    return keep


def _make_dropped_error(
    builder: Any, split: str, data: DataConfig, lesion_types: tuple[int, ...]
) -> DataError:
    types = "of type " + " or ".join(map(str, lesion_types)) if lesion_types else "of any type"
    return DataError(
        "A split has no wanted lesion",
        where=f"{split!r} of data set {builder.info.name}",
        found=f"all lesions of its {builder.info.splits[split].num_examples} images dropped",
        wanted=f"lesions {types}" + ("" if data.keep_noisy else " that are not noisy"),
        next_step="change data.lesion_types or data.keep_noisy",
    )


def _convert(
    example: dict[str, Any], keep: np.ndarray, stored: str, mask: np.ndarray | None
) -> list[np.ndarray]:
    """The wanted boxes of an example in every convention of KEPT, px of its source."""
    boxes = example["boxes"][keep]
    height, width = example["size_px"].tolist()
    y, x = example["spacing_mm"].tolist()
    found = convert_boxes(
        boxes,
        stored,
        size_px=(height, width),
        spacing_mm=(y, x),
        diameters=example["diameters"][keep],
        mask=mask,
    )
    return [{AS_STORED: boxes, **found}[name] for name in KEPT]


def _make_row(
    example: dict[str, Any], keep: np.ndarray, stored: str, data: DataConfig, mask_out: np.ndarray
) -> dict[str, Any]:
    """What is kept of an example besides its image; its mask is written to `mask_out`."""
    from lesionkeras.data.decode import decode_mask

    height, width = example["size_px"].tolist()
    y, x = example["spacing_mm"].tolist()
    grid = find_grid((height, width), (y, x), data.image_size_px, data.pixel_mm)
    mask = decode_mask(example["mask_png"])
    if mask is not None:
        mask_out[:] = place_mask(mask, grid)
    shrink = np.array(grid.resized_px, np.float32) / example["size_px"].astype(np.float32)
    file, classes = example["file"].decode(), example["classes"][keep]
    padded = [
        _pad_rows(boxes, classes, file, data.max_boxes)
        for boxes in _convert(example, keep, stored, mask)
    ]
    return {
        "patients": example["patient"].decode(),
        "volumes": example["volume"].decode(),
        "files": file,
        "spacing_mm": example["spacing_mm"] / shrink,
        "slice_mm": example["slice_mm"],
        "size_px": example["size_px"],
        "resized_px": np.array(grid.resized_px, np.int32),
        "own_boxes": np.stack([boxes for boxes, _ in padded]),
        "own_classes": padded[0][1],
        "liver_px": np.int32(np.count_nonzero(mask_out == LIVER)),
    }


def _write_cache(
    folder: Path, builder: Any, split: str, data: DataConfig, progress: Callable[[int, int], None]
) -> None:
    total, side = builder.info.splits[split].num_examples, data.image_size_px
    images, masks = (
        np.lib.format.open_memmap(folder / name, "w+", kind, (total, side, side, *channels))
        for name, kind, channels in (("images.npy", np.int16, (3,)), ("masks.npy", np.uint8, ()))
    )
    rows: list[dict[str, Any]] = []
    lesion_types, stored = choose_lesion_types(builder, data), find_stored(builder.info.name)
    for done, example in enumerate(_resized_examples(builder, split, data), 1):
        progress(done, total)
        keep = _find_targets(example, data, lesion_types)
        if len(keep) and not keep.any():
            continue  # an image whose only lesions are dropped is no image without lesions
        images[len(rows)] = example["image_hu"]
        rows.append(_make_row(example, keep, stored, data, masks[len(rows)]))
    if not rows:
        raise _make_dropped_error(builder, split, data, lesion_types)
    images.flush()
    masks.flush()  # of a data set without masks a file without blocks
    arrays: dict[str, Any] = {key: np.asarray([row[key] for row in rows]) for key in rows[0]}
    np.savez(folder / "rows.npz", **arrays)


def _place_boxes(
    own: np.ndarray, classes: np.ndarray, columns: Mapping[str, np.ndarray], side_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of the sources on the squares; those of which too little is on it become padding."""
    size_px, resized_px = columns["size_px"], columns["resized_px"]
    shrink = resized_px.astype(np.float32) / size_px.astype(np.float32)  # y, x
    boxes = own * np.tile(shrink[:, ::-1], 2)[:, None]
    if (resized_px == side_px).all():
        return boxes, classes
    shift = np.trunc((side_px - resized_px) / 2).astype(np.float32)  # as `SliceGrid.shift_px`
    boxes, keep = clip_to_square(boxes + np.tile(shift[:, ::-1], 2)[:, None], side_px)
    keep &= classes >= 0
    return np.where(keep[..., None], boxes, np.float32(0)), np.where(keep, classes, -1)


def prepare(
    builder: Any,
    split: str,
    data: DataConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Decode and resize a split once; later calls map the result from disk.

    Args:
        builder: A prepared TFDS builder with the shared detection schema.
        split: One of its splits.
        data: Image size, rows of ground truth, noisy rows or not, types of lesions.
        progress: Called with images done and images in all.

    Returns:
        The split; images of lesions that are all dropped (noisy, other types) are left out.

    Raises:
        DataError: The split is unknown or empty, all its lesions are dropped, or an image has too
            many boxes.
    """
    check_split(builder, split, "png_key")
    folder = open_cache(
        builder,
        _digest(builder, split, data),
        lambda beside: _write_cache(beside, builder, split, data, progress),
    )
    with np.load(folder / "rows.npz") as rows:
        columns: dict[str, Any] = {key: rows[key] for key in rows.files}
    columns |= {key: tuple(columns[key].tolist()) for key in ("patients", "files", "volumes")}
    own = columns["own_boxes"][:, KEPT.index(data.box_convention)]
    boxes, classes = _place_boxes(own, columns["own_classes"], columns, data.image_size_px)
    if columns["liver_px"].any():
        masks = np.load(folder / "masks.npy", mmap_mode="r")
        columns["masks"] = masks[: len(columns["files"])]
    images = np.load(folder / "images.npy", mmap_mode="r")[: len(columns["files"])]
    return Prepared(images, boxes, classes, convention=data.box_convention, **columns)
