"""Random changes to an image and its mask; stateless, so that a key decides everything.

The numbers are drawn in the graph; the pixels are changed by OpenCV and NumPy, which take 9 ms for
five slices of 192 px where TensorFlow's operations take 19.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from lesionkeras.config import AugmentConfig, SegmentationAugmentConfig
from lesionkeras.data.augment import view_side_px
from lesionkeras.data.slices import LESION, LIVER

SMOOTH_PX = 1.0  # standard deviation
AddLesions = Callable[[Any, Any, Any], tuple[Any, Any]]
INTERPOLATIONS = {"BILINEAR": cv2.INTER_LINEAR, "NEAREST": cv2.INTER_NEAREST}


def _uniform(key: Any, number: int, shape: tuple[int, ...] = ()) -> Any:
    """Uniform 0..1 from the key; another number gives other draws."""
    return tf.random.stateless_uniform(shape, seed=tf.random.fold_in(key, number))


def choose_pixel(mask: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return a pixel of a lesion, each lesion of the slice being as likely, and one of the liver.

    Args:
        mask: uint8 [S, S].
        draws: Three uniform numbers, 0 up to 1: which lesion, which of its pixels, which of liver.

    Returns:
        float32 [2, 2], y and x of both pixels' middles; -1 where there is none.
    """
    chosen = np.full((2, 2), -1.0, np.float32)
    count, labels = cv2.connectedComponents((mask == LESION).astype(np.uint8))
    wanted = labels == 1 + int(draws[0] * (count - 1)) if count > 1 else np.zeros_like(mask)
    for place, (found, draw) in enumerate(((wanted, draws[1]), (mask >= LIVER, draws[2]))):
        pixels = np.flatnonzero(found)
        if len(pixels):
            y, x = divmod(int(pixels[int(draw * len(pixels))]), mask.shape[1])
            chosen[place] = y + 0.5, x + 0.5
    return chosen


def _choose_centre(
    mask: Any, extent: Any, config: AugmentConfig, key: Any, crop_on_liver: float
) -> Any:
    """Centre (y, x) px of a crop of `extent` px: with a lesion in it, on liver, or anywhere."""
    side = mask.shape[0]
    pixels = tf.numpy_function(
        choose_pixel, [mask, _uniform(key, 20, (3,))], tf.float32, stateful=False
    )
    pixels = tf.ensure_shape(pixels, (2, 2))
    on_lesion = pixels[0] + (extent / 2) * (2.0 * _uniform(key, 21, (2,)) - 1.0)
    centre = extent / 2 + (side - extent) * _uniform(key, 22, (2,))  # anywhere
    on_liver = (pixels[1, 0] >= 0) & (_uniform(key, 24) < crop_on_liver)
    centre = tf.where(
        on_liver, pixels[1] + (extent / 4) * (2.0 * _uniform(key, 25, (2,)) - 1.0), centre
    )
    wanted = (pixels[0, 0] >= 0) & (_uniform(key, 23) < config.crop_on_lesion_probability)
    centre = tf.where(wanted, on_lesion, centre)
    inside = tf.clip_by_value(centre, extent / 2, side - extent / 2)
    return tf.where(extent < side, inside, side / 2)


def draw_mask_view(
    mask: Any, config: AugmentConfig, rotation_deg: float, key: Any, crop_on_liver: float = 0.0
) -> tuple[Any, Any]:
    """Draw the affine view of an image and its mask: flips, rotation, zoom, shift or crop.

    Args:
        mask: uint8 [S, S].
        config: Magnitudes; without a crop the view is shifted by `translate_fraction`.
        rotation_deg: Uniform in +-.
        key: int32 [2] seed.
        crop_on_liver: Share of the crops not on a lesion that are on liver.

    Returns:
        float32 [2, 2] matrix and float32 [2] shift (y, x): source px = matrix @ view px + shift.
    """
    side, out_px = mask.shape[0], view_side_px(mask.shape[0], config)
    low, high = config.scale
    zoom = low * tf.pow(high / low, _uniform(key, 5))
    flips = tf.constant([float(config.flip_up_down), float(config.flip_left_right)])
    sign = tf.where(_uniform(key, 7, (2,)) < 0.5 * flips, -1.0, 1.0)
    angle = rotation_deg * math.pi / 180 * (2.0 * _uniform(key, 8) - 1.0)
    turn = tf.stack([[tf.cos(angle), -tf.sin(angle)], [tf.sin(angle), tf.cos(angle)]])
    matrix = turn * sign[None] / zoom
    if out_px < side:
        centre = _choose_centre(mask, out_px / zoom, config, key, crop_on_liver)
    else:
        moved = config.translate_fraction * (2.0 * _uniform(key, 6, (2,)) - 1.0)
        centre = side * (0.5 + moved)
    shift = centre - tf.linalg.matvec(matrix, tf.fill([2], out_px / 2))
    unturned = (zoom == 1.0) & (angle == 0.0)  # whole pixels stay as they are
    return matrix, tf.where(unturned, tf.round(shift), shift)


