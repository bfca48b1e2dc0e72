"""Prepared slices to batches of images and masks: who is in them, and how they are changed.

Training and evaluation share the order: HU, window, (view, intensity,) standardise.  Image and mask
go through one view: the image bilinearly, the mask by the nearest pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from lesionkeras.config import AugmentConfig, SegmentationDataConfig
from lesionkeras.ct.window import standardise_graph, window_graph
from lesionkeras.data.augment import change_intensity, view_side_px
from lesionkeras.data.sampling import (
    PROTOCOLS,
    SAMPLINGS,
    describe_leak,
    divide_slices,
    hold_out_named,
    sample_as_p3,
)
from lesionkeras.data.slices import LESION, PreparedSlices, join_slices, prepare_slices
from lesionkeras.data.splits import check_disjoint
from lesionkeras.data.streams import choose_row, make_key, make_numbers
from lesionkeras.errors import RecipeError

NORMALISATIONS = ("window", "standardise")
NUM_SLICES = (1, 3)
AUGMENT_MODES = ("none", "online")


@dataclass(frozen=True)
class SegmentationSplit:
    """Slices, and which of them are examples.

    Attributes:
        slices: At the network's size.
        rows: int64 [n], rows of `slices`.
    """

    slices: PreparedSlices
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def patients(self) -> list[str]:
        """The patient of each example."""
        return [self.slices.patients[i] for i in self.rows]

    @property
    def volumes(self) -> list[str]:
        """The volume of each example."""
        return [self.slices.volumes[i] for i in self.rows]

    def describe(self) -> dict[str, int]:
        """Return how many examples, volumes and patients there are, and slices with what."""
        return {
            "slices": len(self.rows),
            "volumes": len(set(self.volumes)),
            "patients": len(set(self.patients)),
            "with_liver": int(self.slices.has_liver[self.rows].sum()),
            "with_lesion": int(self.slices.has_lesion[self.rows].sum()),
        }


@dataclass(frozen=True)
class SegmentationSplits:
    """What a run trains on, and what is held out."""

    train: SegmentationSplit
    test: SegmentationSplit
    warning: str = ""  # not empty where the split leaks


def check_segmentation_data(data: SegmentationDataConfig) -> None:
    """Raise unless the words and numbers of a config are known.

    Args:
        data: The config.

    Raises:
        RecipeError: The first field that is not, with what it may be.
    """
    known: tuple[tuple[str, Any, Sequence[Any]], ...] = (
        ("protocol", data.protocol, PROTOCOLS),
        ("sampling", data.sampling, SAMPLINGS),
        ("normalisation", data.normalisation, NORMALISATIONS),
        ("slices", data.slices, NUM_SLICES),
    )
    for name, value, choices in known:
        if value not in choices:
            raise RecipeError(
                f"data.{name} is unknown",
                found=repr(value),
                wanted="one of " + ", ".join(map(repr, choices)),
            )


def open_segmentation_splits(
    builders: Sequence[Any],
    data: SegmentationDataConfig,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SegmentationSplits:
    """Read data sets and divide their slices as a protocol does.

    Args:
        builders: Prepared TFDS builders whose slices are pooled, such as LiTS and 3D-IRCADb.
        data: Splits, protocol, who is held out, sampling, image size.
        seed: Who is held out, and which slices are drawn, where they are drawn.
        progress: Called with slices done and slices in all while a cache is made.

    Returns:
        Train and test; only the first is sampled.  Not every protocol keeps patients apart: those
        that do not have a warning.

    Raises:
        RecipeError: A word of the config is unknown.
        DataError: A split is unknown or empty, a slice has no mask, nobody can be held out, or a
            patient is in two of the builder's own splits.
    """
    check_segmentation_data(data)
    if data.protocol == "given":
        trained, tested = (
            join_slices([prepare_slices(b, name, data, progress) for b in builders])
            for name in ("train", "test")
        )
        kept, held = np.arange(len(trained)), np.arange(len(tested))
    else:
        pooled = [
            prepare_slices(builder, name, data, progress)
            for builder in builders
            for name in data.splits or _list_splits(builder)
        ]
        trained = tested = join_slices(pooled)
        kept, held = _divide(trained, data, seed)
    test = SegmentationSplit(tested, held)
    warning = describe_leak(data.protocol, [trained.patients[i] for i in kept], test.patients)
    if not warning:
        check_disjoint(
            {"train": [trained.patients[i] for i in kept], "test": test.patients},
        )
    if data.sampling == "p3":
        kept = kept[sample_as_p3(trained.has_liver[kept], trained.has_lesion[kept], seed)]
    return SegmentationSplits(SegmentationSplit(trained, kept), test, warning)


def _list_splits(builder: Any) -> list[str]:
    return [name for name, info in builder.info.splits.items() if info.num_examples]


def _divide(
    slices: PreparedSlices, data: SegmentationDataConfig, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    if data.held_out:
        return hold_out_named(slices.patients, slices.volumes, data.held_out)
    return divide_slices(
        slices.patients, slices.volumes, data.protocol, data.held_out_fraction, seed
    )


def make_segmentation_train(
    split: SegmentationSplit,
    data: SegmentationDataConfig,
    augment: AugmentConfig,
    *,
    batch_size: int,
    seed: int,
    first_example: int = 0,
) -> tf.data.Dataset:
    """Return an endless stream of augmented batches; see `data.streams` for its order.

    Args:
        split: Slices and the rows that are trained on.
        data: Window, normalisation, slices an image, rotation.
        augment: All other changes; `crop_size_px` 0 trains on whole slices.
        batch_size: Images a batch.
        seed: Of the run.
        first_example: Number of the first example: epochs done x steps an epoch x batch size.

    Returns:
        Batches of image float32 [B, s, s, C] (`image_unit`, or zero mean and unit variance) and
        mask uint8 [B, s, s]; all shapes static, s as `augment.view_side_px` says.

    Raises:
        RecipeError: `augment.mode` is "copies", which is P1's.
    """
    if augment.mode not in AUGMENT_MODES:
        raise RecipeError(
            "augment.mode does not fit segmentation",
            found=repr(augment.mode),
            wanted=" or ".join(map(repr, AUGMENT_MODES)),
        )
    rows, read = tf.constant(split.rows), _make_reader(split.slices, data)

    def load(number: Any) -> tuple[Any, Any]:
        image_unit, mask = read(rows[choose_row(number, len(split.rows), seed)])
        key = make_key(seed, tf.stack([number, 0]))
        image_unit, mask = augment_with_mask(image_unit, mask, augment, data.rotation_deg, key)
        return _normalise(image_unit, data), mask

    stream = make_numbers(first_example)
    stream = stream.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return stream.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def make_segmentation_eval(
    split: SegmentationSplit, data: SegmentationDataConfig, *, batch_size: int
) -> tf.data.Dataset:
    """Return the examples of a split once, in order, unchanged.

    Args:
        split: Slices and rows.
        data: Window, normalisation, slices an image.
        batch_size: Images a batch; the last may be smaller.

    Returns:
        Batches of image float32 [b, S, S, C] and mask uint8 [b, S, S].
    """
    read = _make_reader(split.slices, data)

    def load(row: Any) -> tuple[Any, Any]:
        image_unit, mask = read(row)
        return _normalise(image_unit, data), mask

    rows = tf.data.Dataset.from_tensor_slices(split.rows)
    return rows.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(2)


def _make_reader(slices: PreparedSlices, data: SegmentationDataConfig) -> Any:
    """A graph function from a row to its windowed pixels and its mask."""
    side = slices.side_px

    def read_row(row: int) -> tuple[np.ndarray, np.ndarray]:
        return slices.read_image(row, data.slices), slices.masks[row]

    def read(row: Any) -> tuple[Any, Any]:
        image_hu, mask = tf.numpy_function(read_row, [row], [tf.int16, tf.uint8])
        image_hu = tf.ensure_shape(image_hu, (side, side, data.slices))
        return window_graph(image_hu, data.window_hu), tf.ensure_shape(mask, (side, side))

    return read


def _normalise(image_unit: Any, data: SegmentationDataConfig) -> Any:
    return standardise_graph(image_unit) if data.normalisation == "standardise" else image_unit


def _uniform(key: Any, number: int, shape: tuple[int, ...] = ()) -> Any:
    """Uniform 0..1 from the key; another number gives other draws."""
    return tf.random.stateless_uniform(shape, seed=tf.random.fold_in(key, number))


def _choose_centre(mask: Any, extent: Any, config: AugmentConfig, key: Any) -> Any:
    """Centre (y, x) px of a crop of `extent` px: on a lesion pixel, or anywhere."""
    side = mask.shape[0]
    is_lesion = tf.reshape(mask == LESION, [-1])
    draws = _uniform(key, 20, (side * side,))
    pixel = tf.argmax(tf.where(is_lesion, draws, -1.0), output_type=tf.int32)  # at random
    on_lesion = tf.cast(tf.stack([pixel // side, pixel % side]), tf.float32) + 0.5
    on_lesion += (extent / 2) * (2.0 * _uniform(key, 21, (2,)) - 1.0)  # anywhere in the crop
    anywhere = extent / 2 + (side - extent) * _uniform(key, 22, (2,))
    wanted = _uniform(key, 23) < config.crop_on_lesion_probability
    centre = tf.where(tf.reduce_any(is_lesion) & wanted, on_lesion, anywhere)
    inside = tf.clip_by_value(centre, extent / 2, side - extent / 2)
    return tf.where(extent < side, inside, side / 2)


def draw_mask_view(
    mask: Any, config: AugmentConfig, rotation_deg: float, key: Any
) -> tuple[Any, Any]:
    """Draw the affine view of an image and its mask: flips, rotation, zoom, shift or crop.

    Args:
        mask: uint8 [S, S].
        config: Magnitudes; without a crop the view is shifted by `translate_fraction`.
        rotation_deg: Uniform in +-.
        key: int32 [2] seed.

    Returns:
        float32 [2, 2] matrix and float32 [2] shift (y, x): source px = matrix @ view px + shift.
    """
    side, out_px = mask.shape[0], view_side_px(mask.shape[0], config)
    low, high = config.scale
    zoom = low * tf.pow(high / low, _uniform(key, 5))
    flips = tf.constant([float(config.flip_up_down), float(config.flip_left_right)])
    sign = tf.where(_uniform(key, 7, (2,)) < 0.5 * flips, -1.0, 1.0)
    angle = rotation_deg * math.pi / 180 * (2.0 * _uniform(key, 8) - 1.0)
    turn = tf.stack([[tf.cos(angle), -tf.sin(angle)], [tf.sin(angle), tf.cos(angle)]])
    matrix = turn * sign[None] / zoom
    if out_px < side:
        centre = _choose_centre(mask, out_px / zoom, config, key)
    else:
        moved = config.translate_fraction * (2.0 * _uniform(key, 6, (2,)) - 1.0)
        centre = side * (0.5 + moved)
    shift = centre - tf.linalg.matvec(matrix, tf.fill([2], out_px / 2))
    unturned = (zoom == 1.0) & (angle == 0.0)  # whole pixels stay as they are
    return matrix, tf.where(unturned, tf.round(shift), shift)


def apply_view(image: Any, matrix: Any, shift: Any, out_px: int, interpolation: str) -> Any:
    """Resample an image or a mask; outside it is 0.

    Args:
        image: float32 [H, W, C] or uint8 [H, W, C].
        matrix: float32 [2, 2], as `draw_mask_view` gives it.
        shift: float32 [2] y, x.
        out_px: Side of the result.
        interpolation: "BILINEAR" or "NEAREST".

    Returns:
        [out_px, out_px, C] of the same type.
    """
    # the op counts pixel centres from 0, the view pixel edges: hence the half pixels
    offset = tf.linalg.matvec(matrix, tf.fill([2], 0.5)) + shift - 0.5
    zero, (to_y, to_x) = tf.zeros([]), (matrix[0], matrix[1])
    row = [to_x[1], to_x[0], offset[1], to_y[1], to_y[0], offset[0], zero, zero]
    view = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack(row)[None],
        output_shape=[out_px, out_px],
        fill_value=0.0,
        interpolation=interpolation,
        fill_mode="CONSTANT",
    )[0]
    return tf.ensure_shape(view, (out_px, out_px, image.shape[-1]))


def augment_with_mask(
    image_unit: Any, mask: Any, config: AugmentConfig, rotation_deg: float, key: Any
) -> tuple[Any, Any]:
    """Change an image and its mask as the key says.

    Args:
        image_unit: float32 [S, S, C], 0..1.
        mask: uint8 [S, S].
        config: What is changed, and how much; mode "none" or "online".
        rotation_deg: Uniform in +-.
        key: int32 [2] seed; the same key gives the same result.

    Returns:
        image_unit [s, s, C] and mask [s, s], s as `view_side_px` says.
    """
    if config.mode == "none":
        return image_unit, mask
    out_px = view_side_px(image_unit.shape[0], config)
    matrix, shift = draw_mask_view(mask, config, rotation_deg, key)
    image_unit = apply_view(image_unit, matrix, shift, out_px, "BILINEAR")
    mask = apply_view(mask[..., None], matrix, shift, out_px, "NEAREST")[..., 0]
    return change_intensity(image_unit, config, tf.constant(0), key), mask
