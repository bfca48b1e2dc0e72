"""Speed of ours beside a well-known peer, in the same run.

    python -m experiments.benchmark detection --image-size 224 --batch-size 8 --backbone resnet34
    python -m experiments.benchmark data --data-dir DEEPLESION --lits-dir LITS
    python -m experiments.benchmark segmentation

detection: training step and inference (boxes included) of all detectors in images/s, beside
KerasCV's RetinaNet on the same backbone, image size and batch, random weights; float32, and with
--precision auto the 16-bit policies that the hardware runs natively.  Medians of turns taken
alternately; images and weights are random, whatever the flags of data, weights and epochs say.
data: PNG, prepared images and .nii.gz to memory, and building LiTS; of phantoms without folders.
segmentation: inference of the U-Net of 64 to 1024 channels, batch 1 and 8, beside MONAI's with the
same weights (its environment is made the first time); --image-size is 512 and alone changes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.ssd import RECIPES
from lesionkeras.cli import build_parser, parse_count, read_arguments, run_main, to_run
from lesionkeras.config import SSDRecipe
from lesionkeras.files import write_json
from lesionkeras.training import benchmark as shared

SMOKE = {"data.image_size_px": "128", "train.batch_size": "2"}


def detection(recipe: SSDRecipe, steps: int, repeats: int) -> dict[str, Any]:
    """Measure the detectors beside KerasCV's RetinaNet."""
    from lesionkeras.training.benchmark_detection import benchmark_detection

    return benchmark_detection(recipe, steps, repeats)


def data(recipe: SSDRecipe, steps: int, repeats: int, *places: Any) -> dict[str, Any]:
    """Measure reading beside the plainest way."""
    from lesionkeras.training.benchmark_data import benchmark_data
    from tfds_builders.timing import open_timed_files

    with open_timed_files(*places) as files:
        return benchmark_data(**vars(files), steps=steps, repeats=repeats)


def segmentation(recipe: SSDRecipe, steps: int, repeats: int, *sizes: Any) -> dict[str, Any]:
    """Measure the U-Net's inference beside MONAI's."""
    from lesionkeras.training.benchmark_segmentation import benchmark_segmentation

    return benchmark_segmentation(steps, repeats, *sizes)


BENCHMARKS: dict[str, Any] = {run.__name__: run for run in (detection, data, segmentation)}


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, print, write."""
    parser = build_parser("benchmark", RECIPES, __doc__)
    shared.add_flags(parser, BENCHMARKS)
    given = read_arguments(parser, argv)
    shared.check_name(given.benchmark, BENCHMARKS)
    recipe, options = to_run(given, "ssd", RECIPES, SMOKE)
    counts = [parse_count(f"--{name}", getattr(given, name)) for name in ("steps", "repeats")]
    if given.out:  # asked before the minutes of measuring, not after
        shared.check_file(Path(given.out))
    words: list[Any] = [recipe, *([1, 1] if given.smoke else counts)]
    if given.benchmark == "data":
        words += [options.data_dir, given.lits_dir and Path(given.lits_dir).expanduser()]
        words.append(64 if given.smoke else 512)  # px of a phantom's slices
    elif given.benchmark == "segmentation":
        is_said = given.smoke or vars(given)["data.image_size_px"]
        words += shared.choose_sizes(recipe.data.image_size_px if is_said else 512, given.smoke)
    print(shared.format_report(report := BENCHMARKS[given.benchmark](*words)))
    if given.out:
        write_json(Path(given.out), report)


if __name__ == "__main__":
    run_main(main)
