import json

import keras
import numpy as np
import pytest

from lesionkeras.config import SSDRecipe
from lesionkeras.errors import RunError
from lesionkeras.training.checkpoints import (
    TrainingState,
    read_best,
    read_last,
    write_best,
    write_last,
)
from lesionkeras.training.fit import compile_model
from lesionkeras.training.run import RunDirectory
from lesionkeras.training.tensors import read_tensors, write_tensors


def build(units: int = 4, policy: str = "float32") -> keras.Model:
    layers = keras.layers
    x = image = keras.Input((6,))
    for layer in (
        layers.Dense(units, dtype=policy),
        layers.BatchNormalization(dtype=policy),
        layers.Dropout(0.5, dtype=policy),
        layers.Dense(1, dtype=policy),
    ):
        x = layer(x)
    model = keras.Model(image, x)
    model.dtype_policy = policy
    compile_model(model, SSDRecipe(), 10, loss="mse")
    return model


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory.open(tmp_path / "run", SSDRecipe(), "toy", {})


def _set_apart(model: keras.Model) -> list[np.ndarray]:
    """Gives every variable values of its own."""
    for number, variable in enumerate(model.variables + model.optimizer.variables):
        count = int(np.prod(variable.shape))
        variable.assign(np.arange(count).reshape(variable.shape) + 10 * number)
    return [v.numpy() for v in model.variables + model.optimizer.variables]


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_last_brings_everything_back(run, policy):
    model = build(policy=policy)
    values = _set_apart(model)
    state = TrainingState(3, 30, 0.1 + 0.2, 2, [{"epoch": 1, "loss": 1 / 3, "val_map50": 0.5}])
    write_last(run, model, state)
    other = build(policy=policy)  # layers have other counters in their names now
    assert read_last(run, other) == state
    restored = other.variables + other.optimizer.variables
    for variable, value in zip(restored, values, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, variable.path)
    paths = " ".join(v.path for v in restored)
    for wanted in ("moving_variance", "seed_generator_state", "iteration", "kernel_velocity"):
        assert wanted in paths
    assert ("dynamic_scale" in paths) == (policy == "mixed_float16")


def test_no_checkpoint_is_none_or_an_error(run):
    model = build()
    assert read_last(run, model) is None
    with pytest.raises(RunError, match=r"A run has no best checkpoint in .*same command again"):
        read_best(run, model)


def test_best_needs_no_optimizer(run):
    model = build()
    write_best(run, model, 7)
    kernel = model.get_weights()[0]
    _set_apart(model)
    assert read_best(run, model) == 7
    np.testing.assert_array_equal(model.get_weights()[0], kernel)


def test_another_network_is_refused_and_untouched(run):
    write_last(run, build(units=4), TrainingState(1))
    other = build(units=5)
    before = _set_apart(other)
    with pytest.raises(RunError, match=r"another network's .*\(6, 4\), wanted .*\(6, 5\)"):
        read_last(run, other)
    for variable, value in zip(other.variables, before, strict=False):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize("keep", [0, 4, 300, -1])
def test_damaged_file_is_named(run, keep):
    model = build()
    write_last(run, model, TrainingState(1))
    run.last.write_bytes(run.last.read_bytes()[:keep])
    with pytest.raises(RunError, match=r"A checkpoint is damaged in .*last\.safetensors: found"):
        read_last(run, model)


def test_tensors_are_a_safetensors_file(tmp_path):
    arrays = {
        "a": np.array([[1.5, -2.0]], np.float32),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.uint32),
        "flag": np.array([True, False]),
    }
    path = tmp_path / "x.safetensors"
    write_tensors(path, arrays, "told")
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0 and header["__metadata__"] == {"text": "told"}
    assert header["a"] == {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}
    assert header["scalar"] == {"dtype": "I64", "shape": [], "data_offsets": [8, 16]}
    assert content[8 + length :] == arrays["a"].tobytes() + b"\x07" + b"\0" * 7 + b"\1\0"
    back, text = read_tensors(path)
    assert text == "told" and list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
