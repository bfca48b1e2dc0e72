"""P4's and P5's printed figures and settings with their places, and how ours are named."""

from __future__ import annotations

from dataclasses import dataclass

from lesionkeras.report.tables import PaperValue

P4_SOURCE = (
    "Dhanush et al., Medical Image Analysis for Liver Tumor Localization and Segmentation using "
    "Deep Learning, 2024, Table 1"
)
P5_SOURCE = "Pandya, Liver Tumor Segmentation with Deep Learning Architectures, 2024, Table 2"


@dataclass(frozen=True)
class PaperSegmenter:
    """One published network; shares in 0..1, None where the paper does not say."""

    name: str
    dice: float
    jaccard: float | None
    accuracy: float
    sensitivity: float | None


PAPER_SEGMENTERS = (
    PaperSegmenter("P4: U-Net", 0.76, None, 0.96, 0.94),
    PaperSegmenter("P4: SegNet", 0.89, None, 0.98, 0.97),
    PaperSegmenter("P5: U-Net", 0.93, 0.92, 0.9718, None),
    PaperSegmenter("P5: ResNet50-UNet", 0.94, 0.94, 0.9715, None),
)
# The four scores of P4 and P5: key, heading.
PAPER_SCORES = (
    ("dice", "Dice"),
    ("jaccard", "Jaccard"),
    ("accuracy", "Accuracy"),
    ("sensitivity", "Sensitivity"),
)

# What metrics.json calls a score, and what the page does; an underscore before a unit is a space.
SCORE_NAMES = {
    "dice": "Dice",
    "jaccard": "Jaccard",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "voe": "VOE",
    "rvd": "RVD",
    "assd_mm": "ASSD, mm",
    "rmsd_mm": "RMSD, mm",
    "msd_mm": "MSD, mm",
    "recall_0": "lesion recall, any overlap",
    "recall_50": "lesion recall, overlap 0.5",
    "precision_0": "lesion precision, any overlap",
    "precision_50": "lesion precision, overlap 0.5",
    "burden_error": "tumour burden error",
    "burden_rmse": "tumour burden, root mean square error",
    "burden_max": "tumour burden, greatest error",
    "false_positive_mm3": "false tumour volume, mm3",
}

P4_RECIPE: dict[str, PaperValue] = {
    "data.normalisation": PaperValue(("standardise",), "zero mean, unit variance", "3.2"),
    "model.head": PaperValue(("binary",), "sigmoid, binary segmentation", "abstract"),
    "loss.dice_weight": PaperValue((1.0,), "Dice loss", "abstract"),
    "model.channels": PaperValue(
        ((64, 128, 256, 512, 512),), "VGG16's 13 convolutions (SegNet)", "3.4"
    ),
}
P5_RECIPE: dict[str, PaperValue] = {
    "data.image_size_px": PaperValue((128,), "128x128", "3.3"),
    "data.normalisation": PaperValue(("window", "standardise"), "standardized, no more", "3.3"),
    "data.rotation_deg": PaperValue(bool, "random rotations", "3.3"),
    "data.held_out_fraction": PaperValue((0.2,), "20 % of the data set", "3.4"),
    "augment.flip_left_right": PaperValue((True,), "flips", "3.3"),
    "augment.flip_up_down": PaperValue((True,), "flips", "3.3"),
    "augment.contrast": PaperValue(bool, "intensity scaling", "3.3"),
    "loss.tversky_weight": PaperValue((1.0,), "Tversky loss", "3.2"),
    "loss.tversky_alpha": PaperValue((0.7,), "0.7 on false positives", "3.2"),
    "loss.tversky_beta": PaperValue((0.3,), "0.3 on false negatives", "3.2"),
    "loss.dice_weight": PaperValue((0.0,), "Tversky loss alone", "3.2"),
    "loss.cross_entropy_weight": PaperValue((0.0,), "Tversky loss alone", "3.2"),
    "model.head": PaperValue(("binary",), "sigmoid, a binary mask", "3.1.1"),
    "model.weights": PaperValue(("imagenet",), "ImageNet (ResNet50)", "3.1.2"),
    "optimizer.name": PaperValue(("adam",), "Adam", "3.4"),
    "optimizer.learning_rate": PaperValue((1e-4,), "0.0001", "3.4"),
    "optimizer.schedule": PaperValue(("plateau",), "ReduceLROnPlateau", "3.4"),
    "train.epochs": PaperValue((20,), "20", "3.4"),
    "train.batch_size": PaperValue((16,), "16", "3.4"),
    "postprocess.closing_mm": PaperValue(bool, "closing", "3.6"),
}


def name_score(key: str) -> str:
    """Returns what a page calls a score of metrics.json.

    >>> name_score("tumour_assd_mm"), name_score("liver_dice"), name_score("recall_50")
    ('Tumour ASSD, mm', 'Liver Dice', 'Lesion recall, overlap 0.5')
    """
    organ, _, score = key.partition("_")
    if organ in ("tumour", "liver") and score in SCORE_NAMES:
        return f"{organ.capitalize()} {SCORE_NAMES[score]}"
    name = SCORE_NAMES.get(key, key.replace("_", " "))
    return name[:1].upper() + name[1:]
