import keras
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.config import AugmentConfig, DataConfig, SSDRecipe
from lesionkeras.data.opening import Split
from lesionkeras.inference.detect import (
    DETECT_BATCH_SIZE,
    Findings,
    compute_sizes_mm,
    detect_split,
    make_detector,
    make_validation,
)
from tests.data.made import HIGH_HU, LOW_HU, make_split, read_numbers

RECIPE = SSDRecipe(data=DataConfig(window_hu=(LOW_HU, HIGH_HU)), augment=AugmentConfig(mode="none"))


def make_unlike(count):
    """Images 32 px a side of sources of different size and spacing, in an order of their own."""
    split = make_split(count)
    numbers = np.arange(count)
    split.images.size_px[:] = np.stack([64 + 32 * numbers, 128 + 64 * numbers], axis=1)
    split.images.spacing_mm[:] = np.stack([0.5 + 0.1 * numbers, 2.0 - 0.1 * numbers], axis=1)
    return Split(split.images, split.rows[::-1])


def detect_numbers(image_unit):
    """As many detections as the image's number (at most 3), told apart by number."""
    numbers = read_numbers(image_unit)
    boxes = np.zeros((len(numbers), 3, 4), np.float32)
    scores, classes = np.zeros((len(numbers), 3), np.float32), np.full((len(numbers), 3), -1)
    for i, number in enumerate(numbers):
        for k in range(min(number, 3)):
            boxes[i, k] = [k, number, k + 8, number + 4]
            scores[i, k], classes[i, k] = 0.9 - 0.1 * k, k % 2
    counts = np.minimum(numbers, 3).astype(np.int32)
    return {"boxes": boxes, "scores": scores, "classes": classes, "num_detections": counts}


def test_boxes_come_back_in_source_pixels():
    count, calls = DETECT_BATCH_SIZE + 3, []
    split = make_unlike(count)
    findings = detect_split(detect_numbers, split, RECIPE, lambda *counts: calls.append(counts))
    assert calls == [(DETECT_BATCH_SIZE, count), (count, count)]
    assert findings.files == tuple(f"{n:03d}.png" for n in reversed(range(count)))
    assert findings.patients == tuple(f"{n // 2:03d}" for n in reversed(range(count)))
    for number, truth, found in zip(
        reversed(range(count)), findings.truths, findings.detections, strict=True
    ):
        up_y, up_x = (64 + 32 * number) / 32, (128 + 64 * number) / 32
        np.testing.assert_allclose(truth.boxes, [[8 * up_x, 16 * up_y, 16 * up_x, 24 * up_y]])
        assert truth.classes.tolist() == [0]  # padding is gone
        size_mm = max(8 * (0.5 + 0.1 * number), 8 * (2.0 - 0.1 * number))
        np.testing.assert_allclose(truth.diameters_mm, [size_mm], rtol=1e-5)
        kept = min(number, 3)
        assert found.boxes.shape == (kept, 4)
        wanted = [
            [k * up_x, number * up_y, (k + 8) * up_x, (number + 4) * up_y] for k in range(kept)
        ]
        np.testing.assert_allclose(found.boxes, np.reshape(wanted, (-1, 4)))
        np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.7][:kept])
        assert found.classes.tolist() == [0, 1, 0][:kept]


def test_sizes_are_the_longer_side_in_mm():
    boxes = np.array([[[0, 0, 10, 30], [5, 5, 45, 15]], [[1, 1, 2, 2], [0, 0, 0, 0]]], np.float32)
    np.testing.assert_allclose(compute_sizes_mm(boxes, (0.5, 2.0)), [[20, 80], [2, 0]])
    np.testing.assert_allclose(compute_sizes_mm(boxes, (2.0, 0.5)), [[60, 20], [2, 0]])


