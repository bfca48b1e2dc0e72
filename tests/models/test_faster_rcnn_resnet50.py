"""Faster R-CNN on the backbone that P2 took: what a small one cannot show."""

import pytest

from lesionkeras.config import DataConfig, FasterRCNNConfig, FasterRCNNRecipe
from tests.models import detector_harness

RECIPE = FasterRCNNRecipe(
    data=DataConfig(image_size_px=128),
    model=FasterRCNNConfig(
        backbone="resnet50", pyramid_channels=64, rpn_channels=64, head_channels=128
    ),
)


@pytest.mark.real
def test_learns_one_real_slice(real_data):
    """Part 4, 'Shown by' 5: to an IoU above .8."""
    detector_harness.check_learns_one_real_slice(RECIPE, real_data, steps=40, below=0.2)
