"""A convolution over few pixels equals Conv2D, gradients included."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.models import small_maps, winograd
from lesionkeras.models.backbones import build_resnet
from lesionkeras.models.small_maps import SmallMapConv2D


def run(layer: keras.Layer, x: tf.Tensor, training: bool, jit_compile: bool = False):
    """The result, and the gradients of image and weights."""

    @tf.function(jit_compile=jit_compile)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training) if training is not None else layer(x)
            loss = tf.reduce_sum(tf.sin(y))
        weights = [weight.value for weight in layer.trainable_variables]
        return y, *tape.gradient(loss, [x, *weights])

    return [value.numpy() for value in step(x)]


@pytest.mark.parametrize("shape", [(2, 2, 2, 6), (1, 1, 1, 6), (3, 1, 4, 6)])
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_equals_conv2d(monkeypatch: pytest.MonkeyPatch, shape, jit_compile, use_bias):
    monkeypatch.setattr(small_maps, "MIN_CHANNELS", 4)
    layers = [
        kind(5, 3, padding="same", use_bias=use_bias)
        for kind in (SmallMapConv2D, keras.layers.Conv2D)
    ]
    for layer in layers:
        layer.build(shape)
    layers[1].set_weights([weight + 0.1 for weight in layers[0].get_weights()])
    layers[0].set_weights(layers[1].get_weights())
    x = tf.constant(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    ours = run(layers[0], x, True, jit_compile)
    theirs = run(layers[1], x, None, jit_compile)
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_by_hand(monkeypatch: pytest.MonkeyPatch):
    """Of 2x2 pixels each sees all four: with a kernel of ones every result is their sum."""
    y = small_maps.convolve_as_product(
        tf.constant([1.0, 2.0, 3.0, 4.0], shape=(1, 2, 2, 1)), tf.ones((3, 3, 1, 1))
    )
    np.testing.assert_array_equal(y.numpy().ravel(), [10.0] * 4)


def test_one_tap_by_hand():
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 2] = 1  # the pixel to the right
    image = tf.constant([1.0, 2.0, 3.0, 4.0], shape=(1, 2, 2, 1))
    y = small_maps.convolve_as_product(image, tf.constant(kernel))
    np.testing.assert_array_equal(y.numpy()[0, :, :, 0], [[2, 0], [4, 0]])


def test_inference_and_unknown_sizes_are_conv2d(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(small_maps, "convolve_as_product", lambda *words: pytest.fail("product"))
    layer = SmallMapConv2D(512, 3, padding="same")
    image = tf.constant(np.random.default_rng(0).normal(size=(1, 2, 2, 512)).astype(np.float32))
    wanted = layer(image)
    step = tf.function(
        lambda x: layer(x, training=True), input_signature=[tf.TensorSpec((None, 2, 2, 512))]
    )
    np.testing.assert_allclose(step(image), wanted, atol=1e-5)
    np.testing.assert_allclose(
        wanted, tf.nn.conv2d(image, layer.kernel, 1, "SAME") + layer.bias, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["GPU", "TPU"])
def test_an_accelerator_keeps_its_own_convolutions(monkeypatch: pytest.MonkeyPatch, kind):
    assert small_maps.pays((16, 2, 2, 512), 512) and winograd.pays((1, 64, 64, 256), 256)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda asked: ["one"] * (asked == kind))
    assert not small_maps.pays((16, 2, 2, 512), 512)
    assert not winograd.pays((1, 64, 64, 256), 256)


def test_stage_of_512_channels_has_them():
    found = [
        layer.name for layer in build_resnet("resnet34").layers if isinstance(layer, SmallMapConv2D)
    ]
    assert found == [
        "v2_stack_3_block1_2_conv",
        "v2_stack_3_block2_1_conv",
        "v2_stack_3_block2_2_conv",
        "v2_stack_3_block3_1_conv",
        "v2_stack_3_block3_2_conv",
    ]
