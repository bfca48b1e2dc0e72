"""Trained segmentation networks as a detector, where none of them was trained.

It stands beside the report because only here every other part may be used (DESIGN, 2).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lesionkeras.config import (
    DataConfig,
    ResNet50UNetRecipe,
    SegmentationDataConfig,
    SegmentationRecipe,
    SegNetRecipe,
    SSDRecipe,
    UNetRecipe,
)
from lesionkeras.ct.grid import to_slice
from lesionkeras.data.box_convention import TIGHT, check_convention, find_stored
from lesionkeras.data.opening import Split, list_splits, pool_images
from lesionkeras.data.prepared import Prepared
from lesionkeras.errors import RecipeError
from lesionkeras.files import write_json
from lesionkeras.inference.conventions import change_convention
from lesionkeras.inference.detect import Findings, find_truth, name_files
from lesionkeras.inference.mask_boxes import find_boxes
from lesionkeras.models.fast import fold_norms
from lesionkeras.models.trained_backbone import load_network
from lesionkeras.recipe import override, read_recipe
from lesionkeras.report import figures
from lesionkeras.report.box_evaluation import evaluate_boxes, list_headlines, write_evaluation
from lesionkeras.report.detection import choose_examples
from lesionkeras.report.page import Picture, Section
from lesionkeras.serving.export_segmenter import find_reach_mm, make_serving_functions

RECIPES: dict[str, type[SegmentationRecipe]] = {
    "unet": UNetRecipe,
    "segnet": SegNetRecipe,
    "resnet50_unet": ResNet50UNetRecipe,
}
# Patients of two data sets, by how their names begin: LiTS' 28 to 47 are 3D-IRCADb-01's.
SHARED = {"ircadb01_": {"lits", "ircadb01"}}
MAPS = ("tumour_probability", "liver_probability")  # what a network says; the first always
BATCH_SIZE = 8
SCORE_THRESHOLD = 0.5  # of precision, recall and pictures: the likelier half
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainedSegmenter:
    """What a run of a segmentation network left."""

    model: keras.Model
    recipe: SegmentationRecipe
    weights_trained_on: tuple[SegmentationDataConfig, ...] = ()  # data of what it started from


def load_segmenter(run: Path) -> TrainedSegmenter:
    """Load the network of a finished run.

    Args:
        run: Its directory.

    Raises:
        RecipeError: There is no recipe, it is not one of a segmentation network, or of one that
            finds no tumours.
        RunError: The run has no model yet, or a damaged one.
    """
    file = run / "recipe.json"
    experiment = _find_experiment(file)
    if experiment and experiment not in RECIPES:
        raise RecipeError(
            "A run is not one of a segmentation network",
            where=str(file),
            found=experiment,
            wanted="one of " + ", ".join(RECIPES),
        )
    # without an experiment this says what is wrong with the file
    recipe = read_recipe(file, RECIPES.get(experiment, UNetRecipe), experiment)
    if recipe.model.head == "binary" and recipe.loss.target != "tumour":
        raise RecipeError(
            "A network that outlines the liver alone finds no lesions",
            where=str(file),
            found=f"loss.target={recipe.loss.target}",
            wanted="tumour",
        )
    environment = json.loads(file.read_text(encoding="utf-8")).get("environment")
    seen_before = environment.get("weights_trained_on") if isinstance(environment, dict) else ()
    earlier = [
        SegmentationDataConfig(
            name=str(seen.get("name", "")),
            protocol=str(seen.get("protocol", "")),
            held_out=tuple(map(str, seen.get("held_out") or ())),
        )
        for seen in seen_before or ()
        if isinstance(seen, dict)
    ]
    return TrainedSegmenter(load_network(run), recipe, tuple(earlier))


def change_pixels(segmenter: TrainedSegmenter, pixel_mm: str) -> TrainedSegmenter:
    """Let a network see images at pixels of another size, of as much of the patient at least.

    Finer pixels than those it learnt from show it smaller lesions, and more that are none.

    Args:
        segmenter: The network; it learnt from pixels of one size.
        pixel_mm: As typed, mm.

    Raises:
        RecipeError: It is no size of pixels, or the network learnt from no common one.
    """
    recipe = segmenter.recipe
    if not recipe.data.pixel_mm:
        raise RecipeError(
            "A network that learnt from pixels of many sizes knows none to change",
            where="--pixel-mm",
            found=f"{pixel_mm} for a run with data.pixel_mm=0",
            wanted="a run with data.pixel_mm above 0",
            next_step="leave --pixel-mm out",
        )
    wrong = {"found": pixel_mm, "wanted": "a number of mm from 0.1 to 20"}
    try:
        changed = override(recipe, {"data.pixel_mm": pixel_mm})
    except RecipeError as error:
        raise RecipeError("--pixel-mm cannot be read", **wrong) from error
    if not changed.data.pixel_mm:
        raise RecipeError("--pixel-mm cannot be read", **wrong)
    multiple_px = recipe.model.size_multiple_px
    side_mm = recipe.data.image_size_px * recipe.data.pixel_mm
    side_px = math.ceil(side_mm / changed.data.pixel_mm / multiple_px - 1e-6) * multiple_px
    return replace(segmenter, recipe=override(changed, {"data.image_size_px": side_px}))


def _find_experiment(file: Path) -> str:
    """Whose recipe a file says it is; "" where it cannot be read."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(tree.get("experiment", "")) if isinstance(tree, dict) else ""


