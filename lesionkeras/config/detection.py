"""Detectors and their runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from lesionkeras.config.shared import AugmentConfig, OptimizerConfig, later


@dataclass(frozen=True)
class DataConfig:
    """Which examples are used, and what a network sees of them."""

    name: str = "liver_phantom"  # folder in tfds_builders; several are pooled: "lits+ircadb01"
    config: str = ""  # of each in the same order, "slices+slices"; "" is its first
    train_split: str = "train"
    validation_split: str = "validation"  # "" holds out validation_fraction of the train patients
    test_split: str = "test"
    validation_fraction: float = 0.0  # of the patients of train_split; only where no split is named
    # "paper": P1's 80/20 of augmented copies, which leaks (P1, 4); "p2": the text-mined liver list
    # of DeepLesion (P2, 3), which is not the official split.
    protocol: str = "patient"
    keep_noisy: bool = True  # False drops rows with Possibly_noisy = 1 at reading
    # DeepLesion's Coarse_lesion_type (4 = liver) of the boxes that are targets; () is all types,
    # for deeplesion/liver (4,).  A data set without types ignores it.
    lesion_types: tuple[int, ...] = ()
    image_size_px: int = 224  # square network input
    window_hu: tuple[float, float] = (-20.0, 220.0)  # low, high: liver, lesions and vessels
    max_boxes: int = 20  # rows of padded ground truth an image
    # Patients or volumes by name: they are tested on, whatever split they are in, and all others
    # are trained on; of those validation_fraction is held out, validation_split is not read.
    held_out: tuple[str, ...] = later(())
    # Further data sets, "deeplesion/liver", that are tested on, all their splits, never trained on.
    test_sets: tuple[str, ...] = later(())
    # 0: the whole slice is resized to the square; else slices are resized to pixels of so many mm,
    # and cropped or padded about their middle.
    pixel_mm: float = later(0.0)
    # What a box is: "as_stored"; "tight": the lesion's extent; "recist_plus_5": the extent of its
    # two diameters and 5 px on each side, as DeepLesion's are (Yan 2018, 2.2).
    box_convention: str = later("as_stored")
    # Of the training images, with a lesion, at least: those with are repeated; 1: the others are
    # left out; 0: all as they are.
    lesion_share: float = later(0.0)
    # Share of the training images that get lesions made in their liver (see `data.made_lesions`);
    # of data with masks, augment.mode "online" only.
    made_lesions: float = later(0.0)


@dataclass(frozen=True)
class DetectionAugmentConfig(AugmentConfig):
    """What can be changed besides where boxes are followed; all of it mode "online" only."""

    rotation_deg: float = later(0.0)  # uniform in +-
    min_resolution: float = later(1.0)  # scaled down to a share of min_resolution..1 and up again
    window_shift_hu: float = later(0.0)  # of either end of the window, uniform in +-
    # How far a random rising curve bends the grey levels, 0 up to 1: contrast agent and its phase
    # raise liver, vessels and lesions by different amounts.
    curve_strength: float = later(0.0)
    # Of the images, whose neighbouring slices are replaced by the key slice: a data set of key
    # slices alone looks so, and a network that leans on the neighbours fails there.
    key_slice_only: float = later(0.0)
    reverse_slices: bool = later(False)  # half of the images from cranial, not from caudal


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
    freeze_norm: bool = later(False)  # the backbone's batch norms keep the weights' statistics
    frozen_stages: int = later(0)  # of the backbone's four, from the image on, not trained
    anchors: AnchorConfig = field(default_factory=AnchorConfig)


@dataclass(frozen=True)
class RetinaNetConfig:
    """The network (Lin et al. 2017, Focal Loss, 4, and Feature Pyramid Networks, 3)."""

    backbone: str = "resnet50"  # or resnet34
    weights: str = "none"  # "none", "imagenet" or a .npz file
    input_scaling: str = "unit"  # "unit", "imagenet_caffe", "imagenet_torch"; the weights decide
    num_classes: int = 1  # lesion classes, each yes or no; background is none of them
    pyramid_channels: int = 256  # of every map and of the heads' convolutions
    head_convs: int = 4  # before the last one, in each head
    norm: str = "none"  # of the heads; "group"
    freeze_norm: bool = False  # batch norms keep the statistics of the weights
    frozen_stages: int = 0  # of the backbone's four, from the image on, that are not trained
    prior_prob: float = 0.01  # of a class at an anchor, at the start (Focal Loss, 4.1)
    coarse_from: str = (
        "p5"  # what stride 64 is made of; "c5": the backbone's last map, as the paper
    )
    # The paper starts at stride 8 with sides of 32 px; lesions start at 16.  A 4 in front is the
    # backbone's finest map.
    anchors: AnchorConfig = field(
        default_factory=lambda: AnchorConfig((8, 16, 32, 64), 2.0, (1.0, 1.26, 1.587))
    )


@dataclass(frozen=True)
class BaselineCNNConfig:
    """P2's networks of one box (P2, 4.1 and 4.2)."""

    # "none": the image; "vgg16": VGG16's map after a block; "vgg16_concat": VGG16's last map,
    # without its last two poolings, upsampled to the image and beside it.
    frontend: str = "none"
    vgg_block: int = 3  # of "vgg16": 2, 3 or 4 (P2, 4.2)
    weights: str = "none"  # of VGG16: "none", "imagenet" or a .npz file
    input_scaling: str = "unit"  # "bytes": 0..255 (P2, 3); the weights decide
    train_vgg: bool = False  # P2 takes features from it and does not speak of training it
    upsampling: str = "bilinear"  # of "vgg16_concat"; or "nearest": P2 does not say
    channels: tuple[int, ...] = (32, 32, 64, 64)  # of the four convolutions: P2's figure 2
    dropout: float = 0.0  # after either pooling; P2, 5.1.1: .05 of the concatenation

    @property
    def backbone(self) -> str:
        """Whose weights the front end takes."""
        return "vgg16"

    @property
    def num_classes(self) -> int:
        """Lesion classes: a box has no class."""
        return 1


