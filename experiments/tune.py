"""Searches recipe fields of an experiment for the best score on its validation patients.

    python -m experiments.tune --experiment ssd --trials 12 --tuner random --epochs 10
    python -m experiments.tune --space optimizer.learning_rate=1e-4:1e-2:log \
        --space "augment.gamma=0.5,2.0|0.8,1.25" --out runs/my-search

The experiment's SPACE is searched; --space adds to it (path=low:high, path=low:high:log or
path=a,b,c), and a field that a flag sets stays as it is set.  The same command resumes; more
--trials go on.  OUT/winner.json is for --recipe, OUT/report.html for reading.
Source: keras-tuner (random search, Hyperband, Gaussian process).  Costs: trials x one training.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from lesionkeras import cli
from lesionkeras.errors import RecipeError
from lesionkeras.recipe import find_nearest

_DEFAULT_EXPERIMENT = "ssd"
_NUM_TRIALS = 12
_NUM_TRIALS_SMOKE = 2


def load_experiment(name: str) -> ModuleType:
    """Imports an experiment that has RECIPES, SMOKE, SPACE and train_and_validate.

    Raises:
        RecipeError: There is none of that name (the nearest is named), or it has no SPACE.
    """
    known = [path.stem for path in sorted(Path(__file__).parent.glob("[a-z]*.py"))]
    if name not in known:
        nearest = find_nearest(name, known)
        raise RecipeError(
            "An experiment is unknown", found=name, next_step=f"did you mean {nearest}"
        )
    module = importlib.import_module(f"experiments.{name}")
    if not hasattr(module, "SPACE"):
        raise RecipeError(f"experiments.{name} trains nothing that could be searched")
    return module


def add_flags(parser: argparse.ArgumentParser, space: dict[str, str]) -> None:
    """Adds the search's own flags to an experiment's."""
    shown = "; ".join(f"{path}={text}" for path, text in space.items())
    group = parser.add_argument_group("search")
    add = group.add_argument
    add("--experiment", metavar="X", help=f"what to search (default: {_DEFAULT_EXPERIMENT})")
    add("--trials", metavar="N", help=f"trainings (default: {_NUM_TRIALS})")
    add("--tuner", metavar="X", default="random", help="random (default), hyperband or bayesian")
    add("--space", metavar="PATH=SPACE", action="append", default=[], help=f"adds to {shown}")


def main(argv: list[str] | None = None) -> None:
    """Parses, searches, reports."""
    name = cli.peek("--experiment", _DEFAULT_EXPERIMENT, argv)
    experiment = load_experiment(name)
    parser = cli.build_parser("tune", experiment.RECIPES, __doc__)
    add_flags(parser, experiment.SPACE)
    arguments = cli.read_arguments(parser, argv)
    recipe, options = cli.to_run(
        arguments, name, experiment.RECIPES, experiment.SMOKE, run_name=f"tune-{name}"
    )
    fixed = cli.read_changes(arguments)
    from lesionkeras.report.search_page import write_search_report  # keras-tuner takes 4 s
    from lesionkeras.training.search import SearchPlan, run_search
    from lesionkeras.training.space import parse_space_flags

    open_space = {path: text for path, text in experiment.SPACE.items() if path not in fixed}
    default_trials = _NUM_TRIALS_SMOKE if options.smoke else _NUM_TRIALS
    plan = SearchPlan(
        experiment=name,
        recipe=recipe,
        space=open_space | parse_space_flags(arguments.space),
        tuner=arguments.tuner,
        trials=cli.parse_count("--trials", arguments.trials or str(default_trials)),
        seed=recipe.train.seed,
    )

    def score(trial_recipe: Any, out: Path) -> dict[str, float]:
        return experiment.train_and_validate(trial_recipe, dataclasses.replace(options, out=out))

    results = run_search(plan, score, options.out)
    if results:
        write_search_report(options.out / "report.html", plan, results)
        print(f"Search: {options.out}, best recipe: {options.out / 'winner.json'}")


if __name__ == "__main__":
    cli.run_main(main)
