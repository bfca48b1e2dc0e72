import keras
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.models.upsampled_conv import UpsampledConv2D, make_upsampling_matrix
from tests.models import harness


def make_inputs(dtype="float32"):
    """A map of 3 x 5 and an image eight times as large."""
    random = np.random.default_rng(0)
    small = random.normal(size=(2, 3, 5, 6)).astype(dtype)
    return small, random.normal(size=(2, 24, 40, 3)).astype(dtype)


def build_plain(interpolation):
    small, image = keras.Input((3, 5, 6)), keras.Input((24, 40, 3))
    up = keras.layers.UpSampling2D(8, interpolation=interpolation)(small)
    x = keras.layers.Concatenate()([up, image])
    return keras.Model([small, image], keras.layers.Conv2D(4, 3, padding="same", name="conv")(x))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_it_is_the_plain_way_with_its_gradients(interpolation):
    """Values, and gradients of inputs, kernel and bias, within float32's rounding of a sum."""
    plain, layer = build_plain(interpolation), UpsampledConv2D(4, interpolation)
    inputs = [tf.constant(x) for x in make_inputs()]
    layer.build([x.shape for x in inputs])
    kernel, bias = np.random.default_rng(1).normal(size=(3, 3, 9, 4)), [1.0, -2.0, 0.5, 3.0]
    results = []
    for call, variables in (
        (plain, plain.get_layer("conv").trainable_variables),
        (layer, layer.trainable_variables),
    ):
        for variable, value in zip(variables, (kernel, bias), strict=True):
            variable.assign(value)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = call(inputs)
            loss = tf.reduce_sum(y**2 + tf.sin(y))
        results.append([y, *tape.gradient(loss, [*inputs, *(v.value for v in variables)])])
    for ours, reference in zip(*reversed(results), strict=True):
        scale = np.abs(reference).max()
        np.testing.assert_allclose(ours, reference, atol=2e-6 * scale, rtol=0)


def test_it_compiles_under_xla_and_keeps_the_policys_type():
    for policy, atol in (("float32", 1e-4), ("mixed_bfloat16", 0.5)):
        with harness.policy(policy):
            layer = UpsampledConv2D(4)
        small, image = make_inputs()
        plain = layer([small, image])
        assert plain.dtype == layer.compute_dtype and plain.shape == (2, 24, 40, 4)
        compiled = tf.function(layer, jit_compile=True)([small, image])
        difference = tf.cast(compiled, "float32") - tf.cast(plain, "float32")
        assert np.abs(difference).max() < atol
    again = UpsampledConv2D.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert layer.compute_output_shape([(2, 3, 5, 6), (2, 24, 40, 3)]) == (2, 24, 40, 4)


def test_matrices_by_hand():
    nearest = make_upsampling_matrix(2, 3, "nearest")
    assert nearest[:, :, 1].tolist() == [[1, 0]] * 3 + [[0, 1]] * 3
    assert nearest[:, :, 2].tolist() == [[1, 0]] * 2 + [[0, 1]] * 3 + [[0, 0]]
    bilinear = make_upsampling_matrix(2, 2, "bilinear")[:, :, 1]
    np.testing.assert_allclose(bilinear, [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
