"""The level of a scan's liver, and scans moved to a common one.

Contrast agent and its phase raise the liver from 60 to 130 HU, and lesions with it: in the shared
scans livers lie from 80 to 122 HU and most lesions 35 to 50 HU below theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lesionkeras.ct.window import HU_HIGH, HU_LOW

LEAST_LIVER_PX = 400  # fewer have no level
MOST_LIVER_HU = 300.0  # beyond it a level is another quantity


def measure_liver(
    slices_hu: np.ndarray, masks: np.ndarray, key_rows: np.ndarray, volumes: Sequence[str]
) -> np.ndarray:
    """Return the median of each volume's liver.

    Args:
        slices_hu: int16 [U, S, S].
        masks: uint8 [N, S, S].
        key_rows: int [N], which slice is a mask's.
        volumes: N names.

    Returns:
        float32 [N], the same for all slices of a volume; NaN where nothing is liver.
    """
    counts: dict[str, np.ndarray] = {}
    for mask, key, volume in zip(masks, key_rows, volumes, strict=True):
        liver_hu = slices_hu[key][mask == 1]  # without lesions, which are 2
        found = np.bincount(liver_hu.astype(np.int64) - HU_LOW, minlength=HU_HIGH - HU_LOW + 1)
        counts[volume] = counts.get(volume, 0) + found
    medians = {volume: find_median(found) for volume, found in counts.items()}
    return np.array([medians[volume] for volume in volumes], np.float32)


def find_median(counts: np.ndarray) -> float:
    """Return the (lower) median HU of how often each value from HU_LOW on is there; NaN of none.

    >>> counts = np.zeros(5000, int)
    >>> counts[[1024 + 90, 1024 + 100, 1024 + 120]] = 3, 4, 3
    >>> find_median(counts)
    100.0
    """
    if not counts.any():
        return math.nan
    return float(HU_LOW + np.searchsorted(np.cumsum(counts), counts.sum() / 2))


def move_to_level(image_hu: np.ndarray, found_hu: float, wanted_hu: float) -> np.ndarray:
    """Add to an image what brings the median of its scan's liver to a level.

    Args:
        image_hu: int16 [...] HU.
        found_hu: The median; NaN where none was found.
        wanted_hu: The level; 0: images stay as they are.

    Returns:
        int16 [...], the same array where nothing is added; what cannot be CT is clipped.

    >>> move_to_level(np.int16([-1024, 118, 3071]), 118.0, 100.0).tolist()
    [-1024, 100, 3053]
    >>> move_to_level(np.int16([118]), math.nan, 100.0).tolist()
    [118]
    """
    shift = 0 if math.isnan(found_hu) or not wanted_hu else round(wanted_hu - found_hu)
    return np.clip(image_hu + np.int16(shift), HU_LOW, HU_HIGH) if shift else image_hu


def move_to_level_graph(image_hu: Any, found_hu: Any, wanted_hu: float) -> Any:
    """Do what `move_to_level` does for a batch, as TensorFlow operations.

    Args:
        image_hu: int16 [B, S, S, C] HU.
        found_hu: float32 [B]; 0 where none was found.
        wanted_hu: The level, not 0.
    """
    import tensorflow as tf

    shift = tf.where(tf.equal(found_hu, 0.0), 0.0, tf.round(wanted_hu - found_hu))
    moved = tf.cast(image_hu, tf.int32) + tf.cast(shift, tf.int32)[:, None, None, None]
    return tf.cast(tf.clip_by_value(moved, HU_LOW, HU_HIGH), tf.int16)


def find_level_graph(slice_hu: Any, is_liver: Any) -> Any:
    """Find the median of each image's liver, as `find_median` does.

    Args:
        slice_hu: int16 [B, S, S] HU of the key slices.
        is_liver: bool [B, S, S].

    Returns:
        float32 [B]; 0 where less than LEAST_LIVER_PX is liver.
    """
    import tensorflow as tf

    def find(row: tuple[Any, Any]) -> Any:
        found = tf.sort(tf.boolean_mask(tf.cast(row[0], tf.float32), row[1]))
        count = tf.size(found)
        return tf.cond(
            count >= LEAST_LIVER_PX, lambda: found[(count - 1) // 2], lambda: tf.constant(0.0)
        )

    return tf.map_fn(find, (slice_hu, is_liver), fn_output_signature=tf.TensorSpec([], tf.float32))


def check_level_graph(liver_hu: Any, num_images: Any) -> Any:
    """Return levels unchanged; running it raises where one is none, or there is not one an image.

    Args:
        liver_hu: float32 [B].
        num_images: int32 scalar.
    """
    import tensorflow as tf

    counts = [tf.shape(liver_hu)[0], num_images]
    is_paired = tf.debugging.Assert(
        tf.equal(*counts),
        ["liver_hu must have a value for each image; found values, images:", *counts],
    )
    is_sane = tf.debugging.Assert(
        tf.reduce_all(tf.abs(liver_hu) <= MOST_LIVER_HU),  # not so of NaN
        ["liver_hu must be the HU of a liver, or 0 where it is not known; found:", liver_hu],
    )
    with tf.control_dependencies([is_paired, is_sane]):
        return tf.identity(liver_hu)
