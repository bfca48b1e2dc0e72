import json
from types import SimpleNamespace

from lesionkeras.config import UNetRecipe
from lesionkeras.recipe import override
from lesionkeras.report import leaks, segmentation
from lesionkeras.training.log import write_log


def make_metrics(dice, slices, volumes):
    mean = {f"{name}_dice": {"value": value} for name, value in dice.items()}
    return {
        "protocol": {"corrected": {"mean": mean}},
        "splits": {"test": {"slices": slices, "volumes": volumes}},
        "slices": [{"target": "liver", "dice": 0.1}, {"target": "tumour", "dice": 0.2}],
    }


def test_one_recipe_three_splits_one_report(tmp_path, monkeypatch):
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
            {"tumour": found[run.directory.metrics.parent.name], "liver": 0.95}, 80, 7
        ),
    )
    monkeypatch.setattr(segmentation, "write_report", lambda *words: reported.append(words))
    recipe = override(UNetRecipe(), {"data.held_out": "volume-6"})
    rows = leaks.compare_splits(["builder"], recipe, tmp_path / "out", "unet")
    assert started == [
        (["builder"], protocol, (), tmp_path / "out" / name, "unet")
        for protocol, name in (("p5", "slices"), ("volume", "volumes"), ("patient", "patients"))
    ]
    assert [row["split"] for row in rows] == list(found)
    assert rows[0]["tumour_dice"] == {"value": 0.9} and rows[2]["liver_dice"] == {"value": 0.95}
    assert rows[0]["slice_tumour_dice"] == 0.2 and rows[0]["held_out"] == "80 slices of 7 volumes"
    ((run, log_rows, metrics),) = reported
    assert run.directory.metrics.parent.name == "patients" and log_rows[0]["loss"] == 0.5
    assert metrics["leaks"][1]["tumour_dice"] == {"value": None}
    assert json.loads(run.directory.metrics.read_text()) == metrics
