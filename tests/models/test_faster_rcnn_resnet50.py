"""Faster R-CNN on the backbone that P2 took: what a small one cannot show."""

from dataclasses import replace

import pytest

from lesionkeras.config import (
    AnchorConfig,
    DataConfig,
    DecodeConfig,
    FasterRCNNConfig,
    FasterRCNNMatchConfig,
    FasterRCNNRecipe,
)
from lesionkeras.models.faster_rcnn import build_faster_rcnn
from tests.models import detector_harness, harness

RECIPE = FasterRCNNRecipe(
    data=DataConfig(image_size_px=128),
    model=FasterRCNNConfig(
        backbone="resnet50", pyramid_channels=64, rpn_channels=64, head_channels=128
    ),
)
P2_LIKE = FasterRCNNConfig(
    backbone="resnet50",
    pyramid_channels=0,
    rpn_channels=32,
    norm="none",
    anchors=AnchorConfig((16,), 1.0, (1.0, 1.5, 2.0), (0.5, 1.0, 2.0)),
    proposals=DecodeConfig(0.0, 0.7, 32, 8),
)


@pytest.mark.real
def test_learns_one_real_slice(real_data):
    """Part 4, 'Shown by' 5: to an IoU above .8."""
    detector_harness.check_learns_one_real_slice(RECIPE, real_data, steps=40, below=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet34", "resnet50", "vgg16"])
@pytest.mark.parametrize("pyramid_channels", [0, 16])
def test_whole_networks_compile_under_xla(backbone, pyramid_channels):
    """Training step and detection on real backbones; all rows are drawn, whatever the order."""
    config = replace(P2_LIKE, backbone=backbone, pyramid_channels=pyramid_channels)
    match = FasterRCNNMatchConfig(sampled_anchors=2000, sampled_rois=40, positive_roi_fraction=0.5)
    case = harness.NetworkCase(
        lambda: build_faster_rcnn(config, match), *detector_harness.make_squares(2, 64)
    )
    harness.check_xla_training_step(case, rtol=1e-2)
    harness.check_xla_function(case.build_seeded().detect, case.image_unit, atol=1e-3)
