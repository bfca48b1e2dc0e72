"""Prepared images to batches: one function for training, one for everything else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from lesionkeras.config import AugmentConfig, SSDRecipe
from lesionkeras.ct.window import window_graph
from lesionkeras.data.augment import augment
from lesionkeras.data.opening import Split


def steps_per_epoch(split: Split, recipe: SSDRecipe) -> int:
    """Return the batches of an epoch: every example once, or what the recipe says."""
    images = recipe.train.images_per_epoch or len(split.rows)
    return max(1, round(images / recipe.train.batch_size))


def make_train(split: Split, recipe: SSDRecipe, first_epoch: int = 0) -> tf.data.Dataset:
    """Return an endless stream of augmented batches that starts with an epoch.

    Example number n of a run is always the same, whoever asks for it: its pass over the data
    shuffles with (seed, pass), its augmentation draws from (seed, n).  So resuming is starting
    further on.  P1's copies draw from (seed, row) instead: they are the same in every epoch.

    Args:
        split: Images, boxes and the list of examples.
        recipe: Augmentation, window, batch size, seed.
        first_epoch: Epochs that are left out.

    Returns:
        Batches of image_unit float32 [B, s, s, 3] and {"boxes": float32 [B, M, 4] px,
        "classes": int32 [B, M]}, all shapes static.
    """
    seed, num_rows, fixed = recipe.train.seed, len(split.rows), recipe.augment.mode == "copies"
    first = first_epoch * steps_per_epoch(split, recipe) * recipe.train.batch_size
    read, table = _make_reader(split, recipe), tf.constant(split.rows)

    def load(number: Any) -> tuple[Any, dict[str, Any]]:
        pass_seed = tf.stack([tf.constant(seed, tf.int64), number // num_rows])
        row = tf.random.experimental.index_shuffle(number % num_rows, pass_seed, num_rows - 1)
        image_unit, boxes, classes = read(table[row][0])
        key = _make_key(seed, table[row] if fixed else tf.stack([number, 0]))
        copy = tf.cast(table[row][1], tf.int32)
        image_unit, boxes, classes = augment(image_unit, boxes, classes, recipe.augment, copy, key)
        return image_unit, {"boxes": boxes, "classes": classes}

    stream = tf.data.Dataset.range(first, np.iinfo(np.int64).max)
    stream = stream.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    stream = stream.batch(recipe.train.batch_size, drop_remainder=True)
    return stream.prefetch(tf.data.AUTOTUNE)


def make_eval(split: Split, recipe: SSDRecipe, batch_size: int) -> tf.data.Dataset:
    """Return the examples of a split once, in order, unchanged but for P1's fixed copies.

    Args:
        split: Images, boxes and the list of examples.
        recipe: Window, and the copies' magnitudes and seed.
        batch_size: Images a batch; the last may be smaller.

    Returns:
        Batches of image_unit float32 [b, S, S, 3] and {"boxes", "classes"} as `make_train` gives.
    """
    read, seed = _make_reader(split, recipe), recipe.train.seed
    has_copies = bool(split.rows[:, 1].any())
    fixed = replace(recipe.augment, mode="copies")  # whatever training does to them

    def load(row: Any) -> tuple[Any, dict[str, Any]]:
        image_unit, boxes, classes = read(row[0])
        if has_copies:
            copy, key = tf.cast(row[1], tf.int32), _make_key(seed, row)
            image_unit, boxes, classes = augment(image_unit, boxes, classes, fixed, copy, key)
        return image_unit, {"boxes": boxes, "classes": classes}

    rows = tf.data.Dataset.from_tensor_slices(split.rows)
    return rows.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(2)


def _make_key(seed: int, numbers: Any) -> Any:
    """A key for stateless random operations, int32 [2], from the seed and two numbers."""
    key = tf.random.fold_in(tf.constant([seed, 0]), tf.cast(numbers[0], tf.int32))
    return tf.random.fold_in(key, tf.cast(numbers[1], tf.int32))


def _make_reader(split: Split, recipe: SSDRecipe) -> Any:
    """A graph function from an image's index to its windowed pixels, boxes and classes."""
    images, side = split.images.images, split.images.images.shape[1]
    boxes, classes = tf.constant(split.images.boxes), tf.constant(split.images.classes)

    def read(image_idx: Any) -> tuple[Any, Any, Any]:
        image_hu = tf.numpy_function(lambda i: images[i], [image_idx], tf.int16)
        image_unit = window_graph(tf.ensure_shape(image_hu, (side, side, 3)), recipe.data.window_hu)
        return image_unit, boxes[image_idx], classes[image_idx]

    return read


def describe_augmentation(config: AugmentConfig, num_images: int) -> str:
    """Return one line on what is trained: P1's copies counted, or changes on the fly.

    >>> describe_augmentation(AugmentConfig(mode="copies"), 1267)
    '1267 images and 4 fixed copies of each: 6335 examples'
    """
    if config.mode == "copies":
        total = num_images * (1 + config.copies)
        return f"{num_images} images and {config.copies} fixed copies of each: {total} examples"
    changed = "changed anew each time" if config.mode == "online" else "unchanged"
    return f"{num_images} images, {changed}"
