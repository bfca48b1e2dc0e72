"""The free-response ROC curve: lesions found by false positives an image.

Everything is summed by the scores at which a lesion is found, so that a bootstrap resample is a row
of weights and needs neither matching nor sorting.  No detections find nothing (sensitivity 0); no
lesions leave it undefined (NaN); images without a lesion count among the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lesionkeras.metrics.froc_matching import (
    NEVER,
    RIGHT,
    WRONG,
    Convention,
    Criterion,
    PooledBoxes,
    find_lesions,
    pool_boxes,
)
from lesionkeras.metrics.matches import ImageDetections, ImageTruth

FP_PER_IMAGE = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
CHUNK_SUMS = 2**18  # of all resamples that are summed at once: 2 MiB, which a cache holds
MIN_CHUNK_RESAMPLES = 64
# A budget such as .29 x 100 images is 28.999999999999996 false positives, and 29 are meant.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class FrocCurve:
    """A point a threshold; equal scores stand or fall together.

    Args:
        scores: [K] thresholds, falling.
        fp_per_image: [K] false positives an image from that score on.
        sensitivity: [K] share of the lesions found from that score on.
    """

    scores: np.ndarray
    fp_per_image: np.ndarray
    sensitivity: np.ndarray


@dataclass(frozen=True, eq=False)
class Froc:
    """All that a FROC curve is made of; axes as in `PooledBoxes`.

    Args:
        convention: How it was counted.
        criterion: From which overlap on.
        pooled: What was counted.
        outcome: [D] int8: RIGHT, NEITHER or WRONG.
        found_by: [G] detection that finds a lesion, or NEVER.
    """

    convention: Convention
    criterion: Criterion
    pooled: PooledBoxes
    outcome: np.ndarray
    found_by: np.ndarray

    @property
    def found_scores(self) -> np.ndarray:
        """[G] score at which a lesion is found; -inf where it never is."""
        scores = np.append(self.pooled.scores, -np.inf)
        return scores[self.found_by]

    def compute_curve(self) -> FrocCurve:
        """Computes the curve at every score that occurs; NaN sensitivity without lesions."""
        pooled = self.pooled
        num_scores = int(pooled.group[-1]) + 1 if len(pooled.group) else 0
        wrong = np.bincount(pooled.group[self.outcome == WRONG], minlength=num_scores)
        hits = np.bincount(pooled.group[self._hits()], minlength=num_scores)
        num_lesions = np.count_nonzero(~pooled.is_crowd)
        first = np.flatnonzero(np.diff(pooled.group, prepend=-1))
        return FrocCurve(
            scores=pooled.scores[first],
            fp_per_image=np.cumsum(wrong) / max(pooled.num_images, 1),
            sensitivity=np.cumsum(hits) / (num_lesions or np.nan),
        )

    def _hits(self) -> np.ndarray:
        """Detection of every lesion that is found and counts."""
        return self.found_by[(self.found_by != NEVER) & ~self.pooled.is_crowd]

    def find_threshold(self, fp_per_image: float) -> float:
        """Finds the lowest score from which on there are no more false positives than given.

        Args:
            fp_per_image: The most.

        Returns:
            A threshold to keep `score >= threshold`; inf where the surest score is too many.
        """
        curve = self.compute_curve()
        allowed = np.flatnonzero(curve.fp_per_image <= fp_per_image * (1 + _ROUNDING))
        return float(curve.scores[allowed[-1]]) if len(allowed) else float("inf")

    def compute_sensitivity(
        self,
        fp_per_image: Sequence[float] = FP_PER_IMAGE,
        weights: np.ndarray | None = None,
        counted: np.ndarray | None = None,
    ) -> np.ndarray:
        """Computes the share of the lesions found at given false positives an image.

        Args:
            fp_per_image: X of them.
            weights: [R, N], how often each image counts; None counts each once.
            counted: [G] bool, lesions to count (of one size, say); false positives are all.

        Returns:
            [R, X] ([1, X] without weights); NaN where no lesion counts.

        >>> from lesionkeras.metrics.froc_matching import CONVENTIONS
        >>> truth = ImageTruth(np.array([[0.0, 0, 9, 9], [20, 20, 29, 29]]))
        >>> boxes = np.array([[0.0, 0, 9, 9], [50, 50, 59, 59], [20, 20, 29, 29]])
        >>> found = ImageDetections(boxes, np.array([0.9, 0.8, 0.7]))
        >>> froc = compute_froc([truth], [found], CONVENTIONS["p2"], Criterion("iou", 0.5))
        >>> froc.compute_sensitivity((0.5, 1.0)).tolist()
        [[0.5, 1.0]]
        """
        rows = np.ones((1, self.pooled.num_images)) if weights is None else weights
        is_counted = ~self.pooled.is_crowd if counted is None else counted & ~self.pooled.is_crowd
        sums = _Sums(self, is_counted)
        size = max(MIN_CHUNK_RESAMPLES, CHUNK_SUMS // sums.num_sums)
        starts = range(0, max(len(rows), 1), size)  # no rows give no rows
        parts = [sums.compute(rows[i : i + size], fp_per_image) for i in starts]
        return np.concatenate(parts)

    def count_by_image(self, score_threshold: float) -> np.ndarray:
        """Counts what a threshold leaves.

        Args:
            score_threshold: Kept are scores from here on.

        Returns:
            [4, N] float: right and wrong detections, lesions found, lesions of each image.
        """
        pooled, num_images = self.pooled, self.pooled.num_images
        kept = pooled.scores >= score_threshold
        is_found = (self.found_scores >= score_threshold) & ~pooled.is_crowd
        places = (
            pooled.image_idx[kept & (self.outcome == RIGHT)],
            pooled.image_idx[kept & (self.outcome == WRONG)],
            pooled.lesion_image[is_found],
            pooled.lesion_image[~pooled.is_crowd],
        )
        return np.stack([np.bincount(place, minlength=num_images) for place in places]).astype(
            np.float64
        )


class _Sums:
    """False positives before and at each score at which a lesion is found, by image."""

    def __init__(self, froc: Froc, is_counted: np.ndarray) -> None:
        pooled = froc.pooled
        self.interpolates = froc.convention.interpolates
        found = np.flatnonzero((froc.found_by != NEVER) & is_counted)
        groups, place = np.unique(pooled.group[froc.found_by[found]], return_inverse=True)
        wrong = np.flatnonzero(froc.outcome == WRONG)
        group, all_lesions = pooled.group[wrong], pooled.lesion_image[is_counted]
        # Even places lie before a group of equal scores, odd ones in it; the last lies behind all.
        left, right = (np.searchsorted(groups, group, side) for side in ("left", "right"))
        self.num_sums = 2 * len(groups) + 1
        size = pooled.num_images
        self.wrong = _Counts(left + right, pooled.image_idx[wrong], self.num_sums, size)
        self.hits = _Counts(place, pooled.lesion_image[found], len(groups), size)
        self.lesions = _Counts(np.zeros_like(all_lesions), all_lesions, 1, size)

    def compute(self, weights: np.ndarray, fp_per_image: Sequence[float]) -> np.ndarray:
        """Sensitivity [R, X] of some rows of weights."""
        sums = np.cumsum(self.wrong.weigh(weights), axis=0)
        before, after = sums[0:-1:2], sums[1::2]
        hits, lesions = self.hits.weigh(weights), self.lesions.weigh(weights)[0]
        found = np.zeros((len(weights), len(fp_per_image)))
        for place, most in enumerate(fp_per_image):
            budget = most * weights.sum(axis=1)
            share = (after <= budget * (1 + _ROUNDING)).astype(float)
            if self.interpolates:
                width = np.where(after > before, after - before, 1.0)
                share = np.maximum(share, np.clip((budget - before) / width, 0, 1))
            found[:, place] = (hits * share).sum(axis=0)
        undefined = np.full(found.shape, np.nan)
        return np.divide(found, lesions[:, None], out=undefined, where=(lesions > 0)[:, None])


@dataclass(frozen=True, eq=False)
class _Counts:
    """How many things of each image stand at each place.

    Args:
        place: Of each thing.
        image: Of each thing.
        num_places: K.
        num_images: N.
    """

    place: np.ndarray
    image: np.ndarray
    num_places: int
    num_images: int

    @cached_property
    def matrix(self) -> Any:
        """Sparse [K, N]."""
        from scipy.sparse import coo_array

        shape = (self.num_places, self.num_images)
        return coo_array((np.ones(len(self.place)), (self.place, self.image)), shape).tocsr()

    def weigh(self, weights: np.ndarray) -> np.ndarray:
        """Weight [K, R] at each place, of rows of weights [R, N]."""
        if len(weights) != 1:
            return self.matrix @ weights.T
        # A sparse matrix costs ten times as much to make.
        of_image = weights[0, self.image]
        return np.bincount(self.place, of_image, minlength=self.num_places)[:, None]


def compute_froc(
    truths: Sequence[ImageTruth],
    detections: Sequence[ImageDetections],
    convention: Convention,
    criterion: Criterion,
) -> Froc:
    """Counts the detections of all images for a FROC curve.

    Args:
        truths: One an image.
        detections: One an image, in the same order.
        convention: How to count, one of `CONVENTIONS`.
        criterion: From which overlap on a lesion is found.

    Returns:
        The curve's counts.

    Raises:
        ValueError: The two sequences differ in length, or the overlap is unknown.

    Source: Bunch et al. 1977, A free response approach to the measurement and characterization of
        radiographic observer performance.
    """
    return count_froc(pool_boxes(truths, detections), convention, criterion)


def count_froc(pooled: PooledBoxes, convention: Convention, criterion: Criterion) -> Froc:
    """Counts boxes that are already sorted; see `compute_froc`."""
    return Froc(convention, criterion, pooled, *find_lesions(pooled, convention, criterion))
