"""What must hold for every network; a network's test names its case and calls the checks.

A check fails by assertion.  Each builds what it needs, so that none depends on another's training.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class NetworkCase:
    """A small network with a batch it can learn.

    Args:
        build: Makes the network anew, with the weights that the global seed gives.
        image_unit: float32 [B, H, W, 3].
        targets: What the network's loss takes as y.
    """

    build: Callable[[], keras.Model]
    image_unit: np.ndarray
    targets: Any

    def build_seeded(self, seed: int = 3) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return self.build()


@contextmanager
def policy(name: str):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def compile_for_test(model: keras.Model, steps: int) -> None:
    """AdamW from 2e-3 to 0; averages that follow in a few steps, as all batches are the same."""
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5
    model.compile(optimizer=keras.optimizers.AdamW(rate, weight_decay=1e-4), jit_compile=False)
    model.optimizer.build(model.trainable_variables)  # else the step is traced twice


def train(model: keras.Model, case: NetworkCase, steps: int) -> list[float]:
    """Total loss of each step, before its update."""
    losses = []
    for _ in range(steps):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(case.image_unit, case.targets)[0]))
    return losses


def flatten(outputs: Any) -> list[np.ndarray]:
    return [np.asarray(value) for value in tf.nest.flatten(outputs)]


def assert_same(found: Any, wanted: Any, atol: float = 0.0, rtol: float = 0.0) -> None:
    for ours, reference in zip(flatten(found), flatten(wanted), strict=True):
        assert ours.dtype == reference.dtype
        np.testing.assert_allclose(ours, reference, atol=atol, rtol=rtol)


def make_loud(model: keras.Model, prefixes: tuple[str, ...], std: float = 0.2) -> None:
    """Add noise to some layers' weights: an untrained head says nearly the same everywhere."""
    random = np.random.default_rng(5)
    changed = [v for v in model.variables if v.path.startswith(prefixes)]
    assert changed
    for variable in changed:
        variable.assign_add(random.normal(0, std, variable.shape).astype("float32"))


def check_learns(case: NetworkCase, steps: int, below: float) -> keras.Model:
    """The loss of a batch falls below a share of its first value; returns the trained network."""
    model = case.build_seeded()
    compile_for_test(model, steps)
    losses = train(model, case, steps)
    assert np.isfinite(losses).all()
    assert losses[-1] < below * losses[0], losses
    return model


def check_step_is_finite(model: keras.Model, image_unit: np.ndarray, targets: Any) -> float:
    """Loss and gradients are finite, and some gradient is not zero; returns the float32 loss."""
    with tf.GradientTape() as tape:
        outputs = model(image_unit, training=True)
        loss = model.compute_loss(x=image_unit, y=targets, y_pred=outputs)
    gradients = [g for g in tape.gradient(loss, model.trainable_weights) if g is not None]
    assert loss.dtype == tf.float32
    assert np.isfinite(float(loss))
    assert all(np.isfinite(g).all() for g in gradients)
    assert any(np.any(g) for g in gradients)
    return float(loss)


def check_save_and_load(model: keras.Model, image_unit: np.ndarray, folder: Path) -> None:
    """A .keras file gives the same outputs bit for bit."""
    wanted = model(image_unit, training=False)
    model.save(folder / "model.keras")
    again = keras.models.load_model(folder / "model.keras")
    assert type(again) is type(model)
    assert_same(again(image_unit, training=False), wanted)


def check_config_round_trip(model: keras.Model) -> keras.Model:
    """get_config holds plain values and makes an equal network; returns it."""
    config = model.get_config()
    assert isinstance(keras.saving.serialize_keras_object(config), dict)
    again = type(model).from_config(config)
    assert again.get_config() == config
    assert [v.path for v in again.variables] == [v.path for v in model.variables]
    assert [v.shape for v in again.variables] == [v.shape for v in model.variables]
    return again


def check_policy(case: NetworkCase, name: str) -> None:
    """Under a 16-bit policy variables and loss stay float32, and a step changes the weights."""
    with policy(name):
        model = case.build_seeded()
        assert model.compute_dtype == name.removeprefix("mixed_")
        assert {v.dtype for v in model.trainable_variables} == {"float32"}
        outputs = model(case.image_unit, training=False)
        absolute = outputs.pop("box_unit", None)  # a coordinate, not a difference
        assert absolute is None or absolute.dtype == tf.float32
        assert {v.dtype.name for v in tf.nest.flatten(outputs)} <= {model.compute_dtype}
        outputs |= {} if absolute is None else {"box_unit": absolute}
        loss = model.compute_loss(x=case.image_unit, y=case.targets, y_pred=outputs)
        assert loss.dtype == tf.float32
        compile_for_test(model, 10)
        before = [v.numpy() for v in model.trainable_variables]
        losses = train(model, case, 1)
        assert np.isfinite(losses).all()
        after = [v.numpy() for v in model.trainable_variables]
        assert all(np.isfinite(v).all() for v in after)
        # float16 may skip its first step, while the scale of the loss is being found
        if name != "mixed_float16":
            assert any(np.any(a != b) for a, b in zip(before, after, strict=True))


def check_xla_training_step(case: NetworkCase, rtol: float) -> None:
    """A training step compiles under XLA and does what the uncompiled one does."""
    results = []
    for jit_compile in (False, True):
        model = case.build_seeded()
        model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=jit_compile)
        model.optimizer.build(model.trainable_variables)
        assert model.jit_compile is jit_compile
        before = [v.numpy() for v in model.variables]
        losses = train(model, case, 1)
        updates = [v.numpy() - old for v, old in zip(model.variables, before, strict=True)]
        results.append((losses, updates))
    (plain, updates), (compiled, compiled_updates) = results
    np.testing.assert_allclose(compiled, plain, rtol=rtol)
    assert sum(np.any(update) for update in updates) > len(updates) // 2
    for ours, reference in zip(compiled_updates, updates, strict=True):
        # an update is a difference: what the variable itself rounds away is lost
        np.testing.assert_allclose(ours, reference, atol=rtol * np.abs(reference).max() + 1e-6)


def check_xla_function(function: Callable[[Any], Any], x: np.ndarray, atol: float) -> Any:
    """A tensor function compiles under XLA and gives the same; returns the plain result."""
    plain = tf.function(function)(tf.constant(x))
    compiled = tf.function(function, jit_compile=True)(tf.constant(x))
    assert_same(compiled, plain, atol=atol)
    return plain
