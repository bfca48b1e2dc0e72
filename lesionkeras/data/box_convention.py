"""What a box is: the extent of a lesion, or the extent of its two diameters and 5 px around.

DeepLesion's boxes are made of two RECIST diameters: the longest one of the lesion in the slice, and
the longest one across it at a right angle.  The box bounds their four ends, with 5 px added on each
side (Yan et al. 2018, 2.2).  Boxes of masks bound the mask.  A detector of one kind is wrong on the
other: on a lesion of 12 px the two have an IoU of .3.  So one is chosen for all data sets, and a
run is measured in both.

To "tight": where the diameters' ends are known, the bounds of the ellipse on them.  To
"recist_plus_5": where there is a mask, its diameters and 5 px.  Else, as of detections, by the
margin and the mean of how much wider such ellipses are than their ends (STRETCH).  On the 46
pseudo-masks (GrabCut) of the shared key slices the mean IoU with the mask's bounds is .75 of the
ellipses, .74 by margin and stretch, .65 by the margin alone and .50 of the boxes as they are; the
other way, with DeepLesion's boxes, .81 of the mask's diameters and .77 by the margin alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from lesionkeras.errors import RecipeError

TIGHT, RECIST_PLUS_5 = "tight", "recist_plus_5"
CONVENTIONS = (TIGHT, RECIST_PLUS_5)
AS_STORED = "as_stored"
KEPT = (AS_STORED, *CONVENTIONS)  # what a prepared split has of every lesion, in this order
STORED = {"deeplesion": RECIST_PLUS_5}  # all others bound masks, or what their owners drew
MARGIN_PX = 5.0  # Yan 2018, 2.2; of the slice's own pixels, whatever their size
MIN_SIDE_PX = 1.0  # of what is left of a small box whose margin is taken off
# Bounds of the ellipse on two diameters by the extent of their ends, mean of 29,051 DeepLesion
# lesions and both axes: 1 where the diameters lie along the axes, 1.41 for a circle at 45 degrees.
STRETCH = 1.12
LESION = 2  # of a mask


def find_stored(data_set: str) -> str:
    """Return the convention that a data set's boxes come in.

    >>> find_stored("deeplesion"), find_stored("lits")
    ('recist_plus_5', 'tight')
    """
    return STORED.get(data_set, TIGHT)


def check_convention(asked: str) -> None:
    """Raise RecipeError unless --convention is one of CONVENTIONS, or "" for a data set's own."""
    if asked not in ("", *CONVENTIONS):
        raise RecipeError(
            "--convention cannot be read", found=asked, wanted=" or ".join(CONVENTIONS)
        )


def estimate_boxes(boxes: np.ndarray, source: str, target: str) -> np.ndarray:
    """Bring boxes of which nothing else is known, such as detections, into another convention.

    Args:
        boxes: [..., 4] xyxy px of the slice.
        source: Their convention.
        target: The wanted one.

    Returns:
        Of the same dtype; where nothing is left within the margin, MIN_SIDE_PX is taken.  Empty
        boxes stay empty.

    >>> boxes = np.array([[10.0, 20.0, 30.0, 26.0]])
    >>> estimate_boxes(boxes, "recist_plus_5", "tight").round(2).tolist()
    [[14.4, 22.44, 25.6, 23.56]]
    """
    if source == target:
        return boxes
    low, high = boxes[..., :2], boxes[..., 2:]
    middle, half = (low + high) / 2, (high - low) / 2
    if target == TIGHT:
        changed = np.maximum(half - MARGIN_PX, MIN_SIDE_PX / 2) * STRETCH
    else:
        changed = half / STRETCH + MARGIN_PX
    changed = np.where((half > 0).all(axis=-1, keepdims=True), changed, half)
    return np.concatenate([middle - changed, middle + changed], axis=-1).astype(boxes.dtype)


def bound_ellipses(ends: np.ndarray) -> np.ndarray:
    """Return the bounds of the ellipses on two diameters each.

    Args:
        ends: [..., 8] px, x and y of four ends: of the long diameter, then of the short one.

    Returns:
        [..., 4] xyxy px; NaN where an end is NaN.

    >>> bound_ellipses(np.array([0.0, 3.0, 8.0, 3.0, 4.0, 1.0, 4.0, 5.0])).tolist()
    [0.0, 1.0, 8.0, 5.0]
    """
    points = ends.reshape(*ends.shape[:-1], 2, 2, 2)  # diameter, end, (x, y)
    half = (points[..., 1, :] - points[..., 0, :]) / 2
    # The diameters need not cross in the short one's middle: what lies off is kept by the ends.
    middle = points[..., 0, :, :].mean(axis=-2)
    reach = np.sqrt(np.square(half).sum(axis=-2))
    low = np.minimum(middle - reach, points.min(axis=(-3, -2)))
    high = np.maximum(middle + reach, points.max(axis=(-3, -2)))
    return np.concatenate([low, high], axis=-1)


