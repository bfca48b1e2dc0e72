"""Searches recipe fields of an experiment for the best score on its validation patients.

    python -m experiments.tune --experiment ssd --trials 12 --tuner random --epochs 10
    python -m experiments.tune --space optimizer.learning_rate=1e-4:1e-2:log \
        --space "augment.gamma=0.5,2.0|0.8,1.25" --out runs/my-search

The experiment's SPACE is searched; --space adds to it (path=low:high, path=low:high:log or
path=a,b,c), and a field that a flag sets stays as it is set.  The same command resumes, and more
--trials go on.  OUT/winner.json is for --recipe, OUT/report.html for reading.
Source: keras-tuner (random search, Hyperband, Gaussian process).  Costs: trials x one training.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from lesionkeras import cli
from lesionkeras.errors import RecipeError
from lesionkeras.recipe import find_nearest


def load_experiment(name: str) -> ModuleType:
    """Imports an experiment that has RECIPES, SMOKE, SPACE, check_search and train_and_validate.

    Raises:
        RecipeError: There is none of that name, or it has no SPACE; the nearest that has is named.
    """
    names = [path.stem for path in sorted(Path(__file__).parent.glob("[a-z]*.py"))]
    modules = {each: importlib.import_module(f"experiments.{each}") for each in names}
    known = [each for each, module in modules.items() if hasattr(module, "SPACE")]
    if name not in known:
        what = f"experiments.{name} trains nothing" if name in names else "An experiment is unknown"
        wanted, near = "one of " + ", ".join(known), find_nearest(name, known)
        raise RecipeError(what, found=name, wanted=wanted, next_step=f"did you mean {near}")
    return modules[name]


def main(argv: list[str] | None = None) -> None:
    """Parses, searches, reports."""
    name = cli.peek("--experiment", "ssd", argv)
    module = load_experiment(name)
    parser = cli.build_parser("tune", module.RECIPES, __doc__)
    cli.add_search_flags(parser, module.SPACE)
    arguments = cli.read_arguments(parser, argv)
    recipe, options = cli.to_run(
        arguments, name, module.RECIPES, module.SMOKE, run_name=f"tune-{name}"
    )
    fixed = cli.read_changes(arguments)
    trials = cli.parse_count("--trials", arguments.trials)
    # A trial is a new network, and each is traced: TensorFlow would warn of that by the page.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    import keras  # here, as all that is slow to import: --help must not wait for it

    from lesionkeras.report.search_page import write_search_report
    from lesionkeras.training.search import SearchPlan, run_search
    from lesionkeras.training.space import parse_space_flags

    space = {path: text for path, text in module.SPACE.items() if path not in fixed}
    space |= parse_space_flags(arguments.space)
    plan = SearchPlan(name, recipe, space, arguments.tuner, trials, recipe.train.seed)

    def score(trial_recipe: Any, out: Path) -> dict[str, float]:
        keras.utils.clear_session()  # gives the memory of the trial before back
        return module.train_and_validate(trial_recipe, dataclasses.replace(options, out=out))

    check = functools.partial(module.check_search, recipe, options)
    results = run_search(plan, score, options.out, check=check)
    if results:
        write_search_report(options.out / "report.html", plan, results)
        print(f"Best recipe: {options.out / 'winner.json'}, report: {options.out / 'report.html'}")


if __name__ == "__main__":
    cli.run_main(main)
