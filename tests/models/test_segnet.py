from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.config import SegNetConfig
from lesionkeras.errors import RecipeError
from lesionkeras.models import build
from lesionkeras.models.segnet import (
    MaxPoolingWithIndices,
    MaxUnpooling,
    build_vgg16_encoder,
)
from tests.models import segmenter_harness as harness
from tests.models.harness import policy

SMALL = SegNetConfig(channels=(8, 8, 16, 16, 16))


def make_values(batch, height=6, width=8, channels=5, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, height, width, channels))


def find_maxima(x):
    """Pixel by pixel: the first maximum of each window in row-major order, alone on zeros."""
    pooled, indices = np.zeros((2, len(x), x.shape[1] // 2, x.shape[2] // 2, x.shape[3]))
    back = np.zeros_like(x)
    for b, i, j, c in np.ndindex(pooled.shape):
        window = x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        place = int(window.argmax())
        row, column = divmod(place, 2)
        pooled[b, i, j, c], indices[b, i, j, c] = window[row, column], place
        back[b, 2 * i + row, 2 * j + column, c] = window[row, column]
    return pooled, indices.astype(np.int32), back


def pool_and_unpool(x):
    pooled, indices = MaxPoolingWithIndices()(x)
    return pooled, indices, MaxUnpooling()([pooled, indices])


@pytest.mark.parametrize("batch", [1, 3])
def test_values_go_back_exactly_where_the_maxima_were(batch):
    x = make_values(batch).astype(np.float32)
    for ours, wanted in zip(pool_and_unpool(x), find_maxima(x), strict=True):
        np.testing.assert_array_equal(ours, wanted)
    assert pool_and_unpool(x)[1].dtype == tf.int32


@pytest.mark.parametrize("jit_compile", [False, True])
def test_any_batch_through_one_graph(jit_compile):
    """Batch and sides unknown while it is traced; XLA sees each size anew."""
    spec = tf.TensorSpec([None, None, None, 5], tf.float32)
    graph = tf.function(pool_and_unpool, input_signature=[spec], jit_compile=jit_compile)
    for batch, height, width in ((1, 6, 8), (3, 4, 2), (2, 10, 6)):
        x = make_values(batch, height, width).astype(np.float32)
        for ours, wanted in zip(graph(x), find_maxima(x), strict=True):
            np.testing.assert_array_equal(ours, wanted)


def test_a_layer_of_any_size_in_a_network():
    image = keras.Input((None, None, 5))
    pooled, indices = MaxPoolingWithIndices()(image)
    assert pooled.shape == indices.shape == (None, None, None, 5)
    assert indices.dtype == "int32"
    model = keras.Model(image, MaxUnpooling()([pooled, indices]))
    assert model.output.shape == (None, None, None, 5)
    x = make_values(3).astype(np.float32)
    np.testing.assert_array_equal(model.predict(x, batch_size=2, verbose=0), find_maxima(x)[2])


def test_ties_go_to_the_first_pixel_in_row_major_order():
    for window, place in (
        ([[1, 1], [1, 1]], 0),
        ([[0, 1], [1, 1]], 1),
        ([[0, 1], [1, 0]], 1),
        ([[0, 0], [1, 1]], 2),
        ([[1, 0], [0, 1]], 0),
        ([[0, 0], [0, 1]], 3),
        ([[-2, -2], [-3, -2]], 0),
    ):
        x = np.array(window, np.float32).reshape(1, 2, 2, 1)
        pooled, indices, back = pool_and_unpool(x)
        assert int(indices[0, 0, 0, 0]) == place, window
        assert float(pooled[0, 0, 0, 0]) == x.max()
        wanted = np.zeros(4)
        wanted[place] = x.max()
        np.testing.assert_array_equal(np.ravel(back), wanted)


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_indices_stay_integers_under_a_16_bit_policy(name):
    """300 x 300 pixels: a flattened index of the last would be 90,000, more than either holds."""
    with policy(name):
        x = np.zeros((1, 300, 300, 1), np.float32)
        x[0, 299, 298], x[0, 298, 1], x[0, 1, 299] = 3.0, 2.0, 1.0
        pooled, indices, back = pool_and_unpool(x)
    assert indices.dtype == tf.int32
    assert pooled.dtype.name == back.dtype.name == name.removeprefix("mixed_")
    np.testing.assert_array_equal(tf.cast(back, tf.float32), x)


def test_gradients_flow_through_the_maxima_alone():
    x = tf.constant(make_values(2), tf.float32)
    weight = make_values(2, seed=1).astype(np.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(pool_and_unpool(x)[2] * weight)
    is_maximum = find_maxima(x.numpy())[2] != 0
    np.testing.assert_array_equal(tape.gradient(loss, x), np.where(is_maximum, weight, 0))


def test_encoder_is_vgg16():
    """The layers, names and shapes of keras.applications' VGG16, and batch norms."""
    ours = build_vgg16_encoder(SegNetConfig())
    theirs = keras.applications.VGG16(weights=None, include_top=False)
    shapes = {
        layer.name: [tuple(v.shape) for v in layer.weights]
        for layer in theirs.layers
        if layer.weights
    }
    assert len(shapes) == 13
    convs = [layer for layer in ours.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {la.name: [tuple(v.shape) for v in la.weights] for la in convs} == shapes
    norms = [la for la in ours.layers if isinstance(la, keras.layers.BatchNormalization)]
    assert len(norms) == 13


def test_decoder_mirrors_the_encoder():
    model = build(SegNetConfig())
    widths = {5: (512, 512, 512), 4: (512, 512, 256), 3: (256, 256, 128), 2: (128, 64), 1: (64,)}
    for block, row in widths.items():
        numbers = range(3 if len(row) == 3 else 2, 0, -1)  # conv3, conv2, conv1, as VGG16's
        for number, width in zip(numbers, row, strict=False):
            layer = model.get_layer(f"decoder{block}_conv{number}")
            assert (layer.filters, layer.kernel_size) == (width, (3, 3))
    logits = model.get_layer("logits")  # the 13th
    assert (logits.filters, logits.kernel_size) == (3, (3, 3))
    assert len([la for la in model.layers if isinstance(la, keras.layers.Conv2D)]) == 13


def run_without_norms(weights, x, num_convs=(2, 2, 3, 3, 3)):
    """SegNet by hand in NumPy's order: convolutions by Keras' op, pooling pixel by pixel."""
    weights, places = list(weights), []

    def convolve(x, relu=True):
        kernel, bias = weights.pop(0), weights.pop(0)
        x = np.asarray(keras.ops.conv(x, kernel, 1, "same")) + bias
        return np.maximum(x, 0) if relu else x

    for count in num_convs:
        for _ in range(count):
            x = convolve(x)
        pooled, indices, _ = find_maxima(x)
        places.append(indices)
        x = pooled.astype(np.float32)
    for count, indices in zip(reversed(num_convs), reversed(places), strict=True):
        big = np.zeros((len(x), 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), np.float32)
        for b, i, j, c in np.ndindex(x.shape):
            row, column = divmod(int(indices[b, i, j, c]), 2)
            big[b, 2 * i + row, 2 * j + column, c] = x[b, i, j, c]
        x = big
        for _ in range(count):
            x = convolve(x, relu=len(weights) > 2)
    assert not weights
    return x


def test_network_is_what_the_figure_says():
    """Every index goes to the decoder of its own block, every convolution in its order."""
    config = replace(SMALL, channels=(3, 4, 5, 6, 7), norm="none", input_scaling="none")
    model = harness.make_case(config).build_seeded()
    random = np.random.default_rng(0)
    model.set_weights([random.normal(0, 0.3, w.shape) for w in model.get_weights()])
    image = make_values(2, 32, 64, 3).astype(np.float32)
    wanted = run_without_norms(model.get_weights(), image)
    assert wanted.std() > 0.1
    np.testing.assert_allclose(model(image), wanted, rtol=1e-3, atol=1e-4 * wanted.std())


def test_shapes():
    harness.check_shapes(SMALL, [(32, 32), (64, 96)])
    config = replace(SMALL, head="binary", in_channels=1, norm="none", dropout=0.5)
    harness.check_shapes(config, [(32, 64)])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"channels": (8, 8, 8)},
            "SegNet has five blocks in model.channels: found (8, 8, 8), wanted five widths.",
        ),
        (
            {"weights": "imagenet"},
            "VGG16's weights have another width than the encoder in model.channels: found 3 to "
            "(8, 8, 16, 16, 16), wanted 3 to (64, 128, 256, 512, 512); set them so, or "
            "model.weights=none.",
        ),
        (
            {"in_channels": 1, "input_scaling": "imagenet_caffe"},
            "An input scaling has another number of channels than the image in "
            "model.input_scaling: found imagenet_caffe for 1, wanted 3; set "
            "model.input_scaling=unit, or three channels.",
        ),
        (
            {"norm": "x"},
            "model.norm is unknown: found 'x', wanted none or batch or instance or group.",
        ),
    ],
)
def test_config_that_makes_no_network(changes, sentence):
    with pytest.raises(RecipeError) as caught:
        build(replace(SMALL, **changes))
    assert str(caught.value) == sentence