@dataclass(frozen=True)
class DecodeConfig:
    """From anchors to detections; used by evaluation and export alike."""

    score_threshold: float = 0.02  # what is kept for the precision-recall curve
    iou_threshold: float = 0.45  # suppression (SSD, Liu 2016)
    candidates: int = 256  # best anchors that enter suppression
    max_detections: int = 50


@dataclass(frozen=True)
class FasterRCNNConfig:
    """The network (Ren et al. 2015; P2, 4.3)."""

    backbone: str = "resnet50"  # or resnet34, vgg16 (P2's future work)
    weights: str = "none"  # "none", "imagenet" or a .npz file
    input_scaling: str = "unit"  # "unit", "imagenet_caffe", "imagenet_torch"; the weights decide
    num_classes: int = 1  # lesion classes; background is implicit
    pyramid_channels: int = 128  # 0: one map of stride 16, as P2 and Keras-FRCNN
    norm: str = "group"  # of pyramid and proposal network; "none"
    freeze_norm: bool = False  # batch norms keep the statistics of the weights
    frozen_stages: int = 0  # of the backbone's, from the image on, that are not trained
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    rpn_channels: int = 128  # of the proposal network's convolution
    proposals: DecodeConfig = field(  # the best anchors: which go on to the second stage
        default_factory=lambda: DecodeConfig(0.0, 0.7, 512, 128)
    )
    roi_cells: int = 7  # a region is resampled to 7 x 7 (Fast R-CNN, 2.1)
    roi_samples: int = 2  # along each side of a cell (Mask R-CNN, 3); 0: as many as it covers
    roi_canonical_px: float = 112.0  # side from which a region is cut from the map of stride 16
    head_channels: int = 512  # of the second stage's dense layers, where it has some
    dropout: float = 0.0  # after each of them
    prior_prob: float = 0.05  # of an object, then of a class beside background; .5: no bias


@dataclass(frozen=True)
class LossConfig:
    """Multibox loss (SSD; P1, 3.3)."""

    negatives_per_positive: float = 3.0
    box_weight: float = 1.0
    smooth_l1_beta: float = 1.0


@dataclass(frozen=True)
class FasterRCNNMatchConfig:
    """What either stage learns from, image by image."""

    # P2, 4.3 and Ren 2015, 3.1.2 have .7, which leaves a small lesion its one forced anchor, among
    # 256 drawn: the proposal network then hardly learns.
    rpn: MatchConfig = field(default_factory=lambda: MatchConfig(0.5, 0.3, (1.0, 1.0, 1.0, 1.0)))
    sampled_anchors: int = 64  # Ren 2015, 3.1.3: 256
    positive_anchor_fraction: float = 0.5
    rois: MatchConfig = field(  # Fast R-CNN, 2.3; nothing is forced
        default_factory=lambda: MatchConfig(0.5, 0.5, (0.1, 0.1, 0.2, 0.2))
    )
    sampled_rois: int = 64  # Fast R-CNN, 2.3
    positive_roi_fraction: float = 0.25


@dataclass(frozen=True)
class FasterRCNNLossConfig:
    """Log losses and smooth L1 of both stages (Ren 2015, equation 1; P2, equation 1)."""

    rpn_box_weight: float = 1.0  # P2's lambda, which it does not give
    rpn_smooth_l1_beta: float = 0.1111111  # in anchor sides: Ren's and Detectron's 1 / 9
    box_weight: float = 1.0
    smooth_l1_beta: float = 1.0  # in variances


