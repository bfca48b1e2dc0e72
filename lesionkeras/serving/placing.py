"""Slices of any size and spacing onto a network's square, in the graph of an export."""

from __future__ import annotations

from typing import Any

from lesionkeras.ct.grid import place_hu_graph
from lesionkeras.data.slices import WHOLE
from lesionkeras.serving.saved_model import pad_empty_batch

# Beyond these a spacing is another quantity, and a resize by it would take a server's memory.
SPACING_LIMITS_MM = (0.05, 10.0)


def check_spacing_graph(spacing_mm: Any, num_images: Any) -> Any:
    """Return spacings unchanged; running it raises where one cannot be a spacing.

    Args:
        spacing_mm: float32 [B, 2 or 3].
        num_images: int32 scalar, B.
    """
    import tensorflow as tf

    low, high = SPACING_LIMITS_MM
    is_sane = tf.debugging.Assert(
        tf.reduce_all((spacing_mm >= low) & (spacing_mm <= high)),
        [f"spacing_mm must be millimetres of a pixel, {low} to {high}; found:", spacing_mm],
    )
    counts = [tf.shape(spacing_mm)[0], num_images]
    is_paired = tf.debugging.Assert(
        tf.equal(*counts),
        ["spacing_mm must have a row for each image; found rows, images:", *counts],
    )
    with tf.control_dependencies([is_sane, is_paired]):
        return tf.identity(spacing_mm)


def take_planes(image_hu: Any, spacing_z_mm: Any, num_planes: int, slice_mm: float) -> Any:
    """Return the planes that a network sees, as `PreparedSlices.read_image` does.

    Args:
        image_hu: int16 [B, H, W, C], slices in order, the key slice in the middle.
        spacing_z_mm: float32 [B], from slice to slice.
        num_planes: Odd.
        slice_mm: From plane to plane.

    Returns:
        int16 [B, H, W, num_planes], linear between two slices; beyond the last one as that.

    Raises:
        tf.errors.InvalidArgumentError: When run: C is even.
    """
    import tensorflow as tf

    count = tf.shape(image_hu)[-1]
    is_odd = tf.debugging.Assert(
        tf.equal(count % 2, 1),
        ["an image must have an odd number of slices, the key slice in the middle; found:", count],
    )
    with tf.control_dependencies([is_odd]):
        middle = tf.cast(count // 2, tf.float64)
    steps = tf.range(-(num_planes // 2), num_planes // 2 + 1, dtype=tf.float64) * slice_mm
    places = steps / tf.cast(spacing_z_mm, tf.float64)[:, None]
    whole = tf.round(places)
    places = tf.where(tf.abs(places - whole) < WHOLE, whole, places)
    places = middle + tf.clip_by_value(places, -middle, middle)
    slices = tf.range(tf.cast(count, tf.float64), dtype=tf.float64)
    shares = tf.nn.relu(1.0 - tf.abs(places[..., None] - slices))  # [B, num_planes, C]
    image_hu, shares = (tf.cast(values, tf.float32) for values in (image_hu, shares))
    planes = tf.einsum("bhwc,bnc->bhwn", image_hu, shares)
    return tf.cast(tf.round(planes), tf.int16)


def find_resized_px(image_shape: Any, spacing_mm: Any, pixel_mm: float) -> Any:
    """Find how large each image of a batch becomes, as `ct.grid.find_grid` does.

    Args:
        image_shape: int32 [4], of the batch: images, rows, columns, slices.
        spacing_mm: float32 [B, 2 or 3], (z,) y and x, checked.
        pixel_mm: Of the square's pixels; 0: all fill the square.

    Returns:
        int32 [B, 2]; None where all fill the square.
    """
    import tensorflow as tf

    if not pixel_mm:
        return None
    pixel_mm_of = tf.cast(spacing_mm[:, -2:], tf.float64)
    wanted = tf.cast(image_shape[1:3], tf.float64) * pixel_mm_of / pixel_mm
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
