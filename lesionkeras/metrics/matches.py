"""Which detection meets which true box: COCO's greedy matching, once an image, for all thresholds.

The result is kept a detection a column, sorted by score over all images, so that every score and
every bootstrap resample of it is a weighted running sum, without matching again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesionkeras.boxes.overlap import compute_area, compute_ioa, compute_iou

# COCOeval's Params.iouThrs: .50, .55, ... .95.
COCO_IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
# COCOeval's Params.areaRng, in square pixels; both ends belong to the range.
COCO_AREA_RANGES: dict[str, tuple[float, float]] = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
MAX_DETECTIONS = 100  # an image and class; the last of COCOeval's Params.maxDets
# COCOeval.evaluateImg: a threshold of 1 would otherwise reject equal boxes for rounding.
HIGHEST_IOU_THRESHOLD = 1.0 - 1e-10


@dataclass(frozen=True, eq=False)
class ImageTruth:
    """The true boxes of one image; padding rows (class -1) are dropped.

    Args:
        boxes: [n, 4] xyxy px.
        classes: [n] int, 0 is the first class; all 0 where left out.
        crowd: [n] bool; a crowd box excuses any number of detections and is never missed.
        area: [n] px^2 for the area ranges (a mask's, say); the box's where left out.
        diameters_mm: [n] lesion size for the table of recall by size.

    Raises:
        ValueError: The lengths differ.
    """

    boxes: np.ndarray
    classes: np.ndarray = None  # type: ignore[assignment]
    crowd: np.ndarray = None  # type: ignore[assignment]
    area: np.ndarray = None  # type: ignore[assignment]
    diameters_mm: np.ndarray | None = None

    def __post_init__(self) -> None:
        boxes = _as_boxes(self.boxes)
        classes, kept = _kept_classes(self.classes, len(boxes))
        area = compute_area(boxes) if self.area is None else self.area
        crowd = np.zeros(len(boxes), bool) if self.crowd is None else self.crowd
        columns = {"crowd": np.asarray(crowd, bool), "area": np.asarray(area, np.float64)}
        if self.diameters_mm is not None:
            columns["diameters_mm"] = np.asarray(self.diameters_mm, np.float64)
        _store_columns(self, columns, kept, boxes=boxes, classes=classes)


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """What a model found in one image; padding rows (class -1) are dropped.

    Args:
        boxes: [m, 4] xyxy px.
        scores: [m] higher is surer.
        classes: [m] int; all 0 where left out.

    Raises:
        ValueError: The lengths differ.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        boxes = _as_boxes(self.boxes)
        classes, kept = _kept_classes(self.classes, len(boxes))
        columns = {"scores": np.asarray(self.scores, np.float64)}
        _store_columns(self, columns, kept, boxes=boxes, classes=classes)


def _as_boxes(boxes: np.ndarray) -> np.ndarray:
    return np.asarray(boxes, np.float64).reshape(-1, 4)


def _kept_classes(classes: np.ndarray | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.zeros(count, np.int64) if classes is None else np.asarray(classes, np.int64)
    if ids.shape != (count,):
        raise ValueError(f"{count} boxes but classes of shape {ids.shape}")
    return ids, ids >= 0


def _store_columns(
    owner: object,
    columns: dict[str, np.ndarray],
    kept: np.ndarray,
    *,
    boxes: np.ndarray,
    classes: np.ndarray,
) -> None:
    for name, column in columns.items():
        if column.shape != kept.shape:
            raise ValueError(f"{len(kept)} boxes but {name} of shape {column.shape}")
    for name, column in {"boxes": boxes, "classes": classes, **columns}.items():
        object.__setattr__(owner, name, column[kept])


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """All detections of one class, surest first (ties in the order of images and of arrival).

    Axes: A area ranges, T IoU thresholds, D detections, N images, G true boxes of all images.

    Args:
        class_id: The class.
        image_idx: [D] int, the image a detection is in.
        rank: [D] int, its place by score in that image.
        scores: [D].
        matched: [A, T, D] bool, it met a true box.
        ignored: [A, T, D] bool, it counts neither as right nor as wrong.
        num_truth: [A, N] float, true boxes that count.
        truth_place: [G, 2] int, image and row in that image's ImageTruth.
        truth_scores: [A, T, G], score of the detection that met the box; -inf where none did.
    """

    class_id: int
    image_idx: np.ndarray
    rank: np.ndarray
    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    num_truth: np.ndarray
    truth_place: np.ndarray
    truth_scores: np.ndarray


def match_detections(
    truths: Sequence[ImageTruth],
    detections: Sequence[ImageDetections],
    iou_thresholds: Sequence[float] = COCO_IOU_THRESHOLDS,
    area_ranges: Sequence[tuple[float, float]] = (COCO_AREA_RANGES["all"],),
    max_detections: int = MAX_DETECTIONS,
) -> tuple[ClassMatches, ...]:
    """Matches each image's detections to its true boxes, surest detection first.

    Args:
        truths: One an image.
        detections: One an image, in the same order.
        iou_thresholds: IoU from which two boxes meet, ascending.
        area_ranges: (low, high) px^2; truth outside is ignored, as is an unmatched detection.
        max_detections: The surest of an image and class that are looked at.

    Returns:
        One ClassMatches a class that truth or detections name, in order of class.

    Raises:
        ValueError: The two sequences differ in length.

    Source: pycocotools, cocoeval.py, COCOeval.evaluateImg and accumulate.

    >>> truth = ImageTruth(boxes=np.array([[0, 0, 10, 10]]))
    >>> found = ImageDetections(boxes=np.array([[0, 0, 10, 8], [0, 0, 10, 10]]),
    ...                         scores=np.array([0.9, 0.8]))
    >>> (of_class,) = match_detections([truth], [found], iou_thresholds=(0.5, 0.9))
    >>> of_class.matched[0].tolist()  # at .5 the first takes the box, at .9 only the second fits
    [[True, False], [False, True]]
    """
    if len(truths) != len(detections):
        raise ValueError(f"{len(truths)} images of truth but {len(detections)} of detections")
    ids = [t.classes for t in truths] + [d.classes for d in detections]
    thresholds = np.minimum(np.asarray(iou_thresholds, np.float64), HIGHEST_IOU_THRESHOLD)
    ranges = np.asarray(area_ranges, np.float64).reshape(-1, 2)
    class_ids = np.unique(np.concatenate(ids)) if ids else ()
    return tuple(
        _match_class(int(class_id), truths, detections, thresholds, ranges, max_detections)
        for class_id in class_ids
    )


def _match_class(
    class_id: int,
    truths: Sequence[ImageTruth],
    detections: Sequence[ImageDetections],
    thresholds: np.ndarray,
    ranges: np.ndarray,
    max_detections: int,
) -> ClassMatches:
    num_truth = np.zeros((len(ranges), len(truths)))
    parts, places = [], []
    for image, (truth, found) in enumerate(zip(truths, detections, strict=True)):
        of_truth = np.flatnonzero(truth.classes == class_id)
        of_class = np.flatnonzero(found.classes == class_id)
        order = np.argsort(-found.scores[of_class], kind="stable")[:max_detections]
        part = _match_image(truth, of_truth, found, of_class[order], thresholds, ranges)
        num_truth[:, image] = part.num_truth
        parts.append(part)
        places.append(np.column_stack([np.full(len(of_truth), image), of_truth]))
    counts = [len(part.scores) for part in parts]
    scores = np.concatenate([part.scores for part in parts])
    by_score = np.argsort(-scores, kind="stable")
    return ClassMatches(
        class_id=class_id,
        image_idx=np.repeat(np.arange(len(truths)), counts)[by_score],
        rank=np.concatenate([np.arange(count) for count in counts])[by_score],
        scores=scores[by_score],
        matched=np.concatenate([part.matched for part in parts], axis=2)[:, :, by_score],
        ignored=np.concatenate([part.ignored for part in parts], axis=2)[:, :, by_score],
        num_truth=num_truth,
        truth_place=np.concatenate(places),
        truth_scores=np.concatenate([part.truth_scores for part in parts], axis=2),
    )


@dataclass(frozen=True, eq=False)
class _ImageMatches:
    """One image and class of a ClassMatches; num_truth is [A]."""

    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    num_truth: np.ndarray
    truth_scores: np.ndarray


def _outside(area: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    return (area < ranges[:, :1]) | (area > ranges[:, 1:])


def _match_image(
    truth: ImageTruth,
    truth_rows: np.ndarray,
    found: ImageDetections,
    found_rows: np.ndarray,
    thresholds: np.ndarray,
    ranges: np.ndarray,
) -> _ImageMatches:
    """Matches the given rows of one image; `found_rows` come surest first."""
    crowd, boxes = truth.crowd[truth_rows], found.boxes[found_rows]
    excuses = crowd | _outside(truth.area[truth_rows], ranges)
    true_boxes = truth.boxes[truth_rows]
    overlap = np.where(crowd, compute_ioa(boxes, true_boxes), compute_iou(boxes, true_boxes))
    scores = found.scores[found_rows]
    matched, ignored, truth_scores = _match_greedily(overlap, scores, crowd, excuses, thresholds)
    ignored |= ~matched & _outside(compute_area(boxes), ranges)[:, None]
    num_truth = np.count_nonzero(~excuses, axis=1)
    return _ImageMatches(scores, matched, ignored, num_truth, truth_scores)


def _match_greedily(
    overlap: np.ndarray,
    scores: np.ndarray,
    crowd: np.ndarray,
    truth_ignored: np.ndarray,
    thresholds: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gives each detection its best free true box, for all area ranges and thresholds at once.

    Args:
        overlap: [D, G], detections by falling score.
        scores: [D].
        crowd: [G] bool.
        truth_ignored: [A, G] bool.
        thresholds: [T].

    Returns:
        matched [A, T, D] bool, ignored [A, T, D] bool, truth_scores [A, T, G].
    """
    num_found, num_truth = overlap.shape
    shape = (len(truth_ignored), len(thresholds))
    matched = np.zeros((*shape, num_found), bool)
    ignored = np.zeros((*shape, num_found), bool)
    truth_scores = np.full((*shape, num_truth), -np.inf)
    if num_truth == 0:
        return matched, ignored, truth_scores
    taken = np.zeros((*shape, num_truth), bool)
    excuses = np.broadcast_to(truth_ignored[:, None], taken.shape)
    for row in np.flatnonzero(overlap.max(axis=1) >= thresholds.min()):
        free = (overlap[row] >= thresholds[:, None]) & (~taken | crowd)
        counted = free & ~excuses
        # A box that counts goes before an ignored one, whatever the overlap.
        pool = np.where(counted.any(axis=-1, keepdims=True), counted, free)
        # Among equals COCOeval takes the last.
        best = num_truth - 1 - np.argmax(np.where(pool, overlap[row], -1.0)[..., ::-1], axis=-1)
        found = free.any(axis=-1)
        excused = np.take_along_axis(excuses, best[..., None], axis=-1)[..., 0]
        matched[..., row] = found
        ignored[..., row] = found & excused
        here = found[..., None] & (np.arange(num_truth) == best[..., None])
        taken |= here
        truth_scores[here] = scores[row]
    return matched, ignored, truth_scores
