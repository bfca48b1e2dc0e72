"""A segmentation run from its data to its export: open, train, measure once, report, export.

It stands beside the report because only here every other part may be used (DESIGN, 2).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np

from lesionkeras.config import SegmentationRecipe
from lesionkeras.ct.grid import to_slice
from lesionkeras.ct.nifti import read_nifti
from lesionkeras.data.segmentation import (
    SegmentationSplits,
    check_segmentation_data,
    open_segmentation_splits,
)
from lesionkeras.data.segmentation_batches import check_augmentation
from lesionkeras.data.slices import LESION, LIVER
from lesionkeras.errors import RecipeError
from lesionkeras.files import write_json
from lesionkeras.inference.volumes import list_volumes
from lesionkeras.models import check_segmenter, check_size
from lesionkeras.models.blocks import NUM_LOGITS
from lesionkeras.models.trained_backbone import check_unseen, find_trained_on
from lesionkeras.models.weights import compute_weights_sha256, resolve_input_scaling
from lesionkeras.recipe import check_recipe
from lesionkeras.report.console import Counter
from lesionkeras.report.detection import find_fingerprint
from lesionkeras.report.segmentation_report import write_segmentation_report
from lesionkeras.report.segmentation_scores import make_validation, measure_volumes
from lesionkeras.segmentation_losses import check_loss
from lesionkeras.serving.export_segmenter import export_segmenter
from lesionkeras.training.log import Row
from lesionkeras.training.run import RunDirectory, check_out, describe_environment
from lesionkeras.training.segmenter import find_monitor, train_segmenter

Recipe = TypeVar("Recipe", bound=SegmentationRecipe)
NUM_WARMUP_IMAGES = 2


@dataclass(frozen=True)
class SegmentationRun:
    """One run: its recipe as it is used, its data, and where it is written."""

    recipe: SegmentationRecipe
    splits: SegmentationSplits
    directory: RunDirectory

    @property
    def masks(self) -> Path:
        """Folder of the predicted masks."""
        return self.directory.path / "masks"


def check_start(recipe: Recipe, out: Path, experiment: str) -> Recipe:
    """Check, before any data is read or written, that a recipe can run in a folder.

    Args:
        recipe: As the command line gave it.
        out: The run directory; it may be missing.
        experiment: Whose recipe it is ("unet").

    Returns:
        The recipe with the input scaling that its weights want, for as many channels as slices.

    Raises:
        RecipeError, RunError: A field of data, augmentation, network or loss is not known or does
            not fit another, the image's size, the weights or the folder do not fit.
    """
    check_recipe(recipe)  # made in Python, it has passed no limit yet
    check_segmentation_data(recipe.data)
    check_augmentation(recipe.augment)
    if not (recipe.train.epochs or recipe.train.cpu_budget_s):
        raise RecipeError(
            "Training would never end",
            where="train.epochs and train.cpu_budget_s",
            found="0",
            wanted="a number above 0 in one of them",
        )
    model = replace(resolve_input_scaling(recipe.model), in_channels=recipe.data.slices)
    recipe = replace(recipe, model=model)
    _check_normalisation(recipe)
    check_segmenter(model)
    check_unseen(recipe)
    check_loss(recipe.loss, max(NUM_LOGITS[model.head], 2))
    _check_level(recipe)
    check_size(model, recipe.data.image_size_px)
    if recipe.augment.mode == "online" and recipe.augment.crop_size_px:
        check_size(model, recipe.augment.crop_size_px, "augment.crop_size_px")
    check_out(out, recipe, experiment)
    return recipe


def _check_normalisation(recipe: SegmentationRecipe) -> None:
    """Raise if a network would scale, as if it were in 0..1, what has zero mean already."""
    scaling = getattr(recipe.model, "input_scaling", "none")
    if recipe.data.normalisation != "standardise" or scaling == "none":
        return
    weights = getattr(recipe.model, "weights", "none")
    raise RecipeError(
        "The network scales an image of 0 to 1, and gets one of zero mean",
        where="data.normalisation",
        found=f"standardise with model.input_scaling={scaling}"
        + (f", which model.weights={weights} wants" if weights != "none" else ""),
        wanted="data.normalisation=window, or model.input_scaling=none without weights",
        next_step="set data.normalisation=window",
    )


def _check_level(recipe: SegmentationRecipe) -> None:
    """Raise if scans shall be moved to a level of the liver by a network that does not know it."""
    knows_liver = recipe.model.head != "binary" or recipe.loss.target == "liver"
    if recipe.data.liver_hu and not knows_liver:
        raise RecipeError(
            "A network that finds tumours alone cannot tell the level of the liver",
            where="data.liver_hu",
            found=f"{recipe.data.liver_hu:g} with model.head=binary and loss.target=tumour",
            wanted="data.liver_hu=0, or model.head=three_class",
            next_step="set data.liver_hu=0",
        )


def open_run(
    builders: Sequence[Any], recipe: SegmentationRecipe, out: Path, experiment: str
) -> SegmentationRun:
    """Open data, and make or resume the run directory.

    Args:
        builders: Prepared TFDS builders of slices with masks; they are pooled.
        recipe: From `check_start`.
        out: The run directory.
        experiment: Whose recipe it is ("unet").

    Returns:
        The run; nothing is trained yet.

    Raises:
        DataError, RecipeError, RunError: Data, weights or folder do not fit; `out` is untouched.
    """
    with Counter(f"Reading {recipe.data.name}") as progress:
        splits = open_segmentation_splits(builders, recipe.data, recipe.train.seed, progress)
    if splits.warning:
        print(f"Warning: {splits.warning}")
    for name, counts in splits.describe().items():
        words = (f"{count} {what.replace('_', ' ')}" for what, count in counts.items())
        print(f"{name}: " + ", ".join(words))
    fingerprint = "+".join(find_fingerprint(builder) for builder in builders)
    weights = (compute_weights_sha256(recipe.model), find_trained_on(recipe))
    environment = describe_environment(fingerprint, *weights)
    directory = RunDirectory.open(out, recipe, experiment, environment)
    print(f"{'Resuming' if directory.resumed else 'Run'}: {directory.path}", flush=True)
    return SegmentationRun(recipe, splits, directory)


def train(run: SegmentationRun) -> tuple[keras.Model, list[Row], int]:
    """Train, choosing the best epoch on validation patients if there are any."""
    validate = make_validation(run.splits.validation, run.recipe)
    return train_segmenter(run.recipe, run.splits, run.directory, validate)


def measure(
    run: SegmentationRun, model: keras.Model, log_rows: Sequence[Row], best_epoch: int
) -> dict[str, Any]:
    """Measure a trained segmenter once on the volumes held out; write masks/ and metrics.json.

    Args:
        run: The run.
        model: With the weights of its best epoch.
        log_rows: Rows of log.csv.
        best_epoch: For the record.

    Returns:
        What metrics.json holds.
    """
    with Counter("Testing slices") as progress:
        metrics = measure_volumes(run.splits.test, run.recipe, model, run.masks, progress)
    metrics |= {
        "splits": run.splits.describe(),
        "leak": run.splits.warning,
        "best_epoch": best_epoch,
        "cpu_seconds": log_rows[-1]["cpu_seconds"] if log_rows else None,
    }
    write_json(run.directory.metrics, metrics)
    return json.loads(run.directory.metrics.read_text(encoding="utf-8"))  # null where undefined


def write_report(run: SegmentationRun, log_rows: Sequence[Row], metrics: dict[str, Any]) -> Path:
    """Write report.html from what the run has written, with the best, median and worst case.

    Args:
        run: The run.
        log_rows: Rows of log.csv.
        metrics: From `measure`.

    Returns:
        The page's path.
    """
    record = json.loads(run.directory.recipe_json.read_text(encoding="utf-8"))
    rows = metrics["protocol"]["corrected"]["per_case"]
    # scattered slices leave no masks
    examples = [] if metrics.get("scattered") else choose_examples(run, rows)
    return write_segmentation_report(run.directory.path, record, log_rows, metrics, examples)


def choose_examples(
    run: SegmentationRun, per_case: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the slice with most tumour of the best, the median and the worst case.

    Args:
        run: Its masks are written; of a network that knows the liver alone it is the liver.
        per_case: Rows with "case", "tumour_dice" and "liver_dice", null where there is none.

    Returns:
        Dicts as `write_segmentation_report` takes them; fewer where there are fewer cases.
    """
    score = find_monitor(run.recipe).removeprefix("val_")
    scored = [row for row in per_case if row[score] is not None]
    ranked = sorted(scored, key=lambda row: row[score], reverse=True)
    places = {"best": 0, "worst": len(ranked) - 1, "median": len(ranked) // 2}
    chosen: dict[str, str] = {}
    for kind, place in places.items():
        if ranked and ranked[place]["case"] not in chosen:
            chosen[ranked[place]["case"]] = kind
    return [_make_example(run, case, kind) for case, kind in chosen.items()]


def _make_example(run: SegmentationRun, case: str, kind: str) -> dict[str, Any]:
    slices, rows = run.splits.test.slices, list_volumes(run.splits.test)[case]
    least = LIVER if find_monitor(run.recipe) == "val_liver_dice" else LESION
    counts = [np.count_nonzero(slices.own_masks[row] >= least) for row in rows]
    z = int(np.argmax(counts))
    row = rows[z]
    seen = slices.read_image(row, 1).astype(np.float32)  # as the network saw it, on the own pixels
    image_hu = to_slice(seen, slices.find_grid(row), beyond=run.recipe.data.window_hu[0])
    _, y, x = slices.find_own_spacing_mm(row)
    return {
        "title": f"{case}, slice {slices.numbers[row]}",
        "kind": kind,
        "image_hu": np.rint(image_hu[..., 0]).astype(np.int16),
        "truth": slices.own_masks[row],
        "prediction": read_nifti(run.masks / f"{case}.nii.gz", "mask").array[z],
        "spacing_mm": (y, x),
    }


def export(run: SegmentationRun, model: keras.Model, metrics: dict[str, Any]) -> Path:
    """Write export/1; warm-up images are noise, not patients.

    Args:
        run: The run; its first training slice gives the warm-up requests their size.
        model: The trained segmenter.
        metrics: From `measure`.

    Returns:
        The export's folder.
    """
    slices, data = run.splits.train.slices, run.recipe.data
    height, width = (int(length) for length in slices.size_px[0])
    shape = (NUM_WARMUP_IMAGES, height, width, data.slices)
    warmup_hu = np.random.default_rng(0).normal(60.0, 30.0, shape).astype(np.int16)
    _, y, x = slices.find_own_spacing_mm(0)
    return export_segmenter(
        model,
        run.recipe,
        run.directory.export.parent,
        warmup_hu=warmup_hu,
        warmup_spacing_mm=(y, x),
        metadata={"scores": metrics["protocol"]["corrected"]["mean"], "data": data.name},
    )


def print_summary(run: SegmentationRun, metrics: dict[str, Any]) -> None:
    """Print each case, where the run's files are and, last, the scores with their intervals."""
    corrected, directory = metrics["protocol"]["corrected"], run.directory
    for row in corrected["per_case"]:
        dice = ", ".join(_tell(name, row[f"{name}_dice"]) for name in ("tumour", "liver"))
        print(f"{row['case']}: Dice of {dice}{_tell_lesions(row)}")
    print(f"Run: {directory.path}\nReport: {directory.report}\nExport: {directory.export}")
    means = ", ".join(
        _tell(name, corrected["mean"][f"{name}_dice"]) for name in ("tumour", "liver")
    )
    counts = metrics["splits"]["test"]
    numbers = ((counts["volumes"], "test volume"), (counts["patients"], "patient"))
    measured = " of ".join(f"{count} {what}{'s' * (count != 1)}" for count, what in numbers)
    if metrics.get("scattered"):
        measured = f"{counts['slices']} scattered slices of {measured}"
    print(f"Score: Dice of {means} on {measured}")


def _tell_lesions(row: Mapping[str, Any]) -> str:
    if row.get("lesions_found") is None:  # scattered slices, or a network of the liver alone
        return ""
    found = f"{row['lesions_found']} of {row['lesions']} lesions"
    return f"; {found}, {row['false_components']} false components"


def _tell(name: str, figure: Any) -> str:
    parts = figure if isinstance(figure, dict) else {"value": figure, "low": None}
    if parts["value"] is None:
        return f"{name} undefined"
    low = parts["low"]
    interval = "" if low is None else f" [{low:.3f}, {parts['high']:.3f}]"
    return f"{name} {parts['value']:.3f}{interval}"


def check_search(builders: Sequence[Any], recipe: SegmentationRecipe) -> None:
    """Check, before anything of a search is written, what would fail every one of its trials.

    Args:
        builders: As for `open_run`.
        recipe: That the search starts from.

    Raises:
        DataError: A split is missing, or a patient is in two.
        RecipeError: The weights cannot be had or may have seen whom is tested on, or the recipe
            holds no patients out to choose on: the held-out volumes are not tuned on.
    """
    compute_weights_sha256(resolve_input_scaling(recipe.model))
    check_unseen(recipe)
    splits = open_segmentation_splits(builders, recipe.data, recipe.train.seed)
    if splits.validation is None or splits.warning:
        is_leak = bool(splits.warning)
        raise RecipeError(
            "A search has no validation patients",
            where="data.protocol" if is_leak else "data.validation_fraction",
            found=recipe.data.protocol if is_leak else "0",
            wanted="patients that are neither trained nor tested on",
            next_step="give --split patient" if is_leak else "set data.validation_fraction=0.25",
        )


def train_and_validate(
    builders: Sequence[Any], recipe: SegmentationRecipe, out: Path, experiment: str
) -> dict[str, float]:
    """Train a trial of a search and score its best epoch on validation patients.

    The weights are then deleted: the winner is a recipe.

    Args:
        builders: As for `open_run`.
        recipe: Of the trial, one that `check_search` took.
        out: The trial's run directory.
        experiment: Whose recipe it is ("unet").

    Returns:
        The monitored score of the best epoch, val_tumour_dice as a rule.
    """
    run = open_run(builders, check_start(recipe, out, experiment), out, experiment)
    _, rows, best_epoch = train(run)
    for path in (run.directory.model, run.directory.best, run.directory.last):
        path.unlink(missing_ok=True)
    monitor = find_monitor(recipe)
    return {monitor: rows[best_epoch - 1][monitor]}
