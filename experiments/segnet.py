"""P4's SegNet: trains, tests by volume, reports and exports a liver tumour segmenter.

    python -m experiments.segnet --data lits/slices+ircadb01/slices --data-dir LITS \
        --data-dir IRCADB --held-out volume-6,volume-7

Source: Badrinarayanan et al. 2017; Dhanush et al. 2024 (P4); Pandya 2024 (P5).
Costs: 2,400 CPU seconds.
Differs: `default` has fewer channels than VGG16, and learns as `experiments.unet` does.
Data: the liver phantom, or the data sets that are named, pooled.
"""

from __future__ import annotations

from experiments import open_data_sets
from experiments.unet import P4_VALUES, P5_VALUES
from experiments.unet import SMOKE as UNET_SMOKE
from lesionkeras.cli import RunOptions, parse, run_main
from lesionkeras.config import SEGMENTATION_PAPER, SegNetConfig, SegNetRecipe
from lesionkeras.recipe import override

PAPER = SegNetRecipe(**SEGMENTATION_PAPER, model=SegNetConfig(in_channels=1, input_scaling="none"))
RECIPES = {
    "default": SegNetRecipe(),
    "p4": override(PAPER, {"name": "p4", **P4_VALUES}),
    "p5": override(PAPER, {"name": "p5", **P5_VALUES}),  # P5 has no SegNet: its way to train
}
SMOKE = UNET_SMOKE | {"model.channels": (8, 8, 16, 16, 16)}
SPACE = {"optimizer.learning_rate": "5e-4:5e-3:log", "loss.cross_entropy_weight": "0.3:3.0:log"}


def check_search(recipe: SegNetRecipe, options: RunOptions) -> None:
    """Check what would fail every trial of a search."""
    from lesionkeras.report import segmentation

    segmentation.check_search(open_data_sets(recipe, options), recipe)


def train_and_validate(recipe: SegNetRecipe, options: RunOptions) -> dict[str, float]:
    """Train a trial of a search and score it on validation patients."""
    from lesionkeras.report import segmentation

    builders = open_data_sets(recipe, options, False)
    return segmentation.train_and_validate(builders, recipe, options.out, "segnet")


def main(argv: list[str] | None = None) -> None:
    """Parse, open data, train, measure, report, export."""
    recipe, options = parse("segnet", RECIPES, __doc__, SMOKE, argv)
    from lesionkeras.report import segmentation

    recipe = segmentation.check_start(recipe, options.out, "segnet")
    run = segmentation.open_run(open_data_sets(recipe, options), recipe, options.out, "segnet")
    model, log_rows, best_epoch = segmentation.train(run)
    metrics = segmentation.measure(run, model, log_rows, best_epoch)
    segmentation.write_report(run, log_rows, metrics)
    segmentation.export(run, model, metrics)
    segmentation.print_summary(run, metrics)


if __name__ == "__main__":
    run_main(main)
