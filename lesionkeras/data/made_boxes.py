"""Made lesions (see `made_lesions`) in images of a detector, which learns from their boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from lesionkeras.config import DetectionRecipe
from lesionkeras.data.box_convention import RECIST_PLUS_5
from lesionkeras.data.made_lesions import LEAST_LIVER_PX, find_scales, make_lesions
from lesionkeras.data.prepared import Prepared
from lesionkeras.data.slices import LESION
from lesionkeras.errors import DataError, RecipeError

MADE_CLASS = 0
LEAST_SIDE_PX = 2  # narrower is what a liver's edge leaves of a lesion
AddBoxedLesions = Callable[[Any, Any, Any, Any, Any], tuple[Any, Any, Any]]


def check_made_lesions(images: Prepared, rows: np.ndarray, recipe: DetectionRecipe) -> None:
    """Raise where lesions are wanted that cannot be made.

    Args:
        images: Among which the training split is.
        rows: Of the training split.
        recipe: Its `data.made_lesions` may ask for lesions.

    Raises:
        RecipeError: The boxes are DeepLesion's, which are no mask's bounds, or images are not
            changed anew each time.
        DataError: No image has a mask with enough liver.
    """
    data = recipe.data
    if not data.made_lesions:
        return
    if data.box_convention == RECIST_PLUS_5:
        raise RecipeError(
            "data.made_lesions does not fit data.box_convention",
            found=repr(data.box_convention),
            wanted="'tight': made lesions have the bounds of their masks",
        )
    if recipe.augment.mode != "online":
        raise RecipeError(
            "data.made_lesions does not fit augment.mode",
            found=repr(recipe.augment.mode),
            wanted="'online'",
        )
    most = 0 if images.masks is None or images.liver_px is None else images.liver_px[rows].max()
    if most < LEAST_LIVER_PX:
        raise DataError(
            "No training image has a liver that lesions could be made in",
            where=f"data.made_lesions {data.made_lesions:g}",
            found=f"masks with at most {most} pixels of liver",
            wanted=f"{LEAST_LIVER_PX} pixels in one at least",
            next_step="train on data with masks, such as lits/slices, or set data.made_lesions=0",
        )


def find_boxed_lesion_maker(
    images: Prepared, recipe: DetectionRecipe, window_hu: tuple[float, float]
) -> AddBoxedLesions | None:
    """Return what makes lesions in `data.made_lesions` of the images; None where it is 0.

    Args:
        images: What rows are of; `check_made_lesions` has passed them.
        recipe: Its pixels' size turns mm into the network's.
        window_hu: That images are read with.

    Returns:
        A function of row int64, image float32 [S, S, C], boxes float32 [M, 4], classes int32 [M]
        and key int32 [2] to the changed three, in the graph.
    """
    data, masks = recipe.data, images.masks
    if not data.made_lesions or masks is None:
        return None
    scales = find_scales(data, window_hu)

    def make(
        row: int, image_unit: np.ndarray, boxes: np.ndarray, classes: np.ndarray, seed: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        mask = np.asarray(masks[row])
        image_unit, made = make_lesions(image_unit, mask, seed, *scales)
        return image_unit, *follow_boxes(mask, made, boxes, classes)

    def add_lesions(
        row: Any, image_unit: Any, boxes: Any, classes: Any, key: Any
    ) -> tuple[Any, Any, Any]:
        types = (tf.float32, tf.float32, tf.int32)
        changed = tf.cond(
            tf.random.stateless_uniform((), seed=key) < data.made_lesions,
            lambda: tf.numpy_function(
                make, [row, image_unit, boxes, classes, key], types, stateful=False
            ),
            lambda: [image_unit, boxes, classes],
        )
        shapes = (image_unit.shape, boxes.shape, classes.shape)
        return tuple(map(tf.ensure_shape, changed, shapes))

    return add_lesions


def follow_boxes(
    mask: np.ndarray, made: np.ndarray, boxes: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image's boxes after lesions were made in it.

    Args:
        mask: uint8 [S, S] before.
        made: uint8 [S, S] after.
        boxes: float32 [M, 4] xyxy px before, padded with 0.
        classes: int32 [M], padded with -1.

    Returns:
        Both likewise: the bounds of every piece with a made pixel stand for what grew into it;
        narrow pieces and rows beyond M are left out.

    >>> mask = np.ones((9, 9), np.uint8)
    >>> made = mask.copy()
    >>> made[2:4, 5:8] = 2
    >>> boxes, classes = follow_boxes(mask, made, np.zeros((2, 4), np.float32), np.full(2, -1))
    >>> boxes.tolist(), classes.tolist()
    ([[5.0, 2.0, 8.0, 4.0], [0.0, 0.0, 0.0, 0.0]], [0, -1])
    """
    was_lesion, is_lesion = mask == LESION, made == LESION
    _, labels, stats, _ = cv2.connectedComponentsWithStats(is_lesion.astype(np.uint8))
    new = np.unique(labels[is_lesion & ~was_lesion])
    new = new[stats[new, 2:4].min(axis=1) >= LEAST_SIDE_PX]
    grown = was_lesion & np.isin(labels, new)
    kept = [
        row for row in np.flatnonzero(classes >= 0) if not _is_grown(boxes[row], was_lesion, grown)
    ]
    x, y, width, height = stats[new, :4].T
    found = np.stack([x, y, x + width, y + height], axis=1).astype(np.float32)
    out_boxes, out_classes = np.zeros_like(boxes), np.full_like(classes, -1)
    listed = np.concatenate([boxes[kept], found])[: len(boxes)]
    out_boxes[: len(listed)] = listed
    out_classes[: len(listed)] = [*classes[kept], *[MADE_CLASS] * len(found)][: len(listed)]
    return out_boxes, out_classes


def _is_grown(box: np.ndarray, was_lesion: np.ndarray, grown: np.ndarray) -> bool:
    """Whether most of a box's lesion is part of a piece with made pixels."""
    (left, top), (right, bottom) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
    inside = np.s_[max(top, 0) : bottom, max(left, 0) : right]
    return 2 * int(grown[inside].sum()) > int(was_lesion[inside].sum())
