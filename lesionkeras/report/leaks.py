"""What a split that leaks seems to add: one recipe, held out by slice, by volume and by patient."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from lesionkeras.config import SegmentationRecipe
from lesionkeras.report import segmentation
from lesionkeras.training.log import read_log
from lesionkeras.training.run import write_json

SPLITS = {"p5": "slices", "volume": "volumes", "patient": "patients"}  # protocol -> what is drawn


def compare_splits(
    builders: Sequence[Any], recipe: SegmentationRecipe, out: Path, experiment: str
) -> list[dict[str, Any]]:
    """Train and measure a recipe under each split; the run by patient reports on all three.

    Args:
        builders: As for `segmentation.open_run`.
        recipe: Its protocol, and whom it holds out by name, are left aside.
        out: Folder of the three runs, `slices`, `volumes` and `patients`; they resume.
        experiment: Whose recipe it is ("unet").

    Returns:
        Rows of "leaks" of metrics.json.

    Raises:
        DataError, RecipeError, RunError: What `segmentation.open_run` raises.
    """
    leaks = []
    for protocol, name in SPLITS.items():
        data = replace(recipe.data, protocol=protocol, held_out=())
        path = out / name
        split_recipe = segmentation.check_start(replace(recipe, data=data), path, experiment)
        run = segmentation.open_run(builders, split_recipe, path, experiment)
        keras.utils.clear_session()  # gives the memory of the network before back
        model, log_rows, best_epoch = segmentation.train(run)
        metrics = segmentation.measure(run, model, log_rows, best_epoch)
        leaks.append(describe_split(name, metrics))
    metrics["leaks"] = leaks
    write_json(run.directory.metrics, metrics)
    metrics = json.loads(run.directory.metrics.read_text(encoding="utf-8"))
    segmentation.write_report(run, read_log(run.directory.log_csv), metrics)
    return leaks


def describe_split(name: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what one split's metrics.json says of the leak.

    Args:
        name: What was drawn: "slices", "volumes" or "patients".
        metrics: Of the run.
    """
    mean, counts = metrics["protocol"]["corrected"]["mean"], metrics["splits"]["test"]
    (by_slice,) = [row for row in metrics["slices"] if row["target"] == "tumour"]
    return {
        "split": name,
        "tumour_dice": mean["tumour_dice"],
        "liver_dice": mean["liver_dice"],
        "slice_tumour_dice": by_slice["dice"],
        "held_out": f"{counts['slices']} slices of {counts['volumes']} volumes",
    }
