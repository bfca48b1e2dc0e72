"""The anchor-recall report: which lesions some anchor can learn, asked before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lesionkeras.boxes.anchors import compute_map_size
from lesionkeras.boxes.overlap import compute_iou
from lesionkeras.config import AnchorConfig

WANTED_SHARE = 0.95  # below it a run warns
# Upper edges of the bins by the longer side, by unit; the last bin is open.
SIZE_EDGES = {"mm": (10.0, 20.0, 40.0, 80.0), "px": (8.0, 16.0, 32.0, 64.0)}
# Elements of one block of the IoU table: its float32 temporaries stay in the processor's cache.
_BLOCK_ELEMENTS = 2**17


class RecallRow(NamedTuple):
    """Lesions of one size."""

    label: str  # "10 to 20 mm"
    num_boxes: int
    share: float  # 0..1, reached by an anchor


@dataclass(frozen=True)
class AnchorRecall:
    """Which share of the boxes some anchor reaches, by lesion size."""

    rows: tuple[RecallRow, ...]  # sizes that occur, ascending
    num_boxes: int
    share: float  # 0..1, of all boxes; 0 where there is none
    iou: float
    warning: str  # one sentence; "" if all is well


def compute_best_iou(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU of each box with its best anchor, by comparing it with all of them.

    Args:
        boxes: `[N, 4]` xyxy in pixels.
        anchors: `[A, 4]` xyxy in pixels, any set of boxes; at least one.

    Returns:
        float32 `[N]`; 0 for an empty box.

    >>> compute_best_iou(np.array([[0, 0, 4, 2]]), np.array([[0, 0, 4, 4], [9, 9, 10, 10]]))
    array([0.5], dtype=float32)
    """
    boxes, anchors = np.asarray(boxes, np.float32), np.asarray(anchors, np.float32)
    best = np.zeros(len(boxes), np.float32)
    for start in range(0, len(anchors), _BLOCK_ELEMENTS):
        block = anchors[start : start + _BLOCK_ELEMENTS]
        rows = max(1, _BLOCK_ELEMENTS // len(block))
        for row in range(0, len(boxes), rows):
            part = compute_iou(boxes[row : row + rows], block).max(axis=1)
            best[row : row + rows] = np.maximum(best[row : row + rows], part)
    return best


def compute_best_iou_on_grid(
    boxes: np.ndarray, config: AnchorConfig, height_px: int, width_px: int
) -> np.ndarray:
    """IoU of each box with its best anchor of a grid; equals `compute_best_iou`, far faster.

    Of all anchors of one shape the one with the nearest centre overlaps most (the overlap falls
    with |dx| and with |dy|), so that one anchor a shape is compared, not one a cell.

    Args:
        boxes: `[N, 4]` xyxy in pixels of the network's input.
        config: The grid.
        height_px: Height of the network's input.
        width_px: Width of the network's input.

    Returns:
        float32 `[N]`; 0 for an empty box.

    >>> config = AnchorConfig(strides_px=(8,), size_factor=1.0, scales=(1.0,), ratios=(1.0,))
    >>> boxes = np.array([[8, 8, 16, 12], [20, 0, 28, 8]])
    >>> compute_best_iou_on_grid(boxes, config, 32, 32).round(4)
    array([0.5   , 0.3333], dtype=float32)
    """
    boxes = np.asarray(boxes, np.float32)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    best = np.zeros(len(boxes), np.float32)
    for stride in config.strides_px:
        last = np.array([compute_map_size(side, stride) - 1 for side in (width_px, height_px)])
        cell = np.clip(np.floor(centre / stride), 0, last)
        grid_centre = ((cell + 0.5) * stride).astype(np.float32)
        half = _compute_anchor_sizes(config, stride) / 2
        candidates = np.concatenate([grid_centre[:, None] - half, grid_centre[:, None] + half], -1)
        iou = compute_iou(boxes[:, None, :], candidates)[:, 0]
        best = np.maximum(best, iou.max(axis=1))
    return best


def compute_anchor_recall(
    boxes_list: Sequence[np.ndarray],
    sizes_mm: np.ndarray | None,
    anchors: np.ndarray,
    iou: float = 0.5,
) -> AnchorRecall:
    """Which share of the boxes any of `anchors` reaches, by lesion size.

    Args:
        boxes_list: An image an item, `[n, 4]` xyxy in pixels of the network's input; padding rows
            are left out.
        sizes_mm: Longer side of each row of the concatenated list in mm; None bins by pixels.
        anchors: `[A, 4]` xyxy in pixels.
        iou: A box is reached by an anchor with an IoU above it.

    Returns:
        The report; its `warning` says what to do where less than 95 % are reached.

    Raises:
        ValueError: If `sizes_mm` has another length than the boxes.

    >>> boxes = [np.array([[0, 0, 8, 8], [9, 9, 10, 10]]), np.zeros((2, 4))]
    >>> report = compute_anchor_recall(boxes, None, np.array([[0, 0, 8, 9]]))
    >>> [tuple(row) for row in report.rows]
    [('below 8 px', 1, 0.0), ('8 to 16 px', 1, 1.0)]
    """
    boxes = _concatenate(boxes_list)
    sides = np.sqrt(np.prod(np.asarray(anchors)[:, 2:] - np.asarray(anchors)[:, :2], axis=1))
    best = compute_best_iou(boxes, anchors)
    return _summarise(boxes, sizes_mm, best, (float(sides.min()), float(sides.max())), iou)


def compute_grid_recall(
    boxes_list: Sequence[np.ndarray],
    sizes_mm: np.ndarray | None,
    config: AnchorConfig,
    image_size_px: tuple[int, int],
    iou: float = 0.5,
) -> AnchorRecall:
    """Which share of the boxes the anchors of a grid reach: `compute_anchor_recall` in no time.

    Args:
        boxes_list: As for `compute_anchor_recall`.
        sizes_mm: As for `compute_anchor_recall`.
        config: The grid.
        image_size_px: `(height, width)` of the network's input.
        iou: A box is reached by an anchor with an IoU above it.

    Returns:
        The same report as `compute_anchor_recall` of `make_anchors` of the same grid.

    Raises:
        ValueError: If `sizes_mm` has another length than the boxes.
    """
    boxes = _concatenate(boxes_list)
    best = compute_best_iou_on_grid(boxes, config, *image_size_px)
    sides = np.outer(config.strides_px, config.scales) * config.size_factor
    return _summarise(boxes, sizes_mm, best, (float(sides.min()), float(sides.max())), iou)


def name_size_bins(unit: str) -> list[str]:
    """Name the bins that SIZE_EDGES bound; an edge belongs to the bin above it.

    Args:
        unit: "mm" or "px".

    >>> name_size_bins("px")
    ['below 8 px', '8 to 16 px', '16 to 32 px', '32 to 64 px', '64 px and more']
    """
    edges = SIZE_EDGES[unit]
    inner = [f"{low:g} to {high:g} {unit}" for low, high in pairwise(edges)]
    return [f"below {edges[0]:g} {unit}", *inner, f"{edges[-1]:g} {unit} and more"]


def _compute_anchor_sizes(config: AnchorConfig, stride_px: int) -> np.ndarray:
    """Width and height of each anchor of a cell, float32 `[scales * ratios, 2]`."""
    side = config.size_factor * stride_px * np.array(config.scales)[:, None]
    root = np.sqrt(np.array(config.ratios))
    return np.stack([side / root, side * root], axis=-1).reshape(-1, 2).astype(np.float32)


def _concatenate(boxes_list: Sequence[np.ndarray]) -> np.ndarray:
    """All boxes of all images, float32 `[N, 4]`."""
    parts = [np.asarray(boxes, np.float32).reshape(-1, 4) for boxes in boxes_list]
    return np.concatenate([np.zeros((0, 4), np.float32), *parts])


def _summarise(
    boxes: np.ndarray,
    sizes_mm: np.ndarray | None,
    best_iou: np.ndarray,
    anchor_sides_px: tuple[float, float],
    iou: float,
) -> AnchorRecall:
    """Bin boxes by size; `anchor_sides_px` are the smallest and the largest anchor's sides."""
    extent = boxes[:, 2:] - boxes[:, :2]
    sizes = extent.max(axis=1) if sizes_mm is None else np.asarray(sizes_mm)
    if sizes.shape != (len(boxes),):
        raise ValueError(f"sizes_mm has shape {sizes.shape} for {len(boxes)} boxes")
    is_real = (extent > 0).all(axis=1)
    sizes, is_reached = sizes[is_real], best_iou[is_real] > iou
    count = len(sizes)
    if not count:
        return AnchorRecall((), 0, 0.0, iou, "There are no training boxes; check the split.")
    rows = _bin_by_size(sizes, is_reached, "px" if sizes_mm is None else "mm")
    share = float(is_reached.mean())
    sides = np.sqrt(extent[is_real].prod(axis=1))[~is_reached]
    warning = "" if share >= WANTED_SHARE else _warn(rows, count, share, iou)
    if warning:
        warning += f"; {_advise(float(np.median(sides)), anchor_sides_px)}."
    return AnchorRecall(rows, count, share, iou, warning)


def _bin_by_size(sizes: np.ndarray, is_reached: np.ndarray, unit: str) -> tuple[RecallRow, ...]:
    """One row for each bin that holds a box."""
    bins = np.digitize(sizes, SIZE_EDGES[unit])
    return tuple(
        RecallRow(label, int((bins == i).sum()), float(is_reached[bins == i].mean()))
        for i, label in enumerate(name_size_bins(unit))
        if (bins == i).any()
    )


def _warn(rows: tuple[RecallRow, ...], count: int, share: float, iou: float) -> str:
    """Say what is not reached, and where most of it is; the sentence is still open at its end."""
    worst = max(rows, key=lambda row: row.num_boxes * (1 - row.share))
    return (
        f"The anchors reach {share:.1%} of {count:,} training boxes at IoU {iou:g}, wanted"
        f" {WANTED_SHARE:.0%}; most are missed among lesions of {worst.label}, where they reach"
        f" {worst.share:.1%} of {worst.num_boxes:,}"
    )


def _advise(unreached_side_px: float, anchor_sides_px: tuple[float, float]) -> str:
    """Next step, from the typical side of an unreached box and the range of anchor sides."""
    smallest, largest = anchor_sides_px
    if unreached_side_px < smallest:
        return (
            f"the median missed side of {unreached_side_px:.1f} px is below the smallest anchor's"
            f" {smallest:.1f} px: raise --image-size, or lower model.anchors.size_factor or the"
            " first of model.anchors.strides_px with --set"
        )
    if unreached_side_px > largest:
        return (
            f"the median missed side of {unreached_side_px:.1f} px is above the largest anchor's"
            f" {largest:.1f} px: add a stride to model.anchors.strides_px with --set"
        )
    return (
        f"the median missed side of {unreached_side_px:.1f} px is within the anchors'"
        f" {smallest:.1f} to {largest:.1f} px: add to model.anchors.scales or ratios, or lower"
        " model.anchors.size_factor with --set"
    )
