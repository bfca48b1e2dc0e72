import keras
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.models import winograd
from lesionkeras.models.winograd import WinogradConv2D, convolve_trainable


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 2)])
def test_it_is_a_convolution_with_its_gradients(size):
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(2, *size, 5)), tf.float32)
    kernel = tf.constant(random.normal(size=(3, 3, 5, 4)), tf.float32)
    weights = tf.constant(random.normal(size=(2, *size, 4)), tf.float32)
    results = []
    for convolve in (convolve_trainable, lambda x, k: tf.nn.conv2d(x, k, 1, "SAME")):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = convolve(x, kernel)
            loss = tf.reduce_sum(y * weights)
        results.append([y, *tape.gradient(loss, [x, kernel])])
    for ours, reference in zip(*results, strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-5 * np.abs(reference).max())


def test_the_layer_takes_it_in_training_alone_and_where_it_pays(monkeypatch):
    called = []
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 4)
    monkeypatch.setattr(winograd, "MIN_PIXELS", 100)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(
        winograd,
        "convolve_trainable",
        lambda *words: called.append(1) or convolve_trainable(*words),
    )
    layer = WinogradConv2D(4, 3, padding="same", bias_initializer="ones")
    x = np.random.default_rng(0).normal(size=(1, 10, 10, 4)).astype(np.float32)
    plain = layer(x, training=False)
    assert not called
    np.testing.assert_allclose(layer(x, training=True), plain, atol=1e-5)
    assert len(called) == 1
    layer(x[:, :9], training=True)  # 90 pixels
    narrow = WinogradConv2D(3, 3, padding="same")
    narrow(x, training=True)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a card"])
    layer(x, training=True)
    sixteen = WinogradConv2D(4, 3, padding="same", dtype="mixed_bfloat16")
    sixteen(x, training=True)
    assert len(called) == 1
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert isinstance(again, WinogradConv2D) and again.get_config() == layer.get_config()
