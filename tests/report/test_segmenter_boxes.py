"""A network that takes bright for lesion, on images whose lesions are known."""

import json
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from experiments import find_boxes
from lesionkeras.config import SSDRecipe, UNetConfig, UNetRecipe
from lesionkeras.data.box_convention import KEPT, RECIST_PLUS_5, TIGHT
from lesionkeras.errors import RecipeError, RunError
from lesionkeras.models.blocks import predict_scales
from lesionkeras.recipe import override, write_recipe
from lesionkeras.report import segmenter_boxes
from tests.data.made import make_prepared

SIDE, COUNT = 32, 10
LIVER_HU, LESION_HU = 100, 180
CHANGES = {"data.image_size_px": SIDE, "data.pixel_mm": 0.75, "inference.flips": False}
CHANGES |= {"data.name": "lits+ircadb01", "data.config": "", "data.held_out": "003"}
RECIPE = override(UNetRecipe(model=UNetConfig(in_channels=5, base_channels=2)), CHANGES)
LESION = (slice(20, 26), slice(6, 14))  # rows and columns on the square, of the source twice each


def build_threshold(slices=5, cuts_hu=(20.0, 140.0)):
    """Logits that say background below the first cut, liver up to the second, and lesion above."""
    low, high = (-100.0, 200.0)
    image = keras.Input((None, None, slices), name="image_unit")
    logits = predict_scales([image], "three_class", 0)[0]
    model = keras.Model(image, logits)
    kernel, bias = model.get_layer("logits").variables
    weights = np.zeros(kernel.shape, np.float32)
    cuts = [(hu - low) / (high - low) for hu in cuts_hu]
    weights[..., slices // 2, 1:] = [80.0, 160.0]  # each class wins above its cut
    kernel.assign(weights)
    bias.assign([0.0, -80 * cuts[0], -80 * cuts[0] - 80 * cuts[1]])
    return model


def make_images(convention=TIGHT):
    """Sources of 64 x 64 px, .375 mm, with one lesion; the last image has none."""
    images = make_prepared(COUNT, SIDE)
    pixels = np.full((COUNT, SIDE, SIDE, 3), LIVER_HU, np.int16)
    pixels[:-1, *LESION] = LESION_HU
    own = np.zeros((COUNT, len(KEPT), 3, 4), np.float32)
    own[:-1, :2, 0] = [12, 40, 28, 52]
    own[:-1, 2, 0] = [8, 36, 32, 56]
    classes = np.full((COUNT, 3), -1, np.int32)
    classes[:-1, 0] = 0
    return replace(
        images,
        images=pixels,
        boxes=own[:, KEPT.index(convention)] / 2,
        classes=classes,
        size_px=np.full((COUNT, 2), 2 * SIDE, np.int32),
        resized_px=np.full((COUNT, 2), SIDE, np.int32),
        spacing_mm=np.full((COUNT, 2), 0.75, np.float32),
        slice_mm=np.full(COUNT, 5.0, np.float32),
        own_boxes=own,
        own_classes=classes,
        convention=convention,
    )


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_recipe(folder / "recipe.json", RECIPE, "unet")
    build_threshold().save(folder / "model.keras")
    return folder


@pytest.fixture
def asked(monkeypatch):
    """What images were asked for; they are the made ones, in the convention that is asked for."""
    views = []

    def pool_images(builders, names, view, progress):
        views.append((names, view))
        return make_images(view.box_convention)

    monkeypatch.setattr(segmenter_boxes, "pool_images", pool_images)
    return views


def make_builder(name):
    splits = {"train": SimpleNamespace(num_examples=COUNT), "test": SimpleNamespace(num_examples=0)}
    return SimpleNamespace(info=SimpleNamespace(name=name, splits=splits))


def open_images(data_set, segmenter, convention=""):
    """The images of one network."""
    (split,) = segmenter_boxes.open_images(make_builder(data_set), [segmenter], convention)
    return split


@pytest.mark.parametrize(
    ("words", "data_set", "convention", "box"),
    [
        ((), "deeplesion", RECIST_PLUS_5, (10, 36.6, 30, 55.4)),
        (("--convention", "tight"), "deeplesion", TIGHT, (12, 40, 28, 52)),
        ((), "folder", TIGHT, (12, 40, 28, 52)),
    ],
)
def test_lesions_are_found_as_boxes(
    run, asked, monkeypatch, capsys, words, data_set, convention, box
):
    monkeypatch.setattr("tfds_builders.open_builder", lambda name, *rest: make_builder(name))
    find_boxes.main(["--run", str(run), "--data", f"{data_set}/x", *words])
    ((names, view),) = asked
    assert names == ["train"] and view.box_convention == convention
    assert (view.image_size_px, view.pixel_mm) == (SIDE, 0.75)
    out = run / "-".join([f"boxes-{data_set}-x", *words[1:]])
    predictions = json.loads((out / "predictions.json").read_text())
    truth = json.loads((out / "truth.json").read_text())
    assert [each["image_id"] for each in predictions] == list(range(COUNT - 1))
    assert len(truth["images"]) == COUNT and len(truth["annotations"]) == COUNT - 1
    for found in predictions:
        x, y, width, height = found["bbox"]
        # probabilities are brought to the source's pixels: an edge lies within one of them
        np.testing.assert_allclose([x, y, x + width, y + height], box, atol=3.0)
        assert found["score"] > 0.9
    scores = json.loads((out / "scores.json").read_text())
    assert scores["precision"]["value"] == 1 and scores["recall"]["value"] == 1
    page = (out / "report.html").read_text()
    assert "10 images with true boxes" in page and "<h2" in page
    printed = capsys.readouterr().out
    assert "Sensitivity at 1 FP an image, IoU 0.5:" in printed and f"{out}/report.html" in printed


def test_of_a_data_set_that_was_trained_on_those_held_out_are_used(run, asked):
    segmenter = segmenter_boxes.load_segmenter(run)
    assert len(open_images("deeplesion", segmenter).rows) == COUNT
    split = open_images("lits", segmenter)
    assert split.rows.tolist() == [[6, 0], [7, 0]] and set(split.patients) == {"003"}
    for changes in ({"data.held_out": ""}, {"data.protocol": "volume"}, {"data.held_out": "999"}):
        seen = replace(segmenter, recipe=override(RECIPE, changes))
        with pytest.raises(RecipeError, match="Every patient of this data set may have been"):
            open_images("lits", seen)
    with pytest.raises(RecipeError, match="--convention cannot be read: found wide"):
        open_images("deeplesion", segmenter, "wide")
    with pytest.raises(RecipeError, match="--convention cannot be read: found wide"):  # first
        find_boxes.main(["--run", "nowhere", "--data", "deeplesion/x", "--convention", "wide"])


def test_of_whom_the_first_weights_were_trained_on_none_is_used(run, asked):
    file = run / "recipe.json"
    tree = json.loads(file.read_text())
    seen = [{"name": "deeplesion", "protocol": "patient", "held_out": ["004"]}, {"name": "folder"}]
    file.write_text(json.dumps(tree | {"environment": {"weights_trained_on": seen}}))
    segmenter = segmenter_boxes.load_segmenter(run)
    split = open_images("deeplesion", segmenter)
    assert set(split.patients) == {"004"}
    split = open_images("lits", segmenter)
    assert set(split.patients) == {"003"}
    with pytest.raises(RecipeError, match="Every patient of this data set may have been"):
        open_images("folder", segmenter)


@pytest.mark.parametrize("environment", [None, [1], {"weights_trained_on": None}, "x"])
def test_an_environment_that_says_nothing_is_none(run, environment):
    file = run / "recipe.json"
    tree = json.loads(file.read_text())
    file.write_text(json.dumps(tree | {"environment": environment}))
    assert segmenter_boxes.load_segmenter(run).weights_trained_on == ()


def test_patients_whom_two_data_sets_share_are_not_tested_on(run, monkeypatch):
    """LiTS' volume 28 is 3D-IRCADb-01's first patient."""
    patients = ("ircadb01_01", "lits_000") * (COUNT // 2)
    images = replace(make_images(), patients=patients, volumes=())
    monkeypatch.setattr(segmenter_boxes, "pool_images", lambda *words: images)
    segmenter = segmenter_boxes.load_segmenter(run)

    def open_as(data_set, trained_on, held_out=""):
        recipe = override(RECIPE, {"data.name": trained_on, "data.held_out": held_out})
        trained = replace(segmenter, recipe=recipe)
        return set(open_images(data_set, trained).patients)

    assert open_as("lits", "ircadb01") == {"lits_000"}
    assert open_as("lits", "ircadb01", "ircadb01_01") == {"lits_000", "ircadb01_01"}
    assert open_as("lits", "lits", "ircadb01_01") == {"ircadb01_01"}
    assert open_as("ircadb01", "lits") == {"lits_000"}  # a name that 3D-IRCADb-01 has not
    assert open_as("lits", "deeplesion") == set(patients)


def test_networks_may_see_finer_pixels(run, asked, monkeypatch, tmp_path):
    monkeypatch.setattr("tfds_builders.open_builder", lambda name, *rest: make_builder(name))
    words = ["--run", str(run), "--data", "deeplesion/x", "--out", str(tmp_path / "out")]
    find_boxes.main([*words, "--pixel-mm", "0.5"])
    # 32 px of .75 mm are 48 of .5 mm, and 64 px the next that the network divides
    multiple_px = RECIPE.model.size_multiple_px
    ((_, view),) = asked
    assert view.pixel_mm == 0.5 and view.image_size_px == -(-48 // multiple_px) * multiple_px
    assert (tmp_path / "out" / "report.html").is_file()
    for text in ("0", "x", "nan", ".01"):
        with pytest.raises(
            RecipeError, match=f"--pixel-mm cannot be read: found {text}, wanted a n"
        ):
            find_boxes.main([*words, "--pixel-mm", text])
    write_recipe(run / "recipe.json", override(RECIPE, {"data.pixel_mm": 0}), "unet")
    with pytest.raises(RecipeError, match="knows none to change in --pixel-mm: found 1 for a run"):
        find_boxes.main([*words, "--pixel-mm", "1"])


def test_what_is_no_finished_run_of_a_segmentation_network_is_refused(run, tmp_path):
    with pytest.raises(RecipeError, match="A recipe file cannot be read"):
        segmenter_boxes.load_segmenter(tmp_path / "nowhere")
    (run / "model.keras").write_bytes(b"half a file")
    with pytest.raises(RunError, match="network cannot be read"):
        segmenter_boxes.load_segmenter(run)
    (run / "model.keras").unlink()
    with pytest.raises(RunError, match=r"A run has no trained network.*finished run"):
        segmenter_boxes.load_segmenter(run)
    liver = override(RECIPE, {"model.head": "binary", "loss.target": "liver"})
    write_recipe(run / "recipe.json", liver, "unet")
    with pytest.raises(RecipeError, match="outlines the liver alone"):
        segmenter_boxes.load_segmenter(run)
    write_recipe(run / "recipe.json", SSDRecipe(), "ssd")
    with pytest.raises(RecipeError, match=r"not one of a segmentation network.*found ssd"):
        segmenter_boxes.load_segmenter(run)


@pytest.mark.parametrize(
    "changes",
    [
        {"data.slices": 1, "data.slice_mm": 0, "data.liver_hu": 0, "data.pixel_mm": 0},
        {"data.slices": 5, "data.slice_mm": 0, "data.liver_hu": 0},
        {"data.slices": 3},
        {"data.pixel_mm": 0},
    ],
)
def test_networks_see_as_many_slices_as_they_want(asked, changes):
    recipe = override(RECIPE, changes)
    segmenter = segmenter_boxes.TrainedSegmenter(build_threshold(recipe.data.slices), recipe)
    split = open_images("deeplesion", segmenter, TIGHT)
    found = segmenter_boxes.detect_lesions([segmenter], [split], "lits")
    assert [len(each.boxes) for each in found.detections] == [1] * (COUNT - 1) + [0]


def test_several_networks_find_by_the_mean_of_their_probabilities(
    run, tmp_path, asked, monkeypatch, capsys
):
    """One sees the lesion, the other takes it for liver: .5, each at its own pixels."""
    other = tmp_path / "other"
    other.mkdir()
    changes = {"data.pixel_mm": 0.0, "data.held_out": "003,004"}
    write_recipe(other / "recipe.json", override(RECIPE, changes), "unet")
    build_threshold(cuts_hu=(20.0, 195.0)).save(other / "model.keras")
    monkeypatch.setattr("tfds_builders.open_builder", lambda name, *rest: make_builder(name))
    words = ["--run", str(run), "--run", str(other), "--data", "lits/slices"]
    with pytest.raises(RecipeError, match=r"--out is missing: found 2 --run"):
        find_boxes.main(words)
    find_boxes.main([*words, "--out", str(tmp_path / "out")])
    assert [view.pixel_mm for _, view in asked] == [0.75, 0.0]
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    truth = json.loads((tmp_path / "out" / "truth.json").read_text())
    assert [each["file_name"] for each in truth["images"]] == list(make_images().files[6:8])
    assert [round(each["score"], 2) for each in predictions] == [0.5, 0.5]
    assert "Report:" in capsys.readouterr().out


def test_of_a_data_set_that_several_were_trained_on_those_whom_all_held_out_are_used(run, asked):
    segmenter = segmenter_boxes.load_segmenter(run)
    others = [
        replace(segmenter, recipe=override(RECIPE, {"data.held_out": names}))
        for names in ("003,004", "004")
    ]
    builder = make_builder("lits")
    splits = segmenter_boxes.open_images(builder, [segmenter, others[0]])
    assert [set(split.patients) for split in splits] == [{"003"}] * 2
    with pytest.raises(RecipeError, match=r"held_out=003; data\.name=.*held_out=004"):
        segmenter_boxes.open_images(builder, [segmenter, others[1]])
