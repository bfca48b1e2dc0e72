"""Speed of ours beside a well-known peer, in the same run.

    python -m experiments.benchmark detection --image-size 224 --batch-size 8 --backbone resnet34
    python -m experiments.benchmark data --data-dir DEEPLESION --lits-dir LITS

detection: training step and inference (boxes included) of the SSD in images/s, beside KerasCV's
RetinaNet on the same backbone, image size and batch, random weights; float32, and with --precision
auto the 16-bit policies that the hardware runs natively.  Medians of turns taken alternately.
Its images and weights are random: flags of data, weights and epochs change nothing.
data: PNG, prepared images and .nii.gz to memory, and building LiTS; of phantoms without folders.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.ssd import RECIPES
from lesionkeras.cli import build_parser, parse_count, read_arguments, run_main, to_run
from lesionkeras.config import SSDRecipe
from lesionkeras.training.benchmark import check_file, check_name, format_report
from lesionkeras.training.run import write_json

SMOKE = {"data.image_size_px": "64", "train.batch_size": "2"}


def detection(recipe: SSDRecipe, steps: int, repeats: int) -> dict[str, Any]:
    """Measure the SSD beside KerasCV's RetinaNet."""
    from lesionkeras.training.benchmark_detection import benchmark_detection

    return benchmark_detection(recipe, steps, repeats)


def data(recipe: SSDRecipe, steps: int, repeats: int, *places: Any) -> dict[str, Any]:
    """Measure reading beside the plainest way."""
    from lesionkeras.training.benchmark_data import benchmark_data
    from tfds_builders.timing import open_timed_files

    with open_timed_files(*places) as files:
        return benchmark_data(**vars(files), steps=steps, repeats=repeats)


BENCHMARKS: dict[str, Callable[..., dict[str, Any]]] = {"detection": detection, "data": data}


def read_words(argv: list[str] | None) -> tuple[argparse.Namespace, SSDRecipe]:
    """Read the command line; an unknown benchmark is answered with the nearest known."""
    parser = build_parser("benchmark", RECIPES, __doc__)
    # "resolve": this command's --out is a file, not a run directory.
    add = parser.add_argument_group("benchmark", conflict_handler="resolve").add_argument
    add("benchmark", metavar="NAME", help=", ".join(BENCHMARKS))
    add("--steps", default="2", metavar="N", help="steps a turn (default: 2)")
    add("--repeats", default="5", metavar="N", help="turns of each (default: 5)")
    add("--lits-dir", metavar="DIR", help="data: raw files of LiTS")
    add("--out", metavar="FILE", help="also write the result there, as JSON")
    arguments = read_arguments(parser, argv)
    check_name(arguments.benchmark, BENCHMARKS)
    return arguments, to_run(arguments, "ssd", RECIPES, SMOKE)[0]


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, print, write."""
    arguments, recipe = read_words(argv)
    counts = [parse_count(f"--{name}", getattr(arguments, name)) for name in ("steps", "repeats")]
    if arguments.out:  # asked before the minutes of measuring, not after
        check_file(Path(arguments.out))
    words: list[Any] = [recipe, *([1, 1] if arguments.smoke else counts)]
    if arguments.benchmark == "data":
        words += [d and Path(d).expanduser() for d in (arguments.data_dir, arguments.lits_dir)]
        words += [64 if arguments.smoke else 512]  # px of a phantom's slices
    report = BENCHMARKS[arguments.benchmark](*words)
    print(format_report(report))
    if arguments.out:
        write_json(Path(arguments.out), report)


if __name__ == "__main__":
    run_main(main)
