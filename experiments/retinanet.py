"""RetinaNet: trains, tests, reports and exports a lesion detector.

    python -m experiments.retinanet --epochs 75

Source: Lin et al. 2017, Focal Loss for Dense Object Detection.  Costs: 20 minutes on two cores.
Differs: `default` is narrow, learns from crops and starts at stride 4; `paper` is the authors'
network and SGD, with anchors from 16 px as lesions need them, at 512 px, with a warm-up, a cosine
and no decay of weights; `p2` is that on the data and for the epochs of P2's Faster R-CNN.
Data: the liver phantom, or DeepLesion by --data deeplesion/liver.
"""

from __future__ import annotations

from experiments import SMOKE as COMMON_SMOKE
from experiments import open_data
from lesionkeras.cli import RunOptions, parse, run_main
from lesionkeras.config import CT_VALUES, AnchorConfig, RetinaNetConfig, RetinaNetRecipe
from lesionkeras.recipe import override

ANCHORS = AnchorConfig()  # the SSD's: strides 4 to 32
NARROW = RetinaNetConfig(
    "resnet34", pyramid_channels=64, head_convs=2, norm="group", anchors=ANCHORS
)
DEFAULT = RetinaNetRecipe(model=NARROW)
# Lin 2017, 4.1: left-right flips alone; SGD, here without decay and with a cosine for two steps
PAPER: dict[str, object] = {"name": "paper", "data.image_size_px": 512, "model.weights": "imagenet"}
PAPER |= {"augment.crop_size_px": 0, "augment.brightness": 0.0, "augment.gamma": (1.0, 1.0)}
PAPER |= {"augment.noise_std": 0.0, "augment.translate_fraction": 0.0, "augment.scale": (1.0, 1.0)}
PAPER |= {"augment.flip_up_down": False, "model.coarse_from": "c5"}
PAPER |= {"model.anchors.strides_px": (8, 16, 32, 64, 128)}
PAPER |= {"optimizer.name": "sgd", "optimizer.learning_rate": 0.01, "optimizer.nesterov": False}
PAPER |= {"train.batch_size": 16, "train.images_per_epoch": 0, "decode.iou_threshold": 0.5}
P2 = PAPER | {"name": "p2", "augment.mode": "none", "train.epochs": 150}  # as faster_rcnn's
P2["data.window_hu"] = -175.0, 275.0  # of the liver: P2 gives none
P2 |= {"data.validation_split": "", "data.validation_fraction": 0.165}  # 1,660 / 329: P2, 5.2
RECIPES = {
    "default": DEFAULT,
    "ct": override(DEFAULT, CT_VALUES),
    "paper": override(RetinaNetRecipe(), PAPER),
    "p2": override(RetinaNetRecipe(), P2),
}
SMOKE = COMMON_SMOKE | {"train.batch_size": 8, "train.images_per_epoch": 16}
SMOKE["data.image_size_px"] = 128
SPACE = {"optimizer.learning_rate": "3e-4:3e-3:log", "loss.alpha": "0.25:0.75"}


def check_search(recipe: RetinaNetRecipe, options: RunOptions) -> None:
    """Check what would fail every trial of a search."""
    from lesionkeras.report import detection

    detection.check_search(open_data(recipe, options), recipe)


def train_and_validate(recipe: RetinaNetRecipe, options: RunOptions) -> dict[str, float]:
    """Train a trial of a search and score it on validation patients."""
    from lesionkeras.report import detection

    builder = open_data(recipe, options, False)
    return detection.train_and_validate(builder, recipe, options.out, "retinanet")


def main(argv: list[str] | None = None) -> None:
    """Parse, open data, train, measure, report, export."""
    recipe, options = parse("retinanet", RECIPES, __doc__, SMOKE, argv)
    from lesionkeras.report import detection

    recipe = detection.check_start(recipe, options.out, "retinanet")
    run = detection.open_run(open_data(recipe, options), recipe, options.out, "retinanet")
    model, log_rows, best_epoch = detection.train(run)
    metrics = detection.measure(run, model, best_epoch)
    detection.write_report(run, log_rows, metrics)
    detection.export(run, model, metrics)
    detection.print_summary(run, metrics)


if __name__ == "__main__":
    run_main(main)
