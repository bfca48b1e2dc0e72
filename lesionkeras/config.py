"""Every knob of a run as frozen dataclasses; each field has its unit and its source.

Values only: numbers, strings, booleans, tuples and other recipes.  The recipes themselves
(`paper`, `default`) are written in the experiment files.
"""

from __future__ import annotations

from dataclasses import dataclass, field


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
class SegmentationDataConfig:
    """Which slices a segmentation network is trained on, and what it sees of them."""

    name: str = "lits"  # folder in tfds_builders
    config: str = "slices"  # the builder's config; "" is its first
    splits: tuple[str, ...] = ()  # of the builder that are divided; () is all of them
    # Who is held out.  "patient": patients, whole; "given": the builder's own train and test;
    # "p3": 13 of 131 studies (P3, 2.1), patients whole; "p5": 20 % of the slices (P5), and
    # "volume": volumes whoever's they are; these two leak.
    protocol: str = "patient"
    held_out: tuple[str, ...] = ()  # patients or volumes by name; () draws them by seed
    held_out_fraction: float = 0.2  # of patients, volumes or (P5) slices, where they are drawn
    # What is trained on.  "all": every slice; "p3": as many slices with liver and lesion as slices
    # with neither (P3, 2.5: 4,401 of each).
    sampling: str = "all"
    image_size_px: int = 512  # square network input; P5: 128
    slices: int = 3  # channels: 3 are previous, key and next slice, 1 is the key slice
    window_hu: tuple[float, float] = (-160.0, 240.0)  # low, high (P3, 2.2)
    normalisation: str = "window"  # 0..1; "standardise": then zero mean, unit variance (P4, 3.2)
    rotation_deg: float = 15.0  # uniform in +-, in training (P5, 3.3)


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes to a training image and its boxes; magnitudes in units of the 0..1 image."""

    mode: str = "online"  # "none"; "copies": P1's fixed copies; "online": new every epoch
    copies: int = 4  # P1, 3.2.2: 1,267 images become 6,335
    brightness: float = 0.05  # added, uniform in +-brightness
    gamma: tuple[float, float] = (0.8, 1.25)  # P1: 0.5, 2.0, which hides weak lesions
    noise_std: float = 0.01  # upper end; the standard deviation is uniform in 0..noise_std
    translate_fraction: float = 0.1  # of the side, uniform in +-
    flip_left_right: bool = True  # "online" only, as all below; patients lie on either side
    flip_up_down: bool = True
    scale: tuple[float, float] = (0.8, 1.25)  # zoom, log-uniform
    crop_size_px: int = 64  # 0 trains on whole images; CHANGELOG has the runs that chose it
    crop_on_lesion_probability: float = 0.6  # share of crops that hold a lesion, if there is one


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
class OptimizerConfig:
    """How weights move."""

    name: str = "adamw"  # or "sgd"
    learning_rate: float = 1.2e-3
    momentum: float = 0.9  # sgd
    nesterov: bool = True  # sgd
    weight_decay: float = 1e-4  # adamw
    clip_norm: float = 0.0  # 0: off
    schedule: str = "cosine"  # or "constant"
    warmup_fraction: float = 0.1  # of all steps, linear from 0


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at once, and how exactly."""

    epochs: int = 75
    batch_size: int = 16  # crops
    images_per_epoch: int = 240  # 0: every training example once
    whole_image_fraction: float = 0.2  # of the epochs, the last ones: on whole images, not on crops
    whole_image_batch_size: int = 4
    precision: str = "auto"  # auto, float32, bfloat16, float16
    seed: int = 0
    validate_every_epochs: int = 5  # the last epoch is always validated
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
