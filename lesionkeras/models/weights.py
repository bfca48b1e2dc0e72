"""Pretrained backbone weights: which file, what input it wants, and into the network with it.

A weights file (`--weights FILE`) is an .npz as numpy.savez writes it:

- `LAYER/VARIABLE` for every variable of the backbone, in the layer names of KerasCV's
  ResNetBackbone: `conv1_conv/kernel`, `v2_stack_2_block4_1_bn/moving_mean`, or of
  keras.applications' VGG16: `block5_conv3/bias`; kernels are [H, W, in, out]; float16, float32 or
  float64;
- `preprocessing`, a JSON text with `range` ("0..255" or "0..1"), `mean` and `std` of the three
  channels: the network was trained on (pixel - mean) / std; and, of a run of this package
  (`trained_backbone`), `trained_on`, a list of what recipes say of their data: the run's own, and
  that of the run whose backbone it started from.

`{f"{layer.name}/{v.name}": v for layer in build_resnet(name).layers for v in layer.weights}` lists
what a file of a ResNet must hold.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np

from lesionkeras.config import (
    BaselineCNNConfig,
    FasterRCNNConfig,
    ResNet50UNetConfig,
    RetinaNetConfig,
    SegNetConfig,
    SSDConfig,
    UNetConfig,
)
from lesionkeras.errors import RecipeError
from lesionkeras.models.imagenet import SOURCES, fetch_imagenet, read_imagenet
from lesionkeras.models.input_scaling import INPUT_SCALINGS
from lesionkeras.models.vgg16 import list_later_keys

_PREPROCESSING = "preprocessing"
_RANGES = {"0..255": 255.0, "0..1": 1.0}  # where the 1 of a 0..1 image is
_MAX_TEXT_BYTES = 2**18  # the held-out patients of all of DeepLesion among it
_SHOWN_CHARACTERS = 200  # of a text that cannot be used
_FORMAT_VERSION = (1, 0)  # of .npy: what numpy.savez writes where a header is below 64 KiB
_OWNERS = {"vgg16": "keras.applications'"}  # whose names the keys are; of the others KerasCV's
_DAMAGED = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)

Pretrained = (
    SSDConfig
    | RetinaNetConfig
    | FasterRCNNConfig
    | BaselineCNNConfig
    | SegNetConfig
    | ResNet50UNetConfig
)
NetworkConfig = TypeVar("NetworkConfig", bound=Pretrained | UNetConfig)


def load_backbone_weights(model: keras.Model, config: Pretrained | UNetConfig) -> None:
    """Fill every variable of a network's backbone once, as `config.weights` says, or none at all.

    Args:
        model: A network with a layer of the backbone's name, as `models.build` makes it.
        config: `weights` "none", "imagenet" or a file; `input_scaling` as
            `resolve_input_scaling` leaves it.  A U-Net's has no weights: nothing is done.

    Raises:
        RecipeError: Weights are missing, damaged, too many or of another network or shape; they
            want another input scaling; or the hub is out of reach.
    """
    if isinstance(config, UNetConfig) or config.weights == "none":
        return
    _check_scaling(config)
    variables = list_variables(model, config.backbone)
    shapes = {key: tuple(variable.shape) for key, variable in variables.items()}
    if config.weights == "imagenet":
        where = SOURCES[config.backbone].url
        unused = _list_unused(shapes, config.backbone)
        read = read_imagenet(config.backbone)
        arrays = {key: array for key, array in read.items() if key not in unused}
        _check_keys(arrays, shapes, where, config.backbone)
        for key, array in arrays.items():
            _check_header(key, array.shape, array.dtype, shapes[key], where)
    else:
        arrays = _read_backbone(Path(config.weights), shapes, config.backbone)
    for key, variable in variables.items():
        variable.assign(arrays[key].astype(np.float32))


def list_variables(model: keras.Model, backbone: str) -> dict[str, Any]:
    """List the variables of a network's backbone by their names in a weights file.

    Args:
        model: Has a layer of the backbone's name.
        backbone: "resnet34", "resnet50" or "vgg16".
    """
    layers = model.get_layer(backbone).layers
    if backbone == "vgg16":  # SegNet's norms are not VGG16's
        layers = [layer for layer in layers if isinstance(layer, keras.layers.Conv2D)]
    return {f"{layer.name}/{v.name}": v for layer in layers for v in layer.weights}


def _list_unused(shapes: Collection[str], backbone: str) -> set[str]:
    """What a file may hold beside: VGG16's blocks after the last one of the network."""
    if backbone != "vgg16":
        return set()
    return list_later_keys(max(int(key.removeprefix("block")[0]) for key in shapes))


