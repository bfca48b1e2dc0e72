"""Scores of a segmenter on volumes, and on slices as the papers have them, for metrics.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lesionkeras.config import PostprocessConfig, SegmentationRecipe
from lesionkeras.ct.nifti import write_nifti
from lesionkeras.ct.volume import Volume
from lesionkeras.data.segmentation import SegmentationSplit
from lesionkeras.data.segmentation_batches import make_segmentation_eval
from lesionkeras.inference.postprocess import keep_slice_steps, list_variants, postprocess
from lesionkeras.inference.volumes import (
    SegmentedVolume,
    is_scattered,
    make_predictor,
    segment_volumes,
    to_stored,
)
from lesionkeras.metrics.bootstrap import NUM_RESAMPLES
from lesionkeras.metrics.corrected_protocol import CONNECTIVITY
from lesionkeras.metrics.mask_pair import find_lesions, pair_masks
from lesionkeras.metrics.overlap import count_labels, find_overlap
from lesionkeras.metrics.scores import CaseScores
from lesionkeras.metrics.volumes import VolumeEvaluator
from lesionkeras.models.fast import fold_norms
from lesionkeras.report.segmentation_limits import OVERLAP_NAMES, blank_structure, keep_overlap
from lesionkeras.segmentation_losses import segmentation_loss
from lesionkeras.training.segmenter import find_monitor

STRUCTURES = {"tumour": 2, "liver": 1}  # and the least label that belongs to it
OBJECT_NAMES = ("voe", "rvd", "assd_mm", "rmsd_mm", "msd_mm")
SLICE_NAMES = ("dice", "jaccard", "accuracy", "sensitivity")  # what P4 and P5 report
LITS_NAMES = ("dice", "jaccard", "voe", "rvd", "assd", "rmsd", "msd")
Progress = Callable[[int, int], None]


@dataclass
class StepScores:
    """Scores of the masks after some steps of post-processing, one case after the other."""

    title: str
    config: PostprocessConfig
    is_used: bool
    dice: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STRUCTURES})
    lesions: int = 0
    lesions_found: int = 0
    false_components: int = 0

    def add(self, volume: SegmentedVolume, mask: np.ndarray) -> None:
        """Score a case."""
        pair = pair_masks(volume.truth, mask, volume.spacing_mm, volume.name)
        for name in STRUCTURES:
            overlap = getattr(pair, name)
            self.dice[name].append(overlap.dice if overlap.num_truth else math.nan)
        touching = find_lesions(pair, CONNECTIVITY).shared > 0
        self.lesions += touching.shape[1]
        self.lesions_found += int(touching.any(axis=0).sum())
        self.false_components += int((~touching.any(axis=1)).sum())

    def to_row(self) -> dict[str, Any]:
        """Return a row of metrics.json: means over the cases that have the structure."""
        return {
            "step": self.title,
            **{f"{name}_dice": _mean(values) for name, values in self.dice.items()},
            "lesions_found": self.lesions_found,
            "lesions": self.lesions,
            "false_components": self.false_components,
            "used": self.is_used,
        }


class SliceScores:
    """Scores of slices at the network's size, as P4 and P5 have them, each slice counting once.

    Both give formulas and no way of averaging; a slice that is empty in truth and prediction scores
    1, as the smoothing that is usual in such code has it.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[list[float]]] = {name: [] for name in STRUCTURES}
        self._side_px = 0

    def add(self, truths: np.ndarray, predictions: np.ndarray) -> None:
        """Score slices, uint8 [n, S, S] each."""
        self._side_px = truths.shape[-1]
        for truth, prediction in zip(truths, predictions, strict=True):
            counts = count_labels(truth[None], prediction[None])
            for name, least_label in STRUCTURES.items():
                overlap = find_overlap(counts, least_label, truth.size)
                values = [getattr(overlap, score) for score in SLICE_NAMES]
                if not overlap.num_either:
                    values = [1.0] * len(values)
                self._values[name].append(values)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return rows of metrics.json; a sensitivity that a slice does not have is left out."""
        rows = []
        for name, values in self._values.items():
            means = [_mean(column) for column in zip(*values, strict=True)]
            words = f"mean over {len(values)} slices at {self._side_px} px"
            rows.append(
                {
                    "definition": f"{words} without post-processing, one empty in both scores 1",
                    "target": name,
                    **dict(zip(SLICE_NAMES, means, strict=True)),
                    "image_size_px": self._side_px,
                }
            )
        return rows


def measure_volumes(
    split: SegmentationSplit,
    recipe: SegmentationRecipe,
    model: keras.Model,
    masks: Path,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Segment volumes one after the other, write their masks, and score them.

    Where a volume's slices are no whole volume (P5's split), only overlap is scored, only steps of
    post-processing are done that work slice by slice, and no mask is written.

    Args:
        split: The volumes held out.
        recipe: Data, inference and post-processing.
        model: The trained network.
        masks: Folder for `VOLUME.nii.gz`; made where it is missing.
        progress: Called with slices done and slices in all.

    Returns:
        "protocol", "lesions", "postprocessing", "slices", "num_resamples" and "scattered" of
        metrics.json.
    """
    scattered = is_scattered(split)
    used = keep_slice_steps(recipe.postprocess) if scattered else recipe.postprocess
    evaluator, slices = VolumeEvaluator(), SliceScores()
    steps = [StepScores(*variant) for variant in list_variants(used, by_slice=scattered)]
    fast = fold_norms(model) if isinstance(model, keras.Model) else model
    predict = make_predictor(fast, recipe.inference, recipe.loss.target)
    for volume in segment_volumes(predict, split, recipe, progress):
        slices.add(volume.square_truths, volume.square_masks)
        for step in steps:
            mask = postprocess(volume.mask, volume.tumour_prob, volume.spacing_mm, step.config)
            step.add(volume, mask)
            if step.config == used:
                final = replace(volume, mask=mask)
        evaluator.add(volume.name, volume.patient, *to_stored(final))
        if not scattered:
            _write_mask(masks, final)
    metrics = describe_scores(evaluator, recipe.train.seed) | {
        "postprocessing": [step.to_row() for step in steps],
        "slices": slices.to_rows(),
        "num_resamples": NUM_RESAMPLES,
        "scattered": False,
    }
    if scattered:
        keep_overlap(metrics)
    if recipe.model.head == "binary":
        blank_structure(metrics, "liver" if recipe.loss.target == "tumour" else "tumour")
    return metrics