def test_size_that_does_not_divide():
    with pytest.raises(
        RecipeError, match=r"found 48 px, wanted a multiple of 32 px; set .*=32 or 64"
    ):
        build(SMALL)(np.zeros((1, 64, 48, 3), np.float32))


def test_learns_two_images():
    case = harness.make_case(SMALL, size_px=(32, 32))
    harness.check_learns(case, steps=120, rate=1e-2, above=0.9)


@pytest.mark.parametrize("name", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_steps_are_finite(name):
    case = harness.make_case(replace(SMALL, channels=(4,) * 5), size_px=(32, 32))
    harness.check_steps_are_finite(case, name)


def test_training_step_compiles_under_xla():
    case = harness.make_case(replace(SMALL, norm="none"), size_px=(32, 64))
    harness.check_xla(case, rtol=1e-3)


def test_save_and_load(tmp_path):
    case = harness.make_case(replace(SMALL, dropout=0.2), size_px=(32, 32))
    harness.check_save_and_load(case.build_seeded(), case.image_unit, tmp_path / "model.keras")


@pytest.mark.real
def test_learns_one_real_slice(real_data):
    """Issue 9, 'Shown by' 6: learns one real slice to a Dice above .95."""
    config = SegNetConfig(channels=(16, 24, 32, 32, 32))
    case = harness.read_real_slice(real_data, config, side_px=128)
    harness.check_learns(case, steps=250, rate=1e-2, above=0.95)
