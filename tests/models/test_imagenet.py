import hashlib
import json
import random
from dataclasses import replace

import keras
import numpy as np
import pytest

from lesionkeras.config import SegNetConfig, SSDConfig
from lesionkeras.errors import RecipeError
from lesionkeras.models import build
from lesionkeras.models.backbones import build_resnet
from lesionkeras.models.imagenet import SOURCES, fetch_imagenet
from lesionkeras.models.input_scaling import INPUT_SCALINGS
from lesionkeras.models.weights import compute_weights_sha256, load_backbone_weights


def wrap(name):
    image = keras.Input((None, None, 3))
    return keras.Model(image, build_resnet(name)(image))


def configure(backbone):
    scaling = SOURCES[backbone].input_scaling
    return SSDConfig(backbone=backbone, weights="imagenet", input_scaling=scaling)


def compute_sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras" / "models"


@pytest.fixture
def publish(monkeypatch):
    """Puts a file of the test's own where the hub's would be."""

    def publish(backbone, path):
        changed = {"url": path.as_uri(), "file": path.name, "file_hash": compute_sha256(path)}
        monkeypatch.setitem(SOURCES, backbone, replace(SOURCES[backbone], **changed))

    return publish


def write_safetensors(path, state):
    """The arrays of a state dict in the order of the file, which is not the header's."""
    header, content, start = {"__metadata__": {"format": "pt"}}, [], 0
    for name, array in reversed(state.items()):
        kind = {"float32": "F32", "int64": "I64"}[array.dtype.name]
        span = [start, start := start + array.nbytes]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": span}
        content.append(array.tobytes())
    text = json.dumps(dict(sorted(header.items()))).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(content))


def make_torch_names():
    """KerasCV's name to PyTorch's, written out once more: ResNet34 has 3, 4, 6 and 3 blocks."""
    parts = {"gamma": "weight", "beta": "bias"}
    parts |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    pairs = [("conv1", "conv1", "bn1")]
    for stack, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            ours, theirs = f"v2_stack_{stack}_block{block + 1}_", f"layer{stack + 1}.{block}."
            pairs += [(f"{ours}{i}", f"{theirs}conv{i}", f"{theirs}bn{i}") for i in (1, 2)]
            if stack and not block:
                pairs += [(f"{ours}0", f"{theirs}downsample.0", f"{theirs}downsample.1")]
    names = {f"{ours}_conv/kernel": f"{conv}.weight" for ours, conv, _ in pairs}
    return names | {f"{o}_bn/{k}": f"{bn}.{v}" for o, _, bn in pairs for k, v in parts.items()}


def test_resnet34_from_its_hub(tmp_path, cache, publish):
    model = wrap("resnet34")
    layers = model.get_layer("resnet34").layers
    variables = {f"{layer.name}/{v.name}": v for layer in layers for v in layer.weights}
    rng, names, state = np.random.default_rng(0), make_torch_names(), {}
    assert variables.keys() == names.keys()
    for key, variable in variables.items():
        shape = tuple(variable.shape)
        shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
        state[names[key]] = rng.random(shape, np.float32)
    state["bn1.num_batches_tracked"] = np.array(3)
    state["fc.bias"] = np.zeros(1000, np.float32)
    write_safetensors(tmp_path / "hub.safetensors", state)
    publish("resnet34", tmp_path / "hub.safetensors")
    load_backbone_weights(model, configure("resnet34"))
    for key, variable in variables.items():
        array = state[names[key]]
        wanted = np.moveaxis(array, (0, 1), (3, 2)) if array.ndim == 4 else array
        assert np.array_equal(keras.ops.convert_to_numpy(variable), wanted), key
    assert compute_weights_sha256(configure("resnet34")) == compute_sha256(
        cache / "hub.safetensors"
    )