def _write_mask(folder: Path, volume: SegmentedVolume) -> None:
    folder.mkdir(exist_ok=True)
    written = Volume(volume.mask, volume.affine, volume.source)
    write_nifti(folder / f"{volume.name}.nii.gz", written)


def describe_scores(evaluator: VolumeEvaluator, seed: int) -> dict[str, Any]:
    """Return what metrics.json says of scored cases; what does not exist is NaN.

    Args:
        evaluator: With its cases.
        seed: Of the intervals' draws.

    Returns:
        "protocol": "corrected" and "lits", each "per_case", "mean" and "global"; "lesions".
    """
    summary = {name: evaluator.summarise(name, seed) for name in ("corrected", "lits")}
    rows = {
        name: [
            {"case": case.case, "patient": case.patient, **describe_case(case.get(name))}
            for case in evaluator.cases
        ]
        for name in summary
    }
    lesions = [
        {
            "case": case.case,
            "volume_mm3": lesion.volume_mm3,
            "dice": lesion.dice,
            "detected": lesion.found,
            "overlap": lesion.iou,
        }
        for case in evaluator.cases
        for lesion in case.corrected.lesions
        if lesion.kind == "lesion"
    ]
    protocols = {
        "corrected": {"per_case": rows["corrected"], **_describe_corrected(summary["corrected"])},
        "lits": {"per_case": rows["lits"], **_describe_lits(summary["lits"])},
    }
    return {"protocol": protocols, "lesions": lesions}


def describe_case(scores: CaseScores) -> dict[str, Any]:
    """Return one case's row of metrics.json."""
    z, y, x = scores.spacing_mm
    any_overlap, half = scores.detections
    row: dict[str, Any] = {
        "tumour_dice": scores.tumour_dice,
        "liver_dice": scores.liver_dice,
        "lesions": any_overlap.num_found + any_overlap.num_missed,
        "lesions_found": any_overlap.num_found,
        "false_components": any_overlap.num_false,
        "recall_0": any_overlap.recall,
        "recall_50": half.recall,
        "precision_0": any_overlap.precision,
        "precision_50": half.precision,
        "lesion_free": not scores.has_lesion,
        "false_positive_mm3": scores.false_positive_mm3,
        "tumour_mm3": scores.tumour.num_truth * z * y * x,
        "predicted_tumour_mm3": scores.tumour.num_prediction * z * y * x,
        "liver_mm3": scores.liver.num_truth * z * y * x,
        "burden_error": scores.burden_error,
    }
    for name in STRUCTURES:
        overlap, objects = getattr(scores, name), getattr(scores, f"{name}_objects")
        for score in OVERLAP_NAMES[1:] if overlap.num_truth else ():
            row[f"{name}_{score}"] = getattr(overlap, score)
        for score in OBJECT_NAMES if objects else ():
            row[f"{name}_{score}"] = _mean([getattr(each, score) for each in objects])
    return row


