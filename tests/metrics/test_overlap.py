import math

import numpy as np
import pytest

from lesionkeras.metrics.overlap import LIVER, TUMOUR, Overlap, count_labels, divide, find_overlap

# 4 shared, 6 true, 10 predicted, of 50: either 12, false positive 6, missed 2, right outside 38.
OVERLAP = Overlap(num_both=4, num_truth=6, num_prediction=10, num_voxels=50)


@pytest.mark.parametrize(
    ("score", "value"),
    [
        ("num_either", 12),
        ("num_false_positive", 6),
        ("dice", 8 / 16),
        ("f1", 8 / 16),
        ("jaccard", 4 / 12),
        ("voe", 8 / 12),
        ("rvd", 4 / 6),
        ("sensitivity", 4 / 6),
        ("precision", 4 / 10),
        ("specificity", 38 / 44),
        ("accuracy", 42 / 50),
    ],
)
def test_scores_by_hand(score, value):
    assert getattr(OVERLAP, score) == pytest.approx(value, abs=1e-15)


def test_rvd_of_a_prediction_that_is_too_small_is_negative():
    assert Overlap(3, 12, 3, 100).rvd == pytest.approx(-0.75)


def test_what_would_be_zero_by_zero_is_neither_0_nor_1():
    nothing = Overlap(0, 0, 0, 20)
    for score in ("dice", "jaccard", "voe", "rvd", "sensitivity", "precision"):
        assert math.isnan(getattr(nothing, score)), score
    assert nothing.specificity == nothing.accuracy == 1.0
    in_vain, missed = Overlap(0, 0, 5, 20), Overlap(0, 5, 0, 20)
    assert (in_vain.dice, in_vain.precision, in_vain.specificity) == (0.0, 0.0, 0.75)
    assert math.isnan(in_vain.sensitivity) and math.isnan(in_vain.rvd)
    assert (missed.dice, missed.sensitivity, missed.rvd) == (0.0, 0.0, -1.0)
    assert math.isnan(missed.precision)
    assert math.isnan(divide(3, 0))


def test_counts_are_those_of_a_loop_also_beyond_one_slab():
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(0, 3, (2, 37, 4, 5)).astype(np.uint8)
    expected = np.zeros((3, 3), int)
    for one, other in zip(truth.ravel(), prediction.ravel(), strict=True):
        expected[one, other] += 1
    counts = count_labels(truth, prediction)
    np.testing.assert_array_equal(counts, expected)
    assert find_overlap(counts, LIVER, truth.size) == Overlap(
        int(((truth > 0) & (prediction > 0)).sum()),
        int((truth > 0).sum()),
        int((prediction > 0).sum()),
        740,
    )
    assert find_overlap(counts, TUMOUR, 999).num_both == expected[2, 2]
    assert find_overlap(counts, TUMOUR, 999).num_voxels == 999
