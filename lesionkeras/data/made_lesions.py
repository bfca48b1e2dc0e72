"""Lesions made in the liver of training images: few patients have few lesions, and few kinds.

A made lesion is a ball of an uneven surface, most often darker than the liver around it, sometimes
brighter, sometimes with a rim, with a soft edge and a texture of its own, and it goes through the
neighbouring slices as a ball does.  It is labelled as a lesion where it lies on liver.

Source: after Hu et al., Label-Free Liver Tumor Segmentation, CVPR 2023, whose tumours are made in
    three dimensions from an ellipsoid, elastic deformation, Gaussian-filtered noise and a blurred
    edge.  Differs: in the slices of one image, whose distance in mm is not known there but drawn.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from lesionkeras.config import DataConfig, SegmentationDataConfig
from lesionkeras.data.augment_mask import AddLesions
from lesionkeras.data.slices import LESION, LIVER

USUAL_FIELD_MM = 384.0  # of a slice whose pixels' size is not known: 512 of .75 mm

MOST_LESIONS = 4  # of an image
LEAST_LIVER_PX = 400  # of less liver nothing is made in
RADIUS_MM = (2.5, 16.0)  # log-uniform
STRETCH = 0.35  # of a ball to an ellipse: log of the greatest ratio of an axis to the radius
UNEVEN = 0.25  # of the surface: greatest standard deviation, by the radius
SLICE_MM = (1.5, 7.0)  # from slice to slice, log-uniform: what LiTS' scans have
DARKER_HU = (12.0, 65.0)  # than the liver
BRIGHTER_HU = (10.0, 40.0)
BRIGHT_SHARE = 0.1  # of the lesions
RIM_SHARE = 0.3  # of the lesions: inside it is as the liver, or the contrast is turned
TEXTURE_HU = 12.0  # greatest standard deviation
EDGE_PX = (0.6, 2.5)  # width
FAR_UNIT = 0.35  # from the liver's median: vessels, fat and gas, which a lesion changes less


def find_lesion_maker(data: SegmentationDataConfig) -> AddLesions | None:
    """Return what makes lesions in `data.made_lesions` of the images; None where it is 0.

    Args:
        data: Its pixels' size and window turn mm and HU into the network's.

    Returns:
        A function of image float32 [S, S, C], mask uint8 [S, S] and key int32 [2], in the graph.
    """
    if not data.made_lesions:
        return None
    scales = find_scales(data, data.window_hu)

    def make(image_unit: np.ndarray, mask: np.ndarray, seed: np.ndarray) -> tuple[Any, Any]:
        return make_lesions(image_unit, mask, seed, *scales)

    def add_lesions(image_unit: Any, mask: Any, key: Any) -> tuple[Any, Any]:
        changed = tf.cond(
            tf.random.stateless_uniform((), seed=key) < data.made_lesions,
            lambda: tf.numpy_function(
                make, [image_unit, mask, key], (tf.float32, tf.uint8), stateful=False
            ),
            lambda: [image_unit, mask],
        )
        shapes = (image_unit.shape, mask.shape)
        return tuple(map(tf.ensure_shape, changed, shapes))

    return add_lesions


def find_scales(
    data: SegmentationDataConfig | DataConfig, window_hu: tuple[float, float]
) -> tuple[float, float]:
    """Return the mm of a pixel and the HU of the whole window, as `make_lesions` takes them."""
    pixel_mm = data.pixel_mm or USUAL_FIELD_MM / data.image_size_px
    return pixel_mm, window_hu[1] - window_hu[0]


def make_lesions(
    image_unit: np.ndarray, mask: np.ndarray, seed: np.ndarray, pixel_mm: float, window_hu: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and its mask with one to MOST_LESIONS lesions more.

    Args:
        image_unit: float32 [S, S, C], 0..1; the key slice is the middle one of its neighbours.
        mask: uint8 [S, S] of the key slice.
        seed: int32 [2].
        pixel_mm: Side of a pixel.
        window_hu: HU that 0..1 stands for.

    Returns:
        New arrays of the same shapes; the same ones where there is too little liver.
    """
    liver = np.flatnonzero(mask == LIVER)
    if len(liver) < LEAST_LIVER_PX:
        return image_unit, mask
    rng = np.random.Generator(np.random.SFC64(seed.view(np.uint32)))
    image_unit, made = image_unit.copy(), mask.copy()
    key = image_unit.shape[2] // 2
    middle_unit = float(np.median(image_unit[..., key].ravel()[liver]))
    slice_mm = np.exp(rng.uniform(*np.log(SLICE_MM)))
    on_liver = cv2.dilate((mask >= LIVER).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    for _ in range(rng.integers(1, MOST_LESIONS + 1)):
        centre = divmod(int(rng.choice(liver)), mask.shape[1])
        radius_mm = np.exp(rng.uniform(*np.log(RADIUS_MM)))
        radius_px = max(radius_mm / pixel_mm, 1.5)
        window = tuple(
            slice(max(int(c - 2.2 * radius_px), 0), int(c + 2.2 * radius_px) + 2) for c in centre
        )
        distance = _draw_distance(rng, window, mask.shape, centre, radius_px)
        change = _draw_change(rng, distance) / np.float32(window_hu)
        edge = rng.uniform(*EDGE_PX) / radius_px
        height = max(radius_mm / slice_mm, 0.6)  # in slices
        place = rng.uniform(-0.6, 0.6) * height
        for channel in range(image_unit.shape[2]):
            flat = 1.0 - ((channel - key - place) / height) ** 2
            if flat <= 0:
                continue
            depth = np.clip((distance / np.sqrt(flat) - 1) * 2 / edge, -30, 30)
            inside = 1.0 / (1.0 + np.exp(depth))
            here = image_unit[..., channel][window]
            weight = np.where(np.abs(here - middle_unit) < FAR_UNIT, inside, 0.3 * inside)
            here += np.where(on_liver[window], weight * change, 0.0)
            if channel == key:
                label = made[window]
                label[(inside > 0.5) & (label == LIVER)] = LESION
    return np.clip(image_unit, 0.0, 1.0, out=image_unit), made


def _draw_distance(
    rng: np.random.Generator,
    window: tuple[slice, ...],
    shape: tuple[int, ...],
    centre: tuple[int, int],
    radius_px: float,
) -> np.ndarray:
    """Distance from a lesion's centre by its radius, float32: 1 on its surface."""
    y, x = np.ogrid[
        window[0].start : min(window[0].stop, shape[0]),
        window[1].start : min(window[1].stop, shape[1]),
    ]
    y, x = (y - centre[0]).astype(np.float32), (x - centre[1]).astype(np.float32)
    angle, stretch = rng.uniform(0, np.pi), np.exp(rng.uniform(-STRETCH, STRETCH))
    along = (x * np.cos(angle) + y * np.sin(angle)) / (radius_px * stretch)
    across = (y * np.cos(angle) - x * np.sin(angle)) / (radius_px / stretch)
    uneven = rng.uniform(0, UNEVEN) * _draw_noise(rng, (along + across).shape, 1.2 * radius_px)
    return np.asarray(np.sqrt(along**2 + across**2) * (1 + uneven), np.float32)


def _draw_change(rng: np.random.Generator, distance: np.ndarray) -> np.ndarray:
    """What a lesion adds to the liver, in HU."""
    if rng.random() < BRIGHT_SHARE:
        change_hu = rng.uniform(*BRIGHTER_HU)
    else:
        change_hu = -rng.uniform(*DARKER_HU)
    core = rng.uniform(-0.5, 1.0) if rng.random() < RIM_SHARE else 1.0
    texture = rng.uniform(0, TEXTURE_HU) * _draw_noise(rng, distance.shape, 3.0)
    return np.asarray(change_hu * np.where(distance < 0.6, core, 1.0) + texture, np.float32)


def _draw_noise(rng: np.random.Generator, shape: tuple[int, ...], grain_px: float) -> np.ndarray:
    """Smooth noise of unit variance on a grid of so many pixels, float32."""
    coarse = [max(2, round(side / grain_px) + 1) for side in shape]
    noise = rng.standard_normal(coarse, np.float32)
    return cv2.resize(noise, shape[::-1], interpolation=cv2.INTER_CUBIC)