def measure_diameters(component: np.ndarray, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Find a lesion's two RECIST diameters: the longest, and the longest across it.

    Args:
        component: bool [H, W] of one lesion, not empty.
        spacing_mm: Of a pixel, y and x.

    Returns:
        float64 [8] px, the ends as `bound_ellipses` takes them, moved out from the pixels' middles
        to where they end along the diameter.

    >>> component = np.zeros((6, 9), bool)
    >>> component[2:4, 1:8] = True
    >>> measure_diameters(component, (1.0, 1.0)).round(2).tolist()[:4]
    [0.93, 2.41, 8.07, 3.59]
    """
    y, x = np.nonzero(component)
    step_mm = np.array(spacing_mm[::-1], np.float64)  # x, y
    points_mm = (np.stack([x, y], axis=1) + 0.5) * step_mm
    hull = cv2.convexHull(points_mm.astype(np.float32))[:, 0].astype(np.float64)
    squares = np.square(hull[:, None] - hull[None]).sum(axis=-1)
    first, last = np.unravel_index(int(squares.argmax()), squares.shape)
    begin, end = sorted((tuple(hull[first]), tuple(hull[last])))
    length = float(np.hypot(end[0] - begin[0], end[1] - begin[1]))
    along = (np.array(end) - begin) / length if length else np.array([1.0, 0.0])
    across = np.array([-along[1], along[0]])
    long_ends = np.array([begin, end])
    short_ends = _find_longest_across(points_mm, along, across, float(min(step_mm)))
    half_px = [np.abs(direction) @ step_mm / 2 for direction in (along, across)]
    ends = [
        pair + np.array([[-1.0], [1.0]]) * half * direction
        for pair, half, direction in zip(
            (long_ends, short_ends), half_px, (along, across), strict=True
        )
    ]
    return (np.concatenate(ends) / step_mm).ravel()


def _find_longest_across(
    points_mm: np.ndarray, along: np.ndarray, across: np.ndarray, step_mm: float
) -> np.ndarray:
    """Ends of the longest run of pixels at a right angle to the long diameter, [2, 2] mm."""
    places, heights = points_mm @ along, points_mm @ across
    bins = np.floor((places - places.min()) / step_mm).astype(int)
    low, high = np.full(bins.max() + 1, np.inf), np.full(bins.max() + 1, -np.inf)
    np.minimum.at(low, bins, heights)
    np.maximum.at(high, bins, heights)
    widest = int(np.argmax(high - low))
    place = places[bins == widest].mean()
    return np.array([place * along + height * across for height in (low[widest], high[widest])])


def _find_component(labels: np.ndarray, mask_box: np.ndarray) -> np.ndarray | None:
    """The component whose bounds a stored box is; None where there is none."""
    x1, y1, x2, y2 = np.rint(mask_box).astype(int)
    inside = labels[y1:y2, x1:x2]
    for number in np.unique(inside[inside > 0]):
        component = labels == number
        rows, columns = np.flatnonzero(component.any(axis=1)), np.flatnonzero(component.any(axis=0))
        found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        if found == (x1, y1, x2, y2):
            return component
    return None


def _add_diameters(
    boxes: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float]
) -> np.ndarray:
    """Boxes of a mask's components, as DeepLesion would have drawn them."""
    changed = estimate_boxes(boxes, TIGHT, RECIST_PLUS_5)
    _, labels = cv2.connectedComponents((mask == LESION).astype(np.uint8), connectivity=8)
    for row, box in enumerate(boxes):
        component = _find_component(labels, box)
        if component is not None:
            points = measure_diameters(component, spacing_mm).reshape(4, 2)
            changed[row] = [*(points.min(axis=0) - MARGIN_PX), *(points.max(axis=0) + MARGIN_PX)]
    return changed


def convert_boxes(
    boxes: np.ndarray,
    source: str,
    *,
    size_px: tuple[int, int],
    spacing_mm: tuple[float, float],
    diameters: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> Mapping[str, np.ndarray]:
    """Bring the boxes of one slice into every convention.

    Args:
        boxes: float32 [n, 4] xyxy px of the slice.
        source: Their convention.
        size_px: Height and width of the slice; boxes are clipped to it.
        spacing_mm: Of a pixel, y and x.
        diameters: [n, 8] px, ends of the lesions' diameters, where they are known.
        mask: uint8 [H, W] of the slice, 2 being lesion, where there is one.

    Returns:
        Convention -> float32 [n, 4] xyxy px; those of `source` are the boxes as they are.
    """
    found = {source: boxes}
    if source == RECIST_PLUS_5:
        found[TIGHT] = estimate_boxes(boxes, source, TIGHT)
        if diameters is not None:
            ellipses = bound_ellipses(diameters)
            known = np.isfinite(ellipses).all(axis=-1)
            found[TIGHT] = np.where(known[:, None], ellipses, found[TIGHT])
    elif mask is not None:
        found[RECIST_PLUS_5] = _add_diameters(boxes, mask, spacing_mm)
    else:
        found[RECIST_PLUS_5] = estimate_boxes(boxes, source, RECIST_PLUS_5)
    height, width = size_px
    most = np.array([width, height, width, height])
    return {
        name: (array if name == source else np.clip(array, 0, most)).astype(np.float32)
        for name, array in found.items()
    }
