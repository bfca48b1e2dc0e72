import keras
import keras_cv
import numpy as np
import pytest
from keras import ops

from lesionkeras.errors import RecipeError
from lesionkeras.models.backbones import (
    BLOCK_TYPES,
    STRIDES_PX,
    SymmetricConv2D,
    SymmetricMaxPooling2D,
    build_resnet,
)
from lesionkeras.models.imagenet import from_keras_applications, from_torchvision

BLOCKS = (3, 4, 6, 3)
CHANNELS = (64, 128, 256, 512)
# The last activations of keras.applications' stacks, in the order of our maps.
STACK_OUTPUTS = ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out")


def assign(model, arrays):
    variables = {f"{layer.name}/{v.name}": v for layer in model.layers for v in layer.weights}
    assert variables.keys() == arrays.keys()
    for key, variable in variables.items():
        variable.assign(arrays[key])


def make_image(size_px, seed=0):
    return np.random.default_rng(seed).normal(size=(1, size_px, size_px, 3)).astype(np.float32)


def make_torch_state(seed=1):
    """A ResNet34 of PyTorch's names and layout; scaled so that activations stay around 1."""
    rng, state = np.random.default_rng(seed), {}

    def put(conv, bn, channels_in, channels, size, gain):
        scale = np.sqrt(2 / (channels_in * size * size))
        kernel = rng.standard_normal((channels, channels_in, size, size), np.float32) * scale
        state[f"{conv}.weight"] = kernel.astype(np.float32)
        for name, low, high in (
            ("weight", 0.6 * gain, 1.4 * gain),
            ("bias", -0.3, 0.3),
            ("running_mean", -0.2, 0.2),
            ("running_var", 0.7, 1.5),
        ):
            state[f"{bn}.{name}"] = rng.uniform(low, high, channels).astype(np.float32)
        state[f"{bn}.num_batches_tracked"] = np.array(7)

    put("conv1", "bn1", 3, 64, 7, 1.0)
    channels_in = 64
    for stack, (blocks, channels) in enumerate(zip(BLOCKS, CHANNELS, strict=True), 1):
        for block in range(blocks):
            name = f"layer{stack}.{block}"
            if channels_in != channels:
                put(f"{name}.downsample.0", f"{name}.downsample.1", channels_in, channels, 1, 1.0)
            put(f"{name}.conv1", f"{name}.bn1", channels_in, channels, 3, 1.0)
            put(f"{name}.conv2", f"{name}.bn2", channels, channels, 3, 0.3)
            channels_in = channels
    state["fc.weight"], state["fc.bias"] = np.zeros((1000, 512)), np.zeros(1000)
    return state


