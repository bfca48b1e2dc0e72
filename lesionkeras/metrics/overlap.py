"""Overlap of two masks in voxels: Dice, Jaccard, sensitivity and their kin, from four counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LIVER, TUMOUR = 1, 2  # labels of a mask; a tumour is inside the liver
NUM_LABELS = 3
SLAB_SLICES = 16  # looked at together: a few MiB, whatever the volume's height
UNDEFINED = float("nan")


def divide(numerator: float, denominator: float) -> float:
    """Divides, with NaN where both are zero: a score that does not exist is neither 0 nor 1.

    Args:
        numerator: Any number.
        denominator: Any number; where it is 0 the quotient is NaN.

    >>> divide(1, 4), divide(0, 0)
    (0.25, nan)
    """
    return float(numerator) / float(denominator) if denominator else UNDEFINED


@dataclass(frozen=True)
class Overlap:
    """How many voxels two masks share.

    Every score is NaN where it would divide by zero, so that a caller must say what it counts for.

    Attributes:
        num_both: In truth and prediction.
        num_truth: In the truth.
        num_prediction: In the prediction.
        num_voxels: Of the volume.

    >>> overlap = Overlap(num_both=6, num_truth=8, num_prediction=12, num_voxels=100)
    >>> overlap.dice, overlap.sensitivity, overlap.precision, overlap.rvd
    (0.6, 0.75, 0.5, 0.5)
    """

    num_both: int
    num_truth: int
    num_prediction: int
    num_voxels: int

    @property
    def num_either(self) -> int:
        """Voxels in truth, prediction or both."""
        return self.num_truth + self.num_prediction - self.num_both

    @property
    def num_false_positive(self) -> int:
        """Voxels in the prediction alone."""
        return self.num_prediction - self.num_both

    @property
    def dice(self) -> float:
        """Twice the shared voxels by the sum of both; NaN where both masks are empty."""
        return divide(2 * self.num_both, self.num_truth + self.num_prediction)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and sensitivity of voxels, which is Dice by another name."""
        return self.dice

    @property
    def jaccard(self) -> float:
        """Intersection by union; NaN where both masks are empty."""
        return divide(self.num_both, self.num_either)

    @property
    def voe(self) -> float:
        """Volumetric overlap error: 1 - Jaccard."""
        return 1.0 - self.jaccard

    @property
    def rvd(self) -> float:
        """Relative volume difference, (prediction - truth) / truth: above 0 is too large.

        The sign of LiTS' published scores; its final program has (truth - prediction) / prediction.
        """
        return divide(self.num_prediction - self.num_truth, self.num_truth)

    @property
    def sensitivity(self) -> float:
        """Share of the truth that was found; NaN without truth."""
        return divide(self.num_both, self.num_truth)

    @property
    def precision(self) -> float:
        """Share of the prediction that is right; NaN without a prediction."""
        return divide(self.num_both, self.num_prediction)

    @property
    def specificity(self) -> float:
        """Share of the voxels outside the truth that were left alone."""
        outside = self.num_voxels - self.num_truth
        return divide(outside - self.num_false_positive, outside)

    @property
    def accuracy(self) -> float:
        """Share of all voxels that are right; nearly 1 for any small structure."""
        return divide(self.num_voxels - self.num_either + self.num_both, self.num_voxels)


def count_labels(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Counts the voxels of each pair of labels.

    Args:
        truth: uint8 [z, y, x], labels 0, 1 and 2.
        prediction: The same.

    Returns:
        int64 [3, 3], voxels by true and predicted label.

    >>> truth, prediction = np.array([[[0, 1, 2, 2]]]), np.array([[[0, 1, 1, 2]]])
    >>> count_labels(truth.astype(np.uint8), prediction.astype(np.uint8)).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    counts = np.zeros(NUM_LABELS**2, np.int64)
    for first in range(0, len(truth), SLAB_SLICES):
        slab = slice(first, first + SLAB_SLICES)
        pairs = truth[slab] * np.uint8(NUM_LABELS) + prediction[slab]
        counts += np.bincount(pairs.ravel(), minlength=len(counts))
    return counts.reshape(NUM_LABELS, NUM_LABELS)


def find_overlap(counts: np.ndarray, least_label: int, num_voxels: int) -> Overlap:
    """Takes a structure's overlap from counts of labels.

    Args:
        counts: [3, 3] of `count_labels`.
        least_label: LIVER takes labels 1 and 2, TUMOUR label 2.
        num_voxels: Of the volume, of which `counts` may have seen a part.

    >>> find_overlap(np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1]]), TUMOUR, 4)
    Overlap(num_both=1, num_truth=2, num_prediction=1, num_voxels=4)
    """
    return Overlap(
        num_both=int(counts[least_label:, least_label:].sum()),
        num_truth=int(counts[least_label:].sum()),
        num_prediction=int(counts[:, least_label:].sum()),
        num_voxels=num_voxels,
    )