def apply_view(image: Any, matrix: Any, shift: Any, out_px: int, interpolation: str) -> Any:
    """Resample an image or a mask; outside it is 0.

    Args:
        image: float32 [H, W, C] or uint8 [H, W, C].
        matrix: float32 [2, 2], as `draw_mask_view` gives it.
        shift: float32 [2] y, x.
        out_px: Side of the result.
        interpolation: "BILINEAR" or "NEAREST".

    Returns:
        [out_px, out_px, C] of the same type.
    """
    flags = INTERPOLATIONS[interpolation] | cv2.WARP_INVERSE_MAP

    def warp(pixels: np.ndarray, turn: np.ndarray, moved: np.ndarray) -> np.ndarray:
        # OpenCV counts pixel centres from 0, and x before y; the view pixel edges
        centres = turn @ np.full(2, 0.5) + moved - 0.5
        x_first = np.concatenate([turn[::-1, ::-1], centres[::-1, None]], axis=1)
        view = cv2.warpAffine(pixels, x_first, (out_px, out_px), flags=flags)
        return view.reshape(out_px, out_px, pixels.shape[-1])

    view = tf.numpy_function(warp, [image, matrix, shift], image.dtype, stateful=False)
    return tf.ensure_shape(view, (out_px, out_px, image.shape[-1]))


def change_grey(image_unit: np.ndarray, draws: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """Apply sharpness, gamma, contrast, noise and brightness, in this order.

    Args:
        image_unit: float32 [H, W, C], 0..1; not changed.
        draws: float32 gamma, what is added, standard deviation of the noise, factor of the
            contrast about .5, share of what a Gaussian of 1 px takes away that is added.
        seed: int32 [2] of the noise.

    Returns:
        float32 [H, W, C], 0..1.
    """
    gamma, added, std, contrast, sharpness = (float(number) for number in draws)
    if sharpness:
        smooth = cv2.GaussianBlur(image_unit, (0, 0), SMOOTH_PX).reshape(image_unit.shape)
        sharp = cv2.addWeighted(image_unit, 1 + sharpness, smooth, -sharpness, 0.0)
        image_unit = np.clip(sharp.reshape(image_unit.shape), 0.0, 1.0)  # a power needs it
    changed: np.ndarray = cv2.pow(image_unit, gamma).reshape(image_unit.shape)
    if contrast != 1.0:
        changed = np.float32(contrast) * (changed - np.float32(0.5)) + np.float32(0.5)
    if std:
        generator = np.random.Generator(np.random.SFC64(seed.view(np.uint32)))
        noise = generator.standard_normal(changed.shape, np.float32)
        changed += np.multiply(noise, np.float32(std), out=noise)
    changed += np.float32(added)
    return np.clip(changed, 0.0, 1.0, out=changed)


def draw_grey(config: AugmentConfig, key: Any) -> Any:
    """Draw what `change_grey` takes, float32 [5]."""
    low, high = config.gamma
    gamma = low + (high - low) * _uniform(key, 1)
    added = config.brightness * (2.0 * _uniform(key, 2) - 1.0)
    contrast, sharpness = 1.0, 0.0
    if isinstance(config, SegmentationAugmentConfig):
        contrast = tf.exp(config.contrast * (2.0 * _uniform(key, 12) - 1.0))
        sharpness = config.sharpness * (2.0 * _uniform(key, 13) - 1.0)
    return tf.stack([gamma, added, config.noise_std * _uniform(key, 3), contrast, sharpness])


def augment_with_mask(
    image_unit: Any,
    mask: Any,
    config: AugmentConfig,
    rotation_deg: float,
    key: Any,
    crop_on_liver: float = 0.0,
    add_lesions: AddLesions | None = None,
) -> tuple[Any, Any]:
    """Change an image and its mask as the key says.

    Args:
        image_unit: float32 [S, S, C], 0..1.
        mask: uint8 [S, S].
        config: What is changed, and how much; mode "none" or "online".
        rotation_deg: Uniform in +-.
        key: int32 [2] seed; the same key gives the same result.
        crop_on_liver: Share of the crops not on a lesion that are on liver.
        add_lesions: Of image, mask and key: an image and a mask with made lesions.

    Returns:
        image_unit [s, s, C] and mask [s, s], s as `view_side_px` says.
    """
    if config.mode == "none":
        return image_unit, mask
    out_px = view_side_px(image_unit.shape[0], config)
    matrix, shift = draw_mask_view(mask, config, rotation_deg, key, crop_on_liver)
    image_unit = apply_view(image_unit, matrix, shift, out_px, "BILINEAR")
    mask = apply_view(mask[..., None], matrix, shift, out_px, "NEAREST")[..., 0]
    if add_lesions is not None:
        image_unit, mask = add_lesions(image_unit, mask, tf.random.fold_in(key, 10))
    words = [image_unit, draw_grey(config, key), tf.random.fold_in(key, 4)]
    changed = tf.numpy_function(change_grey, words, tf.float32, stateful=False)
    return tf.ensure_shape(changed, image_unit.shape), mask
