"""Printed figures and settings of P1 and P2, as literal data with their places in the papers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

P1_SOURCE = (
    "Kour and Adilakshmi, Liver Lesion Detect SSD: Liver Lesion Detection with Single Shot "
    "Detector Utilizing ResNet-50 and ResNet-34 Backbones, 2024"
)
P1_TABLE_1_SOURCE = f"{P1_SOURCE}, Table 1"


@dataclass(frozen=True)
class PaperModel:
    """One column of P1's Table 1; scores are shares in 0..1, on images that leak (P1, 4)."""

    name: str
    precision: float
    recall: float
    map50: float
    map50_95: float
    train_loss: float


P1_TABLE_1 = (
    PaperModel("SSD ResNet34, 75 epochs", 0.915, 0.924, 0.917, 0.744, 0.020),
    PaperModel("SSD ResNet34, 100 epochs", 0.888, 0.881, 0.875, 0.673, 0.029),
    PaperModel("SSD ResNet50, 50 epochs", 0.760, 0.872, 0.854, 0.588, 0.082),
    PaperModel("SSD ResNet50, 75 epochs", 0.791, 0.857, 0.838, 0.611, 0.056),
)

# The four scores that P1 and metrics.json share: key, heading.
SCORES = (
    ("precision", "Precision"),
    ("recall", "Recall"),
    ("map50", "mAP50"),
    ("map50_95", "mAP50-95"),
)


@dataclass(frozen=True)
class PaperValue:
    """What a paper says of a recipe field: which values agree with it, its words, their place."""

    values: tuple[Any, ...] | Callable[[Any], bool]
    said: str
    place: str


P1_RECIPE: dict[str, PaperValue] = {
    "data.protocol": PaperValue(("paper",), "80 % / 20 % of the augmented images", "4"),
    "data.image_size_px": PaperValue((224,), "224 (from 7x7 maps of ResNet34)", "3.3.1"),
    "augment.mode": PaperValue(("copies",), "copies made before training", "3.2.2"),
    "augment.copies": PaperValue((4,), "1,267 images become 6,335", "3.2.2"),
    "augment.gamma": PaperValue(((0.5, 2.0),), "0.5 to 2.0", "3.2.2"),
    "match.positive_iou": PaperValue((0.5,), "IoU above 0.5", "4.2"),
    "match.negative_iou": PaperValue((0.5,), "otherwise negative", "4.2"),
    "model.backbone": PaperValue(("resnet34", "resnet50"), "ResNet34 or ResNet50", "3.3.2"),
    "model.weights": PaperValue(("imagenet",), "pretrained (ImageNet)", "3.3.1"),
    "model.extra_channels": PaperValue(
        ((256, 256, 256, 256),), "four extra layers; 256 7x7 maps", "3.3.1 and 3.3.3"
    ),
    "model.top_down_channels": PaperValue((0,), "plain SSD", "3.3.1"),
    "optimizer.name": PaperValue(("sgd",), "SGD", "4, Hyper parameters"),
    "optimizer.learning_rate": PaperValue((0.0005,), "0.0005", "4, Hyper parameters"),
    "optimizer.momentum": PaperValue((0.9,), "0.9", "4, Hyper parameters"),
    "optimizer.nesterov": PaperValue((True,), "Nesterov", "4, Hyper parameters"),
    "train.batch_size": PaperValue((16,), "16", "4, Hyper parameters"),
    "train.epochs": PaperValue((50, 75, 100), "50, 75 or 100", "4, Hyper parameters"),
}


P2_SOURCE = (
    "Aluko, Hari and Yakubenko, Liver Lesion Localization using Deep Convolutional Neural Networks"
)


@dataclass(frozen=True)
class P2Row:
    """A row of P2's Figure 3, or its Faster R-CNN (5.2); None where P2 gives nothing.

    `box_mse` is of coordinates as shares of the image, it seems: in pixels .00077 would be exact.
    """

    name: str
    split: str
    box_mse: float | None
    sensitivity: float
    false_share: float | None
    fp_per_image: float | None


P2_FIGURE_3 = (
    P2Row("P2: baseline", "train", 0.00077, 0.96, None, None),
    P2Row("P2: baseline", "test", 0.065, 0.069, None, None),
    P2Row("P2: baseline and VGG16", "train", 0.0025, 0.79, None, None),
    P2Row("P2: baseline and VGG16", "test", 0.067, 0.079, None, None),
    P2Row("P2: Faster R-CNN", "test", None, 0.50, 0.67, 1.1),  # 5.2 and 6
)
# Name, false positives an image, sensitivity; all of DeepLesion's liver lesions.
P2_FROC_POINTS = (
    ("P2: Faster R-CNN (liver)", 1.1, 0.50),  # 6
    ("Yan 2018, as P2 reads it, 1 FP", 1.0, 0.675),  # "65-70% sensitivity with 1 false positive"
    ("Yan 2018, as P2 reads it, 10 FP", 10.0, 0.90),  # "approximately 90% ... with 10"
)

