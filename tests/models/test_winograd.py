import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.models.winograd import FoldedConv2D, convolve_winograd, transform_kernel


def convolve(image, kernel, bias=None, relu=False):
    bias = np.zeros(kernel.shape[-1], np.float32) if bias is None else bias
    x, u = tf.constant(image, tf.float32), tf.constant(transform_kernel(kernel))
    return convolve_winograd(x, u, tf.constant(bias, tf.float32), relu).numpy()


def test_a_single_pixel_shows_the_kernel_turned_round():
    image, kernel = np.zeros((1, 5, 6, 1)), np.arange(1.0, 10.0).reshape(3, 3, 1, 1)
    image[0, 1, 4] = 1  # tiles meet beside it
    wanted = np.zeros((5, 6))
    wanted[0:3, 3:6] = [[9, 8, 7], [6, 5, 4], [3, 2, 1]]
    assert np.allclose(convolve(image, kernel)[0, :, :, 0], wanted, atol=1e-5)


def test_sums_by_hand_with_zeros_around_bias_and_relu():
    image = np.array([[1, 2], [3, 4]], float).reshape(1, 2, 2, 1)
    kernel = np.stack([np.ones((3, 3, 1)), -np.ones((3, 3, 1))], axis=-1)
    result = convolve(image, kernel, bias=[0.5, 10.5], relu=False)
    assert np.allclose(result[0, :, :, 0], 10.5, atol=1e-5)  # each window holds all four
    assert np.allclose(result[0, :, :, 1], 0.5, atol=1e-5)
    result = convolve(image, kernel, bias=[0.5, -3.0], relu=True)
    assert np.allclose(result[0, :, :, 1], 0.0)


@pytest.mark.parametrize("sides", [(1, 1), (4, 4), (5, 7), (9, 8), (2, 13)])
def test_equals_the_direct_sum_at_any_size(sides):
    random = np.random.default_rng(0)
    image = random.normal(size=(2, *sides, 3)).astype(np.float32)
    kernel = random.normal(size=(3, 3, 3, 5)).astype(np.float32)
    bias = random.normal(size=5).astype(np.float32)
    wanted = tf.nn.relu(tf.nn.conv2d(image, kernel, 1, "SAME") + bias).numpy()
    result = convolve(image, kernel, bias, relu=True)
    assert result.shape == wanted.shape
    assert np.abs(result - wanted).max() < 1e-5 * np.abs(wanted).max() + 1e-5


def test_sides_need_not_be_known_when_the_graph_is_made():
    random = np.random.default_rng(1)
    kernel = random.normal(size=(3, 3, 2, 4)).astype(np.float32)
    layer = FoldedConv2D(kernel, np.ones(4, np.float32), (1, 1), "same", False, winograd=True)
    run = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 2))])
    for sides in ((5, 6), (8, 3)):
        image = random.normal(size=(1, *sides, 2)).astype(np.float32)
        wanted = tf.nn.conv2d(image, kernel, 1, "SAME") + 1.0
        assert np.allclose(run(image), wanted, atol=1e-4)


@pytest.mark.parametrize(("padding", "stride"), [("same", 2), ("valid", 1), ("valid", 2)])
def test_shape_is_known_before_the_call(padding, stride):
    kernel = np.ones((3, 3, 1, 2), np.float32)
    layer = FoldedConv2D(kernel, np.zeros(2, np.float32), (stride,) * 2, padding, True, False)
    image = np.ones((1, 8, 9, 1), np.float32)
    assert layer.compute_output_shape((1, 8, 9, 1)) == tuple(layer(image).shape)
    assert layer.compute_output_shape((None, None, 9, 1))[:2] == (None, None)
