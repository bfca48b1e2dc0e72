"""P4's and P5's U-Net: trains, tests by volume, reports and exports a liver tumour segmenter.

    python -m experiments.unet --data lits/slices+ircadb01/slices --data-dir LITS \
        --data-dir IRCADB --held-out volume-6,volume-7

Source: Ronneberger 2015; Dhanush et al. 2024 (P4); Pandya 2024 (P5).  Costs: 2,400 CPU seconds.
Differs: `default` learns from crops of five slices with pixels of one size; `p4`, `p5` as written.
Data: the liver phantom, or the data sets that are named, pooled.
"""

from __future__ import annotations

from experiments import open_data_sets
from lesionkeras import config
from lesionkeras.cli import RunOptions, parse, run_main
from lesionkeras.recipe import override

# P4 leaves out size, slices, augmentation and optimizer: ours, without what it does not speak of.
P4_VALUES: dict[str, object] = {"data.image_size_px": 256, "data.normalisation": "standardise"}
# Dice loss alone; binary by a sigmoid (abstract; 3.3 and 3.4 but describe softmax as usual).
P4_VALUES |= {"model.head": "binary", "loss.cross_entropy_weight": 0.0, "augment.mode": "none"}
P4_VALUES |= {"optimizer.name": "adam", "optimizer.learning_rate": 1e-4}
P4_VALUES |= {"optimizer.schedule": "constant", "optimizer.warmup_fraction": 0.0}
P4_VALUES |= {"optimizer.ema_momentum": 0.0, "inference.flips": False}
P4_VALUES |= {"postprocess.largest_liver": False, "postprocess.tumour_inside_liver": False}
# P5, 3.2 to 3.6; contrast is "intensity scaling", about the window's centre, a window "standardize
# intensity" (ImageNet's weights scale from 0 to 1); factors, patience and radius are ours.
P5_VALUES = P4_VALUES | {"data.image_size_px": 128, "data.normalisation": "window"}
P5_VALUES |= {"data.validation_fraction": 0.2, "train.validate_every_epochs": 1}
P5_VALUES |= {"augment.mode": "online", "augment.crop_size_px": 0, "augment.noise_std": 0.0}
P5_VALUES |= {"augment.scale": (1.0, 1.0), "augment.translate_fraction": 0.0}
P5_VALUES |= {"augment.contrast": 0.2, "augment.brightness": 0.0, "augment.gamma": (1.0, 1.0)}
P5_VALUES |= {"loss.dice_weight": 0.0, "loss.tversky_weight": 1.0, "train.epochs": 20}
P5_VALUES |= {"optimizer.schedule": "plateau", "postprocess.closing_mm": 2.0}
P5_VALUES |= {"train.cpu_budget_s": 0.0, "train.batch_size": 16}
PAPER = config.UNetRecipe(**config.SEGMENTATION_PAPER, model=config.UNetConfig(in_channels=1))
RECIPES = {
    "default": config.UNetRecipe(),
    "p4": override(PAPER, {"name": "p4", **P4_VALUES}),
    "p5": override(PAPER, {"name": "p5", **P5_VALUES}),
}
SMOKE = {"data.config": "tiny", "data.image_size_px": 128, "data.pixel_mm": 3.0}
SMOKE |= {"augment.crop_size_px": 96, "inference.flips": False, "train.cpu_budget_s": 0.0}
SMOKE |= {"train.epochs": 2, "train.images_per_epoch": 16, "train.batch_size": 4}
SPACE = {"optimizer.learning_rate": "5e-4:5e-3:log", "loss.cross_entropy_weight": "0.3:3.0:log"}


def check_search(recipe: config.UNetRecipe, options: RunOptions) -> None:
    """Check what would fail every trial of a search."""
    from lesionkeras.report import segmentation

    segmentation.check_search(open_data_sets(recipe, options), recipe)


def train_and_validate(recipe: config.UNetRecipe, options: RunOptions) -> dict[str, float]:
    """Train a trial of a search and score it on validation patients."""
    from lesionkeras.report import segmentation

    builders = open_data_sets(recipe, options, False)
    return segmentation.train_and_validate(builders, recipe, options.out, "unet")


def main(argv: list[str] | None = None) -> None:
    """Parse, open data, train, measure, report, export."""
    recipe, options = parse("unet", RECIPES, __doc__, SMOKE, argv)
    from lesionkeras.report import segmentation

    recipe = segmentation.check_start(recipe, options.out, "unet")
    run = segmentation.open_run(open_data_sets(recipe, options), recipe, options.out, "unet")
    model, log_rows, best_epoch = segmentation.train(run)
    metrics = segmentation.measure(run, model, log_rows, best_epoch)
    segmentation.write_report(run, log_rows, metrics)
    segmentation.export(run, model, metrics)
    segmentation.print_summary(run, metrics)


if __name__ == "__main__":
    run_main(main)
