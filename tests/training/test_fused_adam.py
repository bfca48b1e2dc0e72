"""One pass over the memory gives what Keras' eight operations give."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.training.fused_adam import FusedAdam, FusedAdamW

SHAPES = ((3, 3, 4, 8), (8,), ())
PAIRS = [(FusedAdam, keras.optimizers.Adam), (FusedAdamW, keras.optimizers.AdamW)]


def run(optimizer, steps=5, jit_compile=False):
    """Weights after some steps of given gradients, and the optimizer's own variables."""
    rng = np.random.default_rng(0)
    weights = [keras.Variable(rng.normal(size=shape).astype(np.float32)) for shape in SHAPES]
    optimizer.build(weights)
    step = tf.function(lambda *gradients: optimizer.apply(gradients), jit_compile=jit_compile)
    for _ in range(steps):
        step(*[tf.constant(rng.normal(size=shape).astype(np.float32)) for shape in SHAPES])
    return [v.numpy() for v in weights], [v.numpy() for v in optimizer.variables]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_equals_keras(ours, theirs, jit_compile):
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 8)
    options = {"learning_rate": schedule, "global_clipnorm": 2.0}
    options |= {"use_ema": True, "ema_momentum": 0.9}
    if theirs is keras.optimizers.AdamW:
        options["weight_decay"] = 0.1
    found, wanted = (run(kind(**options), jit_compile=jit_compile) for kind in (ours, theirs))
    for part, other in zip(found, wanted, strict=True):
        for one, two in zip(part, other, strict=True):
            # 1 - .999 in float32 is 1.3e-5 off, and a step is .1 long
            np.testing.assert_allclose(one, two, rtol=2e-5, atol=1e-5)


def test_first_step_by_hand():
    """The first step of Adam moves every weight by the rate, against its gradient's sign."""
    weight = keras.Variable(np.float32([1.0, -2.0, 3.0]))
    optimizer = FusedAdam(0.25)
    optimizer.build([weight])
    optimizer.apply([tf.constant([4.0, -0.5, 0.0])])
    np.testing.assert_allclose(weight.numpy(), [0.75, -1.75, 3.0], rtol=1e-5)


def test_other_types_take_keras_step():
    weight = keras.Variable(np.float64([1.0]), dtype="float64")
    optimizer = FusedAdam(0.25)
    optimizer.build([weight])
    optimizer.apply([tf.constant([4.0], tf.float64)])
    np.testing.assert_allclose(weight.numpy(), [0.75], rtol=1e-5)


def test_mirrored_variables_take_keras_step():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        weight = keras.Variable(np.float32([1.0]))
        optimizer = FusedAdam(0.25)
        optimizer.build([weight])
    strategy.run(tf.function(lambda: optimizer.apply([tf.constant([4.0])])))
    np.testing.assert_allclose(weight.numpy(), [0.75], rtol=1e-5)


def test_loss_scaling_wraps_it():
    weight = keras.Variable(np.float32([1.0]))
    optimizer = keras.optimizers.LossScaleOptimizer(FusedAdam(0.25), initial_scale=8.0)
    optimizer.build([weight])
    optimizer.apply([tf.constant([8.0])])
    np.testing.assert_allclose(weight.numpy(), [0.75], rtol=1e-5)
    optimizer.apply([tf.constant([np.inf])])  # a step that is left out
    np.testing.assert_allclose(weight.numpy(), [0.75], rtol=1e-5)


def test_configuration_comes_back():
    optimizer = FusedAdamW(0.25, weight_decay=0.5)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is FusedAdamW and again.get_config() == optimizer.get_config()
