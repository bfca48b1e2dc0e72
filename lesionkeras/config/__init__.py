"""Every knob of a run as frozen dataclasses; each field has its unit and its source.

Values only: numbers, strings, booleans, tuples and other recipes.  The recipes themselves
(`paper`, `default`) are written in the experiment files.
"""

from lesionkeras.config.detection import (
    AnchorConfig,
    BaselineCNNConfig,
    BaselineCNNRecipe,
    DataConfig,
    DecodeConfig,
    DetectionAugmentConfig,
    DetectionRecipe,
    FocalLossConfig,
    LossConfig,
    MatchConfig,
    RetinaNetConfig,
    RetinaNetRecipe,
    SSDConfig,
    SSDRecipe,
    TrainConfig,
)
from lesionkeras.config.segmentation import (
    SEGMENTATION_AUGMENT,
    SEGMENTATION_DATA,
    SEGMENTATION_OPTIMIZER,
    InferenceConfig,
    PostprocessConfig,
    ResNet50UNetConfig,
    ResNet50UNetRecipe,
    SegmentationDataConfig,
    SegmentationLossConfig,
    SegmentationRecipe,
    SegmentationTrainConfig,
    SegNetConfig,
    SegNetRecipe,
    UNetConfig,
    UNetRecipe,
)
from lesionkeras.config.shared import (
    AugmentConfig,
    OptimizerConfig,
)

__all__ = [
    "SEGMENTATION_AUGMENT",
    "SEGMENTATION_DATA",
    "SEGMENTATION_OPTIMIZER",
    "AnchorConfig",
    "AugmentConfig",
    "BaselineCNNConfig",
    "BaselineCNNRecipe",
    "DataConfig",
    "DecodeConfig",
    "DetectionAugmentConfig",
    "DetectionRecipe",
    "FocalLossConfig",
    "InferenceConfig",
    "LossConfig",
    "MatchConfig",
    "OptimizerConfig",
    "PostprocessConfig",
    "ResNet50UNetConfig",
    "ResNet50UNetRecipe",
    "RetinaNetConfig",
    "RetinaNetRecipe",
    "SSDConfig",
    "SSDRecipe",
    "SegNetConfig",
    "SegNetRecipe",
    "SegmentationDataConfig",
    "SegmentationLossConfig",
    "SegmentationRecipe",
    "SegmentationTrainConfig",
    "TrainConfig",
    "UNetConfig",
    "UNetRecipe",
]
