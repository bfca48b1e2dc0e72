"""A backbone with the maps of a ResNet and a hundredth of its cost."""

from typing import Any

import keras
import pytest

from lesionkeras.models import retinanet

CHANNELS = (8, 12, 16, 24)


def build_tiny_resnet(name: str) -> keras.Model:
    """Four stages, each a strided convolution with its norm, named as KerasCV's."""
    x = image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="conv1_conv")(x)
    maps: list[Any] = []
    for i, channels in enumerate(CHANNELS):
        prefix = f"v2_stack_{i}_block1_1"
        x = keras.layers.Conv2D(
            channels, 3, strides=2, padding="same", use_bias=False, name=f"{prefix}_conv"
        )(x)
        x = keras.layers.BatchNormalization(name=f"{prefix}_bn")(x)
        x = keras.layers.ReLU(name=f"{prefix}_relu")(x)
        maps.append(x)
    return keras.Model(image, maps, name=name)


@pytest.fixture(scope="module", autouse=True)
def tiny_backbone(request: pytest.FixtureRequest):
    """Every RetinaNet of this module stands on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retinanet, "build_resnet", build_tiny_resnet)
        yield
