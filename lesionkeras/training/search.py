"""A search over recipe fields with keras-tuner that survives failed trials and kills.

keras-tuner proposes the values (Source: O'Malley et al., KerasTuner, 2019; Hyperband: Li et al.,
JMLR 18, 2018) and can spread the trials over machines (its chief and workers, by environment).
Here is what it lacks: a trial is a recipe and a run directory; state is written so that a kill at
any moment loses nothing; a search with another space in the same directory is refused.
"""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.engine import base_tuner

from lesionkeras.errors import DataError, RecipeError, RunError
from lesionkeras.files import write_json
from lesionkeras.recipe import diff_trees, format_value, override, to_json, write_recipe
from lesionkeras.training.oracles import OBJECTIVE, TUNERS, build_oracle
from lesionkeras.training.space import parse_space

_EPOCHS = "train.epochs"  # what Hyperband's epochs stand for
_NUM_DIFFERENCES_SHOWN = 3
_REASON_FILE = "failed.txt"
_SCORES_FILE = "scores.json"
_SECONDS = "seconds"
_SHOW_MINUTES_FROM_S = 90
_NO_LINE_BREAKS = str.maketrans("\r\n", "  ")

Score = Callable[[Any, Path], Mapping[str, float]]


@dataclass(frozen=True)
class SearchPlan:
    """What is searched: the same plan in the same directory goes on where it was stopped."""

    experiment: str
    recipe: Any  # where the search starts from
    space: Mapping[str, str]  # path to range or alternatives, see `training.space`
    tuner: str = "random"  # or hyperband, bayesian
    trials: int = 12
    seed: int = 0


@dataclass(frozen=True)
class TrialResult:
    """One trial as the table shows it."""

    number: int  # from 1
    folder: str  # below the search directory
    status: str  # completed, failed or running
    metric: str  # name of the score
    score: float  # the larger the better; NaN unless completed
    seconds: float
    reason: str  # why it failed
    values: Mapping[str, Any]  # path to value


def run_search(
    plan: SearchPlan,
    score: Score,
    out: Path,
    say: Callable[[str], None] = print,
    check: Callable[[], None] = lambda: None,
) -> list[TrialResult]:
    """Runs a search, or what is left of it, and writes `winner.json` and `trials.csv`.

    Args:
        plan: What is searched.
        score: Trains a recipe in a directory and gives its validation figures; the first of them
            is maximised.  The same call in the same directory is made again after a kill.
        out: The search's directory.
        say: Takes a line of progress.
        check: Raises what would fail every trial; called once, before a new search is written.

    Returns:
        All trials in order; empty on a worker of a search over several machines.

    Raises:
        RecipeError: An impossible plan, or from `check`.
        RunError: `out` holds something else, or no trial succeeded.
        DataError: From `check` or `score`: wrong data fail every trial, so the search ends.
    """
    dimensions = _check_plan(plan)
    if not _is_worker():
        _claim_directory(plan, out, check)
    oracle = build_oracle(
        plan.tuner, dimensions, plan.trials, plan.seed, max_epochs=_get_epochs(plan), out=out
    )
    tuner = _Tuner(oracle, plan, score, out, say)
    try:
        tuner.search(verbose=0)
    except _SearchStopped as stop:
        raise stop.error from stop
    if _is_worker():
        return []
    results = list_trials(oracle, out)
    write_trials(out / "trials.csv", results)
    _write_winner(plan, results, out)
    return results


def list_trials(oracle: keras_tuner.Oracle, out: Path) -> list[TrialResult]:
    """Lists the trials of a search in the order of their numbers.

    Args:
        oracle: The search's state.
        out: The search's directory.

    Returns:
        One result a trial.
    """
    trials = sorted(oracle.trials.values(), key=lambda trial: int(trial.trial_id))
    return [_to_result(trial, out) for trial in trials]


def write_trials(path: Path, results: list[TrialResult]) -> None:
    """Writes the table of trials, beside and then renamed.

    Args:
        path: The CSV file.
        results: All trials.
    """
    metric = next((each.metric for each in results if each.status == "completed"), "score")
    paths = list(dict.fromkeys(name for result in results for name in result.values))
    beside = path.with_name(path.name + ".part")
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "folder", "status", metric, "seconds", "reason", *paths])
        for result in results:
            values = [format_value(result.values.get(name, "")) for name in paths]
            score = "" if math.isnan(result.score) else f"{result.score:.6g}"
            head = [result.number, result.folder, result.status, score, f"{result.seconds:.1f}"]
            writer.writerow([*head, result.reason, *values])
    beside.replace(path)


