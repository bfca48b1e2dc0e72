"""A segmenter's training: what it learns with, what it keeps, and that a killed run goes on."""

import keras
import numpy as np
import pytest
from tensorflow.python.framework import config

from lesionkeras.config import SegmentationAugmentConfig, UNetConfig, UNetRecipe
from lesionkeras.data.segmentation import SegmentationSplit, SegmentationSplits
from lesionkeras.recipe import override
from lesionkeras.segmentation_losses import segmentation_loss
from lesionkeras.training import segmenter
from lesionkeras.training.fit import compile_model, fit
from lesionkeras.training.run import RunDirectory
from lesionkeras.training.schedules import CpuClock
from lesionkeras.training.segmenter import (
    build_segmenter,
    find_monitor,
    make_batches,
    train_segmenter,
)
from lesionkeras.training.tensors import read_tensors
from tests.data.test_segmentation import DATA, SIDE, make_slices

RECIPE = override(
    UNetRecipe(
        data=DATA,
        augment=SegmentationAugmentConfig(crop_size_px=0),
        model=UNetConfig(base_channels=4, depth=2, deep_supervision=0, dropout=0.2),
    ),
    {
        "optimizer.ema_momentum": 0.8,
        "train.epochs": 3,
        "train.cpu_budget_s": 0.0,
        "train.batch_size": 2,
        "train.images_per_epoch": 4,
        "train.validate_every_epochs": 1,
    },
)
SPLITS = SegmentationSplits(
    SegmentationSplit(make_slices(), np.arange(4)),
    SegmentationSplit(make_slices(), np.arange(4, 6)),
)


