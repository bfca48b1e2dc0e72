import hashlib
import json
import os
import pickle
import random
import struct
import warnings
import zipfile
from dataclasses import replace

import keras
import numpy as np
import pytest

from lesionkeras.config import SSDConfig
from lesionkeras.errors import RecipeError
from lesionkeras.models import imagenet
from lesionkeras.models.backbones import build_resnet
from lesionkeras.models.ssd import INPUT_SCALINGS, build_ssd
from lesionkeras.models.weights import (
    compute_weights_sha256,
    load_backbone_weights,
    resolve_input_scaling,
)

CAFFE = {"range": "0..255", "mean": [103.939, 116.779, 123.68], "std": [1.0, 1.0, 1.0]}
TORCH = {"range": "0..1", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
NUM_VARIABLES = {"resnet34": 36 * 5, "resnet50": 53 * 5}


def wrap(name):
    """A network around a backbone, small beside it."""
    image = keras.Input((None, None, 3))
    return keras.Model(image, build_resnet(name)(image))


def list_variables(model, name):
    layers = model.get_layer(name).layers
    return {f"{layer.name}/{v.name}": v for layer in layers for v in layer.weights}


def make_arrays(model, name, seed=0):
    """Random weights in the layout of a file: float16 kernels, the rest float32."""
    rng = np.random.default_rng(seed)
    return {
        key: rng.uniform(0.5, 1.5, tuple(v.shape)).astype(
            np.float16 if key.endswith("/kernel") else np.float32
        )
        for key, v in list_variables(model, name).items()
    }


def write(path, arrays, preprocessing=TORCH):
    np.savez(path, **arrays, preprocessing=np.array(json.dumps(preprocessing)))
    return path


def configure(path, backbone="resnet34", scaling="imagenet_torch"):
    return SSDConfig(backbone=backbone, weights=str(path), input_scaling=scaling)


def catch(function, *arguments):
    with pytest.raises(RecipeError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.fixture(scope="module")
def network():
    return wrap("resnet34")


@pytest.fixture(scope="module")
def arrays(network):
    return make_arrays(network, "resnet34")


@pytest.mark.parametrize("backbone", ["resnet34", "resnet50"])
def test_file_fills_every_variable_of_the_backbone(tmp_path, backbone):
    config = SSDConfig(backbone=backbone, weights=str(tmp_path / "w.npz"))
    plain = build_ssd(config)
    wanted = make_arrays(plain, backbone)
    assert len(wanted) == NUM_VARIABLES[backbone]
    write(tmp_path / "w.npz", wanted, CAFFE)
    heads = {
        v.path: np.array(v) for v in plain.weights if backbone not in v.path.split("/")[0]
    }
    model = build_ssd(config := resolve_input_scaling(config))
    assert config.input_scaling == "imagenet_caffe"
    load_backbone_weights(model, config)
    for key, variable in list_variables(model, backbone).items():
        assert np.array_equal(variable, wanted[key].astype(np.float32)), key
    assert heads  # the rest of the network has weights of its own and needs none from the file


def test_none_changes_nothing(network):
    before = network.get_weights()
    load_backbone_weights(network, SSDConfig(weights="none"))
    for old, new in zip(before, network.get_weights(), strict=True):
        assert np.array_equal(old, new)


def test_missing_key(tmp_path, network, arrays):
    arrays = {k: v for k, v in arrays.items() if k not in ("conv1_bn/gamma", "conv1_bn/beta")}
    text = catch(
        load_backbone_weights, network, configure(write(tmp_path / "w.npz", arrays))
    )
    assert text == (
        f"Weights are missing in {tmp_path}/w.npz: found no conv1_bn/gamma and 1 more, wanted the "
        "180 variables of KerasCV's resnet34; make the file again, or name another."
    )
