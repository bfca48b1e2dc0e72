"""keras-tuner's oracles, made to survive a kill at any moment.

keras-tuner 1.4.8 writes its state in place (a kill leaves half a file), saves a new trial before
the list that it belongs to (a kill between the two leaves a trial that is never run), keeps the
figures of a trial that is run again (and then ignores its new ones), and stops after three failed
trials in a row.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras_tuner

from lesionkeras.errors import RunError
from lesionkeras.files import write_json
from lesionkeras.training.space import Dimension

OBJECTIVE = "score"
TUNERS = ("random", "hyperband", "bayesian")
_HYPERBAND_FACTOR = 3  # Li et al. 2018, 2.6: 3 or 4
_MIN_RANDOM_TRIALS = 3
_RANDOM_TRIALS_PER_DIMENSION = 3  # keras-tuner's own default
_RANDOM_TRIALS_SHARE = 3  # at most every third trial, or a short search would be all random


def build_oracle(
    tuner: str,
    dimensions: Sequence[Dimension],
    trials: int,
    seed: int,
    max_epochs: int,
    out: Path,
) -> keras_tuner.Oracle:
    """Builds the oracle of a search and reads its state where there is one.

    Args:
        tuner: One of `TUNERS`.
        dimensions: The search space.
        trials: How many trials there are at most.
        seed: Of the proposals.
        max_epochs: Of a trial; Hyperband starts with fewer.
        out: The search's directory.

    Returns:
        The oracle, which maximises `OBJECTIVE`.

    Raises:
        RunError: A trial's files are gone.
    """
    arguments: dict[str, Any] = {
        "objective": keras_tuner.Objective(OBJECTIVE, "max"),
        "hyperparameters": _to_parameters(dimensions),
        "seed": seed + 1,  # keras-tuner takes 0 for "any"
        "allow_new_entries": False,
        "max_consecutive_failed_trials": None,
    }
    oracle: keras_tuner.Oracle
    if tuner == "hyperband":
        oracle = _HyperbandOracle(trials, max_epochs, arguments)
    elif tuner == "bayesian":
        default = _RANDOM_TRIALS_PER_DIMENSION * len(dimensions)
        num_random = max(_MIN_RANDOM_TRIALS, min(default, trials // _RANDOM_TRIALS_SHARE))
        oracle = _BayesianOracle(max_trials=trials, num_initial_points=num_random, **arguments)
    else:
        oracle = _RandomOracle(max_trials=trials, **arguments)
    oracle._set_project_dir(str(out.parent), out.name)
    if Path(oracle._get_oracle_fname()).exists():
        oracle.reload()
    return oracle


def compute_num_brackets(trials: int, max_epochs: int, factor: int = _HYPERBAND_FACTOR) -> int:
    """Computes with how many brackets Hyperband's first one still fits into a number of trials.

    Its first bracket is its widest: with 75 epochs it would begin with 81 trials of one epoch,
    and a search of 12 would end before a single one was promoted.

    Args:
        trials: How many trials there are.
        max_epochs: Of a trial.
        factor: One in `factor` trials is promoted to `factor` times the epochs.

    Returns:
        Number of brackets, 1 or more; 1 is random search.

    >>> compute_num_brackets(12, max_epochs=75)
    2
    """
    end_size = math.ceil(1 + math.log(max_epochs, factor))  # keras-tuner's HyperbandOracle
    last = 0
    while factor ** (last + 1) <= max_epochs:
        sizes = [math.ceil(end_size / (last + 2) * factor**power) for power in range(last + 2)]
        if sum(sizes) > trials:
            break
        last += 1
    return last + 1


def _to_parameters(dimensions: Sequence[Dimension]) -> keras_tuner.HyperParameters:
    parameters = keras_tuner.HyperParameters()
    for dimension in dimensions:
        sampling = "log" if dimension.is_log else "linear"
        if dimension.choices:
            parameters.Choice(dimension.path, list(dimension.choices))
        elif dimension.is_whole:
            low, high = int(dimension.low), int(dimension.high)
            parameters.Int(dimension.path, low, high, sampling=sampling)
        else:
            parameters.Float(dimension.path, dimension.low, dimension.high, sampling=sampling)
    return parameters


class _Durable:
    """What all oracles here do better than keras-tuner's."""

    def save(self: Any) -> None:
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self: Any, trial: Any) -> None:
        folder = Path(self._get_trial_dir(trial.trial_id))
        write_json(folder / "trial.json", trial.get_state())

    def reload(self: Any) -> None:
        super().reload()  # type: ignore[misc]
        missing = [name for name in self.start_order if name not in self.trials]
        if missing:
            raise RunError(
                "A trial of the search is gone",
                where=os.fspath(self._project_dir),
                found=f"no trial_{missing[0]}",
                next_step="put it back or name another --out",
            )
        # Killed between the trial's file and the list: forgotten, the same number comes again.
        self.trials = {name: self.trials[name] for name in self.start_order}
        self._retry_queue: list[str] = []
        for name, trial in self.trials.items():
            if trial.status in ("RUNNING", "INVALID"):
                trial.metrics = type(trial.metrics)()
                self._retry_queue.insert(0, name)  # it is emptied from its end
            elif name not in self.end_order:
                self.end_order.append(name)


class _RandomOracle(_Durable, keras_tuner.oracles.RandomSearchOracle):
    """Values drawn evenly."""


class _BayesianOracle(_Durable, keras_tuner.oracles.BayesianOptimizationOracle):
    """Values where a Gaussian process expects most."""


class _HyperbandOracle(_Durable, keras_tuner.oracles.HyperbandOracle):
    """Many short trials, of which the best are repeated with more epochs."""

    def __init__(self, trials: int, max_epochs: int, arguments: dict[str, Any]) -> None:
        self.num_brackets = compute_num_brackets(trials, max_epochs)
        super().__init__(
            max_epochs=max_epochs,
            factor=_HYPERBAND_FACTOR,
            hyperband_iterations=None,  # goes on until the trials are spent
            **arguments,
        )
        self.max_trials = trials

    def _get_num_brackets(self) -> int:
        return self.num_brackets
