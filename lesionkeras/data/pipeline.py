"""Prepared images to batches: one function for training, one for everything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from lesionkeras.config import SSDRecipe
from lesionkeras.ct.window import window_graph
from lesionkeras.data.augment import augment
from lesionkeras.data.prepared import Prepared
from lesionkeras.data.splits import make_copies


def training_rows(prepared: Prepared, recipe: SSDRecipe) -> np.ndarray:
    """Return the list of training examples, int64 [N, 2]: image index and copy number."""
    copies = recipe.augment.copies if recipe.augment.mode == "copies" else 0
    return make_copies(len(prepared), copies)


def steps_per_epoch(num_rows: int, recipe: SSDRecipe) -> int:
    """Return the batches of an epoch: every example once, or what the recipe says."""
    images = recipe.train.images_per_epoch or num_rows
    return max(1, round(images / recipe.train.batch_size))


def make_train(
    prepared: Prepared, rows: np.ndarray, recipe: SSDRecipe, first_epoch: int = 0
) -> tf.data.Dataset:
    """Return an endless stream of augmented batches that starts with an epoch.

    Example number n of a run is always the same, whoever asks for it: its pass over the data
    shuffles with (seed, pass), its augmentation draws from (seed, n).  So resuming is starting
    further on.  P1's copies draw from (seed, copy) instead: they are the same in every epoch.

    Args:
        prepared: Images and boxes at the network's size.
        rows: int64 [N, 2] of image index and copy number.
        recipe: Augmentation, window, batch size, seed.
        first_epoch: Epochs that are left out.

    Returns:
        Batches of image_unit float32 [B, s, s, 3] and {"boxes": float32 [B, M, 4] px,
        "classes": int32 [B, M]}, all shapes static.
    """
    seed, num_rows = recipe.train.seed, len(rows)
    side, fixed = prepared.images.shape[1], recipe.augment.mode == "copies"
    first = first_epoch * steps_per_epoch(num_rows, recipe) * recipe.train.batch_size
    boxes, classes = tf.constant(prepared.boxes), tf.constant(prepared.classes)
    table = tf.constant(rows)

    def load(number: Any) -> tuple[Any, Any]:
        shuffle_seed = tf.stack([tf.constant(seed, tf.int64), number // num_rows, 0])
        row = tf.random.experimental.index_shuffle(number % num_rows, shuffle_seed, num_rows - 1)
        image_idx, copy = table[row][0], tf.cast(table[row][1], tf.int32)
        image_hu = tf.numpy_function(lambda i: prepared.images[i], [image_idx], tf.int16)
        image_unit = window_graph(tf.ensure_shape(image_hu, (side, side, 3)), recipe.data.window_hu)
        key = tf.stack([seed, tf.cast(row if fixed else number, tf.int32)])
        image_unit, b, c = augment(
            image_unit, boxes[image_idx], classes[image_idx], recipe.augment, copy, key
        )
        return image_unit, {"boxes": b, "classes": c}

    stream = tf.data.Dataset.range(first, tf.int64.max)
    stream = stream.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    stream = stream.batch(recipe.train.batch_size, drop_remainder=True)
    return stream.prefetch(tf.data.AUTOTUNE)


def make_eval(prepared: Prepared, recipe: SSDRecipe, batch_size: int) -> tf.data.Dataset:
    """Return batches of image_unit float32 [b, S, S, 3] in order, unchanged but for the window."""
    numbers = tf.data.Dataset.range(len(prepared)).batch(batch_size)
    shape = (None, *prepared.images.shape[1:])

    def load(rows: Any) -> Any:
        image_hu = tf.numpy_function(lambda i: prepared.images[i], [rows], tf.int16)
        return window_graph(tf.ensure_shape(image_hu, shape), recipe.data.window_hu)

    return numbers.map(load, num_parallel_calls=2).prefetch(2)
