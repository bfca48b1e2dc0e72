import json
import subprocess
import sys

import numpy as np
import pytest

from lesionkeras.config import SSDRecipe
from lesionkeras.errors import RunError
from lesionkeras.files import beside
from lesionkeras.recipe import digest, override, read_recipe
from lesionkeras.training.log import read_log, write_log
from lesionkeras.training.run import RunDirectory, describe_environment

RECIPE = override(SSDRecipe(), {"train.seed": 3})
ENVIRONMENT = {"data_fingerprint": "abc", "weights_sha256": ""}


def _snapshot(folder):
    return {p.relative_to(folder): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def test_new_run_has_layout_and_recipe(tmp_path):
    run = RunDirectory.open(tmp_path / "runs" / "a", RECIPE, "ssd", ENVIRONMENT)
    assert not run.resumed
    record = json.loads(run.recipe_json.read_text())
    assert record["digest"] == digest(RECIPE) and record["environment"] == ENVIRONMENT
    assert read_recipe(run.recipe_json, SSDRecipe, "ssd") == RECIPE
    assert run.tensorboard.is_dir() and run.last.parent.is_dir() and run.figures.is_dir()
    assert run.export == run.path / "export" / "1"


def test_same_recipe_resumes_and_keeps_its_record(tmp_path):
    run = RunDirectory.open(tmp_path, RECIPE, "ssd", ENVIRONMENT)
    before = _snapshot(tmp_path)
    again = RunDirectory.open(tmp_path, RECIPE, "ssd", ENVIRONMENT | {"python": "4"})
    assert again.resumed and again.path == run.path
    assert _snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "experiment", "environment", "text"),
    [
        (
            {"train.seed": 4, "augment.gamma": (0.7, 1.5)},
            "ssd",
            {},
            "found augment.gamma 0.8,1.25 (now 0.7,1.5), train.seed 3 (now 4); name another --out",
        ),
        ({}, "unet", {}, "found experiment ssd (now unet)"),
        (
            {},
            "ssd",
            {"data_fingerprint": "xyz"},
            "other data_fingerprint in {}: found xyz, wanted abc",
        ),
    ],
)
def test_another_run_is_refused_and_nothing_changes(
    tmp_path, changes, experiment, environment, text
):
    RunDirectory.open(tmp_path, RECIPE, "ssd", ENVIRONMENT)
    before = _snapshot(tmp_path)
    with pytest.raises(RunError) as caught:
        recipe = override(RECIPE, changes)
        RunDirectory.open(tmp_path, recipe, experiment, ENVIRONMENT | environment)
    assert text.format(tmp_path) in str(caught.value)
    assert _snapshot(tmp_path) == before


def test_many_differences_are_counted(tmp_path):
    RunDirectory.open(tmp_path, RECIPE, "ssd", ENVIRONMENT)
    names = ("brightness", "noise_std", "translate_fraction", "crop_on_lesion_probability")
    changes = {f"augment.{name}": 0.02 for name in names}
    changes |= {f"optimizer.{n}": 0.011 for n in ("learning_rate", "momentum", "weight_decay")}
    changes |= {f"loss.{n}": 0.5 for n in ("box_weight", "smooth_l1_beta")} | {"train.seed": 9}
    with pytest.raises(RunError, match=r"\(now \S+\) and 2 more; name another --out"):
        RunDirectory.open(tmp_path, override(RECIPE, changes), "ssd", ENVIRONMENT)


def test_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"holds other files and no run in .*: found thesis\.tex"):
        RunDirectory.open(tmp_path, RECIPE, "ssd", ENVIRONMENT)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(RunError, match=r"A run needs a folder in .*: found a file"):
        RunDirectory.open(tmp_path / "out", RECIPE, "ssd", ENVIRONMENT)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"recipe": {}}', '{"recipe": 1, "experiment": ""}']
)
def test_unreadable_record_is_named(tmp_path, content):
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(RunError, match=r"A run's recipe cannot be read in .*recipe\.json"):
        RunDirectory.open(tmp_path, RECIPE, "ssd", ENVIRONMENT)


def test_record_of_another_version_is_refused(tmp_path):
    run = RunDirectory.open(tmp_path, RECIPE, "ssd", ENVIRONMENT)
    record = json.loads(run.recipe_json.read_text())
    record["recipe"]["train"]["epoch"] = 3
    run.recipe_json.write_text(json.dumps(record))
    with pytest.raises(
        RunError, match=r"run of another version .*did you mean train\.epochs; name"
    ):
        RunDirectory.open(tmp_path, RECIPE, "ssd", ENVIRONMENT)


def test_kill_before_the_record_stood_does_not_lock_the_folder(tmp_path):
    beside(tmp_path / "recipe.json").write_text('{"exper')
    assert not RunDirectory.open(tmp_path, RECIPE, "ssd", ENVIRONMENT).resumed


def test_environment_says_versions_and_weights():
    environment = describe_environment("d1", "ba7816bf")
    assert environment["weights_sha256"] == "ba7816bf"
    assert environment["data_fingerprint"] == "d1"
    assert environment["packages"]["numpy"] == np.__version__
    assert describe_environment()["weights_sha256"] == ""


def test_log_keeps_every_digit_and_leaves_gaps(tmp_path):
    rows = [
        {"epoch": 1, "loss": 0.1 + 0.2, "seconds": 1.0},
        {"epoch": 2, "loss": 1 / 3, "val_map50": 1e-17, "seconds": 2.0, "extra": 4.0},
    ]
    write_log(tmp_path / "log.csv", rows)
    assert (tmp_path / "log.csv").read_text().splitlines()[:2] == [
        "epoch,loss,seconds,extra,val_map50",
        "1,0.30000000000000004,1.0,,",
    ]
    assert read_log(tmp_path / "log.csv") == rows


def test_checking_out_needs_no_tensorflow():
    code = "import sys, lesionkeras.training.log; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
