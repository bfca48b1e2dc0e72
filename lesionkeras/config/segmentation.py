"""Segmentation networks and their runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from lesionkeras.config.shared import AugmentConfig, OptimizerConfig, later


@dataclass(frozen=True)
class SegmentationDataConfig:
    """Which slices a segmentation network is trained on, and what it sees of them."""

    name: str = "lits"  # folder in tfds_builders; several are pooled: "lits+ircadb01"
    config: str = "slices"  # of each in the same order, "slices+slices"; "" is its first
    splits: tuple[str, ...] = ()  # of the builder that are divided; () is all of them
    # Who is held out.  "patient": patients, whole; "given": the builder's own train and test;
    # "p3": 13 of 131 studies (P3, 2.1), patients whole; "p5": 20 % of the slices (P5 says
    # "of the dataset" and no more), and
    # "volume": volumes whoever's they are; these two leak.  "leak-slices", "leak-volumes" and
    # "leak-patients": the same slices of one volume under three splits (experiments.leak).
    protocol: str = "patient"
    # Patients or volumes by name, with protocol "patient" alone; () draws them by seed.
    held_out: tuple[str, ...] = ()
    held_out_fraction: float = 0.2  # of patients, volumes or (P5) slices, where they are drawn
    # Of what is trained on, taken out as `protocol` divides, to choose an epoch on; 0: nothing.
    validation_fraction: float = 0.0
    # What is trained on.  "all": every slice; "p3": as many slices with liver and lesion as slices
    # with neither (P3, 2.5: 4,401 of each); "lesion": slices with lesion repeated up to a share.
    sampling: str = "all"
    lesion_share: float = 0.5  # of an epoch's slices, at least; "lesion" only
    image_size_px: int = 512  # square network input; P5: 128
    # 0: the whole slice is resized to the square; else slices are resized to pixels of so many mm,
    # as LiTS' are .56 to 1 mm, and cropped or padded about their middle.
    pixel_mm: float = 0.0
    slices: int = 3  # channels: 3 are previous, key and next slice, 5 two on each side, 1 the key
    window_hu: tuple[float, float] = (-160.0, 240.0)  # low, high (P3, 2.2)
    # 0: HU as they are; else a scan is moved by what brings its liver's median there, as contrast
    # agent raises it by up to 60 HU and lesions with it.  In training the mask tells where the
    # liver is, afterwards the network, which looks at some slices first.
    liver_hu: float = later(0.0)
    normalisation: str = "window"  # 0..1; "standardise": then zero mean, unit variance (P4, 3.2)
    rotation_deg: float = 15.0  # uniform in +-, in training (P5, 3.3)
    reverse_slices: bool = False  # half of the training images from cranial, not from caudal
    # 0: channels are the slices next to the key slice, however far; else planes so many mm apart,
    # each between the two slices about it, as LiTS' lie .45 to 6 mm apart.
    slice_mm: float = later(0.0)
    # Share of the training images whose channels lie 0 to 2 times as far apart.
    vary_slices: float = later(0.0)
    crop_on_liver: float = 0.0  # share of the crops not on a lesion that are on liver, if there is
    made_lesions: float = later(0.0)  # share of the training images that get lesions in their liver


@dataclass(frozen=True)
class SegmentationAugmentConfig(AugmentConfig):
    """What is changed besides, mode "online" only: how contrast and sharpness differ by scanner."""

    contrast: float = later(0.0)  # grey levels about .5 times exp(uniform in +-contrast)
    # Share of what a Gaussian of 1 px takes away that is added, or taken away: uniform in +-.
    sharpness: float = later(0.0)


# Segmentation networks


@dataclass(frozen=True)
class UNetConfig:
    """Ronneberger's U-Net (2015, figure 1); P4, 3.3 and P5, 3.1.1 use it.  Image as it comes."""

    in_channels: int = 3  # slices: data.slices decides
    head: str = "three_class"  # 3 logits; "binary": 1, of liver or tumour as loss.target says
    base_channels: int = 64  # of the first level; every further level has twice as many
    max_channels: int = 1024  # of the deepest levels
    depth: int = 5  # levels; the image's sides must divide by 2 ** (depth - 1)
    norm: str = "batch"  # "none" is Ronneberger's; "instance", "group"
    dropout: float = 0.0  # share of features, after the two deepest levels; Ronneberger's code .5
    upsampling: str = "transpose"  # 2x2, Ronneberger's; "nearest", "bilinear": after a 1x1
    deep_supervision: int = 0  # further logits at 1/2, 1/4 ... of the sides; at most depth - 2

    @property
    def size_multiple_px(self) -> int:
        """What the image's sides must divide by."""
        return 2 ** (self.depth - 1)