def _describe_corrected(summary: dict[str, Any]) -> dict[str, Any]:
    mean, counts, pooled = {}, {}, {}
    for name in STRUCTURES:
        for score in (*OVERLAP_NAMES, *OBJECT_NAMES):
            figure = summary[name][score]
            mean[f"{name}_{score}"] = _interval(figure)
            counts[f"{name}_{score}"] = figure["num_cases"]
        pooled[f"{name}_dice"] = _interval(summary[name]["dice_global"])
    for threshold, suffix in (("0", "0"), ("0.5", "50")):
        for score in ("recall", "precision"):
            pooled[f"{score}_{suffix}"] = _interval(summary["lesions"][threshold][score])
    mean["false_components"] = _interval(summary["lesions"]["0"]["false_per_case"])
    burden = summary["tumour_burden"]
    counts["burden_error"] = burden["rmse"]["num_cases"]
    pooled |= {"burden_rmse": _interval(burden["rmse"]), "burden_max": burden["max_absolute"]}
    return {"mean": mean, "counts": counts, "global": pooled}


def _describe_lits(summary: dict[str, Any]) -> dict[str, Any]:
    mean, pooled = {}, {}
    for name, theirs in (("tumour", "lesion"), ("liver", "liver")):
        found = summary[f"{theirs}_segmentation"]
        mean[f"{name}_dice"], pooled[f"{name}_dice"] = found["dice_per_case"], found["dice_global"]
        for score in LITS_NAMES[1:]:
            unit = "_mm" if score in ("assd", "rmsd", "msd") else ""
            mean[f"{name}_{score}{unit}"] = found[score]
    detection = summary["lesion_detection"]
    for ours, theirs in (("0", "_greater_zero"), ("50", "")):
        for score in ("recall", "precision"):
            pooled[f"{score}_{ours}"] = detection[score + theirs]
    for score in ("rmse", "max"):
        pooled[f"burden_{score}"] = summary[f"tumour_burden_{score}"]
    return {"mean": mean, "global": pooled}


def _interval(figure: dict[str, Any]) -> dict[str, Any]:
    return {key: figure[key] for key in ("value", "low", "high")}


def _mean(values: Iterable[float]) -> float:
    """The mean of those that exist, or NaN."""
    exist = [value for value in values if not math.isnan(value)]
    return float(np.mean(exist)) if exist else math.nan


def make_validation(
    split: SegmentationSplit | None, recipe: SegmentationRecipe
) -> Callable[[keras.Model], dict[str, float]] | None:
    """Return a function that scores a network on the validation slices, if there are any.

    Args:
        split: The validation slices, or None.
        recipe: Data, inference (without mirror images, which cost a pass each) and loss.

    Returns:
        From a network to its mean Dice of tumour and liver over volumes that have them (0 where
        none has; of a head of one structure that one), without post-processing, and, for a
        plateau, its loss; or None.
    """
    if split is None:
        return None
    plain = replace(recipe, inference=replace(recipe.inference, flips=False))
    predictors: dict[int, Any] = {}
    known = [find_monitor(recipe).removeprefix("val_").removesuffix("_dice")]
    if recipe.model.head != "binary":
        known = list(STRUCTURES)

    def validate(model: keras.Model) -> dict[str, float]:
        if id(model) not in predictors:
            target = recipe.loss.target
            predictors[id(model)] = make_predictor(model, plain.inference, target)
        scores = StepScores("", PostprocessConfig(), True)
        for volume in segment_volumes(predictors[id(model)], split, plain):
            scores.add(volume, volume.mask)
        found = {f"{name}_dice": _mean(scores.dice[name]) for name in known}
        found = {name: 0.0 if math.isnan(value) else value for name, value in found.items()}
        if recipe.optimizer.schedule == "plateau":
            found["loss"] = compute_loss(model, split, recipe)
        return found

    return validate


def compute_loss(model: keras.Model, split: SegmentationSplit, recipe: SegmentationRecipe) -> float:
    """Return the mean loss of the slices of a split, by batches, as P5's schedule watches it."""
    batches = make_segmentation_eval(split, recipe.data, batch_size=recipe.train.batch_size)
    losses, counts = [], []
    for image, mask in batches:
        losses.append(float(segmentation_loss(model(image, training=False), mask, recipe.loss)))
        counts.append(len(mask))  # the last batch may be smaller
    return float(np.average(losses, weights=counts))
