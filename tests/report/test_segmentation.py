"""The parts of a segmentation run that need no training."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lesionkeras.config import ResNet50UNetConfig, ResNet50UNetRecipe, SegNetRecipe, UNetRecipe
from lesionkeras.ct.nifti import write_nifti
from lesionkeras.ct.volume import Volume, make_affine
from lesionkeras.data.segmentation import SegmentationSplit, SegmentationSplits
from lesionkeras.errors import RecipeError
from lesionkeras.recipe import override
from lesionkeras.report import segmentation
from tests.inference.test_volumes import HU, RECIPE, SIZES, make_split


def make_run(tmp_path):
    split, own = make_split()
    masks = tmp_path / "masks"
    masks.mkdir()
    for name, first in (("v1", 0), ("v2", 3)):
        array = np.stack([own[first + 1], own[first + 2], own[first]])
        affine = make_affine((5.0, *SIZES[name][2:]))
        write_nifti(masks / f"{name}.nii.gz", Volume(array, affine))
    splits = SegmentationSplits(SegmentationSplit(split.slices, np.arange(3)), split)
    return SimpleNamespace(recipe=RECIPE, splits=splits, masks=masks), own


def test_start_takes_as_many_channels_as_slices(tmp_path):
    recipe = override(UNetRecipe(), {"data.slices": 3})
    found = segmentation.check_start(recipe, tmp_path / "run", "unet")
    assert found.model.in_channels == 3
    assert replace(found, model=recipe.model) == recipe
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (UNetRecipe, {"train.cpu_budget_s": 0}, "Training would never end"),
        (UNetRecipe, {"model.depth": 8}, "128"),
        (SegNetRecipe, {"model.weights": "no/such.npz"}, "no/such.npz"),
        (UNetRecipe, {"model.deep_supervision": 5}, "Deep supervision wants maps"),
        (ResNet50UNetRecipe, {"data.slices": 5}, "found 5, wanted 3, or 1 that all three see"),
        (ResNet50UNetRecipe, {"model.deep_supervision": 5}, "Deep supervision wants maps"),
        (SegNetRecipe, {"model.input_scaling": "imagenet_caffe"}, "found imagenet_caffe for 5"),
        (UNetRecipe, {"augment.mode": "copies"}, r"augment\.mode does not fit segmentation"),
        (
            UNetRecipe,
            {"loss.dice_weight": 0, "loss.cross_entropy_weight": 0},
            "No loss has a weight in loss",
        ),
        (UNetRecipe, {"loss.class_weights": (1, 2)}, "found 2 numbers, wanted 3"),
        (
            UNetRecipe,
            {"model.head": "binary", "loss.class_weights": (1, 2, 3)},
            "found 3 numbers, wanted 2",
        ),
        (
            UNetRecipe,
            {"model.head": "binary", "data.liver_hu": 100.0},
            "cannot tell the level of the liver in data.liver_hu: found 100 with",
        ),
        (UNetRecipe, {"data.protocol": "p5", "data.held_out": "a"}, "held out by name"),
        (
            SegNetRecipe,
            {"data.normalisation": "standardise"},
            "found standardise with model.input_scaling=unit, wanted",
        ),
        (
            ResNet50UNetRecipe,
            {"data.normalisation": "standardise"},
            "input_scaling=imagenet_caffe, which model.weights=imagenet wants, wanted",
        ),
    ],
)
def test_start_refuses_what_cannot_be_trained(tmp_path, recipe, changes, message):
    with pytest.raises(RecipeError, match=message):
        segmentation.check_start(override(recipe(), changes), tmp_path / "run", "x")
    assert not (tmp_path / "run").exists()


def test_a_network_of_the_liver_tells_its_level(tmp_path):
    changes = {"model.head": "binary", "loss.target": "liver", "data.liver_hu": 100.0}
    recipe = override(UNetRecipe(), changes)
    assert segmentation.check_start(recipe, tmp_path / "run", "x").data.liver_hu == 100.0


def test_an_image_of_zero_mean_is_not_scaled(tmp_path):
    changes = {"data.normalisation": "standardise", "model.input_scaling": "none"}
    for recipe in (UNetRecipe(), override(SegNetRecipe(), changes)):
        recipe = override(recipe, {"data.normalisation": "standardise"})
        assert segmentation.check_start(recipe, tmp_path / "run", "x").data == recipe.data


def test_weights_decide_the_scaling(tmp_path):
    recipe = replace(UNetRecipe(), model=ResNet50UNetConfig(weights="imagenet"))
    recipe = override(recipe, {"data.slices": 3})
    found = segmentation.check_start(recipe, tmp_path / "run", "resnet50_unet")
    assert found.model.input_scaling.startswith("imagenet_")


def test_a_size_that_does_not_divide_is_named_by_its_field_if_it_is_used(tmp_path):
    deep = override(UNetRecipe(), {"model.depth": 7, "augment.crop_size_px": 96})
    with pytest.raises(
        RecipeError, match=r"augment\.crop_size_px: found 96 px.*crop_size_px=64 or"
    ):
        segmentation.check_start(deep, tmp_path / "run", "unet")
    unused = override(deep, {"augment.mode": "none"})
    assert segmentation.check_start(unused, tmp_path / "run", "unet").augment == unused.augment


def test_a_recipe_made_in_python_passes_the_limits_too(tmp_path):
    recipe = UNetRecipe()
    wrong = replace(recipe, loss=replace(recipe.loss, reduction="images"))
    with pytest.raises(RecipeError, match=r"loss\.reduction is unknown: found images"):
        segmentation.check_start(wrong, tmp_path / "run", "unet")


@pytest.mark.parametrize(
    ("dices", "kinds"),
    [
        ({"v1": 0.5, "v2": 0.75}, {"v2": "best", "v1": "worst"}),
        ({"v1": 0.5, "v2": None}, {"v1": "best"}),
        ({"v1": None, "v2": None}, {}),
    ],
)
def test_examples_are_best_and_worst_with_most_tumour(tmp_path, dices, kinds):
    run, own = make_run(tmp_path)
    rows = [{"case": name, "tumour_dice": dice} for name, dice in dices.items()]
    examples = segmentation.choose_examples(run, rows)
    assert {each["title"].split(",")[0]: each["kind"] for each in examples} == kinds
    for each in examples:
        name = each["title"].split(",")[0]
        mask = own[0 if name == "v1" else 3]  # slice 2 has most tumour
        assert each["title"] == f"{name}, slice 2"
        assert np.array_equal(each["truth"], mask) and np.array_equal(each["prediction"], mask)
        np.testing.assert_allclose(each["spacing_mm"], SIZES[name][2:], rtol=1e-6)
        inside = np.zeros_like(mask)
        inside[24:26, 21:26] = 1
        assert np.all(np.abs(each["image_hu"][inside == 1] - HU[2]) <= 2)
        assert each["image_hu"].dtype == np.int16 and each["image_hu"].shape == mask.shape


def test_examples_of_a_network_of_the_liver_are_by_the_liver(tmp_path):
    run, own = make_run(tmp_path)
    changes = {"model.head": "binary", "loss.target": "liver"}
    run.recipe = override(RECIPE, changes)
    rows = [
        {"case": name, "tumour_dice": None, "liver_dice": dice}
        for name, dice in (("v1", 0.75), ("v2", 0.5))
    ]
    examples = segmentation.choose_examples(run, rows)
    assert [each["kind"] for each in examples] == ["best", "worst"]
    assert examples[0]["title"].startswith("v1, slice 0")  # all have as much liver: the first
    assert np.array_equal(examples[0]["truth"], own[1])


def test_scattered_slices_have_no_examples(tmp_path, monkeypatch):
    run, _ = make_run(tmp_path)
    (tmp_path / "recipe.json").write_text("{}")
    run.directory = SimpleNamespace(path=tmp_path, recipe_json=tmp_path / "recipe.json")
    given = []
    monkeypatch.setattr(segmentation, "write_segmentation_report", lambda *w: given.append(w[-1]))
    rows = [{"case": "v1", "tumour_dice": 0.5, "liver_dice": 0.5}]
    metrics = {"protocol": {"corrected": {"per_case": rows}}}
    segmentation.write_report(run, [], metrics)
    segmentation.write_report(run, [], metrics | {"scattered": True})
    assert [len(examples) for examples in given] == [1, 0]


def test_the_median_is_between():
    run = SimpleNamespace(recipe=RECIPE)
    rows = [{"case": str(i), "tumour_dice": i / 5} for i in range(5)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmentation, "_make_example", lambda run, case, kind: (case, kind))
        found = segmentation.choose_examples(run, rows)
    assert sorted(found) == [("0", "worst"), ("2", "median"), ("4", "best")]


def test_the_summary_ends_with_the_scores(capsys):
    rows = [
        {"case": "v1", "tumour_dice": 0.5, "liver_dice": 0.9, "lesions": 3, "lesions_found": 2},
        {"case": "v2", "tumour_dice": None, "liver_dice": 0.95, "lesions": 0, "lesions_found": 0},
    ]
    rows = [row | {"false_components": 4} for row in rows]
    mean = {
        "tumour_dice": {"value": 0.5, "low": 0.25, "high": 0.75},
        "liver_dice": {"value": 0.925, "low": None, "high": None},
    }
    metrics = {
        "protocol": {"corrected": {"per_case": rows, "mean": mean}},
        "splits": {"test": {"volumes": 2, "patients": 1}},
    }
    directory = SimpleNamespace(
        path="runs/a", report="runs/a/report.html", export="runs/a/export/1"
    )
    segmentation.print_summary(SimpleNamespace(directory=directory), metrics)
    assert capsys.readouterr().out.splitlines() == [
        "v1: Dice of tumour 0.500, liver 0.900; 2 of 3 lesions, 4 false components",
        "v2: Dice of tumour undefined, liver 0.950; 0 of 0 lesions, 4 false components",
        "Run: runs/a",
        "Report: runs/a/report.html",
        "Export: runs/a/export/1",
        "Score: Dice of tumour 0.500 [0.250, 0.750], liver 0.925 on 2 test volumes of 1 patient",
    ]


def test_the_summary_of_scattered_slices_says_so(capsys):
    row = {"case": "v1", "tumour_dice": 0.5, "liver_dice": 0.9}
    mean = {f"{name}_dice": {"value": 0.5, "low": None} for name in ("tumour", "liver")}
    metrics = {
        "protocol": {"corrected": {"per_case": [row], "mean": mean}},
        "splits": {"test": {"volumes": 1, "patients": 1, "slices": 12}},
        "scattered": True,
    }
    directory = SimpleNamespace(path="", report="", export="")
    segmentation.print_summary(SimpleNamespace(directory=directory), metrics)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "v1: Dice of tumour 0.500, liver 0.900"
    assert last.endswith("on 12 scattered slices of 1 test volume of 1 patient")


def test_a_search_wants_validation_patients(monkeypatch):
    split, _ = make_split()

    def open_splits(builders, data, seed):
        return SegmentationSplits(split, split, *builders)

    monkeypatch.setattr(segmentation, "open_segmentation_splits", open_splits)
    segmentation.check_search(("", split), UNetRecipe())
    with pytest.raises(RecipeError, match=r"data\.validation_fraction: found 0, wanted patients"):
        segmentation.check_search(("",), UNetRecipe())
    leaking = override(UNetRecipe(), {"data.protocol": "p5"})
    with pytest.raises(RecipeError, match=r"data\.protocol: found p5.*give --split patient\."):
        segmentation.check_search(("It leaks.", split), leaking)
    seen = [{"name": "liver_phantom", "protocol": "patient"}]
    monkeypatch.setattr("lesionkeras.models.trained_backbone.find_trained_on", lambda recipe: seen)
    with pytest.raises(RecipeError, match="The weights may have seen who is tested"):
        segmentation.check_search(("", split), UNetRecipe())


def test_a_trial_leaves_its_score_and_no_weights(tmp_path, monkeypatch):
    paths = {name: tmp_path / name for name in ("model", "best", "last")}
    run = SimpleNamespace(directory=SimpleNamespace(**paths))

    def train(run):
        for path in (tmp_path / "best", tmp_path / "last", tmp_path / "log.csv"):
            path.touch()
        return None, [{"val_tumour_dice": 0.25}, {"val_tumour_dice": 0.75}, {}], 2

    monkeypatch.setattr(segmentation, "open_run", lambda builders, recipe, out, experiment: run)
    monkeypatch.setattr(segmentation, "train", train)
    scores = segmentation.train_and_validate([], UNetRecipe(), tmp_path / "run", "unet")
    assert scores == {"val_tumour_dice": 0.75}
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
