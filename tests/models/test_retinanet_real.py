"""RetinaNet on its own ResNet34 and a real slice."""

import pytest

from lesionkeras.config import AnchorConfig, DataConfig, RetinaNetConfig, RetinaNetRecipe
from tests.models import detector_harness

RECIPE = RetinaNetRecipe(
    data=DataConfig(image_size_px=128),
    model=RetinaNetConfig(
        backbone="resnet34",
        pyramid_channels=64,
        head_convs=1,
        norm="group",
        anchors=AnchorConfig((4, 8, 16), 2.0, (1.0, 1.4), (0.5, 1.0, 2.0)),
    ),
)


@pytest.mark.real
def test_learns_one_real_slice(real_data):
    detector_harness.check_learns_one_real_slice(RECIPE, real_data, steps=36, below=0.1)