def test_resnet50_from_its_hub(tmp_path, cache, publish):
    model, source = wrap("resnet50"), keras.applications.ResNet50(weights=None, include_top=False)
    rng = np.random.default_rng(0)
    for variable in source.weights:
        variable.assign(rng.random(variable.shape, np.float32))
    source.save_weights(tmp_path / "hub.weights.h5")
    publish("resnet50", tmp_path / "hub.weights.h5")
    random.seed(5)
    state = random.getstate()
    load_backbone_weights(model, configure("resnet50"))
    assert random.getstate() == state  # what is drawn later is the same with and without loading
    ours, theirs = model.get_layer("resnet50"), source
    for our_name, their_name in (
        ("conv1", "conv1"),
        ("v2_stack_0_block1_0", "conv2_block1_0"),
        ("v2_stack_3_block2_3", "conv5_block2_3"),
    ):
        kernel, bias = theirs.get_layer(f"{their_name}_conv").get_weights()
        gamma, beta, mean, variance = theirs.get_layer(f"{their_name}_bn").get_weights()
        assert np.array_equal(ours.get_layer(f"{our_name}_conv").get_weights()[0], kernel)
        found = ours.get_layer(f"{our_name}_bn").get_weights()
        assert all(map(np.array_equal, found, (gamma, beta, mean - bias, variance)))
    assert compute_weights_sha256(configure("resnet50")) == compute_sha256(cache / "hub.weights.h5")


def test_vgg16_from_its_hub(tmp_path, cache, publish):
    source = keras.applications.VGG16(weights=None, include_top=False)
    source.save_weights(tmp_path / "hub.weights.h5")
    publish("vgg16", tmp_path / "hub.weights.h5")
    config = SegNetConfig(weights="imagenet", input_scaling="imagenet_caffe")
    model = build(config)
    load_backbone_weights(model, config)
    layers = [layer for layer in source.layers if layer.weights]
    assert len(layers) == 13
    for layer in layers:
        found = model.get_layer("vgg16").get_layer(layer.name).get_weights()
        assert all(map(np.array_equal, found, layer.get_weights())), layer.name
    assert compute_weights_sha256(config) == compute_sha256(cache / "hub.weights.h5")


def test_wrong_names_in_the_hubs_file(tmp_path, publish):
    write_safetensors(tmp_path / "hub.safetensors", {"stem.weight": np.zeros(3, np.float32)})
    publish("resnet34", tmp_path / "hub.safetensors")
    with pytest.raises(RecipeError) as caught:
        load_backbone_weights(wrap("resnet34"), configure("resnet34"))
    assert str(caught.value) == (
        f"Weights are missing in {SOURCES['resnet34'].url}: found no conv1_conv/kernel and 179 "
        "more, wanted the 180 variables of KerasCV's resnet34; make the file again, or name "
        "another."
    )


@pytest.mark.parametrize("backbone", SOURCES)
def test_hub_out_of_reach(cache, monkeypatch, backbone):
    url = "http://127.0.0.1:9/model.bin"  # the discard port: nobody answers
    monkeypatch.setitem(SOURCES, backbone, replace(SOURCES[backbone], url=url))
    with pytest.raises(RecipeError) as caught:
        compute_weights_sha256(configure(backbone))
    assert str(caught.value) == (
        f"ImageNet weights of {backbone} cannot be downloaded in {url}: found [Errno 111] "
        f"Connection refused; bring that file to {cache / SOURCES[backbone].file} from a machine "
        "that can, or give --weights FILE, an .npz as lesionkeras/models/weights.py describes, "
        "or --weights none."
    )
    assert not list(cache.iterdir())


def test_file_of_another_hash_is_refused(tmp_path, publish, monkeypatch):
    (tmp_path / "hub.safetensors").write_bytes(b"half a file")
    publish("resnet34", tmp_path / "hub.safetensors")
    other = replace(SOURCES["resnet34"], file_hash="0" * 64)
    monkeypatch.setitem(SOURCES, "resnet34", other)
    with pytest.raises(RecipeError, match=r"cannot be downloaded in file://.*hash does not match"):
        fetch_imagenet("resnet34")


def test_sources_are_pinned():
    for backbone, source in SOURCES.items():
        assert source.url.startswith("https://")
        assert "/main/" not in source.url
        assert len(source.file_hash) in (32, 64)
        assert backbone in source.file
        assert source.input_scaling in INPUT_SCALINGS
