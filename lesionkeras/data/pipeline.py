"""Prepared images to batches: one function for training, one for everything else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tensorflow as tf

from lesionkeras.config import AugmentConfig, DetectionRecipe
from lesionkeras.data.augment import augment, find_read_window
from lesionkeras.data.loading import make_batch_reader, read_in_graph
from lesionkeras.data.made_boxes import find_boxed_lesion_maker
from lesionkeras.data.opening import Split
from lesionkeras.data.streams import choose_row, count_steps, make_key, make_numbers

MADE_LESIONS = 12  # of an example's keys


def steps_per_epoch(split: Split, recipe: DetectionRecipe) -> int:
    """Return the batches of an epoch: every example once, or what the recipe says."""
    return count_steps(len(split.rows), recipe.train.images_per_epoch, recipe.train.batch_size)


def make_train(split: Split, recipe: DetectionRecipe, first_epoch: int = 0) -> tf.data.Dataset:
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
    window_hu = recipe.data.window_hu
    read_window_hu = find_read_window(window_hu, recipe.augment)
    read = _make_reader(split, read_window_hu)
    add_lesions = find_boxed_lesion_maker(split.images, recipe, read_window_hu)
    table = tf.constant(split.rows)
    if recipe.augment.mode == "none":  # nothing depends on the number but the row
        numbers = make_numbers(first).map(lambda n: table[choose_row(n, num_rows, seed)][0])
        return _read_batches(numbers, read, recipe.train.batch_size, drop_remainder=True)

    def load(number: Any) -> tuple[Any, dict[str, Any]]:
        row = choose_row(number, num_rows, seed)
        image_unit, boxes, classes = _squeeze(*read(table[row][:1]))
        key = make_key(seed, table[row] if fixed else tf.stack([number, 0]))
        if add_lesions and not fixed:
            own = tf.random.fold_in(key, MADE_LESIONS)
            image_unit, boxes, classes = add_lesions(table[row][0], image_unit, boxes, classes, own)
        copy = tf.cast(table[row][1], tf.int32)
        image_unit, boxes, classes = augment(
            image_unit, boxes, classes, recipe.augment, copy, key, window_hu
        )
        return image_unit, {"boxes": boxes, "classes": classes}

    stream = make_numbers(first).map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    stream = stream.batch(recipe.train.batch_size, drop_remainder=True)
    return stream.prefetch(tf.data.AUTOTUNE)


def make_eval(split: Split, recipe: DetectionRecipe, batch_size: int) -> tf.data.Dataset:
    """Return the examples of a split once, in order, unchanged but for P1's fixed copies.

    Args:
        split: Images, boxes and the list of examples.
        recipe: Window, and the copies' magnitudes and seed.
        batch_size: Images a batch; the last may be smaller.

    Returns:
        Batches of image_unit float32 [b, S, S, 3] and {"boxes", "classes"} as `make_train` gives.
    """
    read, seed = _make_reader(split, recipe.data.window_hu), recipe.train.seed
    has_copies = bool(split.rows[:, 1].any())
    fixed = replace(recipe.augment, mode="copies")  # whatever training does to them
    rows = tf.data.Dataset.from_tensor_slices(split.rows)
    if not has_copies:
        return _read_batches(rows.map(lambda row: row[0]), read, batch_size, drop_remainder=False)

    def load(row: Any) -> tuple[Any, dict[str, Any]]:
        image_unit, boxes, classes = _squeeze(*read(row[:1]))
        copy, key = tf.cast(row[1], tf.int32), make_key(seed, row)
        image_unit, boxes, classes = augment(image_unit, boxes, classes, fixed, copy, key)
        return image_unit, {"boxes": boxes, "classes": classes}

    return rows.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(2)


def _make_reader(split: Split, window_hu: tuple[float, float]) -> Any:
    """A graph function from images' indices to their windowed pixels, boxes and classes."""
    images = split.images.images
    read_rows = make_batch_reader(images, window_hu)
    boxes, classes = tf.constant(split.images.boxes), tf.constant(split.images.classes)

    def read(rows: Any) -> tuple[Any, Any, Any]:
        image_unit = read_in_graph(read_rows, rows, images.shape[1:])
        return image_unit, tf.gather(boxes, rows), tf.gather(classes, rows)

    return read


def _squeeze(*batches: Any) -> tuple[Any, ...]:
    """The one example of batches of one."""
    return tuple(tf.squeeze(batch, 0) for batch in batches)


def _read_batches(
    image_indices: tf.data.Dataset, read: Any, batch_size: int, drop_remainder: bool
) -> tf.data.Dataset:
    """Batches of unchanged images, each read in one call."""

    def load(rows: Any) -> tuple[Any, dict[str, Any]]:
        image_unit, boxes, classes = read(rows)
        return image_unit, {"boxes": boxes, "classes": classes}

    stream = image_indices.batch(batch_size, drop_remainder=drop_remainder)
    stream = stream.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return stream.prefetch(2)


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
