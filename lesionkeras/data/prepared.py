"""Decoded and resized once, read ever after: the cache between a TFDS split and the batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lesionkeras.config import DataConfig
from lesionkeras.data.cache import check_split, digest_facts, open_cache
from lesionkeras.errors import DataError

CACHE_VERSION = 2  # raise where what `prepare` writes changes
# What a config is about where data.lesion_types says nothing: a slice with a liver lesion may show
# others too, which a liver detector must not be taught (DeepLesion's type 4 is liver).
CONFIG_LESION_TYPES = {"deeplesion/liver": (4,)}


@dataclass(frozen=True)
class Prepared:
    """The images of one split at the network's size; rows belong together.

    Attributes:
        images: int16 [N, S, S, 3] HU, previous, key and next slice; may lie on disk (memmap).
        boxes: float32 [N, M, 4] xyxy px of S, padded with 0.
        classes: int32 [N, M], padded with -1.
        patients: N patient numbers.
        files: N names of the key slices.
        spacing_mm: float32 [N, 2] of a resized pixel, y and x.
        size_px: int32 [N, 2] of the source image, H and W.
    """

    images: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    patients: tuple[str, ...]
    files: tuple[str, ...]
    spacing_mm: np.ndarray
    size_px: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Sequence[int] | np.ndarray) -> Prepared:
        """Return the named images; the images of a memmap are copied."""
        rows = np.asarray(rows, np.int64)
        return Prepared(
            images=self.images[rows],
            boxes=self.boxes[rows],
            classes=self.classes[rows],
            patients=tuple(self.patients[i] for i in rows),
            files=tuple(self.files[i] for i in rows),
            spacing_mm=self.spacing_mm[rows],
            size_px=self.size_px[rows],
        )

    def real_boxes(self, row: int) -> np.ndarray:
        """Return the boxes of one image without padding, float32 [n, 4] px of S."""
        return self.boxes[row][self.classes[row] >= 0]


def concatenate(parts: Sequence[Prepared]) -> Prepared:
    """Return all images of several splits as one, in order."""
    return Prepared(
        images=np.concatenate([p.images for p in parts]),
        boxes=np.concatenate([p.boxes for p in parts]),
        classes=np.concatenate([p.classes for p in parts]),
        patients=sum((p.patients for p in parts), ()),
        files=sum((p.files for p in parts), ()),
        spacing_mm=np.concatenate([p.spacing_mm for p in parts]),
        size_px=np.concatenate([p.size_px for p in parts]),
    )


def choose_lesion_types(builder: Any, data: DataConfig) -> tuple[int, ...]:
    """Return the lesion types whose boxes are targets; () is all.

    Args:
        builder: A prepared TFDS builder.
        data: Its `lesion_types`, where not empty, override what the builder's config is about.
    """
    name = f"{builder.info.name}/{builder.info.config_name}"
    return data.lesion_types or CONFIG_LESION_TYPES.get(name, ())


def _digest(builder: Any, split: str, data: DataConfig) -> str:
    facts: list[Any] = [data.image_size_px, data.max_boxes, data.keep_noisy]
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
    """Iterate NumPy examples with image, boxes and spacing at the network's size."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from lesionkeras.ct.window import resize_hu_graph
    from lesionkeras.data.decode import decode_example

    side = data.image_size_px

    def resize(record: dict[str, Any]) -> dict[str, Any]:
        example = decode_example(record)
        shrink = side / tf.cast(example["size_px"], tf.float32)  # y, x
        example["image_hu"] = resize_hu_graph(example["image_hu"], (side, side))
        example["boxes"] = example["boxes"] * tf.gather(shrink, [1, 0, 1, 0])
        example["spacing_mm"] = example["spacing_mm"] / shrink
        return example

    options = tfds.ReadConfig(interleave_cycle_length=1)  # in the order of the shards
    records = builder.as_dataset(split=split, read_config=options, shuffle_files=False)
    return tfds.as_numpy(records.map(resize, num_parallel_calls=tf.data.AUTOTUNE).prefetch(4))


def _find_targets(
    example: dict[str, Any], data: DataConfig, lesion_types: tuple[int, ...]
) -> np.ndarray:
    """Which of an example's lesions are targets, bool [n]."""
    from lesionkeras.data.decode import UNTYPED

    keep = data.keep_noisy | ~example["noisy"]
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


def _write_cache(
    folder: Path, builder: Any, split: str, data: DataConfig, progress: Callable[[int, int], None]
) -> None:
    total, side = builder.info.splits[split].num_examples, data.image_size_px
    images = np.lib.format.open_memmap(
        folder / "images.npy", "w+", np.int16, (total, side, side, 3)
    )
    columns: dict[str, list[Any]] = {
        key: [] for key in ("boxes", "classes", "patients", "files", "spacing_mm", "size_px")
    }
    count, lesion_types = 0, choose_lesion_types(builder, data)
    for done, example in enumerate(_resized_examples(builder, split, data), 1):
        progress(done, total)
        keep = _find_targets(example, data, lesion_types)
        if len(keep) and not keep.any():
            continue  # an image whose only lesions are dropped is no image without lesions
        file = example["file"].decode()
        boxes, classes = _pad_rows(
            example["boxes"][keep], example["classes"][keep], file, data.max_boxes
        )
        images[count] = example["image_hu"]
        row = (boxes, classes, example["patient"].decode(), file)
        for key, value in zip(
            columns, (*row, example["spacing_mm"], example["size_px"]), strict=True
        ):
            columns[key].append(value)
        count += 1
    if not count:
        raise _make_dropped_error(builder, split, data, lesion_types)
    images.flush()
    arrays: dict[str, Any] = {key: np.asarray(value) for key, value in columns.items()}
    np.savez(folder / "rows.npz", **arrays)


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
    check_split(builder, split)
    folder = open_cache(
        builder,
        _digest(builder, split, data),
        lambda beside: _write_cache(beside, builder, split, data, progress),
    )
    with np.load(folder / "rows.npz") as rows:
        columns: dict[str, Any] = {key: rows[key] for key in rows.files}
    columns |= {key: tuple(columns[key].tolist()) for key in ("patients", "files")}
    images = np.load(folder / "images.npy", mmap_mode="r")[: len(columns["files"])]
    return Prepared(images=images, **columns)
