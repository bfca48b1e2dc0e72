import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import tune
from lesionkeras.config import SSDRecipe
from lesionkeras.errors import DataError, RecipeError
from lesionkeras.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def experiment(monkeypatch):
    calls = []

    def train_and_validate(recipe, options):
        calls.append((recipe, options))
        return {"val_map50": -abs(math.log10(recipe.optimizer.learning_rate / 0.01))}

    module = SimpleNamespace(
        RECIPES={"default": SSDRecipe()},
        SMOKE={"train.epochs": 2},
        SPACE={"optimizer.learning_rate": "1e-3:1e-1:log", "train.batch_size": "4,8"},
        check_search=lambda recipe, options: None,
        train_and_validate=train_and_validate,
        calls=calls,
    )
    monkeypatch.setattr(tune, "load_experiment", lambda name: module)
    return module


def test_flags_reach_the_trials_and_the_winner_is_a_recipe_file(tmp_path, experiment, capsys):
    out = tmp_path / "search"
    words = ["--trials", "3", "--epochs", "5", "--data-dir", "raw", "--out", str(out)]
    tune.main(words)
    recipes = [recipe for recipe, _ in experiment.calls]
    assert [recipe.train.epochs for recipe in recipes] == [5, 5, 5]
    assert [options.out for _, options in experiment.calls] == [
        out / f"trial_{number}" / "run" for number in range(3)
    ]
    assert {str(options.data_dir) for _, options in experiment.calls} == {"raw"}
    best = min(recipes, key=lambda recipe: abs(math.log10(recipe.optimizer.learning_rate / 0.01)))
    winner = read_recipe(out / "winner.json", SSDRecipe, "ssd")
    assert (winner.optimizer, winner.train) == (best.optimizer, best.train)
    assert str(out / "winner.json") in capsys.readouterr().out
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"{best.optimizer.learning_rate:.4g}" in page
    assert "data:image/png;base64," in page

    experiment.calls.clear()
    tune.main([*words, "--trials", "4"])  # more of the same: one more training
    assert len(experiment.calls) == 1


def test_a_field_that_a_flag_sets_leaves_the_space_and_space_adds_to_it(tmp_path, experiment):
    words = ["--lr", "0.02", "--space", "loss.box_weight=1:2", "--trials", "2"]
    tune.main([*words, "--out", str(tmp_path / "search")])
    recipes = [recipe for recipe, _ in experiment.calls]
    assert [recipe.optimizer.learning_rate for recipe in recipes] == [0.02, 0.02]
    assert all(1 <= recipe.loss.box_weight <= 2 for recipe in recipes)
    assert recipes[0].loss.box_weight != recipes[1].loss.box_weight


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space", "loss.box_wait=1:2"], "did you mean loss.box_weight."),
        (["--tuner", "grid"], "A tuner is unknown: found grid, wanted one of random"),
        (["--trials", "0"], "--trials cannot be read: found '0'"),
    ],
)
def test_a_wrong_search_writes_nothing(tmp_path, experiment, words, message):
    with pytest.raises(RecipeError) as caught:
        tune.main([*words, "--out", str(tmp_path / "search")])
    assert message in str(caught.value)
    assert not (tmp_path / "search").exists()


def test_experiments_are_found_by_name():
    assert tune.load_experiment("ssd").SPACE
    unknown = r"found sssd, wanted one of .*ssd, .*; did you mean ssd\."
    with pytest.raises(RecipeError, match=unknown):
        tune.load_experiment("sssd")
    with pytest.raises(RecipeError, match=r"experiments\.tune trains nothing.*did you mean unet\."):
        tune.load_experiment("tune")


def test_what_would_fail_every_trial_is_said_before_anything_is_written(tmp_path, experiment):
    def check_search(recipe, options):
        raise DataError(f"No data for {recipe.train.epochs} epochs", where=str(options.data_dir))

    experiment.check_search = check_search
    with pytest.raises(DataError, match="No data for 5 epochs in raw"):
        tune.main(["--epochs", "5", "--data-dir", "raw", "--out", str(tmp_path / "search")])
    assert not (tmp_path / "search").exists()
    assert experiment.calls == []


SEARCH_ERRORS = [
    (["--data", "deeplesion/liver"], "DL_info.csv"),
    (["--smoke", "--split", "paper"], "A search has no validation patients in data.protocol"),
    (["--smoke", "--validation-split", ""], "A search has no validation patients in data.val"),
    (["--smoke", "--validation-split", "valid"], "found nothing in 'valid'"),
]


def test_a_search_without_data_or_validation_patients_is_refused(tmp_path):
    for words, message in SEARCH_ERRORS:
        paths = ["--out", str(tmp_path / "search"), "--prepared-dir", str(tmp_path / "prepared")]
        with pytest.raises((DataError, RecipeError)) as caught:
            tune.main([*words, *paths])
        assert message in str(caught.value)
        assert not (tmp_path / "search").exists()


@pytest.mark.slow
def test_trials_of_the_detector_leave_a_recipe_and_no_weights(tmp_path):
    out, words = tmp_path / "search", ["--smoke", "--set", "train.images_per_epoch=32"]
    paths = ["--out", str(out), "--prepared-dir", str(tmp_path / "prepared")]
    command = [sys.executable, "-m", "experiments.tune", *words, "--trials", "2", *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "retracing" not in done.stderr
    assert f"Best recipe: {out / 'winner.json'}" in done.stdout.splitlines()[-1]
    assert read_recipe(out / "winner.json", SSDRecipe, "ssd").data.config == "tiny"
    assert sum(path.stat().st_size for path in out.rglob("*")) < 5_000_000
    for number in range(2):
        scores = json.loads((out / f"trial_{number}" / "scores.json").read_text())
        assert 0 <= scores["val_map50"] <= 1
        assert (out / f"trial_{number}" / "run" / "log.csv").is_file()
