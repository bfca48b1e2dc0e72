"""Box formats, areas and overlaps; one code for NumPy arrays and for Keras tensors.

Every function takes `xp`, the array module that does the work: `numpy` (default) or `keras.ops`;
`to_xyxy` and `from_xyxy` also take `tensorflow`, for tf.data on every Keras engine.
None changes its arguments.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Smaller than any union of boxes in pixels, and far above float32's smallest number: 0 / this is 0.
_MIN_UNION_PX2 = 1e-12

BOX_FORMATS = ("xyxy", "xywh", "cxcywh", "rel_yxyx")


def compute_area(boxes: Any, xp: Any = np) -> Any:
    """Area of each box; 0 for an empty, inverted or padding box.

    Args:
        boxes: `[..., 4]` xyxy in pixels, floating.
        xp: `numpy` or `keras.ops`.

    Returns:
        `[...]` in square pixels, of the boxes' dtype.

    >>> compute_area(np.array([[1.0, 2.0, 4.0, 4.0], [5.0, 0.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0]]))
    array([6., 0., 0.])
    """
    width = xp.maximum(boxes[..., 2] - boxes[..., 0], 0.0)
    height = xp.maximum(boxes[..., 3] - boxes[..., 1], 0.0)
    return width * height


def compute_intersection(boxes_a: Any, boxes_b: Any, xp: Any = np) -> Any:
    """Area that each box of one set shares with each box of another.

    Args:
        boxes_a: `[..., N, 4]` xyxy in pixels, floating.
        boxes_b: `[..., M, 4]` xyxy in pixels; its leading axes broadcast with those of `boxes_a`.
        xp: `numpy` or `keras.ops`.

    Returns:
        `[..., N, M]` in square pixels; 0 where either box is empty.

    >>> compute_intersection(np.array([[0.0, 0.0, 4.0, 2.0]]), np.array([[3.0, 1.0, 9.0, 9.0]]))
    array([[1.]])
    """
    a, b = boxes_a[..., :, None, :], boxes_b[..., None, :, :]
    width = xp.minimum(a[..., 2], b[..., 2]) - xp.maximum(a[..., 0], b[..., 0])
    height = xp.minimum(a[..., 3], b[..., 3]) - xp.maximum(a[..., 1], b[..., 1])
    return xp.maximum(width, 0.0) * xp.maximum(height, 0.0)


def compute_iou(boxes_a: Any, boxes_b: Any, xp: Any = np) -> Any:
    """Intersection over union of each box of one set with each box of another.

    Args:
        boxes_a: `[..., N, 4]` xyxy in pixels, floating.
        boxes_b: `[..., M, 4]` xyxy in pixels; its leading axes broadcast with those of `boxes_a`.
        xp: `numpy` or `keras.ops`.

    Returns:
        `[..., N, M]` in 0..1, of the boxes' dtype; 0 where either box is empty or padding.

    >>> compute_iou(np.array([[0.0, 0.0, 4.0, 2.0]]),
    ...             np.array([[2.0, 0.0, 6.0, 2.0], [0.0, 0.0, 0.0, 0.0]])).round(4)
    array([[0.3333, 0.    ]])
    """
    intersection = compute_intersection(boxes_a, boxes_b, xp)
    area_a, area_b = compute_area(boxes_a, xp), compute_area(boxes_b, xp)
    union = area_a[..., :, None] + area_b[..., None, :] - intersection
    return intersection / xp.maximum(union, _MIN_UNION_PX2)


def compute_ioa(boxes_a: Any, boxes_b: Any, xp: Any = np) -> Any:
    """Share of each box of `boxes_a` that a box of `boxes_b` covers: COCO's overlap with a crowd.

    Args:
        boxes_a: `[..., N, 4]` xyxy in pixels, floating; the detections.
        boxes_b: `[..., M, 4]` xyxy in pixels; the crowd regions.
        xp: `numpy` or `keras.ops`.

    Returns:
        `[..., N, M]` in 0..1; 0 where either box is empty.

    Source: pycocotools `maskApi.c`, `bbIou` with `iscrowd`.

    >>> compute_ioa(np.array([[0.0, 0.0, 4.0, 2.0]]), np.array([[1.0, 0.0, 90.0, 50.0]]))
    array([[0.75]])
    """
    area_a = compute_area(boxes_a, xp)[..., :, None]
    return compute_intersection(boxes_a, boxes_b, xp) / xp.maximum(area_a, _MIN_UNION_PX2)


def to_xyxy(
    boxes: Any, source: str, image_size_px: tuple[Any, Any] | None = None, xp: Any = np
) -> Any:
    """Boxes of another format as xyxy pixels.

    Args:
        boxes: `[..., 4]` in the format `source`, floating.
        source: `"xyxy"`, `"xywh"` (COCO: corner and size), `"cxcywh"` (centre and size), all in
            pixels, or `"rel_yxyx"` (TFDS: shares of the image in 0..1).
        image_size_px: `(height, width)`, numbers or scalar tensors of the boxes' dtype; needed by
            `"rel_yxyx"` only.
        xp: `numpy`, `keras.ops` or `tensorflow`.

    Returns:
        `[..., 4]` xyxy in pixels.

    Raises:
        ValueError: For an unknown format, or `"rel_yxyx"` without the image's size.

    >>> to_xyxy(np.array([0.1, 0.2, 0.5, 0.6]), "rel_yxyx", image_size_px=(100, 200))
    array([ 40.,  10., 120.,  50.])
    """
    _check_format(source, image_size_px)
    a, b, c, d = (boxes[..., i] for i in range(4))
    if source == "xywh":
        return xp.stack([a, b, a + c, b + d], axis=-1)
    if source == "cxcywh":
        return xp.stack([a - c / 2, b - d / 2, a + c / 2, b + d / 2], axis=-1)
    if source == "rel_yxyx" and image_size_px is not None:
        height, width = image_size_px
        return xp.stack([b * width, a * height, d * width, c * height], axis=-1)
    return xp.stack([a, b, c, d], axis=-1)


def from_xyxy(
    boxes: Any, target: str, image_size_px: tuple[Any, Any] | None = None, xp: Any = np
) -> Any:
    """Boxes in xyxy pixels as another format; the inverse of `to_xyxy`.

    Args:
        boxes: `[..., 4]` xyxy in pixels, floating.
        target: `"xyxy"`, `"xywh"`, `"cxcywh"` or `"rel_yxyx"`; see `to_xyxy`.
        image_size_px: `(height, width)`, numbers or scalar tensors of the boxes' dtype; needed by
            `"rel_yxyx"` only.
        xp: `numpy`, `keras.ops` or `tensorflow`.

    Returns:
        `[..., 4]` in the format `target`.

    Raises:
        ValueError: For an unknown format, or `"rel_yxyx"` without the image's size.

    >>> from_xyxy(np.array([10.0, 20.0, 40.0, 30.0]), "cxcywh")
    array([25., 25., 30., 10.])
    """
    _check_format(target, image_size_px)
    x1, y1, x2, y2 = (boxes[..., i] for i in range(4))
    if target == "xywh":
        return xp.stack([x1, y1, x2 - x1, y2 - y1], axis=-1)
    if target == "cxcywh":
        return xp.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=-1)
    if target == "rel_yxyx" and image_size_px is not None:
        height, width = image_size_px
        return xp.stack([y1 / height, x1 / width, y2 / height, x2 / width], axis=-1)
    return xp.stack([x1, y1, x2, y2], axis=-1)


def clip_boxes(boxes: Any, height_px: Any, width_px: Any, xp: Any = np) -> Any:
    """Boxes cut at the edges of their image; one wholly outside becomes empty.

    Args:
        boxes: `[..., 4]` xyxy in pixels, floating.
        height_px: Height of the image; a number or a scalar tensor of the boxes' dtype.
        width_px: Width of the image, likewise.
        xp: `numpy` or `keras.ops`.

    Returns:
        `[..., 4]` xyxy in pixels, within `[0, width] x [0, height]`.

    >>> clip_boxes(np.array([-3.0, 5.0, 8.0, 30.0]), 20, 10)
    array([ 0.,  5.,  8., 20.])
    """
    limits = (width_px, height_px, width_px, height_px)
    sides = [xp.minimum(xp.maximum(boxes[..., i], 0.0), limits[i]) for i in range(4)]
    return xp.stack(sides, axis=-1)


def _check_format(name: str, image_size_px: tuple[Any, Any] | None) -> None:
    """Raise ValueError for a format that is unknown or lacks the image's size."""
    if name not in BOX_FORMATS:
        raise ValueError(f"unknown box format {name!r}; known are {', '.join(BOX_FORMATS)}")
    if name == "rel_yxyx" and image_size_px is None:
        raise ValueError("rel_yxyx boxes need image_size_px=(height, width)")
