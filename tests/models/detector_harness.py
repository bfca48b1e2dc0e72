"""What must hold for every detector, beside `harness`: lesions, no lesions, reload, export."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.boxes.overlap import compute_iou
from lesionkeras.config import DetectionRecipe
from lesionkeras.ct.png16 import to_hu
from lesionkeras.ct.window import resize_hu_graph, window_numpy
from lesionkeras.models import build_detector
from lesionkeras.serving.export import export_detector, make_serving_functions
from tests.models import harness

DETECTIONS = {"boxes", "scores", "classes", "num_detections"}
SLICE = "002680_06_01_344.png"  # a liver lesion of 33 x 31 px, the largest among the shared slices


def make_squares(count: int, side_px: int, seed: int = 0) -> tuple[np.ndarray, dict[str, Any]]:
    """Bright squares on noise, one an image; ground truth of three rows."""
    random = np.random.default_rng(seed)
    image_unit = random.normal(0.4, 0.03, (count, side_px, side_px, 3)).astype(np.float32)
    boxes = np.zeros((count, 3, 4), np.float32)
    classes = np.full((count, 3), -1, np.int32)
    for i in range(count):
        width, height = random.integers(12, 25, 2)
        x1, y1 = (random.integers(0, side_px - size) for size in (width, height))
        image_unit[i, y1 : y1 + height, x1 : x1 + width] += 0.4
        boxes[i, 0], classes[i, 0] = (x1, y1, x1 + width, y1 + height), 0
    return image_unit.clip(0, 1), {"boxes": boxes, "classes": classes}


def take_lesions_away(targets: dict[str, Any], images: slice) -> dict[str, Any]:
    boxes, classes = targets["boxes"].copy(), targets["classes"].copy()
    boxes[images], classes[images] = 0, -1
    return {"boxes": boxes, "classes": classes}


def check_lesion_free(model: Any, case: harness.NetworkCase) -> None:
    """A batch half without lesions, then wholly without, trains: nothing becomes NaN."""
    count = len(case.image_unit)
    for images in (slice(count // 2), slice(count)):
        targets = take_lesions_away(case.targets, images)
        losses = harness.train(model, replace(case, targets=targets), 2)
        assert np.isfinite(losses).all()
    assert all(np.isfinite(np.asarray(v)).all() for v in model.variables)
    found = model.detect(case.image_unit)
    assert all(np.isfinite(np.asarray(value)).all() for value in found.values())


def _change_rows(targets: dict[str, Any], count: int, rows: int) -> dict[str, Any]:
    """The ground truth of the first images with other padding; no lesion is among 0 rows."""
    boxes, classes = np.zeros((count, rows, 4), np.float32), np.full((count, rows), -1, np.int32)
    kept = min(rows, targets["boxes"].shape[1])
    boxes[:, :kept], classes[:, :kept] = (
        targets["boxes"][:count, :kept],
        targets["classes"][:count, :kept],
    )
    return {"boxes": boxes, "classes": classes}


def check_fit(model: Any, case: harness.NetworkCase) -> None:
    """Keras' own loops take any number of images and of rows, and a smaller batch at the end."""
    image_unit, targets = case.image_unit, case.targets
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    measure = lambda y: model.evaluate(image_unit, y, batch_size=2, verbose=0, return_dict=True)  # noqa: E731
    wanted = measure(targets)["loss"]
    for rows in (7, 5):
        found = measure(_change_rows(targets, len(image_unit), rows))["loss"]
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 100 rows"):
        measure(_change_rows(targets, len(image_unit), 101))
    for count, rows in ((3, 3), (2, 0), (3, 6)):
        changed = _change_rows(targets, count, rows)
        history = model.fit(image_unit[:count], changed, batch_size=2, verbose=0).history
        assert np.isfinite(list(history.values())).all()


