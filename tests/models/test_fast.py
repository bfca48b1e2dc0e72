import keras
import numpy as np
import pytest

from lesionkeras.config import UNetConfig
from lesionkeras.models.fast import compile_inference, count_operations, make_fast
from lesionkeras.models.unet import build_unet
from lesionkeras.models.winograd import FoldedConv2D

L = keras.layers


def stir(model):
    """Gives every variable a value of its own, statistics of norms included."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            stir(layer)
        elif isinstance(layer, L.BatchNormalization):
            for v in layer.weights:
                v.assign(random.uniform(0.5, 1.5, v.shape))
        elif layer.weights:
            for v in layer.weights:
                v.assign(v + random.normal(0, 0.1, v.shape))
    return model


def list_kinds(model):
    return [type(layer).__name__ for layer in model.layers[1:]]


def check_same(model, shape=(2, 9, 7, 3), tolerance=1e-5):
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    fast = make_fast(model, winograd_channels=2)
    for ours, wanted in zip(
        keras.tree.flatten(fast(image, training=False)),
        keras.tree.flatten(model(image, training=False)),
        strict=True,
    ):
        assert np.abs(ours - wanted).max() <= tolerance * np.abs(wanted).max()
    return fast


@pytest.fixture(scope="module")
def unet():
    return stir(build_unet(UNetConfig(base_channels=4, depth=3, deep_supervision=1)))


def test_unet_is_the_same_and_every_step_is_folded(unet):
    fast = check_same(unet, (2, 12, 20, 3))
    folded = [layer for layer in fast.layers if isinstance(layer, FoldedConv2D)]
    assert len(folded) == 2 * 3 + 2 * 2 + 2  # encoder, decoder, heads
    assert sum(layer.winograd for layer in folded) == 10
    assert not {"FusedBatchNormalization", "ReLU", "Conv2D"} & set(list_kinds(fast))


def test_later_weights_do_not_reach_it_and_the_network_stays_as_it_was(unet):
    image = np.ones((1, 8, 8, 3), np.float32)
    before = [np.array(y) for y in unet(image, training=False)]
    fast = make_fast(unet)
    assert list_kinds(unet).count("FusedBatchNormalization") == 10
    logits = unet.get_layer("logits")
    kept = logits.bias.numpy()
    logits.bias.assign(kept + 5)
    assert np.allclose(fast(image)[0], before[0], atol=1e-4)
    logits.bias.assign(kept)
    assert np.allclose(unet(image, training=False)[0], before[0])


def test_batches_go_image_by_image():
    x = keras.Input((None, None, 3))
    model = keras.Model(x, L.Conv2D(2, 3, padding="same")(x))
    images = np.random.default_rng(0).normal(size=(3, 6, 5, 3))
    infer = compile_inference(stir(model), winograd_channels=2)
    assert np.allclose(infer(images), model(images.astype(np.float32)), atol=1e-5)
    assert infer(images).dtype == np.float32
    assert infer(images[:0]).shape == (0, 6, 5, 2)


def build(steps, shape=(None, None, 3)):
    x = inputs = keras.Input(shape)
    for step in steps:
        x = step(x)
    return stir(keras.Model(inputs, x))


@pytest.mark.parametrize(
    ("steps", "kinds"),
    [
        ([L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU()], ["FoldedConv2D"]),
        ([L.Conv2D(4, 3, 2, "same"), L.Activation("relu")], ["FoldedConv2D"]),
        ([L.Conv2D(4, (1, 3), activation="relu")], ["FoldedConv2D"]),
        (
            [L.Conv2D(4, 3, use_bias=False), L.BatchNormalization(scale=False, center=False)],
            ["FoldedConv2D"],
        ),
        # ReLU before the norm, and others than the plain ReLU, stay what they are
        (
            [L.Conv2D(4, 3, activation="relu"), L.BatchNormalization()],
            ["FoldedConv2D", "BatchNormalization"],
        ),
        ([L.Conv2D(4, 3), L.ReLU(6.0)], ["FoldedConv2D", "ReLU"]),
        ([L.Conv2D(4, 3), L.ReLU(), L.ReLU(0.5)], ["FoldedConv2D", "ReLU"]),
        ([L.Conv2D(4, 3, activation="tanh"), L.ReLU()], ["Conv2D", "ReLU"]),
        # what this does not know stays
        ([L.Conv2D(4, 3, dilation_rate=2)], ["Conv2D"]),
        ([L.Conv2D(6, 3, groups=3), L.BatchNormalization()], ["Conv2D", "BatchNormalization"]),
        ([L.Conv2D(3, 3, dtype="float16")], ["Conv2D"]),
        ([L.DepthwiseConv2D(3), L.BatchNormalization()], ["DepthwiseConv2D", "BatchNormalization"]),
    ],
)
def test_only_what_means_the_same_is_folded(steps, kinds):
    assert list_kinds(check_same(build(steps))) == kinds


def test_what_others_read_is_kept():
    x = keras.Input((None, None, 3))
    a = L.Conv2D(4, 3, padding="same", name="read_twice")(x)
    b = L.BatchNormalization()(a)
    c = L.Conv2D(4, 3, padding="same", name="is_an_output")(L.Add()([a, b]))
    model = stir(keras.Model(x, [c, L.ReLU()(c)]))
    kinds = list_kinds(check_same(model))
    assert kinds.count("BatchNormalization") == 1 and kinds.count("ReLU") == 1


def test_layers_that_are_called_twice_are_left_alone():
    x = keras.Input((None, None, 3))
    conv, norm = L.Conv2D(3, 3, padding="same"), L.BatchNormalization()
    model = stir(keras.Model(x, norm(conv(norm(conv(x))))))
    assert "FoldedConv2D" not in list_kinds(check_same(model))


def test_networks_within_a_network_are_changed_too():
    inner = build([L.Conv2D(3, 3, padding="same"), L.BatchNormalization()])
    outer = stir(build([inner, L.ReLU()]))
    fast = check_same(outer)
    assert list_kinds(fast.layers[1]) == ["FoldedConv2D"]


def test_compiled_networks_are_not_compiled_again():
    model = build([L.Conv2D(2, 3)])
    model.compile("adam", "mse")
    assert not make_fast(model).compiled


def test_operations_are_counted_by_hand():
    model = build(
        [L.Conv2D(4, 3, padding="same"), L.Conv2DTranspose(2, 2, 2), L.Conv2D(1, 1)],
        (None, None, 5),
    )
    direct = [6 * 9 * 9 * 5 * 4, 6 * 9 * 4 * 4 * 2, 12 * 18 * 2]  # pixels, kernel, channels
    assert count_operations(model, (6, 9, 5)) == 2 * sum(direct)
    tiles = 2 * 3  # of 4x4, the last ones reach beyond
    done = [tiles * 36 * 5 * 4, *direct[1:]]
    assert count_operations(make_fast(model, winograd_channels=4), (6, 9, 5)) == 2 * sum(done)
