"""The search, with a parabola in place of training."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lesionkeras.config import SSDRecipe
from lesionkeras.errors import DataError, RecipeError, RunError
from lesionkeras.recipe import override, read_recipe
from lesionkeras.training.oracles import build_oracle, compute_num_brackets
from lesionkeras.training.search import SearchPlan, choose_winner, run_search
from lesionkeras.training.space import Dimension, parse_space, parse_space_flags

BEST_RATE = 0.01
SPACE = {"optimizer.learning_rate": "1e-4:1:log", "train.batch_size": "2,4,8"}


def make_plan(**changes):
    return SearchPlan(**{"experiment": "ssd", "recipe": SSDRecipe(), "space": SPACE, **changes})


def score_parabola(recipe, folder):
    """1 at the best rate, lower by the square of the distance in decades."""
    distance = math.log10(recipe.optimizer.learning_rate / BEST_RATE)
    return {"val_map50": 1 - distance**2, "val_recall": 0.5}


class Recorder:
    """Scores, remembers every call, and can go wrong at one of them."""

    def __init__(self, goes_wrong=None):
        self.goes_wrong = goes_wrong or {}
        self.recipes, self.folders = [], []

    def __call__(self, recipe, folder):
        number = len(self.recipes) + 1
        self.recipes.append(recipe)
        self.folders.append(folder.relative_to(folder.parent.parent).as_posix())
        wrong = self.goes_wrong.get(number)
        if isinstance(wrong, BaseException):
            raise wrong
        return {"val_map50": wrong} if wrong is not None else score_parabola(recipe, folder)


def silent(_):
    pass


def read_rows(out):
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("tuner", ["random", "hyperband"])
def test_the_winner_is_the_best_trial_and_a_recipe_file(tmp_path, tuner):
    out = tmp_path / "search"
    results = run_search(make_plan(tuner=tuner, trials=8), score_parabola, out, silent)
    assert [result.number for result in results] == list(range(1, 9))
    assert len({tuple(result.values.items()) for result in results}) == 8
    best = max(results, key=lambda result: result.score)
    winner = read_recipe(out / "winner.json", SSDRecipe, "ssd")
    assert winner.optimizer.learning_rate == best.values["optimizer.learning_rate"]
    assert winner.train.batch_size == int(best.values["train.batch_size"])
    assert winner.name == "default-tuned"
    assert json.loads((out / "winner.json").read_text())["search"]["score"] == {
        "val_map50": best.score
    }
    rows = read_rows(out)
    assert [float(row["val_map50"]) for row in rows] == pytest.approx(
        [result.score for result in results], abs=1e-5
    )


def test_values_stay_in_their_ranges_and_follow_the_seed(tmp_path):
    space = {"optimizer.learning_rate": "1e-3:1e-2", "train.images_per_epoch": "3:5"}
    first, again, other = Recorder(), Recorder(), Recorder()
    run_search(make_plan(space=space, trials=6), first, tmp_path / "a", silent)
    run_search(make_plan(space=space, trials=6), again, tmp_path / "b", silent)
    run_search(make_plan(space=space, trials=6, seed=1), other, tmp_path / "c", silent)
    assert first.recipes == again.recipes != other.recipes
    assert all(1e-3 <= recipe.optimizer.learning_rate <= 1e-2 for recipe in first.recipes)
    assert {recipe.train.images_per_epoch for recipe in first.recipes} <= {3, 4, 5}


def test_bayesian_comes_closer_than_it_began(tmp_path):
    plan = make_plan(tuner="bayesian", trials=8, space={"optimizer.learning_rate": "1e-4:1:log"})
    results = run_search(plan, score_parabola, tmp_path / "search", silent)
    assert choose_winner(results).score > 0.99
    assert choose_winner(results).number > 3  # the first three are drawn evenly


def test_hyperband_repeats_its_best_with_all_epochs(tmp_path):
    recorder = Recorder()
    plan = make_plan(tuner="hyperband", trials=7, recipe=override(SSDRecipe(), {"train.epochs": 9}))
    run_search(plan, recorder, tmp_path / "search", silent)
    short = [recipe for recipe in recorder.recipes if recipe.train.epochs == 3]
    full = [recipe for recipe in recorder.recipes if recipe.train.epochs == 9]
    assert (len(short), len(full)) == (5, 2)
    best_short = max(short, key=lambda recipe: score_parabola(recipe, None)["val_map50"])
    assert best_short.optimizer in [recipe.optimizer for recipe in full]


def test_brackets_fit_the_number_of_trials():
    assert compute_num_brackets(5, max_epochs=75) == 1
    assert compute_num_brackets(12, max_epochs=75) == 2  # 8 + 3 trials
    assert compute_num_brackets(22, max_epochs=75) == 3  # 15 + 5 + 2 trials
    assert compute_num_brackets(1000, max_epochs=2) == 1  # too few epochs to divide by 3


def test_failed_and_nan_trials_are_recorded_and_skipped(tmp_path):
    wrong = {1: ValueError("out of\nmemory"), 2: math.nan, 3: math.inf, 4: RuntimeError("x")}
    wrong[5] = RecipeError("impossible")
    recorder, lines, out = Recorder(wrong), [], tmp_path / "search"
    results = run_search(make_plan(trials=7), recorder, out, lines.append)
    assert [result.status for result in results] == ["failed"] * 5 + ["completed"] * 2
    rows = read_rows(out)
    assert rows[0]["reason"] == "ValueError: out of memory"
    assert rows[1]["reason"] == "ValueError: val_map50 is nan"
    assert rows[2]["reason"] == "ValueError: val_map50 is inf"
    assert rows[4]["reason"] == "RecipeError: impossible."
    assert rows[0]["val_map50"] == rows[5]["reason"] == ""
    assert "trial 2 of 7: failed, ValueError: val_map50 is nan" in lines
    assert read_recipe(out / "winner.json", SSDRecipe).optimizer.learning_rate in {
        recipe.optimizer.learning_rate for recipe in recorder.recipes[5:]
    }


def test_failed_trials_are_not_repeated_after_a_restart(tmp_path):
    out = tmp_path / "search"
    run_search(make_plan(trials=2), Recorder({1: ValueError("no")}), out, silent)
    later = Recorder()
    results = run_search(make_plan(trials=3), later, out, silent)
    assert later.folders == ["trial_2/run"]
    assert [result.status for result in results] == ["failed", "completed", "completed"]


def test_a_search_in_which_all_trials_fail_says_why(tmp_path):
    recorder = Recorder({number: ValueError("no GPU") for number in range(1, 4)})
    with pytest.raises(RunError) as caught:
        run_search(make_plan(trials=3), recorder, tmp_path / "search", silent)
    assert str(caught.value) == (
        "No trial of the search succeeded: found in the first of 3: ValueError: no GPU; "
        "look into failed.txt of each trial."
    )


def test_wrong_data_end_the_search_and_may_be_put_right(tmp_path):
    out, error = tmp_path / "search", DataError("No data", where="raw")
    with pytest.raises(DataError, match=r"No data in raw\."):
        run_search(make_plan(trials=3), Recorder({2: error}), out, silent)
    later = Recorder()
    run_search(make_plan(trials=3), later, out, silent)
    assert later.folders == ["trial_1/run", "trial_2/run"]


@pytest.mark.parametrize(
    ("tuner", "stopped_at"), [("random", 1), ("random", 5), ("hyperband", 6), ("bayesian", 5)]
)
def test_a_stopped_search_goes_on_as_if_nothing_had_been(tmp_path, tuner, stopped_at):
    plan, out = make_plan(tuner=tuner, trials=7), tmp_path / "stopped"
    first = Recorder({stopped_at: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        run_search(plan, first, out, silent)
    second = Recorder()
    results = run_search(plan, second, out, silent)
    # The stopped trial runs again, same values, same directory: the run in it can go on.
    assert second.recipes[0] == first.recipes[-1]
    assert second.folders[0] == first.folders[-1]
    assert len(first.recipes) + len(second.recipes) == 7 + 1
    assert [result.status for result in results] == ["completed"] * 7
    if tuner != "bayesian":  # its proposals depend on a state that keras-tuner does not keep
        whole = Recorder()
        run_search(plan, whole, tmp_path / "whole", silent)
        assert first.recipes[:-1] + second.recipes == whole.recipes


def test_a_finished_search_runs_nothing_again(tmp_path):
    out = tmp_path / "search"
    before = run_search(make_plan(trials=3), score_parabola, out, silent)
    later = Recorder()
    assert run_search(make_plan(trials=3), later, out, silent) == before
    assert later.recipes == []


KILLED_SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests_search import Recorder, make_plan, run_search, silent
class Killer(Recorder):
    def __call__(self, recipe, folder):
        if len(self.recipes) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(recipe, folder)
run_search(make_plan(trials=4), Killer(), Path(sys.argv[1]), silent)
"""


