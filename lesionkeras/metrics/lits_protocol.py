"""Scores as the final program of the LiTS challenge computes them, its faults included.

What is wrong in it, and is kept here so that figures compare with published ones:

1. The overlap of a lesion divides by a union in which predicted voxels are looked up by their own
   component's number although they carry the lesion's by then: where the numbers differ, which is
   the rule, the union is the (merged) lesion alone or takes in another lesion's prediction.
2. Lesions that one predicted component covers are merged and count as one hit; if the hit is
   refused, all of them are subtracted, so that counts can fall below zero.
3. False components are the predicted ones less the *lesions* found, whatever was merged.
4. Overlap and distances of lesions are means over lesions found at .5 alone: what was missed or
   found badly does not count.
5. RVD of objects is (truth - prediction) / prediction: by the wrong volume, with the wrong sign.
6. A case without tumour in truth and prediction has tumour Dice 1 in the mean over cases; without
   tumour in the truth alone it has 0.
7. Without a voxel of label 1 the liver scores 0 and 9001 mm even if all of it is labelled tumour,
   its Dice joins the global one as missed, and the tumour burden's error is about -9001.
8. The maximum of the tumour burden's error is of signed values.
9. Lesions are numbered in 8 bits once matched: the 257th is taken for the first.

Its `dice` gets arrays of component numbers instead of masks, which does no harm: medpy casts them.

Source: Bilic et al., The Liver Tumor Segmentation Benchmark (LiTS), Medical Image Analysis 84
    (2023) 102680; the scoring program's public repository, PatrickChrist/lits-challenge-scoring.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lesionkeras.metrics.lesion_table import list_lesions
from lesionkeras.metrics.mask_pair import Lesions, MaskPair, find_lesions
from lesionkeras.metrics.overlap import LIVER, UNDEFINED, Overlap
from lesionkeras.metrics.scores import THRESHOLDS, CaseScores, Detection, ObjectScores
from lesionkeras.metrics.surface import SurfaceScores

CONNECTIVITY = 1  # across faces: scipy.ndimage.label without a structure
PENALTY = 9001.0  # the program's LARGE, in whatever unit
WORST = ObjectScores(0.0, 0.0, 1.0, PENALTY, PENALTY, PENALTY, PENALTY)
NUM_NUMBERS = 256  # of matched lesions: 8 bits


@dataclass(frozen=True)
class Match:
    """What the program makes of the components at one overlap.

    Attributes:
        num_found: Its count of hits.
        given: int64 [predicted], the lesion that a component was given to, 0 for none.
        kept: bool [predicted], whether that lesion was not refused.
        merged: int64 [true], the lesion that a lesion was merged into, itself as a rule.
    """

    num_found: int
    given: np.ndarray
    kept: np.ndarray
    merged: np.ndarray

    @property
    def written(self) -> np.ndarray:
        """int64 [predicted], the number that the program writes into 8 bits."""
        return np.where(self.kept, self.given, 0) % NUM_NUMBERS


def score_lits(pair: MaskPair) -> CaseScores:
    """Scores a case as the organisers' final program does.

    Args:
        pair: Masks on the grid as their files store it: component numbers, and with them fault 1,
            go by the file's x, then y, then z.

    Returns:
        The scores; NaN as `burden_error` where the truth has no liver (the program stops there).
    """
    lesions = find_lesions(pair, CONNECTIVITY, x_first=True)
    matches = [match_lesions(lesions, threshold) for threshold in THRESHOLDS]
    any_match, half_match = matches
    objects = _score_objects(pair, lesions, half_match) if half_match.num_found > 0 else ()
    has_liver = bool(pair.counts[:, LIVER].any())
    tumour, liver = pair.tumour, pair.liver
    if not has_liver:
        liver = Overlap(0, liver.num_truth, 0, liver.num_voxels)
    is_clean = not tumour.num_truth and not tumour.num_prediction
    found = [(match.given * match.kept)[:, None] == match.merged for match in matches]
    return CaseScores(
        protocol="lits",
        spacing_mm=pair.spacing_mm,
        liver=liver,
        tumour=tumour,
        liver_dice=liver.dice if has_liver else WORST.dice,
        tumour_dice=1.0 if is_clean else tumour.dice,
        liver_objects=_score_liver(pair) if has_liver else (WORST,),
        tumour_objects=objects,
        detections=(_count(lesions, any_match, 0), _count(lesions, half_match, 1)),
        lesions=list_lesions(
            pair,
            lesions,
            members=half_match.given[:, None] == half_match.merged,
            merged=half_match.merged,
            found=(found[0].any(axis=0), found[1].any(axis=0)),
        ),
        burden_error=_compute_burden_error(pair),
    )


def match_lesions(lesions: Lesions, threshold: float) -> Match:
    """Merges and matches components as the program does.

    Args:
        lesions: Components of both masks, numbered x first.
        threshold: Overlap above which a match is kept.
    """
    num_true = lesions.truth.count
    given = np.zeros(lesions.prediction.count, np.int64)
    merged = np.arange(1, num_true + 1)
    if not num_true:
        return Match(0, given, np.zeros(given.size, bool), merged)
    touching = np.flatnonzero(lesions.shared.any(axis=1)) + 1
    shared, truths, merge_counts = _merge_truth(
        lesions.shared[touching - 1], np.arange(1, num_true + 1), merged
    )
    best = np.zeros_like(shared)
    rows = np.arange(len(touching))
    best[rows, shared.argmax(axis=1)] = shared.max(axis=1)
    heads = touching
    for column, lesion in enumerate(truths):
        rows = np.flatnonzero(best[:, column])
        given[heads[rows] - 1] = lesion
        if rows.size > 1:
            best[rows[0]] = best[rows].sum(axis=0)
            best, heads = np.delete(best, rows[1:], axis=0), np.delete(heads, rows[1:])
    return _refuse(lesions, threshold, best, heads, truths, merge_counts, given, merged)


def _merge_truth(
    shared: np.ndarray, truths: np.ndarray, merged: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """Merge lesions covered by one component; `merged` is written to."""
    merge_counts = {int(number): 1 for number in truths}
    for row in range(len(shared)):
        columns = [
            int(column)
            for column in np.flatnonzero(shared[row])
            if shared[:, column].argmax() == row
        ]
        for column in columns:
            merge_counts[int(truths[column])] = len(columns)
            merged[merged == truths[column]] = truths[columns[0]]
        if len(columns) > 1:
            shared = shared.copy()
            shared[:, columns[0]] = shared[:, columns].sum(axis=1)
            shared = np.delete(shared, columns[1:], axis=1)
            truths = np.delete(truths, columns[1:])
    return shared, truths, merge_counts


def _refuse(
    lesions: Lesions,
    threshold: float,
    best: np.ndarray,
    heads: np.ndarray,
    truths: np.ndarray,
    merge_counts: dict[int, int],
    given: np.ndarray,
    merged: np.ndarray,
) -> Match:
    """Refuse matches by the program's overlap, one after the other: each changes the next union."""
    num_found = len(heads)
    written = given % NUM_NUMBERS
    kept = given > 0
    sizes, predicted = lesions.truth.sizes, lesions.prediction.sizes
    for row, component in enumerate(heads):
        for column in np.flatnonzero(best[row]):
            lesion = int(truths[column])
            truth = merged == lesion
            mistaken = kept & (written == component)  # fault 1: the component's number, not this
            both = lesions.shared[np.ix_(mistaken, truth)].sum()
            union = sizes[truth].sum() + predicted[mistaken].sum() - both
            if best[row, column] / union <= threshold:
                kept &= written != lesion
                num_found -= merge_counts[lesion]
    return Match(num_found, given, kept, merged)


