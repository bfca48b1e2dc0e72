"""The backbone of a finished run as weights that another run starts from.

Outlines teach a backbone more than boxes do: every pixel is an answer.  A detector of lesions that
starts from the backbone of a network that outlines them needs a part of the steps.  What it is
tested on must be new to both, so the file says on whom its network was trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lesionkeras.config import DetectionRecipe, SegmentationRecipe
from lesionkeras.errors import RecipeError, RunError
from lesionkeras.files import replacing
from lesionkeras.models.backbones import BLOCK_TYPES, build_resnet
from lesionkeras.models.input_scaling import INPUT_SCALINGS
from lesionkeras.models.weights import list_variables, read_trained_on

# Of the recipe's data: who was trained on, and how the network saw them.
SAID = ("name", "config", "protocol", "held_out", "window_hu", "pixel_mm", "liver_hu")
# Data sets that share patients count as one: LiTS' 28 to 47 are 3D-IRCADb-01's.
SAME = {"ircadb01": "lits"}
_SHOWN_CHARACTERS = 200  # of Keras' own words


def read_backbone(run: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the ResNet of a finished run.

    Args:
        run: Its directory, of a network on a ResNet.

    Returns:
        The arrays of a weights file, and its `preprocessing`.

    Raises:
        RecipeError: The run has no recipe, its network no ResNet, or one that saw other images
            than `input_scaling` says.
        RunError: It has no trained network yet.
    """
    network, data, earlier = _read_recipe(run / "recipe.json")
    backbone = network["backbone"]
    variables = list_variables(load_network(run), backbone)
    if variables.keys() != _list_wanted(backbone):
        raise RecipeError(
            "A run's backbone lacks layers, or has others",
            where=str(run),
            found=f"{len(variables)} variables",
            wanted=f"those of {backbone}",
            next_step="name a run whose network has a whole one",
        )
    scale, offset = (np.array(numbers) for numbers in INPUT_SCALINGS[network["input_scaling"]])
    preprocessing = {
        "range": "0..1",
        "mean": (-offset / scale).tolist(),
        "std": (1 / scale).tolist(),
        "trained_on": [{name: data.get(name, "") for name in SAID}, *earlier],
    }
    return {name: variable.numpy() for name, variable in variables.items()}, preprocessing


def _read_recipe(file: Path) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """The network on a ResNet and the data of a run's recipe, and whom its weights were from."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        network, data = (dict(tree["recipe"][name]) for name in ("model", "data"))
        earlier = list(tree.get("environment", {}).get("weights_trained_on", ()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(
            "A folder is no run",
            where=str(file),
            found="no recipe that can be read",
            wanted="the directory of a finished run",
        ) from error
    if network.get("backbone") not in BLOCK_TYPES or "input_scaling" not in network:
        raise RecipeError(
            "A run's network has no ResNet",
            where=str(file),
            found=f"model.backbone {network.get('backbone', 'none')}",
            wanted=" or ".join(BLOCK_TYPES),
            next_step="name a run of resnet50_unet, or of a detector",
        )
    if data.get("normalisation", "window") != "window":
        raise RecipeError(
            "A run's network saw standardised images, which no other sees so",
            where=str(file),
            found=f"data.normalisation {data['normalisation']}",
            wanted="window",
        )
    return network, data, earlier


def load_network(run: Path) -> keras.Model:
    """Load the trained network of a finished run.

    Args:
        run: Its directory.

    Raises:
        RunError: It has none yet, or a damaged one.
    """
    file = run / "model.keras"
    if not file.is_file():
        raise RunError(
            "A run has no trained network",
            where=str(file),
            found="no such file",
            wanted="a finished run",
            next_step=f"go on with the run in {run} to its end",
        )
    try:
        return keras.models.load_model(file, compile=False)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            "A run's network cannot be read",
            where=str(file),
            found=" ".join(str(error).split())[:_SHOWN_CHARACTERS],
            wanted="the file of a finished run",
            next_step="copy it again, or train it anew",
        ) from error


def _list_wanted(backbone: str) -> set[str]:
    """The names that a weights file of a ResNet has."""
    layers = build_resnet(backbone, fused_norm=True).layers
    return {f"{layer.name}/{variable.name}" for layer in layers for variable in layer.weights}


def write_backbone(run: Path, path: Path) -> int:
    """Write the ResNet of a finished run as a file for `--weights`.

    Args:
        run: Its directory.
        path: The .npz file.

    Returns:
        How many arrays it holds.

    Raises:
        RecipeError, RunError: As `read_backbone`.
    """
    arrays, preprocessing = read_backbone(run)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, preprocessing=json.dumps(preprocessing), **arrays)
    return len(arrays)


def find_trained_on(recipe: DetectionRecipe | SegmentationRecipe) -> list[dict[str, Any]]:
    """Return what the first weights of a run say of whom they were trained on.

    Args:
        recipe: Of the run.

    Raises:
        RecipeError: The weights cannot be read.
    """
    return read_trained_on(getattr(recipe.model, "weights", "none"))


def check_unseen(recipe: DetectionRecipe | SegmentationRecipe) -> None:
    """Raise where a run would be tested on patients that its first weights were trained on.

    Args:
        recipe: Of the run.

    Raises:
        RecipeError: It would, or it cannot be told: both name whom they hold out, or their data
            sets differ.
    """
    for seen in find_trained_on(recipe):
        _check_unseen(recipe.data, getattr(recipe.model, "weights", "none"), seen)


def _check_unseen(data: Any, weights: str, seen: dict[str, Any]) -> None:
    trained = _list_sets(str(seen.get("name", "")))
    facts = {
        "where": weights,
        "found": f"weights that were trained on {seen.get('name')} without "
        + (", ".join(map(str, seen.get("held_out") or ())) or "anybody by name"),
    }
    further = [name for name in getattr(data, "test_sets", ()) if _list_sets(name) & trained]
    if further:
        raise RecipeError(
            "The weights may have seen who is tested on",
            **facts,
            wanted=f"others for --test-sets {further[0]}",
        )
    if not _list_sets(data.name) & trained:
        return
    is_by_patient = {data.protocol, seen.get("protocol")} == {"patient"}
    held, unseen = {*data.held_out}, {*map(str, seen.get("held_out") or ())}
    if not (is_by_patient and held and held <= unseen) or data.validation_fraction:
        raise RecipeError(
            "The weights may have seen who is tested or validated on",
            **facts,
            wanted="weights of a run that held out all whom this one does, by name, and no "
            "validation_fraction",
            next_step="train the backbone with the same --held-out, or take other weights",
        )


def _list_sets(names: str) -> set[str]:
    """Data sets of "lits/slices+ircadb01", those that share patients as one."""
    listed = {name.split("/")[0] for name in names.split("+")}
    return {SAME.get(name, name) for name in listed}
