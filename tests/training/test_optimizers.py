import keras
import numpy as np
import pytest

from lesionkeras.config import OptimizerConfig
from lesionkeras.errors import RecipeError
from lesionkeras.training.optimizers import WarmupSchedule, build_optimizer

CONSTANT = {"schedule": "constant", "warmup_fraction": 0.0}


def _variables() -> list[keras.Variable]:
    return [keras.Variable(np.ones(2), name=n) for n in ("kernel", "bias", "gamma", "beta")]


def test_adamw_decays_kernels_only():
    config = OptimizerConfig(learning_rate=0.5, weight_decay=0.1, **CONSTANT)
    optimizer, variables = build_optimizer(config, 10), _variables()
    optimizer.apply([np.zeros(2, np.float32)] * 4, variables)
    assert [float(v[0]) for v in variables] == pytest.approx([0.95, 1.0, 1.0, 1.0])


def test_adamw_decays_kernels_only_inside_a_model():
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Conv2D(3, 1), layers.BatchNormalization()]
    )
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    config = OptimizerConfig(learning_rate=0.5, weight_decay=0.1, **CONSTANT)
    optimizer = build_optimizer(config, 10)
    zeros = [np.zeros(v.shape, np.float32) for v in model.trainable_variables]
    optimizer.apply(zeros, model.trainable_variables)
    means = {v.name: float(v.numpy().mean()) for v in model.trainable_variables}
    assert means == pytest.approx({"kernel": 0.95, "bias": 1.0, "gamma": 1.0, "beta": 1.0})


def test_sgd_takes_nesterov_steps():
    config = OptimizerConfig("sgd", 0.1, momentum=0.5, nesterov=True, **CONSTANT)
    optimizer, (x, *_) = build_optimizer(config, 10), _variables()
    optimizer.apply([np.ones(2, np.float32)], [x])
    # velocity -.1; a nesterov step is .5 * velocity - .1
    np.testing.assert_allclose(x.numpy(), 1 - 0.15, rtol=1e-6)


def test_clip_norm_is_over_all_gradients():
    config = OptimizerConfig("sgd", 1.0, momentum=0.0, nesterov=False, clip_norm=1.0, **CONSTANT)
    optimizer, (x, y, *_) = build_optimizer(config, 10), _variables()
    optimizer.apply([np.float32([3, 0]), np.float32([0, 4])], [x, y])
    np.testing.assert_allclose([x.numpy(), y.numpy()], [[0.4, 1.0], [1.0, 0.2]], rtol=1e-6)


def test_constant_schedule_rises_and_stays():
    config = OptimizerConfig("sgd", 0.4, schedule="constant", warmup_fraction=0.4)
    schedule = build_optimizer(config, 5)._learning_rate
    np.testing.assert_allclose([schedule(step) for step in range(4)], [0.2, 0.4, 0.4, 0.4])


def test_schedule_round_trips():
    schedule = WarmupSchedule(0.3, 11, 4, "cosine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert again.get_config() == schedule.get_config()
    assert isinstance(again, WarmupSchedule) and float(again(6)) == float(schedule(6)) > 0
    assert float(again(30)) == 0  # past the end it stays there


@pytest.mark.parametrize("field", ["name", "schedule"])
def test_unknown_name_is_an_error(field):
    with pytest.raises(RecipeError, match=f"optimizer.{field} is unknown: found 'x', wanted "):
        build_optimizer(OptimizerConfig(**{field: "x"}), 10)
