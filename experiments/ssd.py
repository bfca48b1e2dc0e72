"""P1's LiverLesionDetect SSD: trains, tests, reports and exports a lesion detector.

    python -m experiments.ssd --epochs 75
    python -m experiments.ssd --recipe paper --data deeplesion/liver --data-dir DIR

Source: Kour and Adilakshmi 2024 (P1); Liu et al. 2016, SSD.
Differs: `default` learns from crops and adds coarse maps to fine ones; `paper` is P1 to the letter.
Data: the built-in liver phantom, or DeepLesion's liver images by --data deeplesion/liver.
"""

from __future__ import annotations

from lesionkeras.cli import RunOptions, parse, run_main
from lesionkeras.config import (
    AnchorConfig,
    AugmentConfig,
    DataConfig,
    OptimizerConfig,
    SSDConfig,
    SSDRecipe,
    TrainConfig,
)

DEFAULT = SSDRecipe(
    augment=AugmentConfig(
        gamma=(0.8, 1.25),
        flip_left_right=True,
        flip_up_down=True,
        scale=(0.8, 1.25),
        crop_size_px=128,
    ),
    train=TrainConfig(images_per_epoch=128),
)
PAPER = SSDRecipe(
    name="paper",
    data=DataConfig(image_size_px=224),  # 7x7 maps at stride 32: P1, 3.3.1
    augment=AugmentConfig(mode="copies"),  # P1, 3.2.2
    model=SSDConfig(
        weights="imagenet",  # P1, 3.3.1
        top_down_channels=0,
        head_channels=0,
        anchors=AnchorConfig(strides_px=(32, 64, 128, 256), size_factor=1.0),  # from 7x7 up
    ),
    optimizer=OptimizerConfig(  # P1, 4
        name="sgd", learning_rate=5e-4, momentum=0.9, nesterov=True, schedule="constant"
    ),
)
RECIPES = {"default": DEFAULT, "paper": PAPER}
SMOKE = {
    "data.config": "tiny",
    "data.image_size_px": "64",
    "augment.crop_size_px": "0",
    "train.epochs": "2",
    "train.batch_size": "4",
    "train.images_per_epoch": "8",
}
SPACE = {
    "optimizer.learning_rate": "3e-4:3e-3:log",
    "optimizer.weight_decay": "1e-5:1e-2:log",
    "augment.noise_std": "0.0:0.06",
    "loss.box_weight": "0.5:2.0",
}


def train_and_validate(recipe: SSDRecipe, options: RunOptions) -> dict[str, float]:
    """Train a trial of a search and score it on validation patients."""
    from lesionkeras.report import detection
    from tfds_builders import open_builder

    data = recipe.data
    builder = open_builder(data.name, data.config, options.prepared_dir, options.data_dir, False)
    return detection.train_and_validate(builder, recipe, options.out)


def main(argv: list[str] | None = None) -> None:
    """Parse, open data, train, test, report, export."""
    recipe, options = parse("ssd", RECIPES, __doc__, SMOKE, argv)
    from lesionkeras.report import detection
    from tfds_builders import open_builder

    data = recipe.data
    builder = open_builder(data.name, data.config, options.prepared_dir, options.data_dir)
    run = detection.open_run(builder, recipe, options.out)
    model, log_rows, best_epoch = detection.train(run)
    metrics = detection.measure(run, model, best_epoch)
    report = detection.write_report(run, log_rows, metrics)
    export = detection.export(run, model, metrics)
    print(f"Run: {run.directory.path}\nReport: {report}\nExport: {export}")
    print(detection.describe_score(metrics))


if __name__ == "__main__":
    run_main(main)
