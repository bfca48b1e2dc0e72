"""Prepared images made in memory: a number and a lesion that say which image it is."""

import numpy as np

from lesionkeras.data.opening import Split
from lesionkeras.data.prepared import Prepared
from lesionkeras.data.splits import make_copies

LOW_HU, HIGH_HU = -160.0, 240.0  # the window of the recipes that read these images
STEP_HU = 10  # between the grey of one image and the next


def make_prepared(count, side_px=32, max_boxes=3, first=0):
    """Image i is grey of i steps above the window's low end, with one lesion and no noise."""
    numbers = np.arange(first, first + count)
    images = np.zeros((count, side_px, side_px, 3), np.int16)
    images += (LOW_HU + 100 + STEP_HU * numbers).astype(np.int16)[:, None, None, None]
    boxes = np.zeros((count, max_boxes, 4), np.float32)
    boxes[:, 0] = [side_px / 4, side_px / 2, side_px / 2, side_px * 3 / 4]
    classes = np.full((count, max_boxes), -1, np.int32)
    classes[:, 0] = 0
    return Prepared(
        images=images,
        boxes=boxes,
        classes=classes,
        patients=tuple(f"{n // 2:03d}" for n in numbers),  # two images a patient
        files=tuple(f"{n:03d}.png" for n in numbers),
        spacing_mm=np.tile(np.float32([0.5, 0.75]), (count, 1)),
        size_px=np.tile(np.int32([2 * side_px, 4 * side_px]), (count, 1)),
    )


def make_split(count, copies=0, **prepared):
    return Split(make_prepared(count, **prepared), make_copies(count, copies))


def read_numbers(image_unit):
    """Which image each of a batch of unchanged images is."""
    image_hu = np.asarray(image_unit)[:, 0, 0, 0] * (HIGH_HU - LOW_HU)
    return np.round((image_hu - 100) / STEP_HU).astype(int).tolist()
