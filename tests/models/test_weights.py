import json
import pickle
import struct
import warnings
import zipfile
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

from lesionkeras.config import ResNet50UNetConfig, SegNetConfig, SSDConfig, UNetConfig
from lesionkeras.errors import RecipeError
from lesionkeras.models import build
from lesionkeras.models.backbones import build_resnet
from lesionkeras.models.input_scaling import INPUT_SCALINGS
from lesionkeras.models.ssd import build_ssd
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
    model = build_ssd(config := resolve_input_scaling(config))
    others = [
        v
        for v in model.weights
        if id(v) not in set(map(id, list_variables(model, backbone).values()))
    ]
    before = [ops.convert_to_numpy(v) for v in others]
    assert config.input_scaling == "imagenet_caffe"
    load_backbone_weights(model, config)
    for key, variable in list_variables(model, backbone).items():
        assert np.array_equal(ops.convert_to_numpy(variable), wanted[key].astype(np.float32)), key
    assert before  # maps and heads keep theirs
    for variable, old in zip(others, before, strict=True):
        assert np.array_equal(ops.convert_to_numpy(variable), old)


def test_file_fills_the_encoder_of_a_segmenter(tmp_path):
    config = ResNet50UNetConfig(backbone="resnet34", weights=str(tmp_path / "w.npz"))
    model = build(config)
    wanted = make_arrays(model, "resnet34")
    write(tmp_path / "w.npz", wanted)
    config = resolve_input_scaling(config)
    assert config.input_scaling == "imagenet_torch"
    assert len(compute_weights_sha256(config)) == 64
    load_backbone_weights(model, config)
    for key, variable in list_variables(model, "resnet34").items():
        assert np.array_equal(ops.convert_to_numpy(variable), wanted[key].astype(np.float32)), key


def test_file_fills_segnets_convolutions_and_not_its_norms(tmp_path, arrays):
    path = tmp_path / "w.npz"
    config = SegNetConfig(weights=str(path), input_scaling="imagenet_caffe")
    model = build(config)
    wanted = {k: a for k, a in make_arrays(model, "vgg16").items() if "norm" not in k}
    assert len(wanted) == 26  # 13 kernels, 13 biases
    sentence = (
        f"The weights are another network's in {write(path, arrays, CAFFE)}: found resnet34, "
        "wanted vgg16; give weights of vgg16."
    )
    assert catch(load_backbone_weights, model, config) == sentence
    bias = wanted.pop("block5_conv3/bias")
    write(path, wanted, CAFFE)
    assert catch(load_backbone_weights, model, config) == (
        f"Weights are missing in {path}: found no block5_conv3/bias, wanted the 26 variables of "
        "keras.applications' vgg16; make the file again, or name another."
    )
    wanted["block5_conv3/bias"] = bias
    write(path, wanted, CAFFE)
    assert resolve_input_scaling(replace(config, input_scaling="unit")) == config
    variables = list_variables(model, "vgg16")
    norms = {k: ops.convert_to_numpy(v) for k, v in variables.items() if "norm" in k}
    load_backbone_weights(model, config)
    for key, variable in variables.items():
        array = norms[key] if "norm" in key else wanted[key].astype(np.float32)
        assert np.array_equal(ops.convert_to_numpy(variable), array), key


def test_vgg16_does_not_fit_a_resnet(tmp_path, network):
    path = tmp_path / "w.npz"
    assert fail(network, path, {"block1_conv1/kernel": np.zeros((3, 3, 3, 64))}) == (
        "The weights are another network's in FILE: found vgg16, wanted resnet34; give weights of "
        "resnet34."
    )


def test_a_unet_has_no_weights_to_fill():
    model = build(UNetConfig(base_channels=4, depth=2))
    before = model.get_weights()
    load_backbone_weights(model, UNetConfig())
    assert all(map(np.array_equal, before, model.get_weights()))
    assert resolve_input_scaling(UNetConfig(depth=3)) == UNetConfig(depth=3)
    assert compute_weights_sha256(UNetConfig()) == ""


def test_none_changes_nothing(network):
    before = network.get_weights()
    load_backbone_weights(network, SSDConfig(weights="none"))
    assert all(map(np.array_equal, before, network.get_weights()))


