import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from lesionkeras.config import UNetRecipe
from lesionkeras.data import segmentation as data_segmentation
from lesionkeras.errors import DataError, RecipeError
from lesionkeras.recipe import from_json, override, to_json
from lesionkeras.report import leaks, segmentation
from lesionkeras.training.log import write_log
from tests.data.test_segmentation import make_slices

BUILDERS = ["builder"]


@pytest.fixture
def slices(monkeypatch):
    """Three patients, the second with two scans of ten slices."""
    made = replace(
        make_slices(40),
        volumes=tuple(f"v{i // 10}" for i in range(40)),
        patients=tuple("p1" if 10 <= i < 30 else f"p{i // 10}" for i in range(40)),
    )
    monkeypatch.setattr(data_segmentation, "prepare_slices", lambda *words: made)
    return made


def make_recipe(**changes):
    given = {"data.splits": "train", "data.sampling": "all", "data.slices": 3}
    return override(UNetRecipe(), given | {k.replace("__", "."): v for k, v in changes.items()})


def make_metrics(dice, targets=("tumour", "liver")):
    mean = {f"{name}_dice": {"value": value} for name, value in dice.items()}
    return {
        "protocol": {"corrected": {"mean": mean, "global": mean, "per_case": [{"case": "v1"}]}},
        "splits": {"test": {"slices": 2, "volumes": 1}, "train": {"slices": 38, "volumes": 4}},
        "slices": [{"target": name, "dice": 0.25} for name in targets],
    }


def test_recipes_test_the_same_scan_and_train_on_as_many_images(slices):
    recipe = make_recipe(data__held_out="v2", data__validation_fraction=0.2)
    found = leaks.plan_splits(BUILDERS, recipe)
    assert list(found) == ["slices", "volumes", "patients"]
    for name, planned in found.items():
        assert planned.data.protocol == f"leak-{name}"
        assert planned.data.held_out == ("v2",) and planned.data.validation_fraction == 0.0
        assert planned.train.images_per_epoch == 20  # slices without all scans of the patient
        assert from_json(to_json(planned), UNetRecipe) == planned  # as the run's recipe.json has it
        undone = replace(planned.data, protocol="patient", validation_fraction=0.2)
        assert undone == recipe.data
    kept = leaks.plan_splits(BUILDERS, make_recipe(train__images_per_epoch=7))
    assert {planned.train.images_per_epoch for planned in kept.values()} == {7}
    ((drawn,),) = {planned.data.held_out for planned in kept.values()}
    assert drawn in ("v1", "v2")


def test_nothing_is_dropped_in_silence(slices):
    with pytest.raises(DataError, match=r"found v0, wanted one of v1, v2; correct --held-out"):
        leaks.plan_splits(BUILDERS, make_recipe(data__held_out="v0"))
    with pytest.raises(RecipeError, match=r"data\.protocol: found p5, wanted patient; leave out"):
        leaks.plan_splits(BUILDERS, make_recipe(data__protocol="p5"))


def test_one_recipe_three_splits_one_report(tmp_path, monkeypatch, slices):
    started, reported = [], []

    def open_run(builders, recipe, out, experiment):
        started.append((builders, recipe.data.protocol, recipe.data.held_out, out, experiment))
        out.mkdir(parents=True)
        write_log(out / "log.csv", [{"epoch": 1, "loss": 0.5}])
        directory = SimpleNamespace(metrics=out / "metrics.json", log_csv=out / "log.csv")
        return SimpleNamespace(directory=directory)

    found = {"slices": 0.9, "volumes": float("nan"), "patients": 0.5}
    monkeypatch.setattr(segmentation, "open_run", open_run)
    monkeypatch.setattr(segmentation, "train", lambda run: (None, [], 1))
    monkeypatch.setattr(
        segmentation,
        "measure",
        lambda run, *rest: make_metrics(
            {"tumour": found[run.directory.metrics.parent.name], "liver": 0.95}
        ),
    )
    monkeypatch.setattr(segmentation, "write_report", lambda *words: reported.append(words))
    recipe = make_recipe(data__held_out="v1")
    rows = leaks.compare_splits(BUILDERS, recipe, tmp_path / "out", "unet")
    assert started == [
        (BUILDERS, f"leak-{name}", ("v1",), tmp_path / "out" / name, "unet") for name in found
    ]
    assert [row["split"] for row in rows] == list(found)
    assert rows[0]["tumour_dice"] == rows[0]["tumour_dice_global"] == {"value": 0.9}
    assert rows[2]["liver_dice"] == {"value": 0.95} and rows[0]["tumour_dice_by_slice"] == 0.25
    assert rows[0]["held_out"] == "2 slices of v1" and rows[0]["trained"] == "38 slices of 4 scans"
    ((run, log_rows, metrics),) = reported
    assert run.directory.metrics.parent.name == "patients" and log_rows[0]["loss"] == 0.5
    assert metrics["leaks"][1]["tumour_dice"] == {"value": None}
    assert json.loads(run.directory.metrics.read_text()) == metrics


def test_a_network_of_the_liver_alone_is_compared_by_the_liver():
    row = leaks.describe_split("slices", make_metrics({"tumour": None, "liver": 0.9}, ("liver",)))
    assert row["tumour_dice_by_slice"] is None and row["liver_dice_by_slice"] == 0.25
    assert leaks.tell_split(row) == (
        "Dice of liver 0.900 on 2 slices of v1, trained without these slices"
    )
