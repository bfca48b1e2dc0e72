"""Slices to batches of images and masks, and how training changes them.

Training and evaluation share the order: HU, (liver's level,) window, (view, intensity,)
standardise.  Image and mask go through one view: the image bilinearly, the mask by the nearest
pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from lesionkeras.config import AugmentConfig, SegmentationDataConfig
from lesionkeras.ct.window import standardise_graph
from lesionkeras.data.augment_mask import augment_with_mask
from lesionkeras.data.liver_level import move_to_level
from lesionkeras.data.loading import empty_aligned, make_window_table, window_into
from lesionkeras.data.made_lesions import find_lesion_maker
from lesionkeras.data.segmentation import SegmentationSplit
from lesionkeras.data.slices import PreparedSlices
from lesionkeras.data.streams import choose_row, make_key, make_numbers
from lesionkeras.errors import RecipeError

AUGMENT_MODES = ("none", "online")


def check_augmentation(augment: AugmentConfig) -> None:
    """Raise unless images with masks can be changed as a config says.

    Args:
        augment: The config.

    Raises:
        RecipeError: `augment.mode` is "copies", which is P1's, or unknown.
    """
    if augment.mode not in AUGMENT_MODES:
        raise RecipeError(
            "augment.mode does not fit segmentation",
            found=repr(augment.mode),
            wanted=" or ".join(map(repr, AUGMENT_MODES)),
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
    check_augmentation(augment)
    rows, read = tf.constant(split.rows), _make_reader(split.slices, data)

    def load(number: Any) -> tuple[Any, Any]:
        key = make_key(seed, tf.stack([number, 0]))
        varied = data.vary_slices if augment.mode != "none" else 0.0
        stretch = _draw_stretch(varied, tf.random.fold_in(key, 11))
        image_unit, mask = read(rows[choose_row(number, len(split.rows), seed)], stretch)
        views = (data.rotation_deg, key, data.crop_on_liver, find_lesion_maker(data))
        image_unit, mask = augment_with_mask(image_unit, mask, augment, *views)
        if data.reverse_slices and augment.mode != "none":
            turned = tf.random.stateless_uniform((), seed=tf.random.fold_in(key, 9)) < 0.5
            image_unit = tf.where(turned, image_unit[..., ::-1], image_unit)
        return _normalise(image_unit, data), mask

    stream = make_numbers(first_example)
    stream = stream.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return stream.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _draw_stretch(share: float, key: Any) -> Any:
    """Draw how many times as far apart as usual the channels are: 0 to 2 in a share of images."""
    draws = tf.random.stateless_uniform((2,), seed=key)
    return tf.where(draws[0] < share, 2.0 * draws[1], 1.0)


def make_segmentation_eval(
    split: SegmentationSplit,
    data: SegmentationDataConfig,
    *,
    batch_size: int,
    liver_hu: float | None = None,
) -> tf.data.Dataset:
    """Return the examples of a split once, in order, unchanged.

    Args:
        split: Slices and rows.
        data: Window, normalisation, slices an image.
        batch_size: Images a batch; the last may be smaller.
        liver_hu: What stands for the median of the liver, which `data.liver_hu` asks for; None:
            what the masks say.

    Returns:
        Batches of image float32 [b, S, S, C] and mask uint8 [b, S, S].
    """
    read = _make_reader(split.slices, data, liver_hu)

    def load(row: Any) -> tuple[Any, Any]:
        image_unit, mask = read(row, 1.0)
        return _normalise(image_unit, data), mask

    rows = tf.data.Dataset.from_tensor_slices(split.rows)
    return rows.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(2)


def _make_reader(
    slices: PreparedSlices, data: SegmentationDataConfig, liver_hu: float | None = None
) -> Any:
    """A graph function from a row and a stretch to its windowed pixels and its mask."""
    side, table = slices.side_px, make_window_table(data.window_hu)

    def read_row(row: int, stretch: float) -> tuple[np.ndarray, np.ndarray]:
        image_unit = empty_aligned((side, side, data.slices))
        image_hu = slices.read_image(row, data.slices, data.slice_mm, float(stretch))
        found_hu = slices.liver_hu[row] if liver_hu is None else liver_hu
        image_hu = move_to_level(image_hu, found_hu, data.liver_hu)
        window_into(image_hu, table, image_unit)
        return image_unit, slices.masks[row]

    def read(row: Any, stretch: Any) -> tuple[Any, Any]:
        # stateful, it would make op determinism run the stream's map on one thread
        types = [tf.float32, tf.uint8]
        image_unit, mask = tf.numpy_function(read_row, [row, stretch], types, stateful=False)
        image_unit = tf.ensure_shape(image_unit, (side, side, data.slices))
        return image_unit, tf.ensure_shape(mask, (side, side))

    return read


def _normalise(image_unit: Any, data: SegmentationDataConfig) -> Any:
    return standardise_graph(image_unit) if data.normalisation == "standardise" else image_unit
