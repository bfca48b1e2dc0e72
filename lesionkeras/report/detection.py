"""A detection run from its data to its export: open, train, test once, report, export.

It stands beside the report because only here every other part may be used (DESIGN, 2).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np

from lesionkeras.boxes.recall import AnchorRecall, compute_grid_recall
from lesionkeras.config import DetectionRecipe, SSDRecipe
from lesionkeras.data.augment import find_read_window
from lesionkeras.data.data_sets import DataSets, list_pooled
from lesionkeras.data.opening import Split, Splits, open_splits
from lesionkeras.data.pipeline import describe_augmentation, make_eval
from lesionkeras.errors import RecipeError
from lesionkeras.files import write_json
from lesionkeras.inference.detect import (
    Findings,
    compute_sizes_mm,
    detect_split,
    make_detector,
    make_validation,
    name_files,
)
from lesionkeras.metrics import compute_operating_point, evaluate_detections
from lesionkeras.models import check_detector
from lesionkeras.models.detector import Detector
from lesionkeras.models.trained_backbone import check_unseen, find_trained_on
from lesionkeras.models.weights import compute_weights_sha256, resolve_input_scaling
from lesionkeras.recipe import check_recipe
from lesionkeras.report.console import Counter
from lesionkeras.report.detection_report import write_detection_report
from lesionkeras.report.figures import MAX_EXAMPLES
from lesionkeras.report.further_sets import describe_further, measure_further
from lesionkeras.report.page import format_count
from lesionkeras.report.paper_blocks import list_at_one
from lesionkeras.report.train_scores import choose_train_images, measure_train
from lesionkeras.serving.export import export_detector
from lesionkeras.training.detector import train_detector
from lesionkeras.training.log import Row
from lesionkeras.training.run import RunDirectory, check_out, describe_environment

NUM_WARMUP_IMAGES = 2
TRUTH_FILE, TRAIN_FILE = "truth.json", "train_predictions.json"
Recipe = TypeVar("Recipe", bound=DetectionRecipe)


@dataclass(frozen=True)
class DetectionRun:
    """One run: its recipe as it is used, its data, and where it is written."""

    recipe: DetectionRecipe
    splits: Splits
    reached: AnchorRecall | None  # None: it has no anchors
    directory: RunDirectory


def check_start(recipe: Recipe, out: Path, experiment: str) -> Recipe:
    """Check, before any data is read or written, that a recipe can run in a folder.

    Args:
        recipe: As the command line gave it.
        out: The run directory; it may be missing.
        experiment: Whose recipe it is ("ssd").

    Returns:
        The recipe with the input scaling that its weights want.

    Raises:
        RecipeError, RunError: The network, its weights or the folder do not fit.
    """
    check_recipe(recipe)  # made in Python, it has passed no limit yet
    list_pooled(recipe.data)
    find_read_window(recipe.data.window_hu, recipe.augment)
    recipe = replace(recipe, model=resolve_input_scaling(recipe.model))
    check_detector(recipe)
    check_unseen(recipe)
    check_out(out, recipe, experiment)
    return recipe


def open_run(builder: Any, recipe: DetectionRecipe, out: Path, experiment: str) -> DetectionRun:
    """Open data, count what anchors reach, and make or resume the run directory.

    Args:
        builder: A prepared TFDS builder with the shared detection schema, or `DataSets`.
        recipe: From `check_start`.
        out: The run directory.
        experiment: Whose recipe it is ("ssd").

    Returns:
        The run; nothing is trained yet.

    Raises:
        DataError, RecipeError, RunError: Data, weights or folder do not fit; `out` is untouched.
    """
    with Counter(f"Reading {recipe.data.name}") as progress:
        splits = open_splits(builder, recipe, progress)
    if splits.warning:
        print(f"Warning: {splits.warning}")
    for name, counts in splits.describe().items():
        print(f"{name}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    print(describe_augmentation(recipe.augment, splits.train.describe()["images"]))
    reached = check_anchors(splits.train, recipe)
    fingerprint = "+".join(map(find_fingerprint, DataSets.of(builder).pooled))
    weights = (compute_weights_sha256(recipe.model), find_trained_on(recipe))
    environment = describe_environment(fingerprint, *weights)
    directory = RunDirectory.open(out, recipe, experiment, environment)
    print(f"{'Resuming' if directory.resumed else 'Run'}: {directory.path}", flush=True)
    return DetectionRun(recipe, splits, reached, directory)


def find_fingerprint(builder: Any) -> str:
    """Return what tells a prepared data set from every other: its folder's name, or its version."""
    folders = Path(str(builder.data_path)).parts
    named = [part for part in folders if part.startswith(f"{builder.info.name}-")]
    return named[-1] if named else str(builder.info.full_name)