@dataclass(frozen=True)
class FocalLossConfig:
    """Focal loss and smooth L1 (Lin et al. 2017, Focal Loss)."""

    alpha: float = 0.25  # weight of a lesion; of background 1 - alpha
    gamma: float = 2.0
    box_weight: float = 1.0
    smooth_l1_beta: float = 1.0  # in variances: a tenth of an anchor's side


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
    # Seconds of this process on all cores, spent on training; then `epochs` is not read, and the
    # schedule follows the share that is used, so that detectors of equal cost compare.  Such a run
    # does not repeat bit for bit: the clock decides how many steps it has.  0: `epochs` end it.
    cpu_budget_s: float = later(0.0)


@dataclass(frozen=True)
class DetectionRecipe:
    """What runs of all detectors have; each detector's recipe says which `model`.

    A detector that matches anchors has a `match` beside it, one with weights in its loss a `loss`.
    """

    name: str = "default"
    data: DataConfig = field(default_factory=DataConfig)
    augment: DetectionAugmentConfig = field(default_factory=DetectionAugmentConfig)
    model: SSDConfig | RetinaNetConfig | FasterRCNNConfig | BaselineCNNConfig = field(
        default_factory=SSDConfig
    )
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)


@dataclass(frozen=True)
class SSDRecipe(DetectionRecipe):
    """One run of P1's detector."""

    model: SSDConfig = field(default_factory=SSDConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    loss: LossConfig = field(default_factory=LossConfig)


@dataclass(frozen=True)
class RetinaNetRecipe(DetectionRecipe):
    """One run of RetinaNet (Lin et al. 2017)."""

    model: RetinaNetConfig = field(default_factory=RetinaNetConfig)
    match: MatchConfig = field(default_factory=lambda: MatchConfig(0.5, 0.4))  # Lin 2017, 4
    loss: FocalLossConfig = field(default_factory=FocalLossConfig)


@dataclass(frozen=True)
class FasterRCNNRecipe(DetectionRecipe):
    """One run of Faster R-CNN (Ren et al. 2015)."""

    model: FasterRCNNConfig = field(default_factory=FasterRCNNConfig)
    match: FasterRCNNMatchConfig = field(default_factory=FasterRCNNMatchConfig)
    loss: FasterRCNNLossConfig = field(default_factory=FasterRCNNLossConfig)


@dataclass(frozen=True)
class BaselineCNNRecipe(DetectionRecipe):
    """One run of P2's networks of one box."""

    augment: DetectionAugmentConfig = field(  # a dense layer sees images of one size
        default_factory=lambda: DetectionAugmentConfig(crop_size_px=0)
    )
    model: BaselineCNNConfig = field(default_factory=BaselineCNNConfig)
    decode: DecodeConfig = field(default_factory=lambda: DecodeConfig(0.0, 0.45, 1, 1))


# How a detector learns from scans with masks (LiTS, 3D-IRCADb) what it shall find in other scans
# too; each experiment's recipe `ct` is its `default` with these.
CT_VALUES: dict[str, object] = {"name": "ct", "data.name": "lits+ircadb01"}
CT_VALUES |= {"data.config": "slices+slices"}
CT_VALUES |= {"data.image_size_px": 384, "data.pixel_mm": 1.25}  # 480 mm: the widest slice
CT_VALUES |= {"data.window_hu": (-100.0, 200.0), "data.box_convention": "tight"}
CT_VALUES |= {"data.lesion_share": 0.5, "data.made_lesions": 0.5, "data.max_boxes": 40}
CT_VALUES |= {"augment.crop_size_px": 160, "augment.scale": (0.77, 1.3)}
CT_VALUES |= {"augment.crop_on_lesion_probability": 0.8}
CT_VALUES |= {"augment.rotation_deg": 20.0, "augment.gamma": (0.9, 1.1), "augment.noise_std": 0.02}
CT_VALUES |= {"augment.min_resolution": 0.6, "augment.window_shift_hu": 25.0}  # other scanners
CT_VALUES |= {"augment.curve_strength": 0.3, "augment.reverse_slices": True}  # other phases
CT_VALUES |= {"augment.key_slice_only": 0.3}  # where only key slices are kept
CT_VALUES |= {"optimizer.ema_momentum": 0.99, "optimizer.warmup_fraction": 0.05}
CT_VALUES |= {"optimizer.learning_rate": 1e-3, "train.batch_size": 6}
# Whole slices one by one give batch norms of a slice, and those of all in testing.
CT_VALUES |= {"train.whole_image_fraction": 0.0}
CT_VALUES |= {"train.images_per_epoch": 198, "train.cpu_budget_s": 1200.0}
