"""Speed of ours beside a well-known peer, in the same run.

    python -m experiments.benchmark detection --image-size 224 --batch-size 8 --backbone resnet34

detection: training step and inference (boxes included) of the SSD in images/s, beside KerasCV's
RetinaNet on the same backbone, image size and batch, random weights; float32, and with --precision
auto the 16-bit policies that the hardware runs natively.  Medians of turns taken alternately.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.ssd import RECIPES
from lesionkeras.cli import build_parser, parse_count, read_arguments, run_main, to_run
from lesionkeras.config import SSDRecipe
from lesionkeras.errors import RecipeError
from lesionkeras.recipe import find_nearest

SMOKE = {"data.image_size_px": "64", "train.batch_size": "2"}


def detection(recipe: SSDRecipe, steps: int, repeats: int) -> dict[str, Any]:
    """Measure the SSD beside KerasCV's RetinaNet."""
    from lesionkeras.training.benchmark_detection import benchmark_detection

    return benchmark_detection(recipe, steps, repeats)


BENCHMARKS: dict[str, Callable[[SSDRecipe, int, int], dict[str, Any]]] = {"detection": detection}


def read_words(argv: list[str] | None) -> tuple[argparse.Namespace, SSDRecipe]:
    """Read the command line; an unknown benchmark is answered with the nearest known."""
    parser = build_parser("benchmark", RECIPES, __doc__)
    # "resolve": this command's --out is a file, not a run directory.
    group = parser.add_argument_group("benchmark", conflict_handler="resolve")
    group.add_argument("benchmark", metavar="NAME", help=", ".join(BENCHMARKS))
    group.add_argument("--steps", default="2", metavar="N", help="steps a turn (default: 2)")
    group.add_argument("--repeats", default="5", metavar="N", help="turns of each (default: 5)")
    group.add_argument("--out", metavar="FILE", help="also write the result there, as JSON")
    arguments = read_arguments(parser, argv)
    if arguments.benchmark not in BENCHMARKS:
        raise RecipeError(
            "A benchmark is unknown",
            found=arguments.benchmark,
            wanted="one of " + ", ".join(BENCHMARKS),
            next_step=f"did you mean {find_nearest(arguments.benchmark, BENCHMARKS)}",
        )
    return arguments, to_run(arguments, "ssd", RECIPES, SMOKE)[0]


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, print, write."""
    arguments, recipe = read_words(argv)
    steps = parse_count("--steps", arguments.steps)
    repeats = parse_count("--repeats", arguments.repeats)
    from lesionkeras.training.benchmark import format_report
    from lesionkeras.training.run import write_json

    counts = (1, 1) if arguments.smoke else (steps, repeats)
    report = BENCHMARKS[arguments.benchmark](recipe, *counts)
    print(format_report(report))
    if arguments.out:
        write_json(Path(arguments.out), report)


if __name__ == "__main__":
    run_main(main)