def test_a_killed_process_loses_nothing(tmp_path):
    (tmp_path / "tests_search.py").write_text(Path(__file__).read_text())
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_SCRIPT, "search"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [row["status"] for row in read_rows(tmp_path / "search")] == ["completed"] * 2
    later, whole = Recorder(), Recorder()
    run_search(make_plan(trials=4), later, tmp_path / "search", silent)
    run_search(make_plan(trials=4), whole, tmp_path / "whole", silent)
    assert later.recipes == whole.recipes[2:]
    assert later.folders == ["trial_2/run", "trial_3/run"]


def make_oracle(out):
    space = [Dimension("optimizer.learning_rate", 1e-4, 1.0, is_log=True)]
    return build_oracle("random", space, trials=5, seed=0, max_epochs=9, out=out)


def test_a_kill_between_a_trials_file_and_the_list_brings_it_again(tmp_path):
    oracle = make_oracle(tmp_path / "search")
    finished = oracle.create_trial("tuner0")
    before = (tmp_path / "search" / "oracle.json").read_bytes()
    oracle.update_trial(finished.trial_id, {"score": 0.5})
    finished.status = "COMPLETED"
    oracle.end_trial(finished)
    after = (tmp_path / "search" / "oracle.json").read_bytes()
    lost = oracle.create_trial("tuner0")

    (tmp_path / "search" / "oracle.json").write_bytes(after)  # as before the second was listed
    again = make_oracle(tmp_path / "search").create_trial("tuner0")
    assert again.trial_id == lost.trial_id
    assert again.hyperparameters.values == lost.hyperparameters.values

    (tmp_path / "search" / "oracle.json").write_bytes(before)  # as before the end was listed
    reloaded = make_oracle(tmp_path / "search")
    assert reloaded.get_best_trials()[0].score == 0.5
    assert reloaded.create_trial("tuner0").trial_id != finished.trial_id