def choose_winner(results: list[TrialResult]) -> TrialResult:
    """Chooses the trial with the highest score; the earlier one of equals.

    Args:
        results: All trials.

    Returns:
        The best completed trial.

    Raises:
        RunError: No trial was completed.
    """
    completed = [result for result in results if result.status == "completed"]
    if not completed:
        reason = next((result.reason for result in results if result.reason), "no trial")
        raise RunError(
            "No trial of the search succeeded",
            found=f"in the first of {len(results)}: {reason}",
            next_step="look into failed.txt of each trial",
        )
    return max(completed, key=lambda result: result.score)


class _SearchStopped(keras_tuner.errors.FatalError):
    """Carries an error through keras-tuner that no other trial could avoid."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Tuner(base_tuner.BaseTuner):
    """Runs trials: values to recipe, recipe to score."""

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        plan: SearchPlan,
        score: Score,
        out: Path,
        say: Callable[[str], None],
    ) -> None:
        self.plan, self.score, self.out, self.say = plan, score, out, say
        super().__init__(oracle, directory=str(out.parent), project_name=out.name)

    def save(self) -> None:
        """Does nothing: the oracle saves itself, and keras-tuner's way is not kill-proof."""

    def run_trial(self, trial: Any, **_: Any) -> dict[str, float]:
        """Trains one trial; whatever goes wrong in it is its own failure."""
        folder = Path(self.get_trial_dir(trial.trial_id))
        started_s = time.monotonic()
        values = trial.hyperparameters.values
        label = f"Trial {int(trial.trial_id) + 1} of {self.plan.trials}"
        shown = ", ".join(
            f"{path} {_shorten(value)}" for path, value in _to_changes(values).items()
        )
        self.say(f"{label}: {shown}")
        try:
            recipe = override(self.plan.recipe, _to_changes(values))
            scores = dict(self.score(recipe, folder / "run"))
            first = float(next(iter(scores.values())))
            if not math.isfinite(first):
                raise ValueError(f"{next(iter(scores))} is {first}")
        except DataError as error:
            raise _SearchStopped(error) from error
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".translate(_NO_LINE_BREAKS)
            (folder / _REASON_FILE).write_text(reason + "\n", encoding="utf-8")
            raise keras_tuner.errors.FailedTrialError(reason) from error
        write_json(folder / _SCORES_FILE, {name: float(value) for name, value in scores.items()})
        return {OBJECTIVE: first, _SECONDS: time.monotonic() - started_s}

    def on_trial_end(self, trial: Any) -> None:
        """Records the trial and says how far the search is."""
        super().on_trial_end(trial)
        if _is_worker():
            return
        results = list_trials(self.oracle, self.out)
        write_trials(self.out / "trials.csv", results)
        self.say(describe_progress(results, int(trial.trial_id) + 1, self.plan.trials))


def describe_progress(results: list[TrialResult], number: int, num_trials: int) -> str:
    """Says how a trial ended, which is the best so far, and how long the rest takes.

    Args:
        results: All trials so far.
        number: The trial that has ended, from 1.
        num_trials: How many there will be.

    Returns:
        One line.
    """
    this = next(result for result in results if result.number == number)
    ended = [result for result in results if result.status != "running"]
    completed = [result for result in ended if result.status == "completed"]
    outcome = f"{this.metric} {this.score:.3f}" if this in completed else f"failed, {this.reason}"
    parts = [f"trial {number} of {num_trials}: {outcome}"]
    if completed:
        best = choose_winner(results)
        parts.append(f"best {best.metric} {best.score:.3f} (trial {best.number})")
        mean_s = sum(result.seconds for result in completed) / len(completed)
        left_s = mean_s * (num_trials - len(ended))
        left = f"{left_s / 60:.0f} min" if left_s > _SHOW_MINUTES_FROM_S else f"{left_s:.0f} s"
        parts.append(f"about {left} left")
    return ", ".join(parts)


