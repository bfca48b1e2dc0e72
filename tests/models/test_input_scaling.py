import keras
import numpy as np
import pytest

from lesionkeras.errors import RecipeError
from lesionkeras.models.input_scaling import scale_input


def scale(image, name):
    symbolic = keras.Input((None, None, image.shape[-1]))
    return np.asarray(keras.Model(symbolic, scale_input(symbolic, name))(image))


def test_pixels_by_hand():
    image = np.array([0.0, 0.5, 1.0], np.float32).reshape(1, 1, 1, 3)
    for name, wanted in {
        "unit": (-2, 0, 2),
        "none": (0, 0.5, 1),
        "imagenet_caffe": (-103.939, 127.5 - 116.779, 255 - 123.68),
        "imagenet_torch": (-0.485 / 0.229, 0.044 / 0.224, 0.594 / 0.225),
    }.items():
        np.testing.assert_allclose(scale(image, name).ravel(), wanted, rtol=1e-4)


def test_one_channel():
    image = np.array([0.25, 0.75], np.float32).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(scale(image, "unit").ravel(), [-1, 1])
    np.testing.assert_array_equal(scale(image, "none"), image)
    with pytest.raises(RecipeError, match="found imagenet_torch for 1, wanted 3"):
        scale(image, "imagenet_torch")
