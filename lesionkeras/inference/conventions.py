"""What was found and what is there, in the other convention of boxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lesionkeras.config import DataConfig
from lesionkeras.data.box_convention import AS_STORED, estimate_boxes, find_stored
from lesionkeras.data.data_sets import list_pooled
from lesionkeras.data.opening import Split
from lesionkeras.inference.detect import Findings, find_truth
from lesionkeras.metrics import ImageDetections


def find_learnt(data: DataConfig) -> str:
    """Return the convention that a recipe's detector learns, "" where its data sets have several.

    >>> [find_learnt(DataConfig(name=name)) for name in ("lits+ircadb01", "lits+deeplesion")]
    ['tight', '']
    """
    if data.box_convention != AS_STORED:
        return data.box_convention
    stored = {find_stored(name) for name, _ in list_pooled(data)}
    return stored.pop() if len(stored) == 1 else ""


def change_convention(found: Findings, split: Split, source: str, target: str) -> Findings:
    """Bring detections and truth of a split into a convention.

    The truth is known in both; of a detection nothing but its box is: see `estimate_boxes`.

    Args:
        found: Of the whole split, in its order, without copies.
        split: What `found` is of.
        source: The convention that the detector learnt.
        target: The wanted one.

    Returns:
        Boxes in px of the source images, detections clipped to them.
    """
    truths, detections = [], []
    for image_idx, before in zip(split.rows[:, 0], found.detections, strict=True):
        height, width = split.images.size_px[image_idx]
        boxes = estimate_boxes(np.asarray(before.boxes), source, target)
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))
        truths.append(find_truth(split, image_idx, target))
        detections.append(ImageDetections(boxes, before.scores, before.classes))
    return replace(found, truths=tuple(truths), detections=tuple(detections))
