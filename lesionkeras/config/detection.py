"""Detectors and their runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from lesionkeras.config.shared import AugmentConfig, OptimizerConfig


@dataclass(frozen=True)
class DataConfig:
    """Which examples are used, and what a network sees of them."""

    name: str = "liver_phantom"  # folder in tfds_builders
    config: str = ""  # the builder's config; "" is its first
    train_split: str = "train"
    validation_split: str = "validation"  # "" holds out validation_fraction of the train patients
    test_split: str = "test"
    validation_fraction: float = 0.0  # of the patients of train_split; only where no split is named
    protocol: str = "patient"  # "paper": P1's 80/20 of augmented copies, which leaks (P1, 4)
    keep_noisy: bool = True  # False drops rows with Possibly_noisy = 1 at reading
    # DeepLesion's Coarse_lesion_type (4 = liver) of the boxes that are targets; () is all types,
    # for deeplesion/liver (4,).  A data set without types ignores it.
    lesion_types: tuple[int, ...] = ()
    image_size_px: int = 224  # square network input
    window_hu: tuple[float, float] = (-20.0, 220.0)  # low, high: liver, lesions and vessels
    max_boxes: int = 20  # rows of padded ground truth an image


@dataclass(frozen=True)
class AnchorConfig:
    """Anchor boxes: one grid a stride."""

    strides_px: tuple[int, ...] = (4, 8, 16, 32)
    size_factor: float = 1.77  # anchor side at scale 1, in strides; from the anchor-recall report
    scales: tuple[float, ...] = (1.0, 1.4142135, 2.0)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width at equal area


@dataclass(frozen=True)
class MatchConfig:
    """Which anchors are positive (P1, 4.2: IoU > .5; the best anchor of a box always is)."""

    positive_iou: float = 0.5
    negative_iou: float = 0.35  # anchors between the two are ignored
    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)  # SSD (Liu 2016)


@dataclass(frozen=True)
class SSDConfig:
    """The network (P1, 3.3)."""

    backbone: str = "resnet34"  # or resnet50
    weights: str = "none"  # "none", "imagenet" or a .npz file
    input_scaling: str = "unit"  # "unit", "imagenet_caffe", "imagenet_torch"; the weights decide
    num_classes: int = 1  # lesion classes; background is implicit
    extra_channels: tuple[int, ...] = (256,)  # P1's extra convolution layers; P1 has four
    top_down_channels: int = 64  # 0: plain SSD as in P1; else coarse maps are added to fine ones
    head_channels: int = 64  # 0: heads are one 3x3 convolution, as in SSD; else one more before it
    prior_prob: float = 0.01  # of a lesion at an anchor, at the start
    anchors: AnchorConfig = field(default_factory=AnchorConfig)


@dataclass(frozen=True)
class LossConfig:
    """Multibox loss (SSD; P1, 3.3)."""

    negatives_per_positive: float = 3.0
    box_weight: float = 1.0
    smooth_l1_beta: float = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at once, and how exactly."""

    epochs: int = 75
    batch_size: int = 16  # crops
    images_per_epoch: int = 256  # 0: every training example once
    whole_image_fraction: float = 0.2  # of the epochs, the last ones: on whole images, not on crops
    whole_image_batch_size: int = 4
    precision: str = "auto"  # auto, float32, bfloat16, float16
    seed: int = 0
    validate_every_epochs: int = 10  # the last epoch is always validated
    jit_compile: bool = False  # XLA; pays on GPU and TPU


@dataclass(frozen=True)
class DecodeConfig:
    """From anchors to detections; used by evaluation and export alike."""

    score_threshold: float = 0.02  # what is kept for the precision-recall curve
    iou_threshold: float = 0.45  # suppression (SSD, Liu 2016)
    candidates: int = 256  # best anchors that enter suppression
    max_detections: int = 50


@dataclass(frozen=True)
class SSDRecipe:
    """One run of P1's detector."""

    name: str = "default"
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    model: SSDConfig = field(default_factory=SSDConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
