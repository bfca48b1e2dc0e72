"""P2's networks of one box: the baseline, VGG16 before it, VGG16 beside the image.

    python -m experiments.baseline_cnn --recipe p2 --data deeplesion --split p2 --data-dir DIR

Source: Aluko, Hari and Yakubenko (P2), 4.1, 4.2 and 5.1.  Costs: `default` 10 minutes on two cores,
`p2_concat` a second an image on these: seven hours of the phantom, a GPU for DeepLesion.
Differs: `default` is small, sees images changed anew each time and decays its weights; `p2`,
`p2_vgg` and `p2_concat` are as written, with widths of ours.
Data: the liver phantom, or the data set that is named.
"""

from __future__ import annotations

from experiments import SMOKE as COMMON_SMOKE
from experiments import open_data
from lesionkeras.cli import RunOptions, parse, run_main
from lesionkeras.config import BaselineCNNRecipe
from lesionkeras.recipe import override

P2: dict[str, object] = {"name": "p2", "data.image_size_px": 512}  # P2, 3
P2 |= {"data.window_hu": (-175.0, 275.0)}  # DeepLesion's own of nearly all liver slices
P2 |= {"augment.mode": "none", "model.input_scaling": "bytes"}  # P2, 3: 0 to 255
P2 |= {"optimizer.name": "adam", "optimizer.learning_rate": 3e-3}  # P2, 5.1.1, as the rest
P2 |= {"optimizer.schedule": "constant", "optimizer.warmup_fraction": 0.0}
P2 |= {"train.batch_size": 8, "train.epochs": 150, "train.images_per_epoch": 0}
# P2, 5.1.1 and 5.1.3, "the transfer learning model": VGG16 before the image or beside it.
P2_VGG = {**P2, "name": "p2_vgg", "model.frontend": "vgg16", "model.weights": "imagenet"}
P2_VGG |= {"model.dropout": 0.05, "optimizer.learning_rate": 1e-4}
P2_VGG |= {"train.batch_size": 1, "train.epochs": 70}
P2_CONCAT = {**P2_VGG, "name": "p2_concat", "model.frontend": "vgg16_concat"}
DEFAULT = {"model.channels": (16, 16, 32, 32), "model.dropout": 0.2, "train.batch_size": 8}
DEFAULT |= {"optimizer.learning_rate": 1e-3, "optimizer.weight_decay": 1e-2}
RECIPES = {
    "default": override(BaselineCNNRecipe(), DEFAULT),
    "p2": override(BaselineCNNRecipe(), P2),
    "p2_vgg": override(BaselineCNNRecipe(), P2_VGG),
    "p2_concat": override(BaselineCNNRecipe(), P2_CONCAT),
}
SMOKE = COMMON_SMOKE | {"train.images_per_epoch": 16}
SMOKE |= {"data.image_size_px": 128, "model.weights": "none"}
SPACE = {"optimizer.learning_rate": "1e-4:1e-2:log", "model.dropout": "0.0:0.5"}


def check_search(recipe: BaselineCNNRecipe, options: RunOptions) -> None:
    """Check what would fail every trial of a search."""
    from lesionkeras.report import detection

    detection.check_search(open_data(recipe, options), recipe)


def train_and_validate(recipe: BaselineCNNRecipe, options: RunOptions) -> dict[str, float]:
    """Train a trial of a search and score it on validation patients."""
    from lesionkeras.report import detection

    builder = open_data(recipe, options, False)
    return detection.train_and_validate(builder, recipe, options.out, "baseline_cnn")


def main(argv: list[str] | None = None) -> None:
    """Parse, open data, train, measure, report, export."""
    recipe, options = parse("baseline_cnn", RECIPES, __doc__, SMOKE, argv)
    from lesionkeras.report import detection

    recipe = detection.check_start(recipe, options.out, "baseline_cnn")
    run = detection.open_run(open_data(recipe, options), recipe, options.out, "baseline_cnn")
    model, log_rows, best_epoch = detection.train(run)
    metrics = detection.measure(run, model, best_epoch)
    detection.write_report(run, log_rows, metrics)
    detection.export(run, model, metrics)
    detection.print_summary(run, metrics)


if __name__ == "__main__":
    run_main(main)
