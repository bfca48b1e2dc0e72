"""Measures what a split that leaks adds: one recipe, the same test slices, three splits.

    python -m experiments.leak --experiment unet --data lits/slices+ircadb01/slices \
        --data-dir LITS --data-dir IRCADB --held-out volume-6

A fifth of the slices of one scan, whose patient has another, is tested on.  Trained is without
these slices (as a split of slices leaves them), without the scan, and without the patient, in
OUT/slices, OUT/volumes and OUT/patients, which resume; the report of the last shows all three.
--held-out names the scan, else the seed draws it.  Costs: three trainings.
"""

from __future__ import annotations

from pathlib import Path

from experiments import open_data_sets
from experiments.tune import load_experiment
from lesionkeras import cli
from lesionkeras.errors import RecipeError

SEGMENTERS = ("unet", "segnet", "resnet50_unet")


def main(argv: list[str] | None = None) -> None:
    """Parses, trains three times, reports."""
    name = cli.peek("--experiment", SEGMENTERS[0], argv)
    if name not in SEGMENTERS:
        wanted = "one of " + ", ".join(SEGMENTERS)
        raise RecipeError("An experiment has no masks", found=name, wanted=wanted)
    module = load_experiment(name)
    parser = cli.build_parser("leak", module.RECIPES, __doc__)
    parser.add_argument("--experiment", metavar="X", help=f"whose recipe (default: {name})")
    arguments = cli.read_arguments(parser, argv)
    names = (name, module.RECIPES, module.SMOKE)
    recipe, options = cli.to_run(arguments, *names, run_name=f"leak-{name}")
    builders = open_data_sets(recipe, options)
    from lesionkeras.report.leaks import compare_splits, tell_split

    for row in compare_splits(builders, recipe, options.out, name):
        print(f"Score: {tell_split(row)}")
    print(f"Report: {Path(options.out) / 'patients' / 'report.html'}")


if __name__ == "__main__":
    cli.run_main(main)
