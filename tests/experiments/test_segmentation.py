"""The commands of the three segmentation networks, from words to files."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import experiments
from experiments import leak, resnet50_unet, segnet, unet
from lesionkeras.cli import RunOptions, parse, run_main
from lesionkeras.ct.nifti import read_nifti
from lesionkeras.errors import RecipeError
from lesionkeras.recipe import diff, from_json, override, to_json
from lesionkeras.training.log import read_log

MODULES = {"unet": unet, "segnet": segnet, "resnet50_unet": resnet50_unet}
PAPERS = ["p4", "p5"]


@pytest.mark.parametrize("name", MODULES)
def test_recipes_are_whole_and_named(name):
    recipes = MODULES[name].RECIPES
    assert list(recipes) == ["default", *PAPERS]
    for key, recipe in recipes.items():
        assert recipe.name == key and recipe.model.in_channels == recipe.data.slices
        assert from_json(to_json(recipe), type(recipe)) == recipe
        override(recipe, MODULES[name].SMOKE)


def test_papers_say_what_they_say():
    for name, module in MODULES.items():
        p5 = module.RECIPES["p5"]
        assert (p5.optimizer.name, p5.optimizer.learning_rate) == ("adam", 1e-4), name
        assert (p5.optimizer.schedule, p5.train.epochs, p5.train.batch_size) == ("plateau", 20, 16)
        assert (p5.data.image_size_px, p5.data.pixel_mm, p5.train.cpu_budget_s) == (128, 0.0, 0.0)
        assert (p5.loss.tversky_weight, p5.loss.tversky_alpha, p5.loss.tversky_beta) == (
            1,
            0.7,
            0.3,
        )
        assert p5.loss.dice_weight == p5.loss.cross_entropy_weight == 0.0
        assert p5.postprocess.closing_mm > 0 and p5.data.rotation_deg > 0
        assert p5.data.normalisation == "window"  # "standardize", and ImageNet's weights
        assert p5.model.head == "binary" and p5.data.slices == 1  # 3.1.1: a binary mask
        # 3.3: "rotations, flips, and intensity scaling", nothing else
        assert p5.augment.flip_left_right and p5.augment.flip_up_down
        assert p5.augment.contrast > 0 and p5.augment.gamma == (1, 1)
        assert p5.augment.brightness == p5.augment.sharpness == 0
        assert p5.augment.noise_std == p5.augment.translate_fraction == p5.augment.crop_size_px == 0
    for module in MODULES.values():
        p4 = module.RECIPES["p4"]
        assert p4.data.normalisation == "standardise"
        assert p4.model.head == "binary" and p4.data.slices == 1  # abstract: sigmoid, binary
        assert (p4.loss.dice_weight, p4.loss.cross_entropy_weight, p4.loss.focal_weight) == (
            1,
            0,
            0,
        )
    assert resnet50_unet.RECIPES["p5"].model.weights == "imagenet"
    changed = {path for path, _, _ in diff(unet.RECIPES["p4"], unet.RECIPES["p5"])}
    assert "optimizer.schedule" in changed and "model.base_channels" not in changed


def test_data_sets_are_pooled_in_their_order(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "tfds_builders.open_builder", lambda *words: asked.append(words) or len(asked)
    )
    words = ["--data", "lits/slices+liver_phantom+ircadb01/slices", "--prepared-dir", "made"]
    words += ["--data-dir", "a", "--data-dir", "-", "--data-dir", "b"]
    recipe, options = parse("unet", unet.RECIPES, "", {}, words)
    assert (recipe.data.name, recipe.data.config) == (
        "lits+liver_phantom+ircadb01",
        "slices++slices",
    )
    assert experiments.open_data_sets(recipe, options, False) == [1, 2, 3]
    made = Path("made")
    assert asked == [
        ("lits", "slices", made, Path("a"), False),
        ("liver_phantom", "", made, None, False),
        ("ircadb01", "slices", made, Path("b"), False),
    ]


def test_one_data_set_as_ever(monkeypatch):
    monkeypatch.setattr("tfds_builders.open_builder", lambda *words: words)
    options = RunOptions("unet", Path("o"), None, Path("made"), False, False)
    recipe = override(unet.RECIPES["default"], {"data.name": "lits", "data.config": ""})
    (found,) = experiments.open_data_sets(recipe, options)
    assert found == ("lits", "", Path("made"), None, True)


@pytest.mark.parametrize(
    ("changes", "folders", "message"),
    [
        (
            {"data.name": "lits+ircadb01", "data.config": ""},
            ("a",),
            "--data-dir: found 1 for lits and ircadb01, wanted one",
        ),
        (
            {"data.name": "lits", "data.config": ""},
            ("a", "b"),
            "--data-dir: found 2 for lits, wanted one",
        ),
        ({"data.name": "a+b+c", "data.config": "x+y"}, (), r"data\.config: found 2 for 3"),
    ],
)
def test_every_data_set_has_its_own(changes, folders, message):
    recipe = override(unet.RECIPES["default"], changes)
    first, *more = map(Path, folders) if folders else (None,)
    options = RunOptions("unet", Path("o"), first, Path("made"), False, False, tuple(more))
    with pytest.raises(RecipeError, match=message):
        experiments.open_data_sets(recipe, options)


def test_held_out_by_name():
    words = ["--held-out", "volume-6,volume-7"]
    recipe, _ = parse("unet", unet.RECIPES, "", {}, words)
    assert recipe.data.held_out == ("volume-6", "volume-7") and recipe.data.protocol == "patient"


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        (
            "unet",
            "--split p5 --held-out volume-6",
            "held out by name from a split by patient alone",
        ),
        ("segnet", "--recipe p4 --weights imagenet", "gets one of zero mean in data.normalisation"),
        ("unet", "--set model.deep_supervision=5", "Deep supervision wants maps"),
    ],
)
def test_what_cannot_be_trained_is_told_before_data_are_opened(
    monkeypatch, tmp_path, name, words, message
):
    monkeypatch.setattr(MODULES[name], "open_data_sets", None)
    with pytest.raises(RecipeError, match=message):
        MODULES[name].main([*words.split(), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", MODULES)
def test_searches_open_what_runs_open(monkeypatch, name):
    from lesionkeras.report import segmentation

    module, calls = MODULES[name], []
    monkeypatch.setattr(module, "open_data_sets", lambda *words: words[2:])
    monkeypatch.setattr(segmentation, "check_search", lambda *words: calls.append(words))
    monkeypatch.setattr(segmentation, "train_and_validate", lambda *words: words)
    options = SimpleNamespace(out=Path("o"))
    module.check_search("recipe", options)
    assert calls == [((), "recipe")]
    found = module.train_and_validate("recipe", options)
    assert found == ((False,), "recipe", Path("o"), name)
    assert all(path in _paths(module) for path in module.SPACE)


def _paths(module):
    from lesionkeras.recipe import flatten

    return flatten(module.RECIPES["default"])


@pytest.fixture(scope="module", autouse=True)
def determinism():
    """What training turns on would take XLA from the tests of other modules."""
    from tensorflow.python.framework import config

    yield
    config.disable_op_determinism()


@pytest.fixture(scope="module")
def prepared_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def run(monkeypatch, name, out, prepared_dir, *words):
    words = [name, "--smoke", "--out", str(out), "--prepared-dir", str(prepared_dir), *words]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop:
        run_main(MODULES[name].main)
    return stop.value.code


def check_run(name, out, printed):
    assert [row["epoch"] for row in read_log(out / "log.csv")] == [1, 2]
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    cases = [row["case"] for row in metrics["protocol"]["corrected"]["per_case"]]
    assert len(cases) == metrics["splits"]["test"]["volumes"] > 1
    assert metrics["cpu_seconds"] > 0 and metrics["leak"] == ""
    assert sorted(path.name for path in (out / "masks").iterdir()) == [f"{c}.nii.gz" for c in cases]
    mask = read_nifti(out / "masks" / f"{cases[0]}.nii.gz", "mask").array
    assert mask.ndim == 3 and mask.shape[1] >= 256 and mask.dtype == np.uint8
    for path in ("model.keras", "report.html", "export/1/contract.json", "recipe.json"):
        assert (out / path).is_file(), path
    assert json.loads((out / "recipe.json").read_text(encoding="utf-8"))["experiment"] == name
    last = printed.splitlines()[-1]
    assert last.startswith("Score: Dice of tumour ") and f"{len(cases)} test volumes" in last


def test_unet_smoke_run(monkeypatch, capsys, tmp_path, prepared_dir):
    out = tmp_path / "run"
    words = ("--set", "model.base_channels=4")
    assert run(monkeypatch, "unet", out, prepared_dir, *words) == 0
    check_run("unet", out, capsys.readouterr().out)
    assert run(monkeypatch, "unet", out, prepared_dir) == 2  # another recipe's run
    assert "model.base_channels 4 (now 16)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "recipe"), [(name, recipe) for name in MODULES for recipe in MODULES[name].RECIPES]
)
def test_smoke_runs(monkeypatch, capsys, tmp_path, prepared_dir, name, recipe):
    out = tmp_path / "run"
    assert run(monkeypatch, name, out, prepared_dir, "--recipe", recipe) == 0
    check_run(name, out, capsys.readouterr().out)


def test_leak_compares_splits_of_an_experiment(monkeypatch, capsys, tmp_path):
    from lesionkeras.report import leaks

    calls = []

    def compare_splits(*words):
        calls.append(words)
        return [
            {"split": "slices", "tumour_dice": {"value": 0.875}, "held_out": "9 slices of a"},
            {"split": "patients", "tumour_dice": {"value": None}, "held_out": "9 slices of a"},
        ]

    monkeypatch.setattr(leak, "open_data_sets", lambda recipe, options: [recipe.data.name])
    monkeypatch.setattr(leaks, "compare_splits", compare_splits)
    words = ["--experiment", "segnet", "--recipe", "p4", "--data", "lits", "--out", str(tmp_path)]
    leak.main([*words, "--seed", "3", "--held-out", "volume-6"])
    ((builders, recipe, out, name),) = calls
    assert (builders, out, name) == (["lits"], tmp_path, "segnet")
    changes = {"data.name": "lits", "train.seed": 3, "data.held_out": "volume-6"}
    assert recipe == override(segnet.RECIPES["p4"], changes)
    assert capsys.readouterr().out.splitlines() == [
        "Score: Dice of tumour 0.875 on 9 slices of a, trained without these slices",
        "Score: Dice of nothing that is there on 9 slices of a, trained without their patient",
        f"Report: {tmp_path}/patients/report.html",
    ]
    with pytest.raises(RecipeError, match="found ssd, wanted one of unet, segnet"):
        leak.main(["--experiment", "ssd"])
