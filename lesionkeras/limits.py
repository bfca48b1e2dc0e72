"""What the values of a recipe must be: data for `lesionkeras.recipe.check_recipe`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_SIZE_MULTIPLE_PX = 32  # the stride of a ResNet's last map: other sizes cut its cells
_MAX_SEED = 2**32 - 1  # what NumPy takes
_MAX_SIDE_PX = 4096  # beyond it one image fills a machine's memory
_MAX_DEPTH = 8  # levels of a U-Net: at nine a 512 px slice would be 2 px
_CT_RANGE_HU = (-1024.0, 3071.0)  # 12 bits, as scanners write them

# What a value must be: a sentence's end, and the test.  A path that a recipe lacks is passed over,
# so that every experiment's recipe is checked by the rules of the parts it has.
Rule = tuple[str, Callable[[Any], object]]


def _one_of(*names: str) -> Rule:
    return ("one of " + ", ".join(repr(name) for name in names), lambda value: value in names)


_POSITIVE: Rule = ("a number above 0", lambda value: value > 0)
_NOT_NEGATIVE: Rule = ("a number of 0 or more", lambda value: value >= 0)
_COUNT: Rule = ("a whole number of 1 or more", lambda value: value >= 1)
_SHARE: Rule = ("a number from 0 to 1", lambda value: 0 <= value <= 1)
_PART: Rule = ("a number of 0 or more and below 1", lambda value: 0 <= value < 1)
_SPAN: Rule = ("two numbers above 0, the lower first", lambda pair: 0 < pair[0] <= pair[1])
_POSITIVES: Rule = ("numbers above 0, at least one", lambda row: row and min(row) > 0)
_SLICES: Rule = ("1, 3 or 5", lambda value: value in (1, 3, 5))
_FIVE_WIDTHS: Rule = (
    "five whole numbers above 0",
    lambda row: len(row) == 5 and min(row) > 0,
)
RULES: dict[str, Rule] = {
    "name": (
        "letters, digits, '-', '_' and '.' (it names a folder)",
        lambda value: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value),
    ),
    "data.name": ("the name of a data set", bool),
    "data.train_split": ("the name of a split", bool),
    "data.test_split": ("the name of a split", bool),
    "data.validation_fraction": _PART,
    "data.protocol": _one_of("patient", "paper", "p2"),
    "data.image_size_px": (
        f"a positive multiple of {_SIZE_MULTIPLE_PX} up to {_MAX_SIDE_PX}",
        lambda value: 0 < value <= _MAX_SIDE_PX and value % _SIZE_MULTIPLE_PX == 0,
    ),
    "data.window_hu": (
        "two numbers, the lower first, within {:.0f} to {:.0f} HU".format(*_CT_RANGE_HU),
        lambda pair: _CT_RANGE_HU[0] <= pair[0] < pair[1] <= _CT_RANGE_HU[1],
    ),
    "data.max_boxes": _COUNT,
    "data.pixel_mm": (
        "0, or a number from 0.1 to 20",
        lambda value: value == 0 or 0.1 <= value <= 20,
    ),
    "data.box_convention": _one_of("as_stored", "tight", "recist_plus_5"),
    "data.lesion_share": _SHARE,
    "data.made_lesions": _SHARE,
    "augment.mode": _one_of("none", "copies", "online"),
    "augment.copies": _NOT_NEGATIVE,
    "augment.brightness": _SHARE,
    "augment.gamma": _SPAN,
    "augment.noise_std": _SHARE,
    "augment.translate_fraction": _PART,
    "augment.scale": _SPAN,
    "augment.crop_size_px": (
        f"0 or a positive multiple of {_SIZE_MULTIPLE_PX}",
        lambda value: value >= 0 and value % _SIZE_MULTIPLE_PX == 0,
    ),
    "augment.crop_on_lesion_probability": _SHARE,
    "augment.rotation_deg": ("a number from 0 to 180", lambda value: 0 <= value <= 180),
    "augment.min_resolution": ("a number above 0, at most 1", lambda value: 0 < value <= 1),
    "augment.window_shift_hu": _NOT_NEGATIVE,
    "augment.curve_strength": _PART,
    "augment.key_slice_only": _SHARE,
    "augment.contrast": _PART,
    "augment.sharpness": _SHARE,
    "train.whole_image_fraction": _SHARE,
    "train.whole_image_batch_size": _COUNT,
    "match.positive_iou": _SHARE,
    # At 0 no anchor would be negative, not even one that touches nothing.
    "match.negative_iou": ("a number above 0, at most 1", lambda value: 0 < value <= 1),
    "match.variances": _POSITIVES,
    "model.backbone": _one_of("resnet34", "resnet50"),
    "model.weights": (
        "'none', 'imagenet' or a .npz file",
        lambda value: value in ("none", "imagenet") or value.endswith(".npz"),
    ),
    "model.input_scaling": _one_of("unit", "none", "bytes", "imagenet_caffe", "imagenet_torch"),
    "model.num_classes": _COUNT,
    "model.extra_channels": ("whole numbers above 0", lambda row: min(row, default=1) > 0),
    "model.top_down_channels": _NOT_NEGATIVE,
    "model.head_channels": _NOT_NEGATIVE,
    "model.prior_prob": ("a number above 0 and below 1", lambda value: 0 < value < 1),
    "model.anchors.strides_px": (
        "ascending whole numbers above 0, at least one",
        lambda row: row and row[0] > 0 and list(row) == sorted(set(row)),
    ),
    "model.anchors.size_factor": _POSITIVE,
    "model.anchors.scales": _POSITIVES,
    "model.anchors.ratios": _POSITIVES,
    "model.in_channels": _SLICES,
    "model.head": _one_of("binary", "three_class"),
    "model.base_channels": _COUNT,
    "model.max_channels": _COUNT,
    "model.depth": (
        f"a whole number from 2 to {_MAX_DEPTH}",
        lambda value: 2 <= value <= _MAX_DEPTH,
    ),
    "model.norm": _one_of("none", "batch", "instance", "group"),
    "model.dropout": _PART,
    "model.upsampling": _one_of("transpose", "nearest", "bilinear"),
    "model.deep_supervision": _NOT_NEGATIVE,
    "model.channels": _FIVE_WIDTHS,
    "model.decoder_channels": _FIVE_WIDTHS,
    "model.pyramid_channels": _COUNT,
    "model.head_convs": _NOT_NEGATIVE,
    "model.coarse_from": _one_of("p5", "c5"),
    "model.frozen_stages": ("a whole number from 0 to 4", lambda value: 0 <= value <= 4),
    "model.rpn_channels": _COUNT,
    "model.proposals.score_threshold": _PART,
    "model.proposals.iou_threshold": _SHARE,
    "model.proposals.candidates": _COUNT,
    "model.proposals.max_detections": _COUNT,
    "model.roi_cells": _COUNT,
    "model.roi_samples": _NOT_NEGATIVE,
    "model.roi_canonical_px": _POSITIVE,
    "match.sampled_anchors": _COUNT,
    "match.positive_anchor_fraction": _SHARE,
    "match.sampled_rois": _COUNT,
    "match.positive_roi_fraction": _SHARE,
    "match.rpn.positive_iou": _SHARE,
    "match.rpn.negative_iou": ("a number above 0, at most 1", lambda value: 0 < value <= 1),
    "match.rpn.variances": _POSITIVES,
    "match.rois.positive_iou": _SHARE,
    "match.rois.negative_iou": ("a number above 0, at most 1", lambda value: 0 < value <= 1),
    "match.rois.variances": _POSITIVES,
    "loss.rpn_box_weight": _NOT_NEGATIVE,
    "loss.rpn_smooth_l1_beta": _POSITIVE,
    "model.frontend": _one_of("none", "vgg16", "vgg16_concat"),
    "model.vgg_block": ("2, 3 or 4", lambda value: value in (2, 3, 4)),
    "loss.alpha": _SHARE,
    "loss.gamma": _NOT_NEGATIVE,
    "loss.negatives_per_positive": _NOT_NEGATIVE,
    "loss.box_weight": _NOT_NEGATIVE,
    "loss.smooth_l1_beta": _POSITIVE,
    "loss.target": _one_of("tumour", "liver"),
    "loss.dice_weight": _NOT_NEGATIVE,
    "loss.tversky_weight": _NOT_NEGATIVE,
    "loss.cross_entropy_weight": _NOT_NEGATIVE,
    "loss.focal_weight": _NOT_NEGATIVE,
    "loss.tversky_alpha": _NOT_NEGATIVE,
    "loss.tversky_beta": _NOT_NEGATIVE,
    "loss.tversky_exponent": _POSITIVE,
    "loss.focal_gamma": _NOT_NEGATIVE,
    "loss.class_weights": ("numbers above 0, or nothing", lambda row: min(row, default=1) > 0),
    "loss.reduction": _one_of("batch", "image"),
    "loss.overlap_of": _one_of("classes", "regions"),
    "loss.smooth_px": _POSITIVE,
    "optimizer.name": _one_of("adamw", "adam", "sgd"),
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.momentum": _PART,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.clip_norm": _NOT_NEGATIVE,
    "optimizer.schedule": _one_of("constant", "cosine", "plateau"),
    "optimizer.warmup_fraction": _PART,
    "optimizer.plateau_factor": ("a number above 0 and below 1", lambda value: 0 < value < 1),
    "optimizer.plateau_patience_epochs": _COUNT,
    "optimizer.ema_momentum": _PART,
    "train.epochs": _COUNT,
    "train.cpu_budget_s": _NOT_NEGATIVE,
    "train.batch_size": _COUNT,
    "train.images_per_epoch": _NOT_NEGATIVE,
    "train.precision": _one_of("auto", "float32", "bfloat16", "float16"),
    "train.seed": (
        f"a number from 0 to {_MAX_SEED}",
        lambda value: 0 <= value <= _MAX_SEED,
    ),
    "train.validate_every_epochs": _COUNT,
    "decode.score_threshold": _PART,
    "decode.iou_threshold": _SHARE,
    "decode.candidates": _COUNT,
    "decode.max_detections": _COUNT,
    "inference.batch_size": _COUNT,
    "inference.threshold": _PART,
    "postprocess.closing_mm": ("a number from 0 to 50", lambda value: 0 <= value <= 50),
    "postprocess.liver_neck_mm": ("a number from 0 to 50", lambda value: 0 <= value <= 50),
    "postprocess.min_lesion_mm3": _NOT_NEGATIVE,
    "postprocess.min_lesion_peak": _PART,
}
# Where a part of a recipe has rules of its own for a name that others have too: class, field, rule.
PART_RULES: dict[str, dict[str, Rule]] = {
    "FasterRCNNConfig": {
        "backbone": _one_of("resnet34", "resnet50", "vgg16"),
        "pyramid_channels": _NOT_NEGATIVE,
        "head_channels": _COUNT,
        "norm": _one_of("none", "group"),
    },
    "RetinaNetConfig": {"norm": _one_of("none", "group")},
    "BaselineCNNConfig": {
        "upsampling": _one_of("nearest", "bilinear"),
        "channels": (
            "four whole numbers above 0",
            lambda row: len(row) == 4 and min(row) > 0,
        ),
    },
    "SegmentationTrainConfig": {"epochs": _NOT_NEGATIVE},
    "SegmentationDataConfig": {
        "protocol": _one_of(
            *("patient", "given", "volume", "p3", "p5"),
            *("leak-slices", "leak-volumes", "leak-patients"),
        ),
        "sampling": _one_of("all", "p3", "lesion"),
        "normalisation": _one_of("window", "standardise"),
        "held_out_fraction": ("a number above 0 and below 1", lambda value: 0 < value < 1),
        "lesion_share": _PART,
        # each network says what it divides by
        "image_size_px": (
            f"a whole number from 1 to {_MAX_SIDE_PX}",
            lambda value: 1 <= value <= _MAX_SIDE_PX,
        ),
        "slices": _SLICES,
        "rotation_deg": ("a number from 0 to 180", lambda value: 0 <= value <= 180),
        "crop_on_liver": _SHARE,
        "slice_mm": (
            "0 or a number from 0.1 to 20",
            lambda value: value == 0 or 0.1 <= value <= 20,
        ),
        "vary_slices": _SHARE,
        "liver_hu": ("0 or a number from 1 to 300", lambda value: value == 0 or 1 <= value <= 300),
    },
}
# (this path, must not exceed that path)
ORDERED = (
    ("match.negative_iou", "match.positive_iou"),
    ("match.rpn.negative_iou", "match.rpn.positive_iou"),
    ("match.rois.negative_iou", "match.rois.positive_iou"),
    ("model.proposals.max_detections", "model.proposals.candidates"),
    ("decode.max_detections", "decode.candidates"),
)
