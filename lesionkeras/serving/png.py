"""PNGs at a served model's edges: 16-bit slices in, 8-bit masks out, as TensorFlow operations.

TensorFlow's own decoder, not the faster one of `data.decode`: that one is Python behind
`tf.numpy_function`, which a server does not have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lesionkeras.ct.png16 import STORED_OFFSET_HU
from lesionkeras.ct.window import HU_HIGH, HU_LOW
from lesionkeras.serving.saved_model import pad_empty_batch

if TYPE_CHECKING:
    import tensorflow as tf

PNG_HEADER_BYTES = 26  # signature, IHDR, width, height, bit depth (24), colour type (25)
PNG_16_BIT_GREY = b"\x10\x00"  # bit depth 16, colour type 0 (PNG specification, 11.2.2)


def decode_png_graph(png: Any) -> tf.Tensor:
    """Decodes slice stacks of some 16-bit grey PNGs each.

    Args:
        png: String tensor [B, C], C odd: the key slice in the middle, its neighbours in order; an
            empty string means missing, and the next slice to the middle stands for it.

    Returns:
        `image_hu`, int16 [B, H, W, C], clipped to what CT can mean; [0, 1, 1, C] where there is no
        stack.

    Raises:
        tf.errors.InvalidArgumentError: When run: a PNG is not 16-bit grey (an 8-bit one would be
            stretched without a word), is damaged, or sizes differ within the batch.
    """
    import tensorflow as tf

    count = tf.shape(png)[1]
    # Zero bytes behind, so that a file that is too short fails this check and not the cut itself.
    padded = tf.strings.join([png, tf.constant(bytes(PNG_HEADER_BYTES))])
    kind = tf.strings.substr(padded, PNG_HEADER_BYTES - 2, 2)
    is_there = (tf.strings.length(png) > 0) | (tf.range(count) == count // 2)
    is_grey = tf.debugging.Assert(
        tf.reduce_all(~is_there | (kind == PNG_16_BIT_GREY)),
        ["every slice must be a 16-bit grey PNG; bit depth and colour type found:", kind],
    )
    with tf.control_dependencies([is_grey]):  # else the decoder may speak first
        png = tf.gather(png, _find_nearest(is_there), batch_dims=1)

    one_pixel = tf.io.encode_png(tf.zeros([1, 1, 1], tf.uint16))
    slices_hu = tf.map_fn(
        _decode_slice,
        tf.reshape(pad_empty_batch(png, one_pixel), [-1]),
        fn_output_signature=tf.TensorSpec([None, None], tf.int16),
    )
    size_px = tf.shape(slices_hu)[1:]
    stacks = tf.reshape(slices_hu, [-1, count, *tf.unstack(size_px)])
    image_hu = tf.ensure_shape(tf.transpose(stacks, [0, 2, 3, 1]), [None, None, None, png.shape[1]])
    return image_hu[: tf.shape(png)[0]]


def encode_mask_png_graph(mask: Any) -> tf.Tensor:
    """Encodes masks as 8-bit grey PNGs: some kilobytes each instead of a number a pixel.

    Args:
        mask: uint8 [B, H, W].

    Returns:
        String tensor [B]; pixel values are the labels.
    """
    import tensorflow as tf

    filled = pad_empty_batch(mask[..., None])
    png = tf.map_fn(tf.io.encode_png, filled, fn_output_signature=tf.TensorSpec([], tf.string))
    return png[: tf.shape(mask)[0]]


def encode_stored_png(slice_hu: np.ndarray) -> bytes:
    """Encodes a slice as the 16-bit grey PNG that the `serving_png` signatures take.

    Args:
        slice_hu: int16 [H, W], HU.

    Returns:
        The file's bytes, stored = HU + 32768.
    """
    import tensorflow as tf

    stored = (slice_hu.astype(np.int32) + STORED_OFFSET_HU).astype(np.uint16)
    return bytes(tf.io.encode_png(stored[..., None]).numpy())


def _find_nearest(is_there: Any) -> Any:
    """For each place of [B, C] the place, there and towards the middle, that is nearest to it."""
    import tensorflow as tf

    count = tf.shape(is_there)[1]
    place, middle = tf.range(count), count // 2
    wanted, other = place[:, None] - middle, place[None] - middle  # [C, 1] and [1, C]
    is_between = (wanted * other >= 0) & (tf.abs(other) <= tf.abs(wanted))
    distance = tf.where(is_between & is_there[:, None], tf.abs(other), -1)  # [B, C, C]
    return tf.argmax(distance, axis=-1, output_type=tf.int32)


def _decode_slice(png: Any) -> Any:
    import tensorflow as tf

    stored = tf.io.decode_png(png, channels=1, dtype=tf.uint16)[..., 0]
    image_hu = tf.cast(stored, tf.int32) - STORED_OFFSET_HU
    return tf.cast(tf.clip_by_value(image_hu, HU_LOW, HU_HIGH), tf.int16)
