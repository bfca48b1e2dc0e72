"""Which detections find which lesions, in the three ways that the field counts them.

All detections of all images are sorted once; every way of counting and every overlap then reads
the same pairs of a detection and a lesion that share area.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesionkeras.boxes.overlap import compute_intersection, compute_ioa, compute_iou
from lesionkeras.metrics.matches import HIGHEST_IOU_THRESHOLD, ImageDetections, ImageTruth
from lesionkeras.metrics.operating import measure_lesions

NEVER = -1  # group of a lesion that no detection finds
WRONG, NEITHER, RIGHT = -1, 0, 1


@dataclass(frozen=True)
class Criterion:
    """From which overlap on a box has found a lesion.

    Args:
        overlap: "iou", or "iobb": intersection by the area of the detected box.
        threshold: 0..1.

    >>> Criterion("iobb", 0.5).label
    'IoBB 0.5'
    """

    overlap: str
    threshold: float

    @property
    def label(self) -> str:
        """As a table names it."""
        return f"{'IoU' if self.overlap == 'iou' else 'IoBB'} {self.threshold:g}"


@dataclass(frozen=True)
class Convention:
    """How detections and lesions are counted.

    Args:
        key: In files and on command lines.
        name: For people.
        counting: "one_to_one": a lesion takes one detection, and each further one is wrong, as in
            COCO.  "all_hits": a detection finds every lesion that it meets, and further ones on a
            found lesion count nowhere.  "any_hit": the same, and further ones are right.
        is_strict: Overlap must be above the threshold, not just reach it.
        interpolates: Between two scores the curve is a straight line; otherwise what is given is
            what some threshold really reaches.
        max_detections: The surest of an image and class that are looked at; 0 looks at all.
        mean_over: False positives an image whose sensitivities its mean is of; () has no mean.
        source: Where it is from.
    """

    key: str
    name: str
    counting: str
    is_strict: bool
    interpolates: bool
    max_detections: int
    mean_over: tuple[float, ...]
    source: str


CONVENTIONS = {
    convention.key: convention
    for convention in (
        Convention(
            "deeplesion",
            "DeepLesion",
            counting="all_hits",
            is_strict=False,
            interpolates=True,
            max_detections=0,
            mean_over=(0.5, 1.0, 2.0, 4.0),  # MULAN (Yan et al. 2019), Table 1
            source="Yan et al. 2018 (3DCE) and 2019 (MULAN): their FROC and sens_at_FP, without "
            "the pixel that their IoU adds to every side",
        ),
        Convention(
            "nndetection",
            "nnDetection",
            counting="one_to_one",
            is_strict=False,
            interpolates=True,
            max_detections=100,
            mean_over=(0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
            source="Baumgartner et al. 2021: matching_batch and FROCMetric",
        ),
        Convention(
            "p2",
            "P2",
            counting="any_hit",
            is_strict=True,  # "accurate if the IoU was greater than 0.1": P2, 5.1.2
            interpolates=False,
            max_detections=0,
            mean_over=(),
            source="Aluko, Hari and Yakubenko, 5.1.2 and 5.2",
        ),
    )
}


@dataclass(frozen=True, eq=False)
class PooledBoxes:
    """Detections of all images, surest first, and the lesions that they share area with.

    Axes: N images, D detections, G lesions, P pairs (in the order of detections).

    Args:
        num_images: N.
        scores: [D], falling; ties in the order of images and of arrival.
        image_idx: [D], the image a detection is in.
        classes: [D].
        group: [D], number of its score among the different ones.
        lesion_image: [G].
        is_crowd: [G], found or not, it does not count.
        sizes: [G], of the lesions, in `unit`.
        unit: "mm", or "px" where not all sizes in mm are known.
        pair_detection: [P].
        pair_lesion: [P].
        overlaps: "iou" and "iobb" [P].
    """

    num_images: int
    scores: np.ndarray
    image_idx: np.ndarray
    classes: np.ndarray
    group: np.ndarray
    lesion_image: np.ndarray
    is_crowd: np.ndarray
    sizes: np.ndarray
    unit: str
    pair_detection: np.ndarray
    pair_lesion: np.ndarray
    overlaps: dict[str, np.ndarray]


def pool_boxes(truths: Sequence[ImageTruth], detections: Sequence[ImageDetections]) -> PooledBoxes:
    """Sorts the detections of all images and pairs them with the lesions of their image and class.

    Args:
        truths: One an image.
        detections: One an image, in the same order.

    Raises:
        ValueError: The two sequences differ in length.
    """
    if len(truths) != len(detections):
        raise ValueError(f"{len(truths)} images of truth but {len(detections)} of detections")
    num_found = np.array([len(found.scores) for found in detections], np.int64)
    num_true = np.array([len(truth.boxes) for truth in truths], np.int64)
    scores = _concatenate([found.scores for found in detections])
    classes = _concatenate([found.classes for found in detections]).astype(np.int64)
    is_crowd = _concatenate([truth.crowd for truth in truths]).astype(bool)
    sizes, unit = measure_lesions(truths)
    order = _sort_falling(scores)
    image_idx = np.repeat(np.arange(len(detections)), num_found)
    detection, lesion = _list_pairs(image_idx, num_true)
    kept, overlaps = _measure_pairs(
        _concatenate([found.boxes for found in detections], 4)[detection],
        _concatenate([truth.boxes for truth in truths], 4)[lesion],
        is_crowd[lesion],
        classes[detection] == _concatenate([truth.classes for truth in truths])[lesion],
    )
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    pair_detection, pair_lesion = place[detection[kept]], lesion[kept]
    by_place = np.argsort(pair_detection, kind="stable")
    return PooledBoxes(
        num_images=len(truths),
        scores=scores[order],
        image_idx=image_idx[order],
        classes=classes[order],
        group=np.cumsum(np.diff(scores[order], prepend=scores[order[:1]]) != 0),
        lesion_image=np.repeat(np.arange(len(truths)), num_true),
        is_crowd=is_crowd,
        sizes=sizes,
        unit=unit,
        pair_detection=pair_detection[by_place],
        pair_lesion=pair_lesion[by_place],
        overlaps={name: values[by_place] for name, values in overlaps.items()},
    )


def _sort_falling(scores: np.ndarray) -> np.ndarray:
    """Stable order of falling scores; NumPy's own stable sort of floats takes twice as long."""
    order = np.argsort(-scores)
    is_tied = np.diff(scores[order]) == 0
    tied = np.flatnonzero(np.append(is_tied, False) | np.insert(is_tied, 0, False))
    if len(tied):
        run = np.cumsum(np.insert(~is_tied, 0, False))[tied]
        order[tied] = np.sort(run * len(order) + order[tied]) % len(order)
    return order


