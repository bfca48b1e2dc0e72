"""P1's LiverLesionDetect SSD: trains, tests, reports and exports a lesion detector.

    python -m experiments.ssd --epochs 75

Source: Kour and Adilakshmi 2024 (P1); Liu et al. 2016, SSD.  Costs: 12 minutes on two cores.
Differs: `default` learns from crops and adds coarse maps to fine ones; `paper` is P1's recipe.
Data: the liver phantom (expects a test mAP50 of .8), or DeepLesion by --data deeplesion/liver.
"""

from __future__ import annotations

from experiments import SMOKE as COMMON_SMOKE
from experiments import open_data
from lesionkeras.cli import RunOptions, parse, run_main
from lesionkeras.config import CT_VALUES, SSDRecipe
from lesionkeras.recipe import override

PAPER = override(
    SSDRecipe(),
    {
        "name": "paper",
        "train.validate_every_epochs": 5,
        "data.image_size_px": 224,  # 7x7 maps: P1, 3.3.1
        "data.window_hu": (-175.0, 275.0),  # DeepLesion's own of nearly all liver slices
        "augment.mode": "copies",  # four fixed copies of each image: P1, 3.2.2
        "augment.brightness": 0.1,
        "augment.noise_std": 0.03,
        "augment.gamma": (0.5, 2.0),  # P1, 3.2.2
        "match.negative_iou": 0.5,  # "Otherwise, it is negative": P1, 4.2
        "model.weights": "imagenet",  # P1, 3.3.1
        "model.extra_channels": (256, 256, 256, 256),  # P1, 3.3.1
        "model.top_down_channels": 0,
        "model.head_channels": 0,
        "model.anchors.strides_px": (32, 64, 128, 256),  # from the 7x7 map up: P1, 3.3.1
        "model.anchors.size_factor": 1.0,
        "optimizer.name": "sgd",  # this and the rest: P1, 4, hyperparameters
        "optimizer.learning_rate": 5e-4,
        "optimizer.schedule": "constant",
        "optimizer.warmup_fraction": 0.0,
        "train.batch_size": 16,
        "train.images_per_epoch": 0,
    },
)
RECIPES = {"default": SSDRecipe(), "ct": override(SSDRecipe(), CT_VALUES), "paper": PAPER}
SMOKE = COMMON_SMOKE | {"train.batch_size": 8, "train.images_per_epoch": 16}
SMOKE |= {"data.image_size_px": 192}
SPACE = {"optimizer.learning_rate": "3e-4:3e-3:log", "loss.box_weight": "0.5:2.0"}


def check_search(recipe: SSDRecipe, options: RunOptions) -> None:
    """Check what would fail every trial of a search."""
    from lesionkeras.report import detection

    detection.check_search(open_data(recipe, options), recipe)


def train_and_validate(recipe: SSDRecipe, options: RunOptions) -> dict[str, float]:
    """Train a trial of a search and score it on validation patients."""
    from lesionkeras.report import detection

    builder = open_data(recipe, options, False)
    return detection.train_and_validate(builder, recipe, options.out, "ssd")


def main(argv: list[str] | None = None) -> None:
    """Parse, open data, train, measure, report, export."""
    recipe, options = parse("ssd", RECIPES, __doc__, SMOKE, argv)
    from lesionkeras.report import detection

    recipe = detection.check_start(recipe, options.out, "ssd")
    run = detection.open_run(open_data(recipe, options), recipe, options.out, "ssd")
    model, log_rows, best_epoch = detection.train(run)
    metrics = detection.measure(run, model, best_epoch)
    detection.write_report(run, log_rows, metrics)
    detection.export(run, model, metrics)
    detection.print_summary(run, metrics)


if __name__ == "__main__":
    run_main(main)
