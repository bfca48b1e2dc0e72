"""TFDS records to detection examples: 16-bit PNG bytes to HU, relative boxes to pixels."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from lesionkeras.ct.png16 import STORED_OFFSET_HU
from lesionkeras.ct.window import HU_HIGH, HU_LOW

UNTYPED = 0  # where a data set has no lesion types; DeepLesion's are -1 (unknown) and 1 to 8


def decode_png16(png: Any) -> Any:
    """Return HU of one 16-bit grey PNG, clipped to what CT can mean.

    Args:
        png: Scalar string, stored = HU + 32768.

    Returns:
        int16 [H, W] in HU_LOW..HU_HIGH; scanner padding below becomes air.
    """
    stored = tf.io.decode_png(png, channels=1, dtype=tf.uint16)[..., 0]
    image_hu = tf.cast(stored, tf.int32) - STORED_OFFSET_HU
    return tf.cast(tf.clip_by_value(image_hu, HU_LOW, HU_HIGH), tf.int16)


def stack_slices(previous: Any, key: Any, following: Any) -> Any:
    """Decode three neighbouring slices; an empty string stands for the key slice.

    Args:
        previous: Scalar string, PNG of the slice before, or empty.
        key: Scalar string, PNG of the key slice.
        following: Scalar string, PNG of the slice after, or empty.

    Returns:
        int16 [H, W, 3] HU.
    """
    key_hu = decode_png16(key)

    def or_key(png: Any) -> Any:
        return tf.cond(tf.equal(png, ""), lambda: key_hu, lambda: decode_png16(png))

    return tf.stack([or_key(previous), key_hu, or_key(following)], axis=-1)


def decode_example(record: dict[str, Any]) -> dict[str, Any]:
    """Return one detection example (DESIGN 4) from a TFDS record of the shared schema.

    Args:
        record: Features of `tfds_builders.detection.detection_features`.

    Returns:
        image_hu int16 [H, W, 3], boxes float32 [n, 4] xyxy px, classes int32 [n], noisy bool [n],
        lesion_types int32 [n] (UNTYPED where there are none), spacing_mm float32 [2] (y, x),
        size_px int32 [2] (H, W), patient and file strings.
    """
    image_hu = stack_slices(record["png_previous"], record["png_key"], record["png_next"])
    size_px = tf.cast(tf.shape(image_hu)[:2], tf.float32)
    y1, x1, y2, x2 = tf.unstack(record["lesions"]["bbox"], axis=-1)
    height, width = size_px[0], size_px[1]
    boxes = tf.stack([x1 * width, y1 * height, x2 * width, y2 * height], axis=-1)
    lesions = record["lesions"]
    classes = tf.cast(lesions["label"], tf.int32)
    noisy = lesions.get("possibly_noisy", tf.zeros_like(classes))
    lesion_types = lesions.get("coarse_lesion_type", tf.fill(tf.shape(classes), UNTYPED))
    return {
        "image_hu": image_hu,
        "boxes": boxes,
        "classes": classes,
        "noisy": tf.cast(noisy, tf.bool),
        "lesion_types": tf.cast(lesion_types, tf.int32),
        "spacing_mm": record["spacing_mm"][1:],
        "size_px": tf.cast(size_px, tf.int32),
        "patient": record["patient"],
        "file": record["file"],
    }