def test_coco_results():
    split = make_unlike(3)
    results = detect_split(detect_numbers, split, RECIPE).to_coco()
    assert [(r["image_id"], r["file"], r["category_id"]) for r in results] == [
        (0, "002.png", 0),
        (0, "002.png", 1),
        (1, "001.png", 0),
    ]
    up_y, up_x = 128 / 32, 256 / 32  # image 2
    np.testing.assert_allclose(results[1]["bbox"], [up_x, 2 * up_y, 8 * up_x, 4 * up_y])
    assert results[1]["score"] == pytest.approx(0.8)
    assert {type(v) for r in results for v in (*r["bbox"], r["score"])} == {float}
    assert Findings((), (), (), ()).to_coco() == []


class FixedDetector:
    """Finds each image's one lesion, moved by a variable number of px."""

    def __init__(self):
        self.shift_px = tf.Variable(0.0)
        self.num_traces = 0

    def detect(self, image_unit):
        self.num_traces += 1
        count = tf.shape(image_unit)[0]
        box = tf.constant([8.0, 16.0, 16.0, 24.0]) + self.shift_px
        return {
            "boxes": tf.tile(box[None, None], [count, 1, 1]),
            "scores": tf.fill([count, 1], 0.8),
            "classes": tf.zeros([count, 1], tf.int32),
            "num_detections": tf.ones([count], tf.int32),
        }


def test_detector_is_compiled_once_and_follows_the_weights():
    model = FixedDetector()
    detect = make_detector(model)
    image_unit = np.zeros((2, 32, 32, 3), np.float32)
    assert detect(image_unit)["boxes"].tolist() == [[[8, 16, 16, 24]]] * 2
    model.shift_px.assign(2.0)
    found = detect(image_unit)
    assert found["boxes"].tolist() == [[[10, 18, 18, 26]]] * 2
    assert isinstance(found["scores"], np.ndarray)
    assert len(make_detector(model)(image_unit[:1])["boxes"]) == 1  # the last batch of a test
    assert model.num_traces == 1


def test_validation_scores_a_network():
    model, validate = FixedDetector(), make_validation(make_unlike(4), RECIPE)
    assert validate(model) == pytest.approx({"map50": 1.0, "map50_95": 1.0})
    model.shift_px.assign(1.0)  # IoU 49 / 79 = .62: right at .5, .55 and .6
    assert validate(model) == pytest.approx({"map50": 1.0, "map50_95": 0.3})
    assert model.num_traces == 1
    model.shift_px.assign(8.0)
    assert validate(model) == {"map50": 0.0, "map50_95": 0.0}


def test_nothing_to_find_scores_0():
    split = make_unlike(2)
    split.images.classes[:] = -1
    assert make_validation(split, RECIPE)(FixedDetector()) == {"map50": 0.0, "map50_95": 0.0}


def test_no_validation_patients_no_validation():
    assert make_validation(None, RECIPE) is None


class MeanGrey(keras.Model):
    """Its loss is the distance of a weight from the mean grey, so that both can be told."""

    def __init__(self):
        super().__init__()
        self.level = self.add_weight(shape=(), initializer="zeros")
        self.part = keras.metrics.Mean("grey_loss")
        self.detect = FixedDetector().detect

    def call(self, image_unit):
        return {"mean": keras.ops.mean(image_unit, axis=(1, 2, 3)) - self.level}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = keras.ops.mean(y_pred["mean"])
        self.part.update_state(loss)
        return 2 * loss


def test_the_loss_of_validation_images_is_taken_beside_a_training_epoch():
    model, split = MeanGrey(), make_unlike(9)  # no whole batches of 8
    validate, seen = make_validation(split, RECIPE, with_loss=True), []
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    ask = keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: seen.append(validate(model)))
    images = np.ones((4, 32, 32, 3), np.float32)
    target = {"boxes": np.zeros((4, 1, 4)), "classes": np.zeros((4, 1), np.int32)}
    history = model.fit(images, target, epochs=2, verbose=0, callbacks=[ask]).history
    grey = np.mean([100 + 10 * n for n in range(9)]) / (HIGH_HU - LOW_HU)
    for scores in seen:
        assert scores == pytest.approx(
            {"map50": 1.0, "map50_95": 1.0, "loss": 2 * grey, "grey_loss": grey}, rel=1e-4
        )
    assert history["grey_loss"] == pytest.approx([1.0, 1.0])  # validation leaves training's alone