def fail(network, path, arrays, preprocessing=TORCH):
    """The sentence that a file of these arrays ends in, the file's name written FILE."""
    config = configure(write(path, arrays, preprocessing))
    return catch(load_backbone_weights, network, config).replace(str(path), "FILE")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"conv1_bn/gamma": None, "conv1_bn/beta": None},
            "Weights are missing in FILE: found no conv1_bn/gamma and 1 more, wanted the 180 "
            "variables of KerasCV's resnet34; make the file again, or name another.",
        ),
        (
            {"fc/kernel": np.zeros(3)},
            "Weights have no place in the network, or are there twice in FILE: found fc/kernel, "
            "wanted each of the 180 variables of KerasCV's resnet34 once; leave them out of the "
            "file.",
        ),
        (
            {"conv1_bn/gamma": np.zeros((64, 1), np.float32)},
            "An array does not fit its variable in FILE, key conv1_bn/gamma: found float32 "
            "(64, 1), wanted floats (64,); make the file again, or name another.",
        ),
        (
            {"conv1_bn/gamma": np.zeros(64, np.int64)},
            "An array does not fit its variable in FILE, key conv1_bn/gamma: found int64 (64,), "
            "wanted floats (64,); make the file again, or name another.",
        ),
        (
            {"conv1_bn/gamma": np.full(64, np.nan)},
            "Weights are not numbers in FILE, key conv1_bn/gamma: found NaN or infinity, wanted "
            "finite values; make the file again.",
        ),
        (
            {"conv1_bn/gamma": np.array([{"a": 1}] * 64)},  # numpy.savez pickles it
            "An array does not fit its variable in FILE, key conv1_bn/gamma: found object (64,), "
            "wanted floats (64,); make the file again, or name another.",
        ),
    ],
    ids=["missing", "surplus", "shape", "integers", "nan", "pickle"],
)
def test_file_that_does_not_fit(tmp_path, network, arrays, change, sentence):
    changed = {key: v for key, v in (arrays | change).items() if v is not None}
    before = network.get_weights()
    assert fail(network, tmp_path / "w.npz", changed) == sentence
    # Nothing is assigned before everything is known to fit.
    assert all(map(np.array_equal, before, network.get_weights()))


def test_weights_of_the_other_network(tmp_path, network):
    other = make_arrays(wrap("resnet50"), "resnet50")
    assert fail(network, tmp_path / "w.npz", other) == (
        "The weights are another network's in FILE: found resnet50, wanted "
        "resnet34; give --backbone resnet50, or weights of resnet34."
    )


UNREADABLE = (
    "A weights file cannot be read in {}: found {}, wanted an .npz file as numpy.savez writes it; "
    "name another file, or make this one again."
)
CALLS = [
    lambda config: load_backbone_weights(keras.Model(), config),
    resolve_input_scaling,
]


@pytest.mark.parametrize("call", CALLS, ids=["load", "resolve"])
@pytest.mark.parametrize("content", ["text", "npy", "pickle"])
def test_file_that_is_no_npz(tmp_path, call, content):
    path = tmp_path / "w.npz"
    if content == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes(pickle.dumps({"a": 1}) if content == "pickle" else b"conv1")
    assert catch(call, configure(path)) == UNREADABLE.format(path, "File is not a zip file")


@pytest.mark.parametrize("call", [*CALLS, compute_weights_sha256])
def test_file_that_is_not_there(tmp_path, call):
    path = tmp_path / "w.npz"
    found = f"[Errno 2] No such file or directory: '{path}'"
    assert catch(call, configure(path)) == UNREADABLE.format(path, found)


def test_damaged_array(tmp_path, network, arrays):
    path = write(tmp_path / "w.npz", arrays)
    with zipfile.ZipFile(path) as archive:
        at = archive.getinfo("conv1_conv/kernel.npy").header_offset + 1000
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert catch(load_backbone_weights, network, configure(path)) == UNREADABLE.format(
        path, "Bad CRC-32 for file 'conv1_conv/kernel.npy'"
    )


def put(path, name, content):
    """Adds a member to a zip file, also one of a name that is there already."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(name, content)


def make_npy(shape, version=(1, 0)):
    """An array's header without an array."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("conv1_bn/beta.npy", "conv1_bn/beta"),
        ("readme.txt", "readme.txt, which is no array,"),
    ],
)
def test_member_too_many(tmp_path, network, arrays, name, found):
    path = write(tmp_path / "w.npz", arrays)
    put(path, name, make_npy((64,)))
    assert catch(load_backbone_weights, network, configure(path)) == (
        f"Weights have no place in the network, or are there twice in {path}: found {found}, "
        "wanted each of the 180 variables of KerasCV's resnet34 once; leave them out of the file."
    )


def test_size_that_a_header_claims_is_never_allocated(tmp_path, network, arrays):
    rest = {key: array for key, array in arrays.items() if key != "conv1_bn/beta"}
    path = write(tmp_path / "w.npz", rest)
    put(path, "conv1_bn/beta.npy", make_npy((10**15,)))  # 4 PB
    assert "key conv1_bn/beta: found float32 (1000000000000000,), wanted floats (64,)" in catch(
        load_backbone_weights, network, configure(path)
    )


