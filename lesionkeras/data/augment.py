"""Random changes to an image and its boxes; stateless, so that a key decides everything.

P1's four (3.2.2): brightness, contrast (imgaug's GammaContrast, .5 to 2.0), noise, translation.
Beyond P1, by recipe: zoom, flips and crops.  Everything geometric is one affine resampling.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from lesionkeras.config import AugmentConfig

MIN_VISIBLE_SHARE = 0.4  # of a box's area; a box of which less remains in the picture is dropped
P1_OPERATIONS = ("brightness", "contrast", "noise", "translation")  # of copies 1, 2, 3, 4


def _uniform(key: Any, number: int, shape: tuple[int, ...] = ()) -> Any:
    """Uniform 0..1 from the key; another number gives other draws."""
    return tf.random.stateless_uniform(shape, seed=tf.random.fold_in(key, number))


def _operations(config: AugmentConfig, copy: Any) -> dict[str, Any]:
    """Which of P1's operations an image gets, float32 0 or 1 each."""
    if config.mode == "copies":  # copy 0 is the image itself, the others cycle through the four
        chosen = tf.where(copy > 0, (copy - 1) % len(P1_OPERATIONS), -1)
        return {name: tf.cast(chosen == i, tf.float32) for i, name in enumerate(P1_OPERATIONS)}
    on = 0.0 if config.mode == "none" else 1.0
    return {name: tf.constant(on) for name in P1_OPERATIONS}


def change_intensity(image_unit: Any, config: AugmentConfig, copy: Any, key: Any) -> Any:
    """Apply contrast, brightness and noise, in this order.

    Args:
        image_unit: float32 [H, W, C], 0..1.
        config: Magnitudes.
        copy: int32 scalar, the copy's number; read in mode "copies" only.
        key: int32 [2] seed.

    Returns:
        float32 [H, W, C], 0..1.
    """
    on = _operations(config, copy)
    low, high = config.gamma
    gamma = 1.0 + on["contrast"] * (low + (high - low) * _uniform(key, 1) - 1.0)
    image_unit = tf.pow(image_unit, gamma)
    image_unit += on["brightness"] * config.brightness * (2.0 * _uniform(key, 2) - 1.0)
    std = on["noise"] * config.noise_std * _uniform(key, 3)
    noise = tf.random.stateless_normal(tf.shape(image_unit), seed=tf.random.fold_in(key, 4))
    return tf.clip_by_value(image_unit + std * noise, 0.0, 1.0)


def _crop_centre(boxes: Any, classes: Any, extent: Any, config: AugmentConfig, key: Any) -> Any:
    """Centre (y, x) of a crop relative to the image, chosen on a lesion or anywhere."""
    weights = tf.where(classes >= 0, 0.0, -1e9)
    num_lesions = tf.reduce_sum(tf.cast(classes >= 0, tf.int32))
    row = tf.argmax(weights + _uniform(key, 10, classes.shape))  # one of the lesions, at random
    x1, y1, x2, y2 = tf.unstack(boxes[row])
    middle = tf.stack([(y1 + y2) / 2, (x1 + x2) / 2])
    reach = tf.maximum(extent - tf.stack([y2 - y1, x2 - x1]), 0.0) / 2  # the lesion stays inside
    on_lesion = middle + reach * (2.0 * _uniform(key, 11, (2,)) - 1.0)
    anywhere = extent / 2 + (1.0 - extent) * _uniform(key, 12, (2,))
    wanted = (num_lesions > 0) & (_uniform(key, 13) < config.crop_on_lesion_probability)
    centre = tf.where(wanted, on_lesion, anywhere)
    inside = tf.clip_by_value(centre, extent / 2, 1.0 - extent / 2)
    return tf.where(extent < 1.0, inside, tf.constant([0.5, 0.5]))