@dataclass(frozen=True)
class SegNetConfig:
    """SegNet (Badrinarayanan 2017): VGG16's 13 convolutions and their mirror; P4, 3.4."""

    in_channels: int = 3  # slices: data.slices decides; 3 where there are weights
    head: str = "three_class"  # or "binary"
    weights: str = "none"  # of the encoder: "none", "imagenet" or a .npz file of VGG16
    input_scaling: str = "unit"  # "unit", "none", "imagenet_caffe"; the weights decide
    channels: tuple[int, ...] = (64, 128, 256, 512, 512)  # of the five blocks; VGG16's
    norm: str = "batch"  # "none", "instance", "group"
    dropout: float = 0.0  # share of features, after the last block of the encoder

    @property
    def backbone(self) -> str:
        """Whose weights the encoder takes."""
        return "vgg16"

    @property
    def size_multiple_px(self) -> int:
        """What the image's sides must divide by: five poolings."""
        return 32


@dataclass(frozen=True)
class ResNet50UNetConfig:
    """A U-Net whose encoder is an ImageNet ResNet50 (P5, 3.1.2 and its future work)."""

    in_channels: int = 3  # data.slices decides: ImageNet's three colours, or 1 for all three (P5)
    head: str = "three_class"  # or "binary"
    backbone: str = "resnet50"  # or "resnet34"
    weights: str = "none"  # of the encoder: "none", "imagenet" or a .npz file
    input_scaling: str = "unit"  # "unit", "none", "imagenet_caffe", "imagenet_torch"
    freeze_norm: bool = False  # batch norms of the encoder keep the statistics of its weights
    decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16)  # at strides 16, 8, 4, 2 and 1
    image_skip: bool = True  # a skip at the image's own resolution; else the finest is at 1/2
    norm: str = "batch"  # of the decoder; "none", "instance", "group"
    dropout: float = 0.0  # share of features, after the encoder
    upsampling: str = "nearest"  # after a 1x1; "bilinear"; "transpose", 2x2
    deep_supervision: int = 0  # further logits at 1/2, 1/4 ... of the sides; at most 4

    @property
    def size_multiple_px(self) -> int:
        """What the image's sides must divide by: the encoder's last stride."""
        return 32


@dataclass(frozen=True)
class SegmentationLossConfig:
    """A weighted sum of losses; overlap is of probabilities."""

    target: str = "tumour"  # of a binary head: "tumour" (label 2), "liver" (labels 1 and 2)
    dice_weight: float = 1.0  # P4, 4: Dice alone
    tversky_weight: float = 0.0  # P5, 3.2: Tversky alone
    cross_entropy_weight: float = 1.0  # nnU-Net (Isensee 2021): Dice and cross-entropy, 1 to 1
    focal_weight: float = 0.0  # Lin 2017
    tversky_alpha: float = 0.7  # of false positives (P5, 3.2)
    tversky_beta: float = 0.3  # of false negatives (P5, 3.2)
    tversky_exponent: float = 1.0  # of 1 - Tversky; .75: focal Tversky (Abraham, Khan 2019)
    focal_gamma: float = 2.0  # Lin 2017, 3.2
    class_weights: tuple[float, ...] = ()  # in cross-entropy and focal, background first; () is 1
    reduction: str = "batch"  # overlap of all pixels of a batch; "image": mean of each image's
    # What overlap is of.  "classes": label 1 and label 2; "regions": labels 1 and 2 together, as
    # the liver is scored, and label 2.  A binary head has one.
    overlap_of: str = "classes"
    smooth_px: float = 1.0  # added above and below the line of an overlap: defined where it is 0/0


# Segmentation runs


@dataclass(frozen=True)
class SegmentationTrainConfig:
    """How long, how much at once, and how exactly."""

    epochs: int = 0  # 0: the budget ends training; else what comes first
    # Seconds of this process on all cores, spent on training; 0: `epochs` end it.  The schedule
    # follows the share that is used, so that recipes of equal cost compare.  A run with a budget
    # does not repeat bit for bit: the clock decides how many steps it has.
    cpu_budget_s: float = 2400.0
    batch_size: int = 8
    images_per_epoch: int = 0  # 0: every training example once
    precision: str = "auto"  # auto, float32, bfloat16, float16
    seed: int = 0
    validate_every_epochs: int = 5  # where there are validation patients; the last one always is
    jit_compile: bool = False  # XLA; pays on GPU and TPU