def test_a_repeated_trial_reports_its_new_figures(tmp_path):
    oracle = make_oracle(tmp_path / "search")
    trial = oracle.create_trial("tuner0")
    oracle.update_trial(trial.trial_id, {"score": 0.9})  # killed before the trial was ended
    reloaded = make_oracle(tmp_path / "search")
    trial = reloaded.create_trial("tuner0")
    assert not trial.metrics.exists("score")


def test_another_search_in_the_same_directory_is_refused(tmp_path):
    out = tmp_path / "search"
    run_search(make_plan(trials=1), score_parabola, out, silent)
    other = make_plan(trials=1, recipe=override(SSDRecipe(), {"train.epochs": 5}))
    with pytest.raises(RunError) as caught:
        run_search(other, score_parabola, out, silent)
    assert str(caught.value) == (
        f"The directory holds another search in {out}: found recipe.train.epochs=75, "
        "wanted recipe.train.epochs=5; name another --out."
    )
    with pytest.raises(RunError, match=r"found space\.loss\.box_weight=nothing, wanted .*=1:2"):
        space = {**SPACE, "loss.box_weight": "1:2"}
        run_search(make_plan(trials=1, space=space), score_parabola, out, silent)
    with pytest.raises(RunError, match="found tuner=random, wanted tuner=bayesian"):
        run_search(make_plan(trials=1, tuner="bayesian"), score_parabola, out, silent)


def test_the_check_comes_before_a_new_search_is_written_and_once(tmp_path):
    out, calls = tmp_path / "search", []

    def check():
        calls.append(out.exists())
        if len(calls) == 1:
            raise DataError("No data")

    with pytest.raises(DataError, match="No data"):
        run_search(make_plan(trials=1), score_parabola, out, silent, check)
    assert not out.exists()
    for _ in range(2):
        run_search(make_plan(trials=1), score_parabola, out, silent, check)
    assert calls == [False, False]