P2_ONE_BOX_RECIPE: dict[str, PaperValue] = {
    "data.image_size_px": PaperValue((512,), "512x512x3", "3"),
    "data.protocol": PaperValue(("p2",), "1,989/179/203 of the text-mined list", "3"),
    "optimizer.name": PaperValue(("adam",), "Adam", "4.1.1"),
    "optimizer.learning_rate": PaperValue((0.003,), "0.003", "5.1.1"),
    "train.batch_size": PaperValue((8,), "8", "5.1.1"),
    "train.epochs": PaperValue((150,), "150", "5.1.3"),
    "model.dropout": PaperValue((0.0,), "none", "4.1.2"),
}
P2_PLAIN_RECIPE = P2_ONE_BOX_RECIPE | {
    "augment.mode": PaperValue(("none",), "no form of regularization", "4.1.2"),
}
# What it says of "the transfer learning model", whether VGG16 stands before it or beside the image.
P2_VGG_RECIPE = P2_ONE_BOX_RECIPE | {
    "optimizer.learning_rate": PaperValue((0.0001,), "0.0001 with VGG16", "5.1.1"),
    "train.batch_size": PaperValue((1,), "1 with VGG16", "5.1.1"),
    "train.epochs": PaperValue((70,), "70 with VGG16", "5.1.3"),
    "model.dropout": PaperValue((0.05,), "0.05 with VGG16", "5.1.1"),
    "model.vgg_block": PaperValue((2, 3, 4), "block 2, 3 or 4", "4.2"),
}
P2_FASTER_RCNN_RECIPE: dict[str, PaperValue] = {
    "data.image_size_px": PaperValue((512,), "512x512x3", "3"),
    "model.backbone": PaperValue(("resnet50",), "ResNet50", "5.2"),
    "data.protocol": PaperValue(("p2",), "1,660/329/203 of the text-mined list", "5.2"),
    "model.anchors.strides_px": PaperValue(((16,),), "one map (Keras-FRCNN)", "5.2"),
    "model.anchors.size_factor": PaperValue((1.0,), "16, 24, 32, 48, 96 px", "5.2"),
    "model.anchors.scales": PaperValue(((1.0, 1.5, 2.0, 3.0, 6.0),), "as above", "5.2"),
    "model.anchors.ratios": PaperValue(((0.5, 1.0, 2.0),), "1:2, 1:1 and 2:1", "5.2"),
    "data.validation_split": PaperValue(("",), "1,660 train, 329 validate", "5.2"),
    "data.validation_fraction": PaperValue((0.165,), "329 of 1,989", "5.2"),
    "match.rpn.positive_iou": PaperValue((0.7,), "IoU above 0.7", "4.3"),
    "match.rpn.negative_iou": PaperValue((0.7,), "zero otherwise", "4.3"),
    "train.epochs": PaperValue((150,), "150", "5.2"),
}


def find_paper(experiment: str, values: Mapping[str, Any]) -> tuple[str, dict[str, PaperValue]]:
    """Returns the paper that an experiment follows and what that says of its fields.

    Args:
        experiment: Whose recipe it is ("ssd").
        values: The recipe's fields by path.

    >>> find_paper("baseline_cnn", {"model.frontend": "vgg16"})[1]["train.batch_size"].said
    '1 with VGG16'
    """
    if experiment == "baseline_cnn":
        is_plain = values.get("model.frontend", "none") == "none"
        return "P2", P2_PLAIN_RECIPE if is_plain else P2_VGG_RECIPE
    found = {"ssd": ("P1", P1_RECIPE), "faster_rcnn": ("P2", P2_FASTER_RCNN_RECIPE)}
    return found.get(experiment, ("", {}))


def agrees_with(said: Mapping[str, PaperValue], path: str, value: Any) -> bool | None:
    """Tells whether a recipe value is the paper's.

    Args:
        said: What the paper says of fields.
        path: Of the field.
        value: As in the recipe or in its JSON (a list for a tuple).

    Returns:
        None where the paper does not say.

    >>> agrees_with(P1_RECIPE, "augment.gamma", [0.5, 2.0])
    True
    >>> agrees_with(P1_RECIPE, "optimizer.name", "adamw")
    False
    """
    if path not in said:
        return None
    plain = tuple(value) if isinstance(value, list) else value
    values = said[path].values
    return values(plain) if callable(values) else plain in values
