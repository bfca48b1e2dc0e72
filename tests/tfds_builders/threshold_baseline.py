"""The detector that the phantom has to defeat: a threshold on smoothed HU in the true liver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

SIGMA_MM = 2.0
MIN_AREA_MM2 = 12.0  # smaller specks are dropped, in the baseline's favour
MATCH_IOU = 0.5


@dataclass(frozen=True)
class LiverSlice:
    """Smoothed deviation from the patient's liver median, and the truth."""

    deviation_hu: np.ndarray
    liver: np.ndarray
    pixel_mm: float
    boxes: list[tuple[float, float, float, float]]


@dataclass(frozen=True)
class Component:
    """One connected component above the threshold."""

    box: tuple[float, float, float, float]
    mean_hu: float
    area_mm2: float


RANKINGS: dict[str, Callable[[Component], float]] = {
    "mean": lambda component: component.mean_hu,
    "area": lambda component: component.area_mm2,
    "mean x area": lambda component: component.mean_hu * component.area_mm2,
    "mean x diameter": lambda component: component.mean_hu * component.area_mm2**0.5,
}


def smooth_in_liver(image_hu: np.ndarray, liver: np.ndarray, pixel_mm: float) -> np.ndarray:
    """Smooths with the liver as the kernel's domain, so that fat outside does not bleed in."""
    weight = liver.astype(np.float32)
    sigma_px = SIGMA_MM / pixel_mm
    total = cv2.GaussianBlur(image_hu * weight, (0, 0), sigma_px)
    return total / np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma_px), 1e-3)


def find_components(image: LiverSlice, threshold_hu: float) -> list[Component]:
    components = []
    for signed_hu in (image.deviation_hu, -image.deviation_hu):
        binary = ((signed_hu >= threshold_hu) & image.liver).astype(np.uint8)
        num, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
        sums = np.bincount(labels.ravel(), signed_hu.ravel(), minlength=num)
        for index in range(1, num):
            x, y, width, height, area_px = stats[index].tolist()
            area_mm2 = area_px * image.pixel_mm**2
            if area_mm2 >= MIN_AREA_MM2:
                box = (x, y, x + width, y + height)
                components.append(Component(box, sums[index] / area_px, area_mm2))
    return components


def is_overlapping(found, truth) -> bool:
    width = min(found[2], truth[2]) - max(found[0], truth[0])
    height = min(found[3], truth[3]) - max(found[1], truth[1])
    if width <= 0 or height <= 0:
        return False
    both = (found[2] - found[0]) * (found[3] - found[1])
    both += (truth[2] - truth[0]) * (truth[3] - truth[1])
    return width * height >= MATCH_IOU * (both - width * height)


def is_centre_inside(found, truth) -> bool:
    x, y = (found[0] + found[2]) / 2, (found[1] + found[3]) / 2
    return truth[0] <= x < truth[2] and truth[1] <= y < truth[3]


def compute_recall(images, components, ranking, is_hit, false_positives_per_image) -> float:
    """Gives the largest recall of a ranking's FROC curve up to a number of false positives."""
    rows = []
    for image, found in zip(images, components, strict=True):
        left = list(image.boxes)
        for component in sorted(found, key=ranking, reverse=True):
            hit = next((box for box in left if is_hit(component.box, box)), None)
            if hit is not None:
                left.remove(hit)
            rows.append((ranking(component), hit is not None))
    rows.sort(key=lambda row: -row[0])
    hits = np.cumsum([hit for _, hit in rows])
    misses = np.arange(1, len(rows) + 1) - hits
    allowed = misses <= false_positives_per_image * len(images)
    return float(hits[allowed].max(initial=0)) / sum(len(image.boxes) for image in images)
