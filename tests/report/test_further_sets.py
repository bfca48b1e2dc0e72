import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from lesionkeras.config import AugmentConfig, DataConfig, SSDRecipe
from lesionkeras.data.box_convention import TIGHT
from lesionkeras.data.opening import Splits
from lesionkeras.data.splits import make_copies
from lesionkeras.inference.detect import detect_split
from lesionkeras.report.further_sets import describe_further, measure_further
from tests.data.made import HIGH_HU, LOW_HU, make_split
from tests.inference.test_conventions import make_known

RECIPE = SSDRecipe(
    data=DataConfig(name="lits", window_hu=(LOW_HU, HIGH_HU), box_convention=TIGHT),
    augment=AugmentConfig(mode="none"),
)


def detect(image_unit):
    """One box an image, the first lesion's of `make_known` on its square."""
    count = len(image_unit)
    return {
        "boxes": np.tile(np.float32([[7.5, 10, 12.5, 20]]), (count, 1, 1)),
        "scores": np.full((count, 1), 0.5, np.float32),
        "classes": np.zeros((count, 1), np.int32),
        "num_detections": np.ones(count, np.int32),
    }


def evaluate(found):
    """What the boxes are, so that it can be seen which were evaluated."""
    return {
        "truth": [truth.boxes.tolist() for truth in found.truths],
        "found": [each.boxes.tolist() for each in found.detections],
    }


def run(tmp_path, recipe=RECIPE, test=None, further=True):
    test = make_known(2) if test is None else test
    sets = {"deeplesion/liver": make_known(3)} if further else {}
    splits = Splits(make_split(2), None, test, further=sets)
    found = detect_split(detect, test, recipe)
    directory = SimpleNamespace(path=tmp_path)
    return measure_further(detect, splits, recipe, directory, found, evaluate)


def test_both_sets_in_both_conventions(tmp_path):
    metrics = run(tmp_path)
    assert metrics.keys() == {"test_sets", "box_conventions"}
    assert list(metrics["box_conventions"]) == ["tight", "recist_plus_5"]
    tight = metrics["test_sets"]["deeplesion/liver"]["tight"]
    assert len(tight["truth"]) == 3 and len(tight["truth"][0]) == 2
    np.testing.assert_allclose(tight["found"][0], [[30, 20, 50, 40]])
    wide = metrics["test_sets"]["deeplesion/liver"]["recist_plus_5"]
    assert wide["truth"][0][0] == [26, 16, 54, 44]
    half = 10 / 1.12 + 5
    np.testing.assert_allclose(wide["found"][0], [[40 - half, 30 - half, 40 + half, 30 + half]])
    written = json.loads((tmp_path / "predictions-deeplesion-liver.json").read_text())
    assert len(written) == 3 and written[2]["bbox"] == [30, 20, 20, 20]
    truth = json.loads((tmp_path / "truth-deeplesion-liver.json").read_text())
    assert len(truth["images"]) == 3 and len(truth["annotations"]) == 6


def test_files_of_boxes_as_stored_are_in_the_further_sets_own_convention(tmp_path):
    """LiTS' boxes are tight, DeepLesion's have a margin: detections get it, the truth has it."""
    run(tmp_path, replace(RECIPE, data=replace(RECIPE.data, box_convention="as_stored")))
    (first, *_) = json.loads((tmp_path / "predictions-deeplesion-liver.json").read_text())
    half = 10 / 1.12 + 5
    np.testing.assert_allclose(first["bbox"], [40 - half, 30 - half, 2 * half, 2 * half])
    truth = json.loads((tmp_path / "truth-deeplesion-liver.json").read_text())
    assert truth["annotations"][0]["bbox"] == [26, 16, 28, 28]


def test_nothing_is_measured_that_nobody_asked_for(tmp_path):
    plain = replace(RECIPE, data=replace(RECIPE.data, box_convention="as_stored"))
    assert run(tmp_path, plain, further=False) == {}
    assert not list(tmp_path.iterdir())
    copies = make_known(2)
    copies = replace(copies, rows=make_copies(2, 1))
    assert run(tmp_path, test=copies).keys() == {"test_sets"}


def test_a_mixture_of_boxes_is_held_against_what_is_stored(tmp_path):
    mixed = DataConfig(name="lits+deeplesion", window_hu=(LOW_HU, HIGH_HU))
    metrics = run(tmp_path, replace(RECIPE, data=mixed))
    assert list(metrics["test_sets"]["deeplesion/liver"]) == ["as_stored"]


def test_what_is_said():
    def row(map50, recall, false):
        values = {"map50": map50, "recall": recall, "fp_per_image": false}
        return {key: {"value": value} for key, value in values.items()}

    metrics = {
        "test_sets": {"dl": {"tight": row(0.25, None, 1.5), "recist_plus_5": row(0.5, 1.0, 0.0)}}
    }
    assert describe_further(metrics) == [
        "dl, boxes tight: mAP50 0.250, recall undefined, false positives an image 1.500",
        "dl, boxes recist plus 5: mAP50 0.500, recall 1.000, false positives an image 0.000",
    ]
    assert describe_further({}) == []