def _concatenate(parts: Sequence[np.ndarray], columns: int = 0) -> np.ndarray:
    """Join arrays of all images; none gives an empty one."""
    return np.concatenate([np.zeros((0, columns) if columns else 0, np.int64), *parts])


def _list_pairs(image_idx: np.ndarray, num_true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List each detection with each lesion of its image."""
    first = np.cumsum(num_true) - num_true
    counts = num_true[image_idx]
    detection = np.repeat(np.arange(len(image_idx)), counts)
    place = np.arange(len(detection)) - np.repeat(np.cumsum(counts) - counts, counts)
    return detection, first[image_idx][detection] + place


def _measure_pairs(
    found: np.ndarray, true: np.ndarray, is_crowd: np.ndarray, same_class: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Overlaps of the pairs that share area, and which these are; a crowd's is always by IoBB."""
    shared = compute_intersection(found[:, None], true[:, None])[:, 0, 0]
    kept = np.flatnonzero((shared > 0) & same_class)
    found, true = found[kept, None], true[kept, None]
    iobb = compute_ioa(found, true)[:, 0, 0]
    iou = np.where(is_crowd[kept], iobb, compute_iou(found, true)[:, 0, 0])
    return kept, {"iou": iou, "iobb": iobb}


def _find_surest(pooled: PooledBoxes, max_detections: int) -> np.ndarray:
    """Tell which detections are among the surest of their image and class."""
    keys = pooled.image_idx * (int(pooled.classes.max(initial=0)) + 1) + pooled.classes
    if not max_detections or np.bincount(keys, minlength=1).max() <= max_detections:
        return np.ones(len(keys), bool)
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    counts = np.diff(starts, append=len(keys))
    surest = np.empty(len(keys), bool)
    surest[order] = np.arange(len(keys)) - np.repeat(starts, counts) < max_detections
    return surest


def find_lesions(
    pooled: PooledBoxes, convention: Convention, criterion: Criterion
) -> tuple[np.ndarray, np.ndarray]:
    """Tells which detections are right and with which of them each lesion is found.

    Args:
        pooled: From `pool_boxes`.
        convention: How to count.
        criterion: From which overlap on.

    Returns:
        The outcome of each detection, int8 [D]: RIGHT, NEITHER or WRONG; and of each lesion the
        number of the detection that finds it, [G], NEVER where none does.

    Raises:
        ValueError: The criterion's overlap is unknown.

    >>> truth = ImageTruth(np.array([[0.0, 0, 9, 9]]))
    >>> twice = ImageDetections(np.array([[0.0, 0, 9, 9], [0, 0, 9, 9]]), np.array([0.9, 0.8]))
    >>> pooled, half = pool_boxes([truth], [twice]), Criterion("iou", 0.5)
    >>> [find_lesions(pooled, way, half)[0].tolist() for way in CONVENTIONS.values()]
    [[1, 0], [1, -1], [1, 1]]
    """
    if criterion.overlap not in pooled.overlaps:
        raise ValueError(f"{criterion.overlap!r} is none of {', '.join(pooled.overlaps)}")
    overlap = pooled.overlaps[criterion.overlap]
    threshold = min(criterion.threshold, HIGHEST_IOU_THRESHOLD)
    is_hit = overlap > threshold if convention.is_strict else overlap >= threshold
    looked_at = _find_surest(pooled, convention.max_detections)
    is_hit &= looked_at[pooled.pair_detection]
    counts = is_hit & ~pooled.is_crowd[pooled.pair_lesion]
    detection, lesion = pooled.pair_detection[counts], pooled.pair_lesion[counts]
    outcome = np.where(looked_at, WRONG, NEITHER).astype(np.int8)
    outcome[pooled.pair_detection[is_hit & ~counts]] = NEITHER  # a crowd excuses any number
    if convention.counting == "one_to_one":
        taken = _match_one_to_one(detection, lesion, overlap[counts])
        detection, lesion = detection[taken], lesion[taken]
        outcome[detection] = RIGHT
    else:
        outcome[detection] = RIGHT if convention.counting == "any_hit" else NEITHER
    found_by = np.full(len(pooled.lesion_image), NEVER)
    found_by[lesion[::-1]] = detection[::-1]  # the last that is written is the surest
    outcome[found_by[found_by != NEVER]] = RIGHT
    return outcome, found_by


def _match_one_to_one(detection: np.ndarray, lesion: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Pairs of COCO's greedy matching: the surest detection first, each its best free lesion.

    That is to go through the pairs in that order and take each whose detection and lesion are both
    free.  A pair that comes first for both is taken whatever else happens, so all such pairs of all
    images are taken at once, and then those of what is left.
    """
    left = np.arange(len(detection))
    if (np.diff(detection) == 0).any():
        # Among equals COCOeval takes the last lesion.
        left = np.lexsort((-lesion, -overlap, detection))
    taken: list[np.ndarray] = []
    is_gone = np.zeros((2, 1 + max(detection.max(initial=-1), lesion.max(initial=-1))), bool)
    first_place = np.empty(is_gone.shape[1], np.int64)
    while len(left):
        of_detection, of_lesion = detection[left], lesion[left]
        places = np.arange(len(left))
        first_place[of_lesion[::-1]] = places[::-1]
        is_taken = (np.diff(of_detection, prepend=-1) != 0) & (first_place[of_lesion] == places)
        taken.append(left[is_taken])
        is_gone[0, of_detection[is_taken]] = is_gone[1, of_lesion[is_taken]] = True
        left = left[~is_gone[0, of_detection] & ~is_gone[1, of_lesion]]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *taken]))
