"""Resizing and windowing of CT slices: training, evaluation and export all use this one place.

The order is fixed: a slice stack is resized as Hounsfield units (`resize_hu_graph`, int16 in and
out, so that prepared data can be stored), and only then windowed to 0..1 (`window_graph`, or its
NumPy twin `window_numpy`).  The served model runs the same two functions on the same integers.
Masks are resized with their slices by `resize_mask_graph`; `standardise_graph` (and its twin) comes
last, where a recipe asks for it.

`tf.image` is used for the resize because its antialiased kernel runs in tf.data and in TF Serving
alike; TensorFlow is imported on first use, so that reports can window without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

# A 12-bit scanner's range: stored 0..4095 with the usual intercept of -1024 (DICOM PS3.3 C.11.1).
# Padding outside the field of view is stored below it (-2000 and lower) and means air.
HU_LOW = -1024
HU_HIGH = 3071


def window_numpy(image_hu: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    """Maps a CT window linearly to 0..1; what lies outside becomes 0 or 1.

    Args:
        image_hu: Any shape, integer or float, Hounsfield units.
        window_hu: Low and high end of the window, in HU, low < high.

    Returns:
        `image_unit`, float32 of the same shape, 0..1.

    >>> window_numpy(np.array([-500, -160, 40, 240, 900], np.int16), (-160.0, 240.0)).tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    low, high = np.float32(window_hu[0]), np.float32(window_hu[1])
    image = np.asarray(image_hu).astype(np.float32)
    return (np.clip(image, low, high) - low) / (high - low)


def window_graph(image_hu: Any, window_hu: tuple[float, float]) -> tf.Tensor:
    """Does what `window_numpy` does, as TensorFlow operations.

    Args:
        image_hu: Tensor of any shape, integer or float, Hounsfield units.
        window_hu: Low and high end of the window, in HU, low < high.

    Returns:
        `image_unit`, a float32 tensor of the same shape, 0..1.
    """
    import tensorflow as tf

    low, high = np.float32(window_hu[0]), np.float32(window_hu[1])
    image = tf.cast(image_hu, tf.float32)
    return (tf.clip_by_value(image, low, high) - low) / (high - low)


def resize_hu_graph(image_hu: Any, size_px: Any) -> tf.Tensor:
    """Resizes CT slices in HU, bilinear and antialiased; rounds to whole HU.

    Args:
        image_hu: Tensor int16 [H, W, C] or [B, H, W, C], Hounsfield units; sizes may be unknown.
        size_px: Height and width of the result: two ints or an int32 tensor [2].

    Returns:
        int16 tensor [h, w, C] or [B, h, w, C], within -1024..3071 HU.
    """
    import tensorflow as tf

    clipped = tf.clip_by_value(tf.cast(image_hu, tf.float32), float(HU_LOW), float(HU_HIGH))
    resized = tf.image.resize(clipped, size_px, method="bilinear", antialias=True)
    return tf.cast(tf.round(resized), tf.int16)


def resize_mask_graph(mask: Any, size_px: Any) -> tf.Tensor:
    """Resizes masks by the nearest pixel; the twin of `resize_hu_graph`, over the same area.

    Args:
        mask: Tensor uint8 [H, W, C] or [B, H, W, C]; sizes may be unknown.
        size_px: Height and width of the result: two ints or an int32 tensor [2].

    Returns:
        uint8 tensor [h, w, C] or [B, h, w, C] of values that the mask has.
    """
    import tensorflow as tf

    return tf.image.resize(mask, size_px, method="nearest")


def standardise_numpy(image_unit: np.ndarray) -> np.ndarray:
    """Brings each image to zero mean and unit variance.

    Args:
        image_unit: float32 [..., H, W, C], 0..1.

    Returns:
        `image_std`, float32 of the same shape; an image of one value becomes 0.

    Source: P4, 3.2.

    >>> standardise_numpy(np.float32([[[0.0], [1.0], [1.0], [0.0]]])).ravel().tolist()
    [-1.0, 1.0, 1.0, -1.0]
    """
    axes = (-3, -2, -1)
    mean = image_unit.mean(axes, np.float64, keepdims=True).astype(np.float32)
    centred = image_unit - mean
    variance = np.square(centred).mean(axes, np.float64, keepdims=True)
    least_std = 1 / np.sqrt(np.prod(image_unit.shape[-3:]))  # as tf.image does: never divides by 0
    return centred / np.maximum(np.sqrt(variance), least_std).astype(np.float32)


def standardise_graph(image_unit: Any) -> tf.Tensor:
    """Does what `standardise_numpy` does, as TensorFlow operations.

    Args:
        image_unit: float32 tensor [..., H, W, C], 0..1.

    Returns:
        `image_std`, a float32 tensor of the same shape, equal to the twin's within 1e-5.
    """
    import tensorflow as tf

    return tf.image.per_image_standardization(image_unit)