def train(run: DetectionRun) -> tuple[keras.Model, list[Row], int]:
    """Train, choosing the best epoch on validation patients; see `train_detector`."""
    # P2's Figure 6 is of validation losses; P1's Figure 5 has none.
    with_loss = not isinstance(run.recipe, SSDRecipe)
    validate = make_validation(run.splits.validation, run.recipe, with_loss)
    return train_detector(run.recipe, run.splits, run.directory, validate)


def check_search(builder: Any, recipe: DetectionRecipe) -> None:
    """Check, before anything of a search is written, what would fail every one of its trials.

    Args:
        builder: As for `open_run`.
        recipe: That the search starts from.

    Raises:
        DataError: A split is missing, or a patient is in two.
        RecipeError: The weights cannot be had or may have seen whom is tested on, or the recipe
            holds no patients out: the test split is not tuned on.
    """
    compute_weights_sha256(resolve_input_scaling(recipe.model))
    check_unseen(recipe)
    splits = open_splits(builder, recipe)
    if splits.validation is None or splits.warning:
        is_paper = recipe.data.protocol == "paper"
        raise RecipeError(
            "A search has no validation patients",
            where="data.protocol" if is_paper else "data.validation_fraction",
            found="paper" if is_paper else f"{recipe.data.validation_fraction:g}",
            wanted="a split by patient that is neither trained nor tested on",
            next_step="give --split patient"
            if is_paper
            else 'give --validation-split "" --set data.validation_fraction=0.1',
        )


def train_and_validate(
    builder: Any, recipe: DetectionRecipe, out: Path, experiment: str
) -> dict[str, float]:
    """Train a trial of a search and score its best epoch on validation patients.

    The weights are then deleted: half a gigabyte a trial, and the winner is a recipe.

    Args:
        builder: As for `open_run`.
        recipe: Of the trial, one that `check_search` took.
        out: The trial's run directory.
        experiment: Whose recipe it is ("ssd").

    Returns:
        val_map50 of the best epoch.
    """
    run = open_run(builder, check_start(recipe, out, experiment), out, experiment)
    _, rows, best_epoch = train(run)
    for path in (run.directory.model, run.directory.best, run.directory.last):
        path.unlink(missing_ok=True)
    return {"val_map50": rows[best_epoch - 1]["val_map50"]}


def check_anchors(split: Split, recipe: DetectionRecipe) -> AnchorRecall | None:
    """Count which training boxes some anchor reaches at IoU .5, and say so where it is too few.

    Args:
        split: What will be trained on.
        recipe: Anchors and image size.

    Returns:
        The share reached, by lesion size in mm; None where the detector has no anchors.
    """
    anchors = getattr(recipe.model, "anchors", None)
    if anchors is None:
        return None
    images = split.images
    used = np.unique(split.rows[:, 0])
    boxes = [images.real_boxes(i) for i in used]
    sizes = [compute_sizes_mm(b, images.spacing_mm[i]) for b, i in zip(boxes, used, strict=True)]
    side = recipe.data.image_size_px
    reached = compute_grid_recall(boxes, np.concatenate(sizes), anchors, (side, side))
    print(f"Anchors reach {reached.share:.1%} of {reached.num_boxes} training boxes at IoU 0.5")
    if reached.warning:
        print(f"Warning: {reached.warning}")
    return reached


def measure(run: DetectionRun, model: Detector, best_epoch: int) -> dict[str, Any]:
    """Measure a trained detector on the test split and write predictions.json and metrics.json.

    Beside them lie truth.json, with which `evaluate` scores the predictions again, and the
    detections on some training images, for the report.

    The score threshold of precision and recall is chosen on validation patients, or on training
    images where nobody was held out; on test images only under P1's split, which has no others.

    Args:
        run: The run.
        model: With the weights of its best epoch.
        best_epoch: For the record.

    Returns:
        What metrics.json holds.
    """
    recipe, splits = run.recipe, run.splits
    detect = make_detector(model)
    chosen_on = "validation" if splits.validation else "train"
    chosen_on = "test" if splits.validation is splits.test else chosen_on
    chosen_from = splits.validation or choose_train_images(splits.train)
    found = detect_split(detect, chosen_from, recipe)
    threshold = compute_operating_point(found.truths, found.detections)
    with Counter("Testing") as progress:
        found = detect_split(detect, splits.test, recipe, progress)
    write_json(run.directory.predictions, found.to_coco())
    write_json(run.directory.predictions.with_name(TRUTH_FILE), found.to_coco_truth())

    def evaluate(seen: Findings) -> dict[str, Any]:
        with Counter("Scoring, per cent") as progress:
            return evaluate_detections(
                seen.truths,
                seen.detections,
                seen.patients,
                threshold,
                seed=recipe.train.seed,
                sizes_px=np.array(seen.sizes_px).reshape(-1, 2),
                progress=progress,
            )

    metrics = evaluate(found)
    metrics |= measure_further(detect, splits, recipe, run.directory, found, evaluate)
    metrics["train"], seen = measure_train(detect, splits.train, recipe, evaluate)
    write_json(run.directory.predictions.with_name(TRAIN_FILE), seen)
    metrics |= {
        "best_epoch": best_epoch,
        "splits": splits.describe(),
        "score_threshold_chosen_on": chosen_on,
        "leak": splits.warning,
    }
    write_json(run.directory.metrics, metrics)
    return metrics


