import keras
import numpy as np
import tensorflow as tf

from lesionkeras.models.backbones import build_resnet
from lesionkeras.models.norm import FusedBatchNormalization


def run(kind, training, jit_compile=False):
    """Output, gradients and moving statistics of one step on a map that is far from mean 0."""
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(3.0, 2.0, (3, 5, 4, 6)), tf.float32)
    weights = tf.constant(random.normal(size=x.shape), tf.float32)
    layer = kind(momentum=0.8, epsilon=1e-3)
    layer.build(x.shape)
    for variable in layer.variables:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))

    @tf.function(jit_compile=jit_compile)
    def step(x):
        sources = [x, *(v.value for v in layer.trainable_variables)]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(y * y * weights)
        return [y, *tape.gradient(loss, sources)]

    return [*step(x), *(v.numpy() for v in layer.non_trainable_variables)]


def test_it_is_keras_layer():
    for training in (True, False):
        for jit_compile in (False, True):
            ours = run(FusedBatchNormalization, training, jit_compile)
            wanted = run(keras.layers.BatchNormalization, training)
            assert len(ours) == 6
            for found, reference in zip(ours, wanted, strict=True):
                scale = np.abs(reference).max()
                np.testing.assert_allclose(found, reference, atol=5e-6 * scale)


def test_a_frozen_one_keeps_its_statistics():
    layer = FusedBatchNormalization()
    layer.build((None, None, None, 2))
    layer.trainable = False
    x = np.ones((1, 2, 2, 2), np.float32)
    np.testing.assert_allclose(layer(x, training=True), x / np.sqrt(1 + layer.epsilon), rtol=1e-6)
    assert not layer.moving_mean.numpy().any()


def test_sixteen_bits_in_sixteen_bits_out():
    layer = FusedBatchNormalization(dtype="mixed_bfloat16")
    y = layer(tf.random.normal((2, 8, 8, 3), 5.0), training=True)
    assert y.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.math.reduce_mean(tf.cast(y, tf.float32), (0, 1, 2)), 0, atol=0.02)


def test_a_resnet_has_it_where_asked():
    kinds = {
        fused: {
            type(layer)
            for layer in build_resnet("resnet34", fused).layers
            if isinstance(layer, keras.layers.BatchNormalization)
        }
        for fused in (True, False)
    }
    assert kinds == {True: {FusedBatchNormalization}, False: {keras.layers.BatchNormalization}}
