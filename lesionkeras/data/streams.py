"""Endless streams of example numbers, and the keys that decide what happens to each example.

Example number n of a run is always the same, whoever asks for it: its pass over the data shuffles
with (seed, pass), its changes draw from (seed, n).  So resuming is starting further on, and neither
the order of workers nor the size of batches changes anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf


def count_steps(num_rows: int, images_per_epoch: int, batch_size: int) -> int:
    """Return the batches of an epoch: every example once, or as many images as are asked for.

    >>> count_steps(13, 0, 3), count_steps(13, 300, 3)
    (4, 100)
    """
    return max(1, round((images_per_epoch or num_rows) / batch_size))


def make_numbers(first: int) -> tf.data.Dataset:
    """Return the stream of example numbers from the first on, without end."""
    return tf.data.Dataset.range(first, np.iinfo(np.int64).max)


def choose_row(number: Any, num_rows: int, seed: int) -> Any:
    """Return which row example `number` is: every row once a pass, in an order of the pass's own.

    Args:
        number: int64 scalar tensor.
        num_rows: Rows of the data.
        seed: Of the run.

    Returns:
        int64 scalar tensor, 0 to num_rows - 1.
    """
    pass_seed = tf.stack([tf.constant(seed, tf.int64), number // num_rows])
    return tf.random.experimental.index_shuffle(number % num_rows, pass_seed, num_rows - 1)


def make_key(seed: int, numbers: Any) -> Any:
    """Return a key for stateless random operations, int32 [2], from the seed and two numbers."""
    key = tf.random.fold_in(tf.constant([seed, 0]), tf.cast(numbers[0], tf.int32))
    return tf.random.fold_in(key, tf.cast(numbers[1], tf.int32))