def resolve_input_scaling(config: NetworkConfig) -> NetworkConfig:
    """Return the config with the input scaling that its weights were trained with.

    To be called before the network is built and its recipe is written down.

    Args:
        config: `weights` decides; with "none" any `input_scaling` stays.

    Returns:
        The config, `input_scaling` replaced.

    Raises:
        RecipeError: The file cannot be read, or its preprocessing is none of ours.

    >>> resolve_input_scaling(SSDConfig(backbone="resnet34", weights="imagenet")).input_scaling
    'imagenet_torch'
    >>> resolve_input_scaling(SSDConfig(weights="none")).input_scaling
    'unit'
    """
    if isinstance(config, UNetConfig) or config.weights == "none":
        return config
    if config.weights == "imagenet":
        return replace(config, input_scaling=SOURCES[config.backbone].input_scaling)
    return replace(config, input_scaling=_read_scaling(Path(config.weights)))


def compute_weights_sha256(config: Pretrained | UNetConfig) -> str:
    """Compute what a run's environment says of its starting weights.

    Args:
        config: `weights` "none", "imagenet" (downloaded where it is not in the cache) or a file.

    Returns:
        The file's SHA-256 as 64 hexadecimal digits, "" for "none".

    Raises:
        RecipeError: The file cannot be read, or the hub is out of reach.
    """
    if isinstance(config, UNetConfig) or config.weights == "none":
        return ""
    is_imagenet = config.weights == "imagenet"
    path = fetch_imagenet(config.backbone) if is_imagenet else Path(config.weights)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RecipeError:
    return RecipeError(
        "A weights file cannot be read",
        where=str(path),
        found=" ".join(str(error).split()).rstrip(".") or repr(error),
        wanted="an .npz file as numpy.savez writes it",
        next_step="name another file, or make this one again",
    )


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    # Not numpy.load: it makes room for whatever size an array's header claims, before anything
    # can be compared with it.
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _DAMAGED as error:
        raise _unreadable(path, error) from error


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    if version != _FORMAT_VERSION:
        raise ValueError(f"an array of format version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


def _read_array(file: Any) -> np.ndarray:
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def _read_backbone(
    path: Path, shapes: dict[str, tuple[int, ...]], backbone: str
) -> dict[str, np.ndarray]:
    arrays = {}
    with _open(path) as archive:
        keys = [
            name.removesuffix(".npy") if name.endswith(".npy") else f"{name}, which is no array,"
            for name in archive.namelist()
            if name != f"{_PREPROCESSING}.npy"
        ]
        unused = _list_unused(shapes, backbone)
        keys = [key for key in keys if key not in unused]
        _check_keys(keys, shapes, str(path), backbone)
        for key, wanted in shapes.items():
            with archive.open(f"{key}.npy") as file:
                shape, dtype = _read_header(file)
                _check_header(key, shape, dtype, wanted, str(path))
                arrays[key] = _read_array(file)
            if not np.isfinite(arrays[key]).all():
                raise RecipeError(
                    "Weights are not numbers",
                    where=f"{path}, key {key}",
                    found="NaN or infinity",
                    wanted="finite values",
                    next_step="make the file again",
                )
    return arrays


def _check_keys(keys: Collection[str], wanted: Collection[str], where: str, backbone: str) -> None:
    """Check that a file has each of the backbone's variables once, and nothing else."""
    owner = _OWNERS.get(backbone, "KerasCV's")
    if (other := _guess_network(keys)) not in ("", backbone):
        way_out = "" if "vgg16" in (other, backbone) else f"--backbone {other}, or "
        raise RecipeError(
            "The weights are another network's",
            where=where,
            found=other,
            wanted=backbone,
            next_step=f"give {way_out}weights of {backbone}",
        )
    if missing := [key for key in wanted if key not in keys]:
        raise RecipeError(
            "Weights are missing",
            where=where,
            found="no " + _list(missing),
            wanted=f"the {len(wanted)} variables of {owner} {backbone}",
            next_step="make the file again, or name another",
        )
    counts = Counter(list(keys))  # of a mapping it would take the values for counts
    if surplus := [key for key in counts if key not in wanted or counts[key] > 1]:
        raise RecipeError(
            "Weights have no place in the network, or are there twice",
            where=where,
            found=_list(surplus),
            wanted=f"each of the {len(wanted)} variables of {owner} {backbone} once",
            next_step="leave them out of the file",
        )


def _guess_network(keys: Collection[str]) -> str:
    if "block1_conv1/kernel" in keys:
        return "vgg16"
    if "v2_stack_0_block1_1_conv/kernel" not in keys:
        return ""
    return "resnet50" if "v2_stack_0_block1_3_conv/kernel" in keys else "resnet34"


def _list(keys: list[str]) -> str:
    return keys[0] + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")


def _check_header(
    key: str, shape: tuple[int, ...], dtype: np.dtype, wanted: tuple[int, ...], where: str
) -> None:
    if shape != wanted or dtype.kind != "f":
        raise RecipeError(
            "An array does not fit its variable",
            where=f"{where}, key {key}",
            found=f"{dtype} {shape}",
            wanted=f"floats {wanted}",
            next_step="make the file again, or name another",
        )


def _check_scaling(config: Pretrained) -> None:
    wanted = resolve_input_scaling(config).input_scaling
    if config.input_scaling != wanted:
        raise RecipeError(
            "The input scaling is not that of the weights",
            where="model.input_scaling",
            found=config.input_scaling,
            wanted=wanted,
            next_step=f"set model.input_scaling={wanted}",
        )


def read_trained_on(weights: str) -> list[dict[str, Any]]:
    """Return what a weights file says of whom it was trained on; empty where it says nothing.

    Args:
        weights: "none", "imagenet" or a file.

    Raises:
        RecipeError: The file cannot be read.
    """
    if weights in ("none", "imagenet"):
        return []
    try:
        tree = json.loads(_read_preprocessing(Path(weights)))
    except (ValueError, RecursionError):
        return []
    seen = tree.get("trained_on") if isinstance(tree, dict) else None
    return [each for each in seen if isinstance(each, dict)] if isinstance(seen, list) else []


def _read_preprocessing(path: Path) -> str:
    with _open(path) as archive:
        if f"{_PREPROCESSING}.npy" not in archive.namelist():
            raise _not_ours(path, f"no key {_PREPROCESSING}")
        with archive.open(f"{_PREPROCESSING}.npy") as file:
            shape, dtype = _read_header(file)
            if shape or dtype.kind != "U" or dtype.itemsize > _MAX_TEXT_BYTES:
                raise _not_ours(path, f"{dtype.name} {shape}")
            return str(_read_array(file))


def _read_scaling(path: Path) -> str:
    text = _read_preprocessing(path)
    try:
        name = _find_scaling(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError):
        name = ""
    if not name:
        raise _not_ours(path, text[:_SHOWN_CHARACTERS])
    return name


def _find_scaling(preprocessing: dict[str, Any]) -> str:
    """Name our scaling that equals (pixel - mean) / std, "" where none does.

    `channels` is not asked: the channels of a CT stack are the previous, the key and the next
    slice and have no colours.  What counts is which mean belongs to which channel of the first
    kernel, and that is the order that `mean` stands in.
    """
    top = _RANGES[preprocessing["range"]]
    mean, std = np.array(preprocessing["mean"], float), np.array(preprocessing["std"], float)
    if mean.shape != (3,) or std.shape != (3,) or not std.all():
        return ""
    found = (top / std, -mean / std)
    close = [name for name, own in INPUT_SCALINGS.items() if np.allclose(own, found, rtol=1e-4)]
    return close[0] if close else ""


def _not_ours(path: Path, found: str) -> RecipeError:
    return RecipeError(
        "The preprocessing of the weights is none that the network has",
        where=f"{path}, key {_PREPROCESSING}",
        found=found,
        wanted='{"range": "0..255", "mean": [103.939, 116.779, 123.68], "std": [1, 1, 1]} or '
        '{"range": "0..1", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}',
        next_step="turn the channels of the first kernel into that order, or name another file",
    )
