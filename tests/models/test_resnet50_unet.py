from dataclasses import replace

import keras
import numpy as np
import pytest

from lesionkeras.config import ResNet50UNetConfig
from lesionkeras.errors import RecipeError
from lesionkeras.models import build
from lesionkeras.models.backbones import build_resnet
from tests.models import segmenter_harness as harness

NARROW = ResNet50UNetConfig(decoder_channels=(32, 24, 16, 12, 8))


@pytest.fixture(scope="module")
def supervised():
    """ResNet50 with deep supervision; checks its shapes on the way."""
    keras.utils.set_random_seed(3)
    config = replace(NARROW, deep_supervision=2, upsampling="transpose")
    return harness.check_shapes(config, [(32, 64)], scales=3)


def test_decoder_joins_the_maps_of_its_strides(supervised):
    skips = {16: 1024, 8: 512, 4: 256, 2: 64, 1: 8}  # ResNet50's maps, the stem's, the image's
    for (stride, channels), width in zip(skips.items(), NARROW.decoder_channels, strict=True):
        join = supervised.get_layer(f"up{stride}_join")
        assert [x.shape[-1] for x in join.input] == [channels, width]
        for i in (1, 2):
            assert supervised.get_layer(f"up{stride}_conv{i}").filters == width


def test_encoder_is_the_detectors(supervised):
    """Same layers, same names: what fills one fills the other; and its maps are the encoder's."""
    encoder, resnet = supervised.get_layer("resnet50"), build_resnet("resnet50")
    names = [f"{la.name}/{v.name}" for la in resnet.layers for v in la.weights]
    assert [f"{la.name}/{v.name}" for la in encoder.layers for v in la.weights] == names
    resnet.set_weights(encoder.get_weights())
    image = harness.make_livers(1, 64, 32)[0]
    for ours, wanted in zip(encoder(image)[1:], resnet(image), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)
    assert encoder(image)[0].shape == (1, 32, 16, 64)


def test_save_and_load(supervised, tmp_path):
    image = harness.make_livers(1, 64, 32)[0]
    harness.check_save_and_load(supervised, image, tmp_path / "model.keras")


def test_size_that_does_not_divide(supervised):
    with pytest.raises(RecipeError, match=r"found 40 px, wanted a multiple of 32 px"):
        supervised(np.zeros((1, 64, 40, 3), np.float32))


def test_resnet34_without_the_images_skip():
    config = replace(NARROW, backbone="resnet34", image_skip=False, head="binary", dropout=0.4)
    model = harness.check_shapes(config, [(64, 32)])
    assert [x.shape[-1] for x in model.get_layer("up16_join").input] == [256, 32]
    names = {layer.name for layer in model.layers}
    assert "up1_conv1" in names and "image_conv" not in names and "up1_join" not in names


def test_one_slice_is_seen_in_all_three_colours():
    """P5's images are of one slice."""
    config = replace(NARROW, backbone="resnet34")
    three = harness.make_case(config).build_seeded()
    one = build(replace(config, in_channels=1))
    one.set_weights(three.get_weights())
    image = harness.make_livers(1, 32, 64, 1)[0]
    np.testing.assert_allclose(one(image), three(np.repeat(image, 3, axis=-1)), atol=1e-6)


def test_frozen_norms_keep_their_statistics():
    config = replace(NARROW, backbone="resnet34", freeze_norm=True)
    model = build(config)
    encoder = model.get_layer("resnet34")
    norms = [la for la in encoder.layers if isinstance(la, keras.layers.BatchNormalization)]
    assert len(norms) == 36
    others = [v.path for v in encoder.trainable_variables]
    assert len(others) == 36 and all(path.endswith("kernel") for path in others)
    before = [np.array(v) for norm in norms for v in norm.weights]
    model(harness.make_livers(2, 32, 32)[0], training=True)
    after = [np.array(v) for norm in norms for v in norm.weights]
    assert all(map(np.array_equal, before, after))
    decoder = model.get_layer("up16_conv1_norm")
    assert np.any(decoder.moving_mean) and decoder.trainable


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"in_channels": 5},
            "An ImageNet encoder has three channels in model.in_channels: found 5, wanted 3, or 1 "
            "that all three see; set data.slices=3.",
        ),
        (
            {"decoder_channels": (8, 8)},
            "The decoder has five steps in model.decoder_channels: found (8, 8), wanted five "
            "widths.",
        ),
        (
            {"backbone": "resnet18"},
            "A backbone is not known in model.backbone: found resnet18, wanted resnet34 or "
            "resnet50; choose one of them.",
        ),
    ],
)
def test_config_that_makes_no_network(changes, sentence):
    with pytest.raises(RecipeError) as caught:
        build(replace(NARROW, **changes))
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_steps_are_finite(name):
    config = replace(NARROW, backbone="resnet34" if name == "mixed_bfloat16" else "resnet50")
    harness.check_steps_are_finite(harness.make_case(config, size_px=(32, 32)), name)


def test_training_step_compiles_under_xla():
    config = replace(NARROW, backbone="resnet34", upsampling="bilinear", norm="none")
    harness.check_xla(harness.make_case(config, size_px=(64, 32)), rtol=2e-3)


@pytest.mark.real
def test_learns_one_real_slice(real_data):
    """Issue 9, 'Shown by' 6: learns one real slice to a Dice above .95.

    The tumour has 18 pixels at this size: one that is wrong leaves .973.
    """
    config = ResNet50UNetConfig(decoder_channels=(64, 48, 32, 32, 32))
    case = harness.read_real_slice(real_data, config, side_px=64)
    harness.check_learns(case, steps=100, rate=4e-3, above=0.95)
