"""Measures what a split that leaks adds: one recipe, held out by slice, by volume and by patient.

    python -m experiments.leak --experiment unet --data lits/slices+ircadb01/slices \
        --data-dir LITS --data-dir IRCADB

Three runs of the experiment in OUT/slices, OUT/volumes and OUT/patients, which resume; the report
of the last shows all three.  P4 and P5 divide slices.  Costs: three trainings.
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
    from lesionkeras.report.leaks import compare_splits

    for row in compare_splits(builders, recipe, options.out, name):
        dice = row["tumour_dice"]["value"]
        shown = "undefined" if dice is None else f"{dice:.3f}"
        print(f"Score: tumour Dice {shown} where {row['split']} are drawn ({row['held_out']})")
    print(f"Report: {Path(options.out) / 'patients' / 'report.html'}")


if __name__ == "__main__":
    cli.run_main(main)
