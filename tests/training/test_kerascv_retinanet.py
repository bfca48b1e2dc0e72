"""Our RetinaNet's loss is KerasCV's, weights copied over."""

import keras
import numpy as np
import pytest

from lesionkeras.config import DataConfig, OptimizerConfig, TrainConfig
from lesionkeras.errors import RecipeError
from lesionkeras.models import build_detector
from lesionkeras.training import kerascv_retinanet
from lesionkeras.training.kerascv_retinanet import compare_losses, make_twin, to_peer_targets


def test_the_losses_are_the_same():
    """Loud heads: a loss near its start would be the same without them."""
    keras.utils.set_random_seed(3)
    data, train = DataConfig(image_size_px=128), TrainConfig(batch_size=2)
    recipe = make_twin("resnet34", 2, data, OptimizerConfig(), train)
    model = build_detector(recipe)
    for name in ("class", "box"):
        for variable in model.get_layer(f"{name}_head").get_layer(name).weights:
            noise = np.random.default_rng(len(name)).normal(0, 0.05, variable.shape)
            variable.assign_add(noise.astype("float32"))
    ours, theirs = compare_losses(model, recipe)
    assert ours == pytest.approx(theirs, rel=1e-3) and ours > 1
    assert min(float(model.box_loss.result()), float(model.class_loss.result())) > 0.1


def test_images_too_small_for_lesions_are_refused():
    """Without a lesion the losses would say little of each other."""
    data, train = DataConfig(image_size_px=64), TrainConfig(batch_size=2)
    recipe = make_twin("resnet34", 1, data, OptimizerConfig(), train)
    with pytest.raises(RecipeError, match=r"data.image_size_px: found 64, wanted 128 or more\."):
        kerascv_retinanet._make_easy_batch(recipe)


def test_padding_is_minus_one_in_kerascvs_boxes():
    targets = {
        "boxes": np.float32([[[1, 2, 3, 4], [0, 0, 0, 0]]]),
        "classes": np.int32([[0, -1]]),
    }
    found = to_peer_targets(targets)
    assert found["boxes"].numpy().tolist() == [[[1, 2, 3, 4], [-1] * 4]]
    assert found["classes"].dtype == "float32" and found["classes"].numpy().tolist() == [[0, -1]]
