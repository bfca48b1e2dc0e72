"""The phases of a detector's training: what each trains on, and where it ends."""

import keras
import numpy as np
import pytest
from tensorflow.python.framework import config

from lesionkeras.config import SSDRecipe
from lesionkeras.data.opening import Splits
from lesionkeras.data.pipeline import make_train, steps_per_epoch
from lesionkeras.recipe import override
from lesionkeras.training.detector import list_phases, train_detector
from lesionkeras.training.run import RunDirectory
from lesionkeras.training.schedules import CpuClock
from lesionkeras.training.tensors import read_tensors
from tests.data.made import make_split

RECIPE = override(
    SSDRecipe(),
    {
        "train.epochs": 10,
        "train.batch_size": 6,
        "train.images_per_epoch": 30,
        "train.whole_image_batch_size": 2,
        "augment.crop_size_px": 32,
    },
)


@pytest.mark.parametrize(("share", "ends"), [(0.0, 10), (0.2, 8), (0.25, 8), (1.0, 0)])
def test_crops_come_first_and_whole_images_last(share, ends):
    recipe = override(RECIPE, {"train.whole_image_fraction": share})
    split = make_split(4, side_px=64)
    steps = steps_per_epoch(split, recipe)
    crops, whole = list_phases(recipe, steps)
    assert (crops.train.epochs, whole.train.epochs) == (ends, 10)
    for phase, shape in ((crops, (6, 32, 32, 3)), (whole, (2, 64, 64, 3))):
        assert steps_per_epoch(split, phase) == steps == 5  # the schedule counts on it
        assert make_train(split, phase).element_spec[0].shape == shape
        assert phase.train.seed == recipe.train.seed and phase.model == recipe.model


@pytest.mark.parametrize("change", [{"augment.mode": "copies"}, {"augment.crop_size_px": 0}])
def test_without_crops_there_is_one_phase(change):
    recipe = override(RECIPE, change)
    assert list_phases(recipe, 5) == [recipe]


@pytest.mark.parametrize(("share", "seconds"), [(0.0, 100), (0.25, 75), (1.0, 0)])
def test_under_a_budget_phases_end_by_their_share_of_it(share, seconds):
    changes = {"train.whole_image_fraction": share, "train.cpu_budget_s": 100}
    crops, whole = list_phases(override(RECIPE, changes), 5)
    assert (crops.train.cpu_budget_s, whole.train.cpu_budget_s) == (seconds, 100)
    assert crops.train.epochs == whole.train.epochs == 0  # epochs do not end it
    (only,) = list_phases(override(RECIPE, {**changes, "augment.crop_size_px": 0}), 5)
    assert (only.train.epochs, only.train.cpu_budget_s) == (0, 100)


class Toy(keras.Model):
    """Takes images of any size and brings its loss, as the detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = keras.layers.Conv2D(1, 3)
        self.sides_px = []

    def call(self, image):
        self.sides_px.append(image.shape[1])  # at tracing: once a phase
        return self.conv(image)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(keras.ops.square(y_pred - 1.0))


def test_averaged_weights_under_a_budget_that_two_phases_share(monkeypatch, tmp_path):
    """Every look at the clock is a CPU second: half of 24 are steps on crops."""
    ticks = iter(range(1000))
    in_ticks = lambda *words: CpuClock(*words, clock=lambda: float(next(ticks)))  # noqa: E731
    monkeypatch.setattr("lesionkeras.training.fit.CpuClock", in_ticks)
    toy = Toy()
    monkeypatch.setattr("lesionkeras.training.detector.build_detector", lambda recipe: toy)
    changes = {"train.cpu_budget_s": 24.0, "train.whole_image_fraction": 0.5}
    changes |= {"optimizer.ema_momentum": 0.5, "train.validate_every_epochs": 1}
    recipe = override(RECIPE, changes)
    split, validated = make_split(4, side_px=64), []
    toy(np.zeros((1, 32, 32, 3), np.float32))

    def validate(model):
        validated.append(model.trainable_variables[0].numpy().copy())
        return {"map50": float(len(validated))}

    run = RunDirectory.open(tmp_path / "run", recipe, "ssd", {})
    try:
        model, rows, best = train_detector(recipe, Splits(split, split, split), run, validate)
    finally:
        config.disable_op_determinism()
    assert {32, 64} <= set(toy.sides_px)
    assert rows[-1]["cpu_seconds"] == 24.0 and best == len(rows) == len(validated) > 2
    last, _ = read_tensors(run.last)
    kernel = model.trainable_variables[0].numpy()
    (average,) = [a for k, a in last.items() if k.endswith("average") and a.shape == kernel.shape]
    trained = [a for k, a in last.items() if k.startswith("model/") and a.shape == kernel.shape]
    assert trained and not any(np.array_equal(average, array) for array in trained)
    np.testing.assert_array_equal(validated[-1], average)
    np.testing.assert_array_equal(kernel, average)  # what is kept is what was scored
