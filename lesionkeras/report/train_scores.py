"""A detector on the images that it was trained on, to be read beside the test images: over-fitting.

P2's one-box models find .96 of their training lesions and .07 of the test's (P2, 5.1.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lesionkeras.config import DetectionRecipe
from lesionkeras.data.opening import Split
from lesionkeras.inference.detect import Findings, detect_split

MAX_IMAGES = 200  # a detection of all of DeepLesion's would take longer than an epoch


def choose_train_images(split: Split, max_images: int = MAX_IMAGES) -> Split:
    """Returns images of a training split as they are, spread evenly over it; no augmented copies.

    Args:
        split: What was trained on.
        max_images: At most as many.
    """
    originals = split.rows[split.rows[:, 1] == 0]
    if not len(originals):  # all of P1's originals may be test images
        originals = split.rows
    chosen = np.linspace(0, len(originals) - 1, min(len(originals), max_images)).round().astype(int)
    return Split(split.images, originals[chosen])


def measure_train(
    detect: Callable[[Any], dict[str, np.ndarray]],
    split: Split,
    recipe: DetectionRecipe,
    evaluate: Callable[[Findings], dict[str, Any]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measures a detector on training images.

    Args:
        detect: From `inference.detect.make_detector`.
        split: What was trained on.
        recipe: Window and image size.
        evaluate: From findings to scores, as of the test images.

    Returns:
        "counts", "map50", "p2" and "froc" of these scores, and the detections as COCO results;
        `image_id` counts the rows of `choose_train_images`.
    """
    found = detect_split(detect, choose_train_images(split), recipe)
    scores = evaluate(found)
    return {key: scores[key] for key in ("counts", "map50", "p2", "froc")}, found.to_coco()