@dataclass(frozen=True)
class InferenceConfig:
    """From a network's logits to a volume's mask."""

    batch_size: int = 8
    flips: bool = True  # mean of the probabilities of the slice and its mirror images
    # False: of the image top to bottom alone, for a network that learnt where a patient's left is.
    flip_left_right: bool = later(True)
    tumour_bias: float = 0.0  # added to the tumour's logit of three; 0: the likeliest class
    threshold: float = 0.5  # of a binary head's probability


@dataclass(frozen=True)
class PostprocessConfig:
    """What is done to a volume's mask, in this order; each can be left out."""

    closing_mm: float = 0.0  # radius, per slice, of liver and tumour (P5, 3.6); 0: off
    fill_holes: bool = False  # per slice, of liver and tumour (P3, 2.6)
    # Liver that hangs on by a neck thinner than this, such as a heart, becomes background; 0: off.
    liver_neck_mm: float = later(0.0)
    largest_liver: bool = True  # other pieces of liver become background
    tumour_inside_liver: bool = True  # tumours that touch no liver become background
    min_lesion_mm3: float = 0.0  # smaller tumours become liver; 0: off
    # Tumours whose probability reaches this nowhere become liver; 0: off.
    min_lesion_peak: float = later(0.0)


SEGMENTATION_DATA = SegmentationDataConfig(
    name="liver_phantom",  # what is always at hand
    config="",
    sampling="lesion",
    image_size_px=384,  # 480 mm: the widest slice of the shared scans, 462 mm
    pixel_mm=1.25,
    slices=5,
    window_hu=(-100.0, 200.0),
    slice_mm=2.5,
    vary_slices=0.3,
    liver_hu=100.0,
    rotation_deg=20.0,
    reverse_slices=True,
    crop_on_liver=0.8,
    made_lesions=0.5,
)
SEGMENTATION_AUGMENT = SegmentationAugmentConfig(
    brightness=0.03,
    gamma=(0.9, 1.1),
    noise_std=0.02,
    scale=(0.77, 1.3),
    crop_size_px=192,
    contrast=0.2,
    sharpness=0.5,
)
# Training shows lesions far more often than scans do: whoever learns from it finds too much.
SEGMENTATION_INFERENCE = InferenceConfig(tumour_bias=-1.0)
SEGMENTATION_POSTPROCESS = PostprocessConfig(
    liver_neck_mm=16.0, min_lesion_mm3=50.0, min_lesion_peak=0.85
)
# Where the recipes of P4 and P5 begin: nothing of the above but what the papers leave open.
SEGMENTATION_PAPER: dict[str, Any] = {
    "data": SegmentationDataConfig(name="liver_phantom", config="", slices=1),
    "augment": SegmentationAugmentConfig(crop_size_px=192, scale=(0.77, 1.3)),
    "inference": InferenceConfig(),
    "postprocess": PostprocessConfig(),
}
SEGMENTATION_OPTIMIZER = OptimizerConfig(
    learning_rate=2e-3, warmup_fraction=0.05, ema_momentum=0.99
)


@dataclass(frozen=True)
class SegmentationRecipe:
    """What runs of all segmentation networks have; each network's recipe says which `model`."""

    name: str = "default"
    data: SegmentationDataConfig = SEGMENTATION_DATA
    augment: SegmentationAugmentConfig = SEGMENTATION_AUGMENT
    model: UNetConfig | SegNetConfig | ResNet50UNetConfig = field(default_factory=UNetConfig)
    loss: SegmentationLossConfig = field(default_factory=SegmentationLossConfig)
    optimizer: OptimizerConfig = SEGMENTATION_OPTIMIZER
    train: SegmentationTrainConfig = field(default_factory=SegmentationTrainConfig)
    inference: InferenceConfig = SEGMENTATION_INFERENCE
    postprocess: PostprocessConfig = SEGMENTATION_POSTPROCESS


@dataclass(frozen=True)
class UNetRecipe(SegmentationRecipe):
    """One run of P4's and P5's U-Net."""

    model: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            in_channels=5, base_channels=16, max_channels=256, upsampling="nearest"
        )
    )


@dataclass(frozen=True)
class SegNetRecipe(SegmentationRecipe):
    """One run of P4's SegNet."""

    model: SegNetConfig = field(
        default_factory=lambda: SegNetConfig(in_channels=5, channels=(32, 64, 128, 128, 128))
    )


@dataclass(frozen=True)
class ResNet50UNetRecipe(SegmentationRecipe):
    """One run of P5's U-Net on ResNet50."""

    data: SegmentationDataConfig = field(  # ImageNet has three colours
        default_factory=lambda: replace(SEGMENTATION_DATA, slices=3)
    )
    model: ResNet50UNetConfig = field(
        default_factory=lambda: ResNet50UNetConfig(weights="imagenet")
    )
