"""P2's Faster R-CNN: trains, tests, reports and exports a two-stage lesion detector.

    python -m experiments.faster_rcnn --recipe p2 --data deeplesion --split p2 --data-dir DIR

Source: Aluko, Hari, Yakubenko (P2, 4.3, 5.2); Ren et al. 2015.  Costs: an hour on two cores.
Differs: `default` has a feature pyramid and learns from crops; `p2` as P2 and, where P2 is silent,
    as Keras-FRCNN, which it ran; RoIAlign in both; what is no positive is a negative (Keras-FRCNN
    leaves out anchors from IoU .3, proposals below .1).  P2's other network: --backbone vgg16.
Data: the liver phantom, or the data set that is named (all body parts: deeplesion/all).
"""

from __future__ import annotations

from experiments import SMOKE as COMMON_SMOKE
from experiments import open_data
from lesionkeras.cli import RunOptions, parse, run_main
from lesionkeras.config import CT_VALUES, FasterRCNNRecipe
from lesionkeras.recipe import override

P2_VALUES: dict[str, object] = {"name": "p2", "data.image_size_px": 512}  # P2, 3
P2_VALUES |= {"data.window_hu": (-175.0, 275.0)}  # P2 gives none: DeepLesion's own of the liver
P2_VALUES |= {"augment.mode": "none"}  # P2 speaks of none
P2_VALUES |= {"model.backbone": "resnet50", "model.weights": "imagenet"}  # P2, 5.2
P2_VALUES |= {"model.pyramid_channels": 0, "model.rpn_channels": 512, "model.norm": "none"}
P2_VALUES |= {"model.freeze_norm": True}  # Keras-FRCNN's FixedBatchNormalization
P2_VALUES |= {"model.anchors.strides_px": (16,), "model.anchors.size_factor": 1.0}
P2_VALUES |= {"model.anchors.scales": (1.0, 1.5, 2.0, 3.0, 6.0)}  # 16, 24, 32, 48, 96: P2, 5.2
P2_VALUES |= {"model.proposals.candidates": 2000, "model.proposals.max_detections": 300}
P2_VALUES |= {"model.head_channels": 4096, "model.dropout": 0.5}  # of VGG16
P2_VALUES |= {"match.rpn.positive_iou": 0.7, "match.rpn.negative_iou": 0.7}  # P2, 4.3
P2_VALUES |= {"model.prior_prob": 0.5}
P2_VALUES |= {"match.sampled_anchors": 256, "match.rpn.variances": (0.25,) * 4}
P2_VALUES |= {"match.rois.variances": (0.125, 0.125, 0.25, 0.25)}
P2_VALUES |= {"match.sampled_rois": 32, "match.positive_roi_fraction": 0.5}
P2_VALUES |= {"loss.rpn_smooth_l1_beta": 1.0, "decode.iou_threshold": 0.5}
P2_VALUES |= {"optimizer.name": "adam", "optimizer.learning_rate": 1e-5}
P2_VALUES |= {"optimizer.schedule": "constant", "optimizer.warmup_fraction": 0.0}
P2_VALUES |= {"data.validation_split": "", "data.validation_fraction": 0.165}  # 1,660 / 329
P2_VALUES |= {"train.epochs": 150, "train.batch_size": 1, "train.images_per_epoch": 0}  # P2, 5.2
RECIPES = {
    "default": FasterRCNNRecipe(),
    "ct": override(FasterRCNNRecipe(), CT_VALUES),
    "p2": override(FasterRCNNRecipe(), P2_VALUES),
}
SMOKE = COMMON_SMOKE | {"train.batch_size": 4, "train.images_per_epoch": 8}
SMOKE |= {"data.image_size_px": 128, "model.weights": "none", "model.freeze_norm": False}
SPACE = {"optimizer.learning_rate": "3e-4:3e-3:log", "loss.box_weight": "0.5:4.0"}


def check_search(recipe: FasterRCNNRecipe, options: RunOptions) -> None:
    """Check what would fail every trial of a search."""
    from lesionkeras.report import detection

    detection.check_search(open_data(recipe, options), recipe)


def train_and_validate(recipe: FasterRCNNRecipe, options: RunOptions) -> dict[str, float]:
    """Train a trial of a search and score it on validation patients."""
    from lesionkeras.report import detection

    builder = open_data(recipe, options, False)
    return detection.train_and_validate(builder, recipe, options.out, "faster_rcnn")


def main(argv: list[str] | None = None) -> None:
    """Parse, open data, train, measure, report, export."""
    recipe, options = parse("faster_rcnn", RECIPES, __doc__, SMOKE, argv)
    from lesionkeras.report import detection

    recipe = detection.check_start(recipe, options.out, "faster_rcnn")
    run = detection.open_run(open_data(recipe, options), recipe, options.out, "faster_rcnn")
    model, log_rows, best_epoch = detection.train(run)
    metrics = detection.measure(run, model, best_epoch)
    detection.write_report(run, log_rows, metrics)
    detection.export(run, model, metrics)
    detection.print_summary(run, metrics)


if __name__ == "__main__":
    run_main(main)