def check_detections(found: dict[str, Any], batch: int, rows: int, side_px: int) -> None:
    """Shapes, types, order, padding and bounds of what `detect` gives."""
    assert set(found) == DETECTIONS
    boxes, scores, classes, counts = (
        np.asarray(found[key]) for key in ("boxes", "scores", "classes", "num_detections")
    )
    assert boxes.shape == (batch, rows, 4) and boxes.dtype == np.float32
    assert scores.shape == (batch, rows) and scores.dtype == np.float32
    assert classes.shape == (batch, rows) and classes.dtype == np.int32
    assert counts.shape == (batch,) and counts.dtype == np.int32
    assert (np.diff(scores) <= 0).all() and (boxes >= 0).all() and (boxes <= side_px).all()
    for i, count in enumerate(counts):
        assert (classes[i, :count] >= 0).all() and (classes[i, count:] == -1).all()
        assert not boxes[i, count:].any() and not scores[i, count:].any()


def check_export(recipe: DetectionRecipe, model: Any, out_dir: Path) -> None:
    """The SavedModel gives the boxes of the network, in pixels of the image that is sent."""
    random = np.random.default_rng(2)
    image_hu = random.integers(-100, 200, (2, 40, 80, 3)).astype(np.int16)
    folder = export_detector(model, recipe, out_dir, operating_threshold=0.5, warmup_hu=image_hu)
    exported = tf.saved_model.load(str(folder)).signatures["serving_default"](tf.constant(image_hu))
    wanted = make_serving_functions(model, recipe)["serving_default"](tf.constant(image_hu))
    assert set(exported) == DETECTIONS and int(wanted["num_detections"][0]) > 0
    for key, value in wanted.items():
        np.testing.assert_allclose(exported[key], value, atol=1e-4)


def check_reload(model: keras.Model, image_unit: np.ndarray, folder: Path) -> None:
    """A .keras file detects the same, bit for bit, and knows all that the network was made of."""
    harness.check_save_and_load(model, image_unit, folder)
    again = keras.models.load_model(folder / "model.keras")
    assert again.get_config() == model.get_config()
    found = model.detect(image_unit)
    harness.assert_same(again.detect(image_unit), found)
    predicted = model.predict(image_unit, batch_size=len(image_unit), verbose=0)
    assert predicted.keys() == found.keys()
    for name, value in predicted.items():
        np.testing.assert_allclose(value, found[name], atol=1e-3)


def read_real_slice(real_data: Path, side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """image_unit [S, S, 3] and the box [4], px, of one slice of DeepLesion."""
    folder = real_data / "deeplesion"
    with (folder / "DL_info.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["File_name"] == SLICE]
    assert [row["Coarse_lesion_type"] for row in rows] == ["4"]
    stored = cv2.imread(str(folder / "Images_png" / SLICE[:12] / SLICE[13:]), -1)
    assert stored.dtype == np.uint16 and stored.shape == (512, 512)
    stack_hu = np.stack([to_hu(stored)] * 3, axis=-1)  # its neighbours are not there
    image_unit = window_numpy(resize_hu_graph(stack_hu, (side_px, side_px)), (-160.0, 240.0))
    box = np.array([float(v) for v in rows[0]["Bounding_boxes"].split(",")], np.float32)
    return image_unit, box * side_px / 512


def check_learns_one_real_slice(
    recipe: DetectionRecipe, real_data: Path, steps: int, below: float, score: float = 0.5
) -> None:
    """Trained on one slice alone, the best box meets the lesion at an IoU above .8."""
    image_unit, box = read_real_slice(real_data, recipe.data.image_size_px)
    images = np.stack([image_unit, (image_unit + 0.03).clip(0, 1)])
    targets = {"boxes": np.tile(box, (2, 1, 1)), "classes": np.zeros((2, 1), np.int32)}
    case = harness.NetworkCase(lambda: build_detector(recipe), images, targets)
    model = harness.check_learns(case, steps=steps, below=below)
    found = model.detect(image_unit[None])
    assert compute_iou(np.asarray(found["boxes"])[0, :1], box[None])[0, 0] > 0.8
    assert found["scores"][0, 0] > score