def draw_view(
    boxes: Any, classes: Any, side_px: int, config: AugmentConfig, copy: Any, key: Any
) -> tuple[Any, Any]:
    """Draw the affine view of an image: zoom, crop, translation, flips.

    Args:
        boxes: float32 [M, 4] px.
        classes: int32 [M], padding -1.
        side_px: Side of the square image.
        config: Magnitudes.
        copy: int32 scalar, the copy's number; read in mode "copies" only.
        key: int32 [2] seed.

    Returns:
        float32 [2] factor and float32 [2] shift (y, x): source px = factor * view px + shift.
    """
    on, online = _operations(config, copy), config.mode == "online"
    out_px = view_side_px(side_px, config)
    low, high = config.scale if online else (1.0, 1.0)
    zoom = low * tf.pow(high / low, _uniform(key, 5))
    extent = tf.fill([2], out_px / side_px / zoom)
    if online and config.crop_size_px:
        centre = _crop_centre(boxes / side_px, classes, extent, config, key)
    else:
        moved = on["translation"] * config.translate_fraction
        centre = 0.5 + moved * (2.0 * _uniform(key, 6, (2,)) - 1.0)
    flips = tf.constant([float(config.flip_up_down), float(config.flip_left_right)]) * online
    sign = tf.where(_uniform(key, 7, (2,)) < 0.5 * flips, -1.0, 1.0)
    factor = sign / zoom
    shift = centre * side_px - factor * (out_px / 2)
    return factor, tf.where(zoom == 1.0, tf.round(shift), shift)  # unzoomed pixels stay as they are


def view_side_px(side_px: int, config: AugmentConfig) -> int:
    """Return the side of a training image: the crop's, or the whole image's."""
    cropped = config.mode == "online" and config.crop_size_px
    return min(config.crop_size_px, side_px) if cropped else side_px


def apply_view_to_image(image_unit: Any, factor: Any, shift: Any, out_px: int) -> Any:
    """Resample an image bilinearly; outside it is 0.

    Args:
        image_unit: float32 [H, W, C].
        factor: float32 [2] y, x; as `draw_view` gives it.
        shift: float32 [2] y, x.
        out_px: Side of the result.

    Returns:
        float32 [out_px, out_px, C].
    """
    # the op counts pixel centres from 0, boxes count pixel edges: hence the half pixels
    offset = factor * 0.5 + shift - 0.5
    zero = tf.zeros([])
    matrix = tf.stack([factor[1], zero, offset[1], zero, factor[0], offset[0], zero, zero])
    view = tf.raw_ops.ImageProjectiveTransformV3(
        images=image_unit[None],
        transforms=matrix[None],
        output_shape=[out_px, out_px],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]
    return tf.ensure_shape(view, (out_px, out_px, image_unit.shape[-1]))


def apply_view_to_boxes(
    boxes: Any, classes: Any, factor: Any, shift: Any, out_px: int
) -> tuple[Any, Any]:
    """Move boxes with the image, clip them to it, and drop those of which too little is left.

    Args:
        boxes: float32 [M, 4] xyxy px.
        classes: int32 [M], padding -1.
        factor: float32 [2] y, x; as `draw_view` gives it.
        shift: float32 [2] y, x.
        out_px: Side of the view.

    Returns:
        float32 [M, 4] xyxy px of the view and int32 [M]; dropped rows become padding.
    """
    corners = (tf.reshape(boxes, [-1, 2, 2]) - shift[::-1]) / factor[::-1]  # x, y
    low, high = tf.reduce_min(corners, axis=1), tf.reduce_max(corners, axis=1)
    whole = tf.reduce_prod(high - low, axis=1)
    low, high = tf.clip_by_value(low, 0.0, out_px), tf.clip_by_value(high, 0.0, out_px)
    share = tf.math.divide_no_nan(tf.reduce_prod(high - low, axis=1), whole)
    keep = (classes >= 0) & (share >= MIN_VISIBLE_SHARE)
    moved = tf.where(keep[:, None], tf.concat([low, high], axis=1), 0.0)
    return moved, tf.where(keep, classes, -1)


def augment(
    image_unit: Any, boxes: Any, classes: Any, config: AugmentConfig, copy: Any, key: Any
) -> tuple[Any, Any, Any]:
    """Change an image and its boxes as the key says.

    Args:
        image_unit: float32 [S, S, C], 0..1.
        boxes: float32 [M, 4] xyxy px.
        classes: int32 [M], padding -1.
        config: What is changed, and how much.
        copy: int32 scalar: which of P1's copies this is; 0 is the image itself.
        key: int32 [2] seed; the same key gives the same result.

    Returns:
        Image [s, s, C], boxes and classes, s as `view_side_px` says.
    """
    if config.mode == "none":
        return image_unit, boxes, classes
    side_px = image_unit.shape[0]
    out_px = view_side_px(side_px, config)
    factor, shift = draw_view(boxes, classes, side_px, config, copy, key)
    image_unit = apply_view_to_image(image_unit, factor, shift, out_px)
    boxes, classes = apply_view_to_boxes(boxes, classes, factor, shift, out_px)
    return change_intensity(image_unit, config, copy, key), boxes, classes