def _count(lesions: Lesions, match: Match, place: int) -> Detection:
    return Detection(
        threshold=THRESHOLDS[place],
        num_found=match.num_found,
        num_missed=lesions.truth.count - match.num_found,
        num_true=match.num_found,
        num_false=lesions.prediction.count - match.num_found,
    )


def _score_objects(pair: MaskPair, lesions: Lesions, match: Match) -> tuple[ObjectScores, ...]:
    """Score what was kept at .5, by the number that was written."""
    scores = []
    for number in np.unique(match.written[match.written > 0]):
        predicted, true = match.written == number, match.merged == number
        if not true.any():  # fault 9
            scores.append(WORST)
            continue
        surfaces = pair.measure_voxels(
            lesions.truth.list_voxels(np.flatnonzero(true) + 1),
            lesions.prediction.list_voxels(np.flatnonzero(predicted) + 1),
        )
        both = int(lesions.shared[np.ix_(predicted, true)].sum())
        sizes = int(lesions.truth.sizes[true].sum()), int(lesions.prediction.sizes[predicted].sum())
        scores.append(_score_object(both, *sizes, surfaces))
    return tuple(scores)


def _score_liver(pair: MaskPair) -> tuple[ObjectScores, ...]:
    liver = pair.liver
    if not liver.num_truth:
        return (WORST,)
    counts = (liver.num_both, liver.num_truth, liver.num_prediction)
    return (_score_object(*counts, pair.liver_surfaces),)


def _score_object(both: int, truth: int, prediction: int, surfaces: SurfaceScores) -> ObjectScores:
    dice = 2.0 * both / (truth + prediction)
    jaccard = dice / (2.0 - dice)
    return ObjectScores(
        dice=dice,
        jaccard=jaccard,
        voe=1.0 - jaccard,
        rvd=(truth - prediction) / prediction,
        assd_mm=surfaces.assd_mm,
        rmsd_mm=surfaces.rmsd_mm,
        msd_mm=surfaces.msd_mm,
    )


def _compute_burden_error(pair: MaskPair) -> float:
    liver, tumour = pair.liver, pair.tumour
    if not liver.num_truth:
        return UNDEFINED
    predicted = PENALTY
    if pair.counts[:, LIVER].any():
        predicted = tumour.num_prediction / liver.num_prediction
    return tumour.num_truth / liver.num_truth - predicted
