"""Scores of a case by definitions that do not depend on numbering, merging or what was found.

A lesion is a component of the truth's label 2, in 3-D and across faces; what is predicted of it
is every predicted component that overlaps it (as the lesion-wise scores of BraTS 2023 have it).  So
no component must be given to one lesion or another, and nothing is merged:

- at overlap 0 a lesion is found if a predicted voxel lies in it, and a predicted component is right
  if it overlaps a lesion;
- at overlap .5 a lesion is found if intersection by union with its components is above .5, and a
  component is right if it overlaps a lesion that is found.

Recall counts lesions, precision counts predicted components, and neither leaves [0, 1].  Where
there is no lesion, Dice, distances and RVD of the tumour do not exist: they are NaN, a summary
counts such cases apart, and what counts of them is the volume predicted in vain.
"""

from __future__ import annotations

import numpy as np

from lesionkeras.metrics.lesion_table import list_lesions
from lesionkeras.metrics.mask_pair import Lesions, MaskPair, find_lesions
from lesionkeras.metrics.overlap import UNDEFINED, Overlap, divide
from lesionkeras.metrics.scores import HALF_OVERLAP, THRESHOLDS, CaseScores, Detection, ObjectScores
from lesionkeras.metrics.surface import SurfaceScores

CONNECTIVITY = 1  # across faces, as lesions of LiTS are counted everywhere


def score_corrected(pair: MaskPair) -> CaseScores:
    """Scores a case.

    Args:
        pair: Its masks.

    Returns:
        The scores, NaN where one does not exist.
    """
    lesions = find_lesions(pair, CONNECTIVITY)
    touching = lesions.shared > 0
    is_touched: np.ndarray = np.any(touching, axis=0)
    found = (is_touched, _find_overlaps(lesions, touching) > HALF_OVERLAP)
    liver, tumour = pair.liver, pair.tumour
    has_lesion = tumour.num_truth > 0
    return CaseScores(
        protocol="corrected",
        spacing_mm=pair.spacing_mm,
        liver=liver,
        tumour=tumour,
        liver_dice=liver.dice if liver.num_truth else UNDEFINED,
        tumour_dice=tumour.dice if has_lesion else UNDEFINED,
        liver_objects=(_score_object(liver, pair.liver_surfaces),) if liver.num_truth else (),
        tumour_objects=(_score_object(tumour, pair.tumour_surfaces),) if has_lesion else (),
        detections=(_count(touching, found, 0), _count(touching, found, 1)),
        lesions=list_lesions(
            pair,
            lesions,
            members=touching,
            merged=np.arange(lesions.truth.count),
            found=found,
        ),
        burden_error=_compute_burden_error(liver, tumour),
    )


def _find_overlaps(lesions: Lesions, touching: np.ndarray) -> np.ndarray:
    """Return intersection by union of each lesion with all that touches it."""
    both = lesions.shared.sum(axis=0)
    predicted = lesions.prediction.sizes @ touching
    return both / (lesions.truth.sizes + predicted - both)


def _count(touching: np.ndarray, found: tuple[np.ndarray, np.ndarray], place: int) -> Detection:
    is_right = touching[:, found[place]].any(axis=1)
    return Detection(
        threshold=THRESHOLDS[place],
        num_found=int(found[place].sum()),
        num_missed=int((~found[place]).sum()),
        num_true=int(is_right.sum()),
        num_false=int((~is_right).sum()),
    )


def _score_object(overlap: Overlap, surfaces: SurfaceScores) -> ObjectScores:
    return ObjectScores(
        dice=overlap.dice,
        jaccard=overlap.jaccard,
        voe=overlap.voe,
        rvd=overlap.rvd,
        assd_mm=surfaces.assd_mm,
        rmsd_mm=surfaces.rmsd_mm,
        msd_mm=surfaces.msd_mm,
    )


def _compute_burden_error(liver: Overlap, tumour: Overlap) -> float:
    """Return predicted less true share of the liver that is tumour; NaN without a true liver.

    Where no liver is predicted there is no tumour in it: 0, so that the case is not left out.
    """
    predicted = tumour.num_prediction / liver.num_prediction if liver.num_prediction else 0.0
    return predicted - divide(tumour.num_truth, liver.num_truth)