def open_images(
    builder: Any,
    segmenters: Sequence[TrainedSegmenter],
    convention: str = "",
    progress: Progress = lambda done, total: None,
) -> tuple[Split, ...]:
    """Open all images of a data set that no network was trained on, for each at its size.

    Args:
        builder: A prepared TFDS builder with boxes.
        segmenters: Whose recipes say what they were trained on.
        convention: What a box is, one of `box_convention.CONVENTIONS`; "" is the data set's own.
        progress: Called with images done and images in all while a cache is made.

    Returns:
        A network each, of the same images: every one; of patients who may have been trained on, in
        this data set or in another that shares them, those whom all held out by name.

    Raises:
        RecipeError: All patients of the data set may have been trained on, or the convention is
            not known.
        DataError: A split is damaged or has no lesions.
    """
    check_convention(convention)
    name = builder.info.name
    convention = convention or find_stored(name)
    views = [_describe_view(segmenter.recipe.data, convention) for segmenter in segmenters]
    pooled = {
        view: pool_images([builder], list_splits(builder), view, progress)
        for view in dict.fromkeys(views)
    }
    images, trained = pooled[views[0]], set[str]()
    for segmenter in segmenters:
        for data in (segmenter.recipe.data, *segmenter.weights_trained_on):
            trained |= _find_trained(images, name, data)
    used = np.flatnonzero([patient not in trained for patient in images.patients])
    if not len(used):
        raise RecipeError(
            "Every patient of this data set may have been trained on",
            where=f"--data {name}",
            found="; ".join(dict.fromkeys(_describe(each.recipe.data) for each in segmenters)),
            wanted="runs that all held out patients of it by name, or another data set",
            next_step="train with --held-out, or name another data set",
        )
    rows = np.stack([used, np.zeros_like(used)], axis=1)
    return tuple(Split(pooled[view], rows) for view in views)


def _describe(data: SegmentationDataConfig) -> str:
    held_out = ",".join(data.held_out) or "nobody by name"
    return f"data.name={data.name}, data.protocol={data.protocol}, data.held_out={held_out}"


def _find_trained(images: Prepared, name: str, data: SegmentationDataConfig) -> set[str]:
    """The patients who may have been trained on: not those held out by name, whole."""
    pairs = list(zip(images.patients, images.volumes or images.patients, strict=True))
    held = {patient for patient, volume in pairs if {patient, volume} & {*data.held_out}}
    pooled, trained = set(data.name.split("+")), set()
    for patient in set(images.patients):
        homes = {name}.union(*(sets for start, sets in SHARED.items() if patient.startswith(start)))
        if homes & pooled and not (data.protocol == "patient" and patient in held):
            trained.add(patient)
    return trained


def detect_lesions(
    segmenters: Sequence[TrainedSegmenter],
    splits: Sequence[Split],
    name: str,
    progress: Progress = lambda done, total: None,
) -> Findings:
    """Find lesions as boxes; nothing of an image but its three slices is known.

    Args:
        segmenters: The networks; probabilities are their mean, on the source's pixels.
        splits: From `open_images`, one a network.
        name: Of the data set.
        progress: Called with images done and images in all.

    Returns:
        Tight truth and tight detections, in pixels of the source images.
    """
    finders = [
        _make_finder(segmenter, split) for segmenter, split in zip(segmenters, splits, strict=True)
    ]
    truths, detections = [], []
    split = splits[0]
    images, rows = split.images, split.rows[:, 0]
    for start in range(0, len(rows), BATCH_SIZE):
        batch = rows[start : start + BATCH_SIZE]
        found = [find(batch) for find in finders]
        for place, row in enumerate(batch):
            maps = {
                name: np.mean([each[name][place] for each in found if name in each], axis=0)
                for name in MAPS
                if any(name in each for each in found)
            }
            detections.append(find_boxes(*maps.values()))
            truths.append(find_truth(split, row, TIGHT))
        progress(len(truths), len(rows))
    sizes = tuple((int(height), int(width)) for height, width in images.size_px[rows])
    files = name_files([images.files[i] for i in rows], DataConfig(name=name))
    return Findings(tuple(truths), tuple(detections), tuple(split.patients), files, sizes)


