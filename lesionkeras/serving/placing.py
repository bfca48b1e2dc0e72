"""Slices of any size and spacing onto a network's square, in the graph of an export."""

from __future__ import annotations

from typing import Any

from lesionkeras.ct.grid import place_hu_graph
from lesionkeras.serving.saved_model import pad_empty_batch

# Beyond these a spacing is another quantity, and a resize by it would take a server's memory.
SPACING_LIMITS_MM = (0.05, 10.0)


def find_resized_px(image_shape: Any, spacing_mm: Any, pixel_mm: float) -> Any:
    """Find how large each image of a batch becomes, as `ct.grid.find_grid` does.

    Args:
        image_shape: int32 [4], of the batch: images, rows, columns, slices.
        spacing_mm: float32 [B, 2], y and x of a pixel.
        pixel_mm: Of the square's pixels; 0: all fill the square.

    Returns:
        int32 [B, 2]; None where all fill the square.
    """
    import tensorflow as tf

    if not pixel_mm:
        return None
    low, high = SPACING_LIMITS_MM
    is_sane = tf.debugging.Assert(
        tf.reduce_all((spacing_mm >= low) & (spacing_mm <= high)),
        [f"spacing_mm must be millimetres of a pixel, {low} to {high}; found:", spacing_mm],
    )
    counts = [tf.shape(spacing_mm)[0], image_shape[0]]
    is_paired = tf.debugging.Assert(
        tf.equal(*counts),
        ["spacing_mm must have a row for each image; found rows, images:", *counts],
    )
    with tf.control_dependencies([is_sane, is_paired]):
        wanted = tf.cast(image_shape[1:3], tf.float64) * tf.cast(spacing_mm, tf.float64) / pixel_mm
    return tf.maximum(1, tf.cast(tf.round(wanted), tf.int32))  # half to even, as Python's


def place_slices(image_hu: Any, resized_px: Any, side_px: int) -> Any:
    """Bring slices onto the square.

    Args:
        image_hu: int16 [B, H, W, C].
        resized_px: From `find_resized_px`.
        side_px: Of the square.

    Returns:
        int16 [B, S, S, C].
    """
    import tensorflow as tf

    if resized_px is None:
        return place_hu_graph(image_hu, (side_px, side_px), side_px)
    placed = tf.map_fn(
        lambda row: place_hu_graph(row[0], row[1], side_px),
        (pad_empty_batch(image_hu), pad_empty_batch(resized_px, 1)),
        fn_output_signature=tf.TensorSpec([side_px, side_px, image_hu.shape[-1]], tf.int16),
    )
    return placed[: tf.shape(image_hu)[0]]


def take_boxes_back(boxes: Any, resized_px: Any, size_px: Any, side_px: int) -> Any:
    """Bring boxes on the square into pixels of the images.

    Args:
        boxes: float32 [B, D, 4] xyxy px of the square, as many images as there are.
        resized_px: From `find_resized_px`.
        size_px: int32 [2], rows and columns of the images.
        side_px: Of the square.

    Returns:
        float32 [B, D, 4] xyxy px of the images, cut at their edges; padding stays 0.
    """
    import tensorflow as tf

    size = tf.cast(size_px, tf.float32)
    if resized_px is None:
        return boxes * (tf.tile(size[::-1], [2]) / float(side_px))
    # towards 0, as `SliceGrid.shift_px`
    shift = tf.cast(tf.cast((side_px - resized_px) / 2, tf.int32), tf.float32)
    scale = size / tf.cast(resized_px, tf.float32)
    pairs = [tf.tile(pair[:, ::-1], [1, 2])[:, None] for pair in (shift, scale)]
    is_real = tf.reduce_any(boxes != 0, axis=-1, keepdims=True)
    moved = tf.clip_by_value((boxes - pairs[0]) * pairs[1], 0.0, tf.tile(size[::-1], [2]))
    return tf.where(is_real, moved, 0.0)
