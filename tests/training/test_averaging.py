import keras
import numpy as np
import pytest

from lesionkeras.config import OptimizerConfig
from lesionkeras.training.averaging import averaged_weights
from lesionkeras.training.optimizers import build_optimizer


def train(config, steps=3, policy="float32"):
    """One weight that a step lowers by 1; the weights it had after each step."""
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        model.compile(optimizer=build_optimizer(config, 100), loss=lambda y, p: 0.0 * p + p)
    finally:
        keras.config.set_dtype_policy("float32")
    (weight,) = model.trainable_variables
    weight.assign([[10.0]])
    path = []
    for _ in range(steps):
        model.train_on_batch(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32))
        path.append(float(weight.numpy()[0, 0]))
    return model, weight, path


PLAIN = {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0, "nesterov": False}
PLAIN |= {"schedule": "constant", "warmup_fraction": 0.0}


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_average_is_there_for_a_while_and_the_weights_come_back(policy):
    model, weight, path = train(OptimizerConfig(ema_momentum=0.5, **PLAIN), policy=policy)
    first, second, third = path
    assert first == pytest.approx(9.0, abs=0.01) and third == pytest.approx(7.0, abs=0.01)
    with averaged_weights(model):
        wanted = 0.5 * (0.5 * first + 0.5 * second) + 0.5 * third
        assert float(weight.numpy()[0, 0]) == pytest.approx(wanted, rel=1e-6)
    assert float(weight.numpy()[0, 0]) == third


def test_weights_come_back_after_an_error():
    model, weight, path = train(OptimizerConfig(ema_momentum=0.5, **PLAIN))
    with pytest.raises(KeyError), averaged_weights(model):
        raise KeyError
    assert float(weight.numpy()[0, 0]) == path[-1]


def test_without_averaging_nothing_moves():
    model, weight, path = train(OptimizerConfig(**PLAIN))
    with averaged_weights(model):
        assert float(weight.numpy()[0, 0]) == path[-1]
