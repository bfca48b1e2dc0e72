"""RoIAlign: the part of a feature map under a box, resampled to a fixed number of cells.

A bilinear sample is a weighted mean of rows of columns, and so is the mean of a cell's samples:
each box is two small matrices, one over rows and one over columns, and RoIAlign is two matrix
products.  It needs neither gather nor scatter (the gradient of a gather), has static shapes,
compiles under XLA, and equals torchvision's `roi_align` (tests/boxes/test_roi_align.py).  KerasCV
0.9's `_ROIAligner` does not run at all (`ops.take` without an axis).
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops


def align_rois(
    features: Any,
    boxes: Any,
    stride_px: float,
    cells: int,
    samples: int = 2,
    aligned: bool = True,
    is_used: Any = None,
) -> Any:
    """Resample what lies under each box to `cells` x `cells`.

    Args:
        features: Float `[B, H, W, C]`, H and W static.
        boxes: float32 `[B, R, 4]` xyxy in pixels of the image.  A padding row gives the corner of
            the map, without meaning; no gradient flows to boxes that the caller stopped.
        stride_px: Image pixels a cell of the map.
        cells: Along each side of the result.
        samples: Bilinear samples along each side of a cell; 0 takes as many as a cell covers pixels
            of the map, rounded up (torchvision's -1), for boxes inside the image.
        aligned: True puts a pixel's value at its middle, as everywhere in this project; False
            is the first RoIAlign's half-pixel shift, with boxes of at least one cell.
        is_used: Float `[B, R]` that multiplies a box's result, such as 0 and 1; None is 1.

    Returns:
        `[B, R, cells, cells, C]` of the features' dtype.

    Source: He et al. 2017, Mask R-CNN, 3; torchvision 0.28 `roi_align`.
    """
    boxes = ops.cast(boxes, "float32") / stride_px - (0.5 if aligned else 0.0)
    height, width = features.shape[1], features.shape[2]
    settings = (cells, samples, 0.0 if aligned else 1.0)
    rows = _make_weights(boxes[..., 1], boxes[..., 3], height, *settings)
    columns = _make_weights(boxes[..., 0], boxes[..., 2], width, *settings)
    if is_used is not None:
        columns = columns * is_used[..., None, None]
    rows, columns = ops.cast(rows, features.dtype), ops.cast(columns, features.dtype)
    by_row = ops.einsum("brph,bhwc->brpwc", rows, features)
    return ops.matmul(columns[:, :, None], by_row)


def _make_weights(
    low: Any, high: Any, size: int, cells: int, samples: int, min_length: float
) -> Any:
    """What each pixel along one side of a map gives to each cell: float32 `[B, R, cells, size]`.

    A sample between two pixels takes from both by its distance; one less than a pixel outside takes
    the outermost pixel, one further outside is 0.
    """
    length = high - low if not min_length else ops.maximum(high - low, min_length)
    num_samples = ops.full_like(length, float(samples)) if samples else ops.ceil(length / cells)
    most = samples or max(1, math.ceil(size / cells))
    num_samples = num_samples[..., None, None]
    step = ops.arange(most, dtype="float32")
    inside = (step + 0.5) / ops.maximum(num_samples, 1.0)  # of the cell, [B, R, 1, most]
    cell = ops.arange(cells, dtype="float32")[:, None] + inside  # [B, R, cells, most]
    place = low[..., None, None] + cell * (length / cells)[..., None, None]
    is_taken = ops.logical_and(place >= -1.0, place <= size)
    is_taken = ops.logical_and(is_taken, step < num_samples)
    share = ops.where(is_taken, 1.0 / ops.maximum(num_samples, 1.0), 0.0)
    place = ops.clip(place, 0.0, size - 1.0)[..., None]
    near = ops.relu(1.0 - ops.abs(place - ops.arange(size, dtype="float32")))
    return ops.sum(near * share[..., None], axis=3)
