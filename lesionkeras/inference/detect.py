"""Detections of a whole split, in pixels of the source images, with its truth beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np

from lesionkeras.config import DataConfig, DetectionRecipe
from lesionkeras.data.box_convention import TIGHT
from lesionkeras.data.opening import Split
from lesionkeras.data.pipeline import make_eval
from lesionkeras.metrics import ImageDetections, ImageTruth, evaluate_coco
from lesionkeras.models.detector import Detector

DETECT_BATCH_SIZE = 8


@dataclass(frozen=True)
class Findings:
    """What is there and what was found; rows belong together, boxes in px of the source image."""

    truths: tuple[ImageTruth, ...]
    detections: tuple[ImageDetections, ...]
    patients: tuple[str, ...]
    files: tuple[str, ...]
    sizes_px: tuple[tuple[int, int], ...] = ()  # height and width

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

    def to_coco_truth(self) -> dict[str, Any]:
        """Return COCO's truth that `to_coco` belongs to; patients are numbered, not named."""
        numbers = {name: number for number, name in enumerate(sorted(set(self.patients)))}
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id, (file, truth) in enumerate(zip(self.files, self.truths, strict=True)):
            height, width = self.sizes_px[image_id]
            patient = f"patient {numbers[self.patients[image_id]]}"
            entry = {"id": image_id, "file_name": file, "height": height, "width": width}
            images.append(entry | {"patient": patient})
            for row, (x1, y1, x2, y2) in enumerate(truth.boxes):
                box: dict[str, Any] = {"id": len(annotations), "image_id": image_id, "iscrowd": 0}
                box["category_id"] = int(truth.classes[row])
                box["bbox"] = [float(v) for v in (x1, y1, x2 - x1, y2 - y1)]
                box["area"] = float((x2 - x1) * (y2 - y1))
                if truth.diameters_mm is not None:
                    box["size_mm"] = float(truth.diameters_mm[row])
                annotations.append(box)
        ids = {box["category_id"] for box in annotations}
        ids |= {int(c) for found in self.detections for c in found.classes} | {0}
        categories = [{"id": i, "name": f"lesion {i}"} for i in sorted(ids)]
        return {"images": images, "annotations": annotations, "categories": categories}


def name_files(files: Sequence[str], data: DataConfig) -> tuple[str, ...]:
    """Return what files are called in exports: names in a user's own folder may say who it is.

    Args:
        files: Of public data sets, or of a user's.
        data: Says which.

    >>> name_files(["Doe_John/7.png"], DataConfig(name="folder"))
    ('image 0',)
    """
    names = [*data.name.split("+"), *data.test_sets]
    is_own = any(name.split("/")[0] == "folder" for name in names)
    return tuple(f"image {i}" if is_own else file for i, file in enumerate(files))


@lru_cache(maxsize=1)
def make_detector(model: Detector) -> Callable[[Any], dict[str, np.ndarray]]:
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
    recipe: DetectionRecipe,
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
            image_idx, copy = split.rows[len(truths)]
            to_source = partial(split.images.to_source, image_idx)
            height, width = split.images.size_px[image_idx]
            if copy:  # one of P1's augmented copies: its boxes moved with it
                sizes_mm = compute_sizes_mm(boxes[i], split.images.spacing_mm[image_idx])
                truths.append(ImageTruth(to_source(boxes[i]), classes[i], diameters_mm=sizes_mm))
            else:
                truths.append(find_truth(split, image_idx))
            detections.append(
                ImageDetections(
                    # where pixels have a size, the square may reach beyond the image
                    np.clip(to_source(found["boxes"][i, :count]), 0, [width, height] * 2),
                    found["scores"][i, :count],
                    found["classes"][i, :count],
                )
            )
        progress(len(truths), len(split.rows))
    files = name_files([split.images.files[i] for i in split.rows[:, 0]], recipe.data)
    heights, widths = split.images.size_px[split.rows[:, 0]].T.tolist()
    sizes_px = tuple(zip(heights, widths, strict=True))
    return Findings(tuple(truths), tuple(detections), tuple(split.patients), files, sizes_px)


def find_truth(split: Split, image_idx: int, convention: str = "") -> ImageTruth:
    """Return the lesions of an image, in pixels of its source, with their sizes.

    A lesion that the network's square does not reach is among them: it is missed.

    Args:
        split: Has the image.
        image_idx: Row of `split.images`.
        convention: What a box is; "": what the network was trained on.

    Returns:
        The truth; sizes are those of the lesions, not of what a convention adds to their boxes.
    """
    images = split.images
    boxes, classes = images.find_truth(image_idx, convention)
    lesions = images.find_truth(image_idx, TIGHT)[0]
    sizes_mm = compute_sizes_mm(lesions, images.find_own_spacing_mm(image_idx))
    return ImageTruth(boxes, classes, diameters_mm=sizes_mm)


def make_validation(
    split: Split | None, recipe: DetectionRecipe, with_loss: bool = False
) -> Callable[[Any], dict[str, float]] | None:
    """Return a function that scores a network on the validation patients, if there are any.

    Args:
        split: The validation split, or None.
        recipe: Window, image size and decoding.
        with_loss: Also of the loss and its parts, which takes a second pass over the images.

    Returns:
        From a network to its map50 and map50_95 (0 where nothing is found), or None.
    """
    if split is None:
        return None

    def validate(model: Any) -> dict[str, float]:
        found = detect_split(make_detector(model), split, recipe)
        result = evaluate_coco(found.truths, found.detections)
        scores = {"map50": max(result.ap50, 0.0), "map50_95": max(result.ap, 0.0)}
        if with_loss:
            # Parts of the loss are means over batches: with batches of one size also over images.
            sizes = range(1, DETECT_BATCH_SIZE + 1)
            size = max(size for size in sizes if len(split.rows) % size == 0)
            images = make_eval(split, recipe, size)
            scores |= model.evaluate(images, verbose=0, return_dict=True)
        return scores

    return validate
