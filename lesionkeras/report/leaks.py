"""What a split that leaks adds: one recipe tested on the same slices under three splits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from lesionkeras.config import SegmentationRecipe
from lesionkeras.data.leak import LEAK_PROTOCOLS, choose_target
from lesionkeras.data.segmentation import open_segmentation_splits, pool_slices
from lesionkeras.errors import RecipeError
from lesionkeras.files import write_json
from lesionkeras.report import segmentation
from lesionkeras.report.segmentation_blocks import get_value
from lesionkeras.training.log import read_log

STRUCTURES = ("tumour", "liver")


def compare_splits(
    builders: Sequence[Any], recipe: SegmentationRecipe, out: Path, experiment: str
) -> list[dict[str, Any]]:
    """Train and measure a recipe under each split; the run by patient reports on all three.

    All are tested on the same slices of one scan, and trained on as many images an epoch, or for
    as many CPU seconds.  Nobody is held out to choose an epoch on: the last is measured.

    Args:
        builders: As for `segmentation.open_run`.
        recipe: Its `data.held_out` names the scan; without a name one is drawn by the seed.
        out: Folder of the three runs, `slices`, `volumes` and `patients`; they resume.
        experiment: Whose recipe it is ("unet").

    Returns:
        Rows of "leaks" of metrics.json.

    Raises:
        DataError: No patient has two scans, another scan is named, and what `open_run` raises.
        RecipeError: The recipe has a split of its own, and what `segmentation.check_start` raises.
        RunError: What `segmentation.check_start` raises.
    """
    recipes = plan_splits(builders, recipe)
    checked = {
        name: segmentation.check_start(split_recipe, out / name, experiment)
        for name, split_recipe in recipes.items()
    }
    leaks = []
    for name, split_recipe in checked.items():
        run = segmentation.open_run(builders, split_recipe, out / name, experiment)
        keras.utils.clear_session()  # gives the memory of the network before back
        model, log_rows, best_epoch = segmentation.train(run)
        metrics = segmentation.measure(run, model, log_rows, best_epoch)
        leaks.append(describe_split(name, metrics))
    metrics["leaks"] = leaks
    write_json(run.directory.metrics, metrics)
    metrics = json.loads(run.directory.metrics.read_text(encoding="utf-8"))
    segmentation.write_report(run, read_log(run.directory.log_csv), metrics)
    return leaks


def plan_splits(
    builders: Sequence[Any], recipe: SegmentationRecipe
) -> dict[str, SegmentationRecipe]:
    """Return the recipe of each split: the same tested scan, as many images an epoch.

    Args:
        builders: As for `compare_splits`.
        recipe: The same.

    Returns:
        "slices", "volumes" and "patients", each to a recipe.

    Raises:
        DataError, RecipeError: What `compare_splits` raises of them.
    """
    if recipe.data.protocol != "patient":
        raise RecipeError(
            "A comparison of splits has no split of its own",
            where="data.protocol",
            found=recipe.data.protocol,
            wanted="patient",
            next_step="leave out --split",
        )
    seed, train = recipe.train.seed, recipe.train
    slices = pool_slices(builders, recipe.data.splits, recipe.data)
    target = choose_target(slices.patients, slices.volumes, recipe.data.held_out, seed)
    data = replace(recipe.data, held_out=(target,), validation_fraction=0.0)
    if not train.images_per_epoch:
        fewest = replace(data, protocol="leak-patients")
        splits = open_segmentation_splits(builders, fewest, seed)
        train = replace(train, images_per_epoch=len(splits.train))
    return {
        name: replace(recipe, train=train, data=replace(data, protocol=protocol))
        for protocol, name in LEAK_PROTOCOLS.items()
    }


def describe_split(name: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what one split's metrics.json says of the leak.

    Args:
        name: What was left out of training: "slices", "volumes" or "patients".
        metrics: Of the run.
    """
    corrected, splits = metrics["protocol"]["corrected"], metrics["splits"]
    cases = " and ".join(row["case"] for row in corrected["per_case"])
    row: dict[str, Any] = {
        "split": name,
        "held_out": f"{splits['test']['slices']} slices of {cases}",
        "trained": f"{splits['train']['slices']} slices of {splits['train']['volumes']} scans",
    }
    by_slice = {found["target"]: found["dice"] for found in metrics["slices"]}
    for organ in STRUCTURES:
        row[f"{organ}_dice"] = corrected["mean"][f"{organ}_dice"]
        row[f"{organ}_dice_global"] = corrected["global"][f"{organ}_dice"]
        row[f"{organ}_dice_by_slice"] = by_slice.get(organ)
    return row


def tell_split(row: dict[str, Any]) -> str:
    """Return one row of `compare_splits` as words.

    >>> tell_split({"split": "slices", "held_out": "9 slices of a", "tumour_dice": 0.5})
    'Dice of tumour 0.500 on 9 slices of a, trained without these slices'
    """
    dices = {organ: get_value(row.get(f"{organ}_dice")) for organ in STRUCTURES}
    shown = [f"{organ} {dice:.3f}" for organ, dice in dices.items() if dice is not None]
    left_out = {"slices": "these slices", "volumes": "their scan", "patients": "their patient"}
    words = ", ".join(shown) or "nothing that is there"
    return f"Dice of {words} on {row['held_out']}, trained without {left_out[row['split']]}"