def _to_result(trial: Any, out: Path) -> TrialResult:
    folder = f"trial_{trial.trial_id}"
    status = {"COMPLETED": "completed", "RUNNING": "running"}.get(trial.status, "failed")
    reason_file = out / folder / _REASON_FILE
    is_failed = status == "failed" and reason_file.exists()
    return TrialResult(
        number=int(trial.trial_id) + 1,
        folder=folder,
        status=status,
        metric=_read_metric(out / folder) if status == "completed" else "",
        score=float(trial.score) if status == "completed" else math.nan,
        seconds=trial.metrics.get_best_value(_SECONDS) if status == "completed" else 0.0,
        reason=reason_file.read_text(encoding="utf-8").strip() if is_failed else "",
        values=_to_changes(trial.hyperparameters.values),
    )


def _read_metric(folder: Path) -> str:
    return next(iter(json.loads((folder / _SCORES_FILE).read_text(encoding="utf-8"))))


def _to_changes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turns keras-tuner's values into recipe changes; Hyperband's epochs are the recipe's."""
    changes = {path: value for path, value in values.items() if not path.startswith("tuner/")}
    return changes | ({_EPOCHS: values["tuner/epochs"]} if "tuner/epochs" in values else {})


def _shorten(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else format_value(value)


def _is_worker() -> bool:
    """Whether this process takes its trials from keras-tuner's chief on another machine."""
    is_spread = "KERASTUNER_ORACLE_IP" in os.environ
    return is_spread and "chief" not in os.environ.get("KERASTUNER_TUNER_ID", "")


def _get_epochs(plan: SearchPlan) -> int:
    return plan.recipe.train.epochs


def _check_plan(plan: SearchPlan) -> list[Any]:
    if plan.tuner not in TUNERS:
        raise RecipeError(
            "A tuner is unknown", found=plan.tuner, wanted="one of " + ", ".join(TUNERS)
        )
    if plan.trials < 1:
        raise RecipeError("--trials is out of range", found=str(plan.trials), wanted="1 or more")
    if plan.tuner == "hyperband" and _EPOCHS in plan.space:
        raise RecipeError(
            f"{_EPOCHS} cannot be in the space of hyperband, which sets it itself",
            next_step="leave it out, --epochs is its maximum",
        )
    return parse_space(plan.space, plan.recipe)


def _claim_directory(plan: SearchPlan, out: Path, check: Callable[[], None]) -> None:
    """Writes the plan into the directory, or checks that it holds this very plan.

    Raises:
        RunError: The directory holds another search, or something else; also what `check` raises.
    """
    tree = {
        "experiment": plan.experiment,
        "tuner": plan.tuner,
        "seed": plan.seed,
        "space": dict(plan.space),
        "recipe": to_json(plan.recipe),
    }
    if plan.tuner == "hyperband":
        tree["trials"] = plan.trials  # it decides the brackets; elsewhere more may follow
    path = out / "search.json"
    if path.exists():
        _compare_plans(json.loads(path.read_text(encoding="utf-8")), tree, out)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(
            "A search needs a folder of its own",
            where=str(out),
            found="other files" if out.is_dir() else "a file",
            wanted="an empty or missing folder",
            next_step="name another --out",
        )
    check()
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, tree)


def _compare_plans(there: dict[str, Any], here: dict[str, Any], out: Path) -> None:
    differences = diff_trees(there, here)
    if not differences:
        return
    shown = differences[:_NUM_DIFFERENCES_SHOWN]
    rest = len(differences) - len(shown)
    raise RunError(
        "The directory holds another search",
        where=str(out),
        found=", ".join(f"{path}={_tell(old)}" for path, old, _ in shown),
        wanted=", ".join(f"{path}={_tell(new)}" for path, _, new in shown)
        + (f" and {rest} more" if rest else ""),
        next_step="name another --out",
    )


def _tell(value: Any) -> str:
    return "nothing" if value is None else format_value(value)


def _write_winner(plan: SearchPlan, results: list[TrialResult], out: Path) -> None:
    winner = choose_winner(results)
    name = plan.recipe.name.removesuffix("-tuned") + "-tuned"
    recipe = override(plan.recipe, {**winner.values, "name": name})
    notes = {
        "trial": winner.folder,
        "score": {winner.metric: winner.score},
        "tuner": plan.tuner,
        "trials": len(results),
    }
    write_recipe(out / "winner.json", recipe, plan.experiment, {"search": notes})