def _make_finder(
    segmenter: TrainedSegmenter, split: Split
) -> Callable[[np.ndarray], dict[str, list[np.ndarray]]]:
    """From rows of images to their MAPS, float32 [H, W] each, on the source's pixels."""
    import tensorflow as tf

    data, images = segmenter.recipe.data, split.images
    has_planes = bool(find_reach_mm(data))
    serve = make_serving_functions(fold_norms(segmenter.model), segmenter.recipe)
    ask = serve["serving_probability"]

    def find(rows: np.ndarray) -> dict[str, list[np.ndarray]]:
        stack = np.stack([images.images[i] for i in rows])
        inputs = [tf.constant(stack if has_planes else take_channels(stack, data.slices))]
        if data.pixel_mm or has_planes:
            inputs.append(tf.constant(_list_spacing(split, rows, has_planes)))
        if data.liver_hu:
            inputs.append(tf.zeros([len(rows)]))  # not known: the network looks for it
        found = ask(*inputs)
        names = [name for name in MAPS if name in found]
        maps = np.stack([found[name].numpy() for name in names], axis=-1)
        native = [
            to_slice(square, images.find_grid(row)) for square, row in zip(maps, rows, strict=True)
        ]
        return {name: [each[..., i] for each in native] for i, name in enumerate(names)}

    return find


def take_channels(stack_hu: np.ndarray, count: int) -> np.ndarray:
    """Return as many slices as a network takes, the key slice in the middle.

    Args:
        stack_hu: [..., 3], previous, key and next slice.
        count: 1, 3 or 5; the outer of five are the nearer ones again.

    >>> take_channels(np.array([[1, 2, 3]]), 5).tolist(), take_channels(np.array([[1, 2, 3]]), 1)
    ([[1, 1, 2, 3, 3]], array([[2]]))
    """
    return np.take(stack_hu, np.clip(np.arange(count) - count // 2, -1, 1) + 1, axis=-1)


def _list_spacing(split: Split, rows: np.ndarray, with_slices: bool) -> np.ndarray:
    """Spacing of the images on the network's square, float32 [B, 2 or 3]."""
    spacing_mm, slice_mm = split.images.spacing_mm[rows], split.images.slice_mm
    if with_slices and slice_mm is not None:
        spacing_mm = np.concatenate([slice_mm[rows, None], spacing_mm], axis=1)
    return spacing_mm.astype(np.float32)


def _describe_view(data: SegmentationDataConfig, convention: str) -> DataConfig:
    """How a detector would be shown what the network sees."""
    return DataConfig(
        image_size_px=data.image_size_px,
        pixel_mm=data.pixel_mm,
        window_hu=data.window_hu,
        box_convention=convention,
    )


def score_boxes(
    found: Findings, split: Split, name: str, segmenter: TrainedSegmenter, out: Path
) -> list[tuple[str, str, str]]:
    """Write predictions.json, truth.json, tables and report.html; return what to print.

    Args:
        found: From `detect_lesions`.
        split: What it is of; its images' convention is the one that boxes are compared in.
        name: Of the data set.
        segmenter: For the window of the pictures.
        out: The folder.
    """
    convention = split.images.convention
    shown = change_convention(found, split, TIGHT, convention)
    results = shown.to_coco()
    predictions, truth = out / "predictions.json", out / "truth.json"
    out.mkdir(parents=True, exist_ok=True)
    write_json(predictions, results)
    write_json(truth, shown.to_coco_truth())
    evaluation = evaluate_boxes(truth, [predictions], SCORE_THRESHOLD)
    view = SSDRecipe(data=replace(_describe_view(segmenter.recipe.data, convention), name=name))
    examples = choose_examples(split, view, results)
    picture = Picture(
        figures.draw_examples(examples, SCORE_THRESHOLD),
        f"{len(examples)} images with true boxes (solid) and found ones (dashed, score).",
        f"Truth (solid) and boxes of score {SCORE_THRESHOLD:g} and more (dashed), as "
        f"{convention.replace('_', ' ')}.",
    )
    write_evaluation(out, evaluation, [Section("Images", [picture])])
    return list_headlines(evaluation.metrics)
