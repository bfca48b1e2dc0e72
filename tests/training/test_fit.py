import csv
import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.errors import RunError
from lesionkeras.recipe import override
from lesionkeras.training.checkpoints import read_best, read_last
from lesionkeras.training.fit import compile_model, finish, fit
from lesionkeras.training.log import read_log
from lesionkeras.training.run import RunDirectory

_SPEC = importlib.util.spec_from_file_location("toy_run", Path(__file__).with_name("toy_run.py"))
toy = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(toy)


@keras.saving.register_keras_serializable("lesionkeras_tests")
class TwoLosses(keras.Model):
    """A model that brings its loss and the parts of it, as the detectors do."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(1, name="dense")
        self.part = keras.metrics.Mean(name="class_loss")

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = keras.ops.mean(keras.ops.square(y["target"] - y_pred))
        self.part.update_state(loss / 2)
        return loss


def make_train(first_epoch: int) -> tf.data.Dataset:
    def make_batch(idx):
        image = tf.random.stateless_normal((4, 3), (1, idx))
        return image, {"target": tf.reduce_sum(image, -1, keepdims=True)}

    return tf.data.Dataset.counter(first_epoch * 3).map(make_batch)


def make_train_with_nan(first_epoch: int) -> tf.data.Dataset:
    """The fifth batch, which is the second of epoch 2, holds a NaN."""
    numbers = tf.data.Dataset.counter(first_epoch * 3)

    def spoil(idx, batch):
        image, truth = batch
        return tf.where(tf.equal(idx, 4), image * np.nan, image), truth

    return tf.data.Dataset.zip(numbers, make_train(first_epoch)).map(spoil)


@pytest.fixture
def setup(tmp_path):
    def start(**changes):
        changes = {f"train.{name}": value for name, value in changes.items()}
        recipe = override(toy.RECIPE, {"train.epochs": 4, **changes})
        keras.utils.set_random_seed(1)
        model = TwoLosses()
        model(np.zeros((1, 3), np.float32))
        compile_model(model, recipe, recipe.train.epochs * 3)
        return model, recipe, RunDirectory.open(tmp_path / "run", recipe, "toy", {})

    return start


def _events(folder: Path) -> list[tuple[int, str, float]]:
    (file,) = folder.iterdir()
    events = map(
        tf.compat.v1.Event.FromString, tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    )
    return [
        (event.step, value.tag, float(tf.make_ndarray(value.tensor)))
        for event in events
        for value in event.summary.value
    ]


def test_rows_go_to_log_and_event_file(setup, capsys):
    model, recipe, run = setup(validate_every_epochs=3)
    rows = fit(model, recipe, run, make_train, 3, lambda _: {"map50": 0.25, "recall": 0.5})
    with run.log_csv.open() as file:
        table = list(csv.reader(file))
    assert table[0] == [
        *("epoch", "loss", "class_loss", "learning_rate", "seconds", "val_map50", "val_recall")
    ]
    assert [line[0] for line in table[1:]] == ["1", "2", "3", "4"]
    assert [line[-2] for line in table[1:]] == ["", "", "0.25", "0.25"]  # the last one always
    assert read_log(run.log_csv) == rows
    for row in rows:
        assert row["class_loss"] == pytest.approx(row["loss"] / 2)
    events = _events(run.tensorboard)
    assert [(s, v) for s, tag, v in events if tag == "val_map50"] == [(3, 0.25), (4, 0.25)]
    assert [s for s, tag, _ in events if tag == "loss"] == [1, 2, 3, 4]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4 and printed[2].startswith("epoch 3/4  loss ")
    assert "val_map50 0.25" in printed[2] and "s/epoch  about 0 s left" in printed[2]


def test_learning_rate_counts_all_steps(setup):
    model, recipe, run = setup()
    rows = fit(model, recipe, run, make_train, 3)
    assert int(model.optimizer.iterations) == 12
    assert rows[1]["learning_rate"] > rows[2]["learning_rate"] > rows[3]["learning_rate"] >= 0


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.1, 0.7, 0.2, 0.3], 2),
        ([0.0, 0.0, 0.0, 0.0], 4),
        ([float("nan"), 0.1, float("nan"), 0.05], 2),
    ],
)
def test_finish_takes_the_best_epoch(setup, scores, best):
    model, recipe, run = setup(validate_every_epochs=1)
    seen = []

    def validate(model):
        seen.append([v.numpy() for v in model.trainable_variables])
        return {"map50": scores[len(seen) - 1]}

    fit(model, recipe, run, make_train, 3, validate)
    assert finish(model, run) == best
    saved = keras.saving.load_model(run.model)
    for ours, theirs, wanted in zip(model.weights, saved.weights, seen[best - 1], strict=True):
        np.testing.assert_array_equal(ours.numpy(), wanted)
        np.testing.assert_array_equal(theirs.numpy(), wanted)


def test_without_validation_the_last_epoch_is_the_best(setup):
    model, recipe, run = setup()
    fit(model, recipe, run, make_train, 3)
    assert read_best(run, model) == 4


def test_finished_run_is_not_trained_again(setup):
    model, recipe, run = setup()
    rows = fit(model, recipe, run, make_train, 3)
    run.log_csv.write_text("half a li")
    model, recipe, run = setup()
    assert run.resumed

    def fail(first_epoch):
        raise AssertionError("asked for batches")

    assert fit(model, recipe, run, fail, 3) == rows
    assert read_log(run.log_csv) == rows
    assert int(model.optimizer.iterations) == 12


def test_nan_ends_the_run_and_saves_its_batch(setup):
    model, recipe, run = setup()
    with pytest.raises(RunError) as caught:
        fit(model, recipe, run, make_train_with_nan, 3)
    text = str(caught.value)
    assert text.startswith("The loss is not finite in epoch 2, step 2 of 3: found nan at the batch")
    assert "which holds NaN or infinity in 0; correct the data and start in a new --out" in text
    assert "last.safetensors holds epoch 1" in text
    with np.load(run.nonfinite_batch) as batch:
        assert np.isnan(batch["0"]).all()
        wanted = next(iter(make_train(1).skip(1)))[1]["target"]
        np.testing.assert_array_equal(batch["1.target"], wanted)
    state = read_last(run, model)
    assert state.epoch == 1 and len(read_log(run.log_csv)) == 1
    assert all(np.isfinite(v.numpy()).all() for v in model.variables)


def test_diverged_loss_asks_for_a_lower_rate(setup):
    model, recipe, run = setup()
    compile_model(model, override(recipe, {"optimizer.learning_rate": 1e30}), 12)
    with pytest.raises(RunError, match=r"which is fine; lower --lr or set optimizer\.clip_norm"):
        fit(model, recipe, run, make_train, 3)


def test_broken_weight_is_never_checkpointed(setup):
    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 6:
                self.model.dense.bias.assign([np.inf])

    model, recipe, run = setup()
    with pytest.raises(
        RunError, match=r"^The variable .*dense/bias is not finite in epoch 2, step"
    ):
        fit(model, recipe, run, make_train, 3, callbacks=[Break()])
    assert read_last(run, model).epoch == 1


@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_short_stream_is_an_error(setup):
    model, recipe, run = setup()
    with pytest.raises(RunError, match=r"ended in epoch 2: found 1 batches, wanted 3"):
        fit(model, recipe, run, lambda first: make_train(first).take(4), 3)


def test_validation_must_give_the_monitored_score(setup):
    model, recipe, run = setup(validate_every_epochs=1)
    with pytest.raises(RunError, match="found val_recall, wanted val_map50"):
        fit(model, recipe, run, make_train, 3, lambda _: {"recall": 1.0})


def test_step_compiles_under_xla(setup):
    model, recipe, run = setup(jit_compile=True, epochs=1)
    assert model.jit_compile is True
    assert np.isfinite(fit(model, recipe, run, make_train, 3)[0]["loss"])
