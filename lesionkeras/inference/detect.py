"""Detections of a whole split, in pixels of the source images, with its truth beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from lesionkeras.config import SSDRecipe
from lesionkeras.data.opening import Split
from lesionkeras.data.pipeline import make_eval
from lesionkeras.metrics import ImageDetections, ImageTruth, evaluate_coco

DETECT_BATCH_SIZE = 8


@dataclass(frozen=True)
class Findings:
    """What is there and what was found; rows belong together, boxes in px of the source image."""

    truths: tuple[ImageTruth, ...]
    detections: tuple[ImageDetections, ...]
    patients: tuple[str, ...]
    files: tuple[str, ...]

    def to_coco(self) -> list[dict[str, Any]]:
        """Return COCO results: an entry a detection, bbox as x, y, width, height in px."""
        return [
            {
                "image_id": image_id,
                "file": file,
                "category_id": int(found.classes[i]),
                "bbox": [float(v) for v in (x1, y1, x2 - x1, y2 - y1)],
                "score": float(found.scores[i]),
            }
            for image_id, (file, found) in enumerate(zip(self.files, self.detections, strict=True))
            for i, (x1, y1, x2, y2) in enumerate(found.boxes)
        ]


@lru_cache(maxsize=1)
def make_detector(model: Any) -> Callable[[Any], dict[str, np.ndarray]]:
    """Return a compiled function from image_unit [B, S, S, 3] to NumPy detections.

    It follows the model's weights, and a graph takes batches of any length: a run traces one, some
    seconds of a ResNet, for all its validations and its test.
    """
    import tensorflow as tf

    @cache
    def compile_for(shape: tuple[int, ...]) -> Callable[[Any], dict[str, Any]]:
        spec = tf.TensorSpec([None, *shape], tf.float32)
        return tf.function(model.detect, input_signature=[spec], autograph=False)

    def detect(image_unit: Any) -> dict[str, np.ndarray]:
        found = compile_for(tuple(image_unit.shape[1:]))(image_unit)
        return {name: value.numpy() for name, value in found.items()}

    return detect


def compute_sizes_mm(boxes: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Return the longer side of each box in mm.

    Args:
        boxes: [..., 4] xyxy px.
        spacing_mm: [2] of a pixel, y and x.

    >>> compute_sizes_mm(np.array([[0.0, 0.0, 10.0, 4.0]]), np.array([2.0, 0.5])).tolist()
    [8.0]
    """
    sides_px = boxes[..., 2:] - boxes[..., :2]  # x, y
    return (sides_px * np.asarray(spacing_mm)[::-1]).max(axis=-1)


def detect_split(
    detect: Callable[[Any], dict[str, np.ndarray]],
    split: Split,
    recipe: SSDRecipe,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Findings:
    """Run a detector over all examples of a split.

    Args:
        detect: From `make_detector`.
        split: The examples.
        recipe: Window and image size.
        progress: Called with images done and images in all.

    Returns:
        Truth and detections of each example, in order.
    """
    truths: list[ImageTruth] = []
    detections: list[ImageDetections] = []
    for image_unit, target in make_eval(split, recipe, DETECT_BATCH_SIZE):
        found = detect(image_unit)
        boxes, classes = target["boxes"].numpy(), target["classes"].numpy()
        for i, count in enumerate(found["num_detections"]):
            image_idx = split.rows[len(truths), 0]
            height, width = split.images.size_px[image_idx]
            to_source = np.array([width, height, width, height]) / image_unit.shape[1]
            sizes_mm = compute_sizes_mm(boxes[i], split.images.spacing_mm[image_idx])
            truths.append(ImageTruth(boxes[i] * to_source, classes[i], diameters_mm=sizes_mm))
            detections.append(
                ImageDetections(
                    found["boxes"][i, :count] * to_source,
                    found["scores"][i, :count],
                    found["classes"][i, :count],
                )
            )
        progress(len(truths), len(split.rows))
    files = tuple(split.images.files[i] for i in split.rows[:, 0])
    return Findings(tuple(truths), tuple(detections), tuple(split.patients), files)


def make_validation(
    split: Split | None, recipe: SSDRecipe
) -> Callable[[Any], dict[str, float]] | None:
    """Return a function that scores a network on the validation patients, if there are any.

    Args:
        split: The validation split, or None.
        recipe: Window, image size and decoding.

    Returns:
        From a network to its map50 and map50_95 (0 where nothing is found), or None.
    """
    if split is None:
        return None

    def validate(model: Any) -> dict[str, float]:
        found = detect_split(make_detector(model), split, recipe)
        result = evaluate_coco(found.truths, found.detections)
        return {"map50": max(result.ap50, 0.0), "map50_95": max(result.ap, 0.0)}

    return validate