def write_report(run: DetectionRun, log_rows: list[Row], metrics: dict[str, Any]) -> Path:
    """Write report.html from what the run has written, with test and training images as pictures.

    Args:
        run: The run.
        log_rows: Rows of log.csv.
        metrics: From `measure`.

    Returns:
        The page's path.
    """
    directory = run.directory
    record = json.loads(directory.recipe_json.read_text(encoding="utf-8"))
    predictions = json.loads(directory.predictions.read_text(encoding="utf-8"))
    examples = choose_examples(run.splits.test, run.recipe, predictions)
    seen = json.loads((directory.path / TRAIN_FILE).read_text(encoding="utf-8"))
    train_examples = choose_examples(choose_train_images(run.splits.train), run.recipe, seen, 8)
    return write_detection_report(
        directory.path, record, log_rows, metrics, run.reached, examples, train_examples
    )


def choose_examples(
    split: Split,
    recipe: DetectionRecipe,
    predictions: list[dict[str, Any]],
    count: int = MAX_EXAMPLES,
) -> list[dict[str, Any]]:
    """Return images for P1's Figure 6, spread evenly over the split, with lesions first.

    Args:
        split: The test split, or some training images.
        recipe: Window and image size.
        predictions: COCO results of the split.
        count: At most as many.

    Returns:
        Dicts as `report.figures.draw_examples` takes them, boxes in px of the network's input.
    """
    has_lesion = (split.images.classes[split.rows[:, 0]] >= 0).any(axis=1)
    order = [*np.flatnonzero(has_lesion), *np.flatnonzero(~has_lesion)]
    with_lesion = max(int(has_lesion.sum()), 1)
    step = max(with_lesion // count, 1)
    chosen = sorted(order[::step][:count])
    shown = Split(split.images, split.rows[chosen])
    names = name_files([split.images.files[i] for i in split.rows[:, 0]], recipe.data)
    examples = []
    for number, (image_unit, target) in zip(chosen, make_eval(shown, recipe, 1), strict=True):
        image_idx = split.rows[number, 0]
        own = [p for p in predictions if p["image_id"] == number]
        boxes = np.array([p["bbox"] for p in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        real = target["classes"][0].numpy() >= 0
        examples.append(
            {
                "image_unit": image_unit[0].numpy(),
                "truth": target["boxes"][0].numpy()[real],
                "boxes": split.images.from_source(image_idx, boxes),
                "scores": np.array([p["score"] for p in own]),
                "title": names[number],
            }
        )
    return examples


def export(run: DetectionRun, model: Detector, metrics: dict[str, Any]) -> Path:
    """Write export/1 with the run's operating threshold; warm-up images are noise, not patients.

    Args:
        run: The run; its first training image gives the warm-up requests their size.
        model: The trained detector.
        metrics: From `measure`.

    Returns:
        The export's folder.
    """
    images = run.splits.train.images
    height, width = images.size_px[0]
    y, x = images.find_own_spacing_mm(0)
    shape = (NUM_WARMUP_IMAGES, int(height), int(width), 3)
    warmup_hu = np.random.default_rng(0).normal(60.0, 30.0, shape).astype(np.int16)
    scores = {key: metrics[key] for key in ("map50", "map50_95", "precision", "recall")}
    return export_detector(
        model,
        run.recipe,
        run.directory.export.parent,
        operating_threshold=metrics["score_threshold"],
        warmup_hu=warmup_hu,
        warmup_spacing_mm=(float(y), float(x)),
        metadata={"scores": scores, "data": run.recipe.data.name},
    )


def print_summary(run: DetectionRun, metrics: dict[str, Any]) -> None:
    """Print where the run's files are and, last, its four scores with their intervals."""
    directory, counts = run.directory, metrics["counts"]
    print(f"Run: {directory.path}\nReport: {directory.report}\nExport: {directory.export}")
    names = {"map50": "mAP50", "map50_95": "mAP50-95", "precision": "precision", "recall": "recall"}
    for line in describe_further(metrics):
        print(line)

    def tell(key: str) -> str:
        value, low, high = (metrics[key][part] for part in ("value", "low", "high"))
        if value is None:
            return f"{names[key]} undefined"
        interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
        return f"{names[key]} {value:.3f}{interval}"

    froc = ", ".join(f"{label} {text}" for label, text in list_at_one(metrics["froc"]))
    print(f"Sensitivity at 1 false positive an image: {froc}")
    measured = format_count(counts["images"], "test image")
    measured += f" of {format_count(counts['patients'], 'patient')}"
    print("Score: " + ", ".join(tell(key) for key in names) + f" on {measured}")