def test_a_directory_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    for out, found in ((tmp_path, "other files"), (tmp_path / "recipe.json", "a file")):
        with pytest.raises(RunError) as caught:
            run_search(make_plan(), score_parabola, out, silent)
        assert str(caught.value) == (
            f"A search needs a folder of its own in {out}: found {found}, "
            "wanted an empty or missing folder; name another --out."
        )
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]
    assert (tmp_path / "recipe.json").read_text() == "{}"


def test_a_trial_folder_that_is_gone_is_named(tmp_path):
    out = tmp_path / "search"
    run_search(make_plan(trials=2), score_parabola, out, silent)
    (out / "trial_0" / "trial.json").unlink()
    with pytest.raises(RunError, match=r"A trial of the search is gone .* found no trial_0"):
        run_search(make_plan(trials=3), score_parabola, out, silent)


def test_progress_names_trial_best_and_time_left(tmp_path):
    lines = []
    run_search(make_plan(trials=2), score_parabola, tmp_path / "search", lines.append)
    assert lines[0].startswith("Trial 1 of 2: optimizer.learning_rate ")
    assert lines[1].startswith("trial 1 of 2: val_map50 ")
    assert lines[1].endswith(" s left")
    assert " (trial 1), about " in lines[1]


def test_space_notation():
    texts = {
        "optimizer.learning_rate": "3e-4:3e-3:log",
        "train.batch_size": "4:16",
        "optimizer.name": "adamw, sgd",
        "augment.flip_up_down": "true,false",
        "augment.gamma": "0.5,2.0|0.8,1.25",
    }
    assert parse_space(texts, SSDRecipe()) == [
        Dimension("optimizer.learning_rate", 3e-4, 3e-3, is_log=True),
        Dimension("train.batch_size", 4, 16, is_whole=True),
        Dimension("optimizer.name", choices=("adamw", "sgd")),
        Dimension("augment.flip_up_down", choices=("true", "false")),
        Dimension("augment.gamma", choices=("0.5,2.0", "0.8,1.25")),
    ]


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("optimizer.learning_rat", "1:2", "did you mean optimizer.learning_rate."),
        ("optimizer.learning_rate", "3:1", "is impossible: found '3:1', wanted low < high."),
        ("optimizer.momentum", "0:0.5:log", "wanted low < high, and low > 0 for log."),
        ("optimizer.learning_rate", "1:2:lin", "cannot be read: found '1:2:lin', wanted path="),
        ("optimizer.learning_rate", "-1:2", "is out of range: found -1.0, wanted a number above 0"),
        ("optimizer.learning_rate", "a:2", "cannot be read: found 'a', wanted a number."),
        ("optimizer.name", "adamw:sgd", "cannot be read: found 'adamw:sgd'"),
        ("optimizer.name", "adamw", "cannot be read: found 'adamw', wanted path=low:high"),
        ("optimizer.name", "adamw,sgb", "optimizer.name is unknown: found sgb"),
    ],
)
def test_space_errors(path, text, message):
    with pytest.raises(RecipeError) as caught:
        parse_space({path: text}, SSDRecipe())
    assert message in str(caught.value)


def test_space_flags():
    flags = ["train.epochs=1:3", "loss.box_weight=1,2", "train.epochs=1:4"]
    assert parse_space_flags(flags) == {"train.epochs": "1:4", "loss.box_weight": "1,2"}
    with pytest.raises(RecipeError, match=r"--space cannot be read: found 'train\.epochs'"):
        parse_space_flags(["train.epochs"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuner": "grid"}, "A tuner is unknown: found grid, wanted one of random"),
        ({"trials": 0}, "--trials is out of range: found 0, wanted 1 or more."),
        ({"space": {}}, "The search space is empty"),
        (
            {"tuner": "hyperband", "space": {"train.epochs": "1:9"}},
            "train.epochs cannot be in the space of hyperband",
        ),
    ],
)
def test_plan_errors_write_nothing(tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        run_search(make_plan(**changes), score_parabola, tmp_path / "search", silent)
    assert not (tmp_path / "search").exists()