class Killed(keras.callbacks.Callback):
    """Ends the process in mid-epoch, as far as the run directory can tell."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch + 1) == self.at:
            raise KeyboardInterrupt


def train(monkeypatch, out, recipe=RECIPE, kill=None):
    """Trains in a folder; with `kill` until that epoch and batch."""
    extra = [Killed(*kill)] if kill else []
    monkeypatch.setattr(
        segmenter, "fit", lambda *words, **names: fit(*words, **names, callbacks=extra)
    )
    run = RunDirectory.open(out, recipe, "unet", {})
    return train_segmenter(recipe, SPLITS, run, None)


@pytest.fixture(scope="module", autouse=True)
def determinism():
    """What training turns on would take XLA from the tests of other modules."""
    yield
    config.disable_op_determinism()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        out = tmp_path_factory.mktemp("segmenter") / "whole"
        return out, *train(monkeypatch, out)


def test_killed_run_with_averaged_weights_has_the_same_bits(monkeypatch, tmp_path, whole):
    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        train(monkeypatch, out, kill=(3, 1))
    _, rows, best = train(monkeypatch, out)
    assert best == 3 and [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["loss"] for row in rows] == [row["loss"] for row in whole[2]]
    for name in ("last", "best"):
        wanted, _ = read_tensors(whole[0] / "checkpoints" / f"{name}.safetensors")
        found, _ = read_tensors(out / "checkpoints" / f"{name}.safetensors")
        assert [a.tobytes() for a in wanted.values()] == [a.tobytes() for a in found.values()]
        assert any("average" in key for key in wanted) == (name == "last")


def test_the_averaged_weights_are_kept(whole):
    out, network, _, _ = whole
    last, _ = read_tensors(out / "checkpoints" / "last.safetensors")
    averages = [array for key, array in last.items() if key.endswith("average")]
    trained = [v.numpy() for v in network.trainable_variables]
    assert len(averages) == len(trained) > 4
    for average, weight in zip(averages, trained, strict=True):
        np.testing.assert_array_equal(average, weight)
    weights = [array for key, array in last.items() if key.startswith("model/")]
    assert not all(any(np.array_equal(a, w) for w in weights) for a in averages)


def test_the_saved_network_says_the_same_in_one_output(whole):
    out, network, _, _ = whole
    saved = keras.saving.load_model(out / "model.keras")
    image = np.random.default_rng(0).random((1, SIDE, SIDE, 3), np.float32)
    np.testing.assert_array_equal(saved(image), network(image))
    assert saved(image).shape == (1, SIDE, SIDE, 3)


def test_a_budget_ends_the_run_and_is_resumed(monkeypatch, tmp_path):
    """Every look at the clock is a CPU second; the budget is a step and a half of an epoch."""
    ticks = iter(range(1000))
    in_ticks = lambda *words: CpuClock(*words, clock=lambda: float(next(ticks)))  # noqa: E731
    monkeypatch.setattr("lesionkeras.training.fit.CpuClock", in_ticks)
    recipe = override(RECIPE, {"train.epochs": 0, "train.cpu_budget_s": 7.0})
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(monkeypatch, out, recipe, kill=(2, 1))
    _, rows, best = train(monkeypatch, out, recipe)
    assert [row["cpu_seconds"] for row in rows] == [2.0, 4.0, 6.0, 7.0] and best == 4
    assert rows[0]["learning_rate"] > rows[2]["learning_rate"] > rows[3]["learning_rate"] > 0
    assert train(monkeypatch, out, recipe)[1] == rows  # a finished run trains no more


def test_the_monitor_is_of_what_the_head_finds():
    names = {
        (head, target): find_monitor(override(RECIPE, {"model.head": head, "loss.target": target}))
        for head in ("binary", "three_class")
        for target in ("tumour", "liver")
    }
    assert names.pop(("binary", "liver")) == "val_liver_dice"
    assert set(names.values()) == {"val_tumour_dice"}


def test_deep_supervision_and_one_output(monkeypatch):
    recipe = override(RECIPE, {"model.depth": 3, "model.deep_supervision": 1})
    keras.utils.set_random_seed(0)
    network, model = build_segmenter(recipe)
    assert len(model.outputs) == 2 and len(network.outputs) == 1
    image, mask = next(iter(make_batches(SPLITS, recipe, 0)))
    logits = model(image, training=False)
    assert [tuple(each.shape) for each in logits] == [(2, SIDE, SIDE, 3), (2, 8, 8, 3)]
    loss = model.compute_loss(image, mask, logits)
    assert float(loss) == float(segmentation_loss(logits, mask, recipe.loss)) > 0


def test_epochs_go_on_where_the_one_before_ended():
    first = [image.numpy() for image, _ in make_batches(SPLITS, RECIPE, 0).take(4)]
    second = [image.numpy() for image, _ in make_batches(SPLITS, RECIPE, 1).take(2)]
    assert np.array_equal(first[2], second[0]) and np.array_equal(first[3], second[1])


@pytest.mark.parametrize("normalisation", ["window", "standardise"])
def test_it_learns(tmp_path, normalisation):
    """Lesion, liver and the rest differ in grey: a hundred steps are enough."""
    changes = {"augment.mode": "none", "data.normalisation": normalisation}
    changes |= {"train.images_per_epoch": 200, "train.epochs": 1, "model.dropout": 0.0}
    changes |= {"optimizer.learning_rate": 1e-2, "optimizer.schedule": "constant"}
    recipe = override(RECIPE, changes)
    run = RunDirectory.open(tmp_path / "run", recipe, "unet", {})
    network, _, _ = train_segmenter(recipe, SPLITS, run, None)
    image, mask = next(iter(make_batches(SPLITS, recipe, 0)))
    found = np.argmax(network(image), axis=-1)
    for label in (1, 2):
        a, b = found == label, mask.numpy() == label
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.95


def test_a_plateau_lowers_the_rate_and_resumes(tmp_path):
    changes = {"optimizer.schedule": "plateau", "optimizer.learning_rate": 1e-30}
    changes |= {"optimizer.plateau_patience_epochs": 1, "optimizer.plateau_factor": 0.5}
    recipe = override(RECIPE, changes | {"train.epochs": 4})
    run = RunDirectory.open(tmp_path / "run", recipe, "unet", {})
    losses = iter([1.0, 0.5, 0.5, 0.5])
    validate = lambda model: {"tumour_dice": 0.5, "loss": next(losses)}  # noqa: E731
    keras.utils.set_random_seed(0)
    _, model = build_segmenter(recipe)
    compile_model(model, recipe, 8)
    stream = lambda epoch: make_batches(SPLITS, recipe, epoch)  # noqa: E731
    rows = fit(model, recipe, run, stream, 2, validate, monitor="val_tumour_dice")
    rates = [row["learning_rate"] / 1e-30 for row in rows]
    np.testing.assert_allclose(rates, [1.0, 1.0, 1.0, 0.5], rtol=1e-5)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.25e-30)