def test_array_of_another_format_version(tmp_path, network, arrays):
    rest = {key: array for key, array in arrays.items() if key != "conv1_bn/beta"}
    path = write(tmp_path / "w.npz", rest)
    put(path, "conv1_bn/beta.npy", make_npy((64,), version=(9, 0)))
    assert catch(load_backbone_weights, network, configure(path)) == UNREADABLE.format(
        path, "an array of format version (9, 0)"
    )


def test_input_scaling_that_was_not_resolved(tmp_path, network):
    path = write(tmp_path / "w.npz", {})
    config = configure(path, scaling="unit")
    assert catch(load_backbone_weights, network, config) == (
        "The input scaling is not that of the weights in model.input_scaling: found unit, wanted "
        "imagenet_torch; set model.input_scaling=imagenet_torch."
    )


@pytest.mark.parametrize(
    ("preprocessing", "wanted"), [(CAFFE, "imagenet_caffe"), (TORCH, "imagenet_torch")]
)
def test_file_names_its_input_scaling(tmp_path, preprocessing, wanted):
    noted = preprocessing | {"note": "more may be said", "channels": "any"}
    path = write(tmp_path / "w.npz", {}, noted)
    config = configure(path, backbone="resnet50", scaling="unit")
    resolved = resolve_input_scaling(config)
    assert resolved == replace(config, input_scaling=wanted)
    # The words stand for what the file says: (pixel - mean) / std, at a pixel of .25 of the range.
    scale, offset = np.array(INPUT_SCALINGS[wanted])
    pixel = 0.25 * (255 if wanted == "imagenet_caffe" else 1)
    by_file = (pixel - np.array(preprocessing["mean"])) / np.array(preprocessing["std"])
    np.testing.assert_allclose(0.25 * scale + offset, by_file, rtol=1e-6)


@pytest.mark.parametrize(
    "preprocessing",
    [
        CAFFE | {"mean": CAFFE["mean"][::-1], "channels": "RGB"},
        TORCH | {"std": [1.0, 1.0, 1.0]},
        TORCH | {"std": [0.0, 0.0, 0.0]},
        TORCH | {"range": "-1..1"},
        CAFFE | {"mean": [103.939]},
        CAFFE | {"mean": "grey"},
        {"mean": [0, 0, 0]},
        [1, 2, 3],
    ],
)
def test_preprocessing_that_the_network_lacks(tmp_path, preprocessing):
    path = write(tmp_path / "w.npz", {}, preprocessing)
    assert catch(resolve_input_scaling, configure(path)) == (
        "The preprocessing of the weights is none that the network has in "
        f"{path}, key preprocessing: found {json.dumps(preprocessing)}, wanted "
        '{"range": "0..255", "mean": [103.939, 116.779, 123.68], "std": [1, 1, 1]} or '
        '{"range": "0..1", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}; turn the '
        "channels of the first kernel into that order, or name another file."
    )


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.zeros(3), "float64 (3,)"),
        (np.array({"range": "0..1"}, dtype=object), "object ()"),  # a pickle
        (np.array("no JSON"), "no JSON"),
        (np.array("x" * 10**5), "str3200000 ()"),
    ],
)
def test_preprocessing_that_is_no_text(tmp_path, value, found):
    np.savez(tmp_path / "w.npz", preprocessing=value)
    assert f"key preprocessing: found {found}, wanted " in catch(
        resolve_input_scaling, configure(tmp_path / "w.npz")
    )


def test_preprocessing_that_is_not_there(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    assert ": found no key preprocessing, wanted " in catch(
        resolve_input_scaling, configure(tmp_path / "w.npz")
    )


def test_scalings_without_a_file():
    assert resolve_input_scaling(SSDConfig(weights="none", input_scaling="unit")) == SSDConfig()
    for backbone, wanted in (("resnet34", "imagenet_torch"), ("resnet50", "imagenet_caffe")):
        config = SSDConfig(backbone=backbone, weights="imagenet")
        assert resolve_input_scaling(config).input_scaling == wanted
    assert resolve_input_scaling(SegNetConfig(weights="imagenet")).input_scaling == "imagenet_caffe"


def test_sha256_of_the_file(tmp_path):
    (tmp_path / "w.npz").write_bytes(b"abc")
    assert compute_weights_sha256(configure(tmp_path / "w.npz")) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    )
    assert compute_weights_sha256(SSDConfig(weights="none")) == ""