def run_torch_resnet34(state, x):
    """What torchvision's BasicBlock network computes, straight from the state dict."""

    def conv_norm(x, conv, bn, stride):
        kernel = np.transpose(state[f"{conv}.weight"], (2, 3, 1, 0))
        pad = kernel.shape[0] // 2
        x = ops.conv(np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))), kernel, stride, "valid")
        centred = np.asarray(x) - state[f"{bn}.running_mean"]
        scaled = centred / np.sqrt(state[f"{bn}.running_var"] + 1e-5)
        return scaled * state[f"{bn}.weight"] + state[f"{bn}.bias"]

    x = np.maximum(conv_norm(x, "conv1", "bn1", 2), 0)
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    x = np.asarray(ops.max_pool(x, 3, 2, "valid"))
    maps = []
    for stack, blocks in enumerate(BLOCKS, 1):
        for block in range(blocks):
            name, stride = f"layer{stack}.{block}", 2 if stack > 1 and block == 0 else 1
            shortcut = x
            if f"{name}.downsample.0.weight" in state:
                shortcut = conv_norm(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
            x = np.maximum(conv_norm(x, f"{name}.conv1", f"{name}.bn1", stride), 0)
            x = np.maximum(conv_norm(x, f"{name}.conv2", f"{name}.bn2", 1) + shortcut, 0)
        maps.append(x)
    return maps


@pytest.fixture(scope="module")
def torch_state():
    return make_torch_state()


@pytest.fixture(scope="module")
def resnet34(torch_state):
    model = build_resnet("resnet34")
    assign(model, from_torchvision(torch_state))
    return model


@pytest.fixture(scope="module")
def keras_resnet50():
    """keras.applications' own network with random biases and statistics."""
    model = keras.applications.ResNet50(weights=None, include_top=False)
    rng = np.random.default_rng(2)
    spans = {"gamma": (0.6, 1.4), "beta": (-0.3, 0.3), "bias": (-0.2, 0.2)}
    spans |= {"moving_mean": (-0.2, 0.2), "moving_variance": (0.7, 1.5)}
    for layer in model.layers:
        for variable in layer.weights:
            if variable.name != "kernel":
                variable.assign(rng.uniform(*spans[variable.name], variable.shape))
    outputs = [model.get_layer(name).output for name in STACK_OUTPUTS]
    return keras.Model(model.input, outputs)


@pytest.fixture(scope="module")
def resnet50(keras_resnet50):
    model = build_resnet("resnet50")
    assign(model, from_keras_applications(keras_resnet50))
    return model


@pytest.mark.parametrize("size_px", [225, 224])
def test_resnet34_equals_torchvisions(torch_state, resnet34, size_px):
    image = make_image(size_px)
    wanted = run_torch_resnet34(torch_state, image)
    found = resnet34(image, training=False)
    assert [m.shape for m in wanted] == [tuple(m.shape) for m in found]
    for ours, reference in zip(found, wanted, strict=True):
        assert 0.2 < reference.std() < 5  # neither vanishing nor exploding: the tolerance means it
        np.testing.assert_allclose(ours, reference, atol=5e-5, rtol=0)


@pytest.mark.parametrize("size_px", [64, 97, 224])
def test_resnet50_equals_keras_applications(keras_resnet50, resnet50, size_px):
    image = make_image(size_px)
    for ours, reference in zip(
        resnet50(image, training=False), keras_resnet50(image, training=False), strict=True
    ):
        assert 0.2 < np.std(reference) < 5
        np.testing.assert_allclose(ours, reference, atol=1e-4, rtol=0)


def test_keras_cvs_own_padding_shifts_even_sizes(resnet50):
    plain = keras_cv.models.ResNetBackbone(
        stackwise_filters=list(CHANNELS),
        stackwise_blocks=list(BLOCKS),
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=False,
        block_type="block",
    )
    plain.set_weights(resnet50.get_weights())
    odd, even = make_image(97), make_image(224)
    np.testing.assert_allclose(plain(odd), resnet50(odd)[-1], atol=1e-4, rtol=0)
    assert np.abs(plain(even) - resnet50(even)[-1]).max() > 0.1


def test_maps_have_the_strides_and_channels_of_the_paper(resnet34, resnet50):
    image = make_image(97)[:, :65]
    for model, width in ((resnet34, 1), (resnet50, 4)):
        assert [m.shape for m in model(image)] == [
            (1, -(-65 // stride), -(-97 // stride), channels * width)
            for stride, channels in zip(STRIDES_PX, CHANNELS, strict=True)
        ]
    assert [resnet34.name, resnet50.name] == list(BLOCK_TYPES)


def test_shapes_of_known_sizes_are_those_of_the_maps(resnet34):
    symbolic = resnet34(keras.Input((65, 97, 3)))
    assert [m.shape[1:3] for m in symbolic] == [(17, 25), (9, 13), (5, 7), (3, 4)]


def test_strided_convolution_is_padded_alike_on_every_side():
    layer = SymmetricConv2D(1, 3, strides=2, use_bias=False, kernel_initializer="ones")
    # 'same' would pad below and right alone: [[9, 6], [6, 4]].
    assert np.array_equal(layer(np.ones((1, 4, 4, 1)))[0, :, :, 0], [[4, 6], [6, 9]])


def test_max_pooling_is_padded_alike_on_every_side():
    layer = SymmetricMaxPooling2D(3, strides=2)
    image = np.arange(16.0).reshape(1, 4, 4, 1)
    # 'same' would give [[10, 11], [14, 15]].
    assert np.array_equal(layer(image)[0, :, :, 0], [[5, 7], [13, 15]])


def test_layers_come_back_from_their_file(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, None, 1)), SymmetricConv2D(2, 3, 2), SymmetricMaxPooling2D(3, 2)]
    )
    model.save(tmp_path / "model.keras")
    image = make_image(4)[..., :1]
    again = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(*(keras.ops.convert_to_numpy(m(image)) for m in (again, model)))


def test_unknown_backbone_is_named():
    with pytest.raises(RecipeError) as caught:
        build_resnet("resnet18")
    assert str(caught.value) == (
        "A backbone is not known in model.backbone: found resnet18, wanted resnet34 or resnet50; "
        "choose one of them."
    )
