from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.config import UNetConfig
from lesionkeras.errors import RecipeError
from lesionkeras.models import build, check_size, inference_model
from lesionkeras.models.blocks import UPSAMPLINGS, BilinearUpsampling
from tests.models import segmenter_harness as harness

SMALL = UNetConfig(base_channels=8, depth=4)
SIZES = (32, 32), (48, 24), (16, 40)


def count_by_hand(in_channels, num_logits, norm):
    """Ronneberger's figure 1, convolution by convolution: kernel times channels, and biases."""
    per_channel = {"none": 1, "batch": 4}[norm]  # a bias; gamma, beta, mean and variance

    def conv(before, after):
        return 9 * before * after + per_channel * after

    down = conv(in_channels, 64) + conv(64, 64)
    down += conv(64, 128) + conv(128, 128) + conv(128, 256) + conv(256, 256)
    down += conv(256, 512) + conv(512, 512) + conv(512, 1024) + conv(1024, 1024)
    up = 0
    for wide, narrow in ((1024, 512), (512, 256), (256, 128), (128, 64)):
        up += 4 * wide * narrow + narrow + conv(wide, narrow) + conv(narrow, narrow)
    return down + up + 64 * num_logits + num_logits


@pytest.mark.parametrize(
    ("in_channels", "head", "norm", "wanted"),
    [(1, "binary", "none", 31_030_593), (3, "three_class", "batch", 31_049_539)],
)
def test_parameters_of_the_paper(in_channels, head, norm, wanted):
    config = UNetConfig(in_channels=in_channels, head=head, norm=norm)
    assert config.base_channels == 64 and config.depth == 5
    logits = harness.NUM_LOGITS[head]
    assert build(config).count_params() == count_by_hand(in_channels, logits, norm) == wanted


def test_maps_of_the_paper():
    model = build(UNetConfig())
    assert [
        tuple(model.get_layer(f"{part}_conv2").output.shape)
        for part in ("down0", "down1", "down2", "down3", "down4", "up3", "up2", "up1", "up0")
    ] == [(None, None, None, c) for c in (64, 128, 256, 512, 1024, 512, 256, 128, 64)]
    kinds = keras.layers.Conv2D, keras.layers.Conv2DTranspose
    assert len([la for la in model.layers if isinstance(la, kinds)]) == 23  # "in total"
    assert model.compute_output_shape((2, 512, 512, 3)) == (2, 512, 512, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head": "binary", "in_channels": 1, "norm": "none", "upsampling": "nearest"},
        {"norm": "instance", "upsampling": "bilinear", "dropout": 0.5, "depth": 3},
        {"norm": "group", "max_channels": 16},
    ],
)
def test_shapes(changes):
    harness.check_shapes(replace(SMALL, **changes), [(8, 8), (64, 24)])


def test_widest_level_is_capped():
    model = build(replace(SMALL, max_channels=20))
    widths = [model.get_layer(f"down{level}_conv2").filters for level in range(4)]
    assert widths == [8, 16, 20, 20]


def test_dropout_is_after_the_two_deepest_levels():
    model = build(replace(SMALL, dropout=0.3))
    drops = [la for la in model.layers if isinstance(la, keras.layers.Dropout)]
    assert [(la.name, la.rate) for la in drops] == [("down2_dropout", 0.3), ("down3_dropout", 0.3)]


def test_finest_skip_is_a_way_of_its_own():
    """Without what comes from below, a pixel still changes what four convolutions see of it."""
    model = build(replace(SMALL, norm="none"))
    below = model.get_layer("up0")
    below.set_weights([np.zeros_like(w) for w in below.get_weights()])
    image = np.random.default_rng(0).random((1, 32, 32, 3)).astype(np.float32)
    changed = image.copy()
    changed[0, 13, 17] += 1.0
    rows, columns = np.nonzero(np.any(np.array(model(changed) != model(image))[0], axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (9, 17, 13, 21)


def test_deep_supervision_and_inference_share_their_weights():
    config = replace(SMALL, deep_supervision=2)
    model = harness.check_shapes(config, [(16, 32)], scales=3)
    assert {"logits", "logits2", "logits4"} <= {layer.name for layer in model.layers}
    single = inference_model(model)
    image = harness.make_livers(1, 16, 32)[0]
    before = np.array(single(image))
    np.testing.assert_array_equal(before, model(image)[0])
    model.get_layer("logits").bias.assign_add([1.0, 2.0, 3.0])
    wanted = np.broadcast_to([1, 2, 3], before.shape)
    np.testing.assert_allclose(single(image) - before, wanted, rtol=1e-6)
    assert inference_model(single) is single
    assert [v.path for v in single.variables] == [v.path for v in build(SMALL).variables]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"deep_supervision": 3},
            "Deep supervision wants maps that the decoder has not in model.deep_supervision: "
            "found 3, wanted 0 to 2; lower it.",
        ),
        ({"head": "four"}, "model.head is unknown: found 'four', wanted binary or three_class."),
        (
            {"norm": "layer"},
            "model.norm is unknown: found 'layer', wanted none or batch or instance or group.",
        ),
        (
            {"upsampling": "cubic"},
            "model.upsampling is unknown: found 'cubic', wanted transpose or nearest or bilinear.",
        ),
    ],
)
def test_config_that_makes_no_network(changes, sentence):
    with pytest.raises(RecipeError) as caught:
        build(replace(SMALL, **changes))
    assert str(caught.value) == sentence


def test_size_that_does_not_divide():
    wanted = (
        "An image does not divide into the network's cells in data.image_size_px: found 100 px, "
        "wanted a multiple of 8 px; set data.image_size_px=96 or 104."
    )
    model = build(SMALL)
    for size_px in ((100, 64), (64, 100)):
        with pytest.raises(RecipeError) as caught:
            model(np.zeros((1, *size_px, 3), np.float32))
        assert str(caught.value) == wanted
    with pytest.raises(RecipeError) as caught:
        check_size(SMALL, 100)
    assert str(caught.value) == wanted
    with pytest.raises(RecipeError, match=r"found 5 px.*; set data.image_size_px=8\."):
        check_size(SMALL, 5)
    for side_px in (None, 8, 104):
        check_size(SMALL, side_px)
    unknown = tf.function(model, [tf.TensorSpec([None, None, None, 3])])
    assert unknown(np.zeros((2, 64, 72, 3), np.float32)).shape[:3] == (2, 64, 72)
    with pytest.raises(tf.errors.InvalidArgumentError, match="cells of 8 px"):
        unknown(np.zeros((1, 100, 64, 3), np.float32))


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_one_network_takes_images_of_two_sizes(upsampling):
    """From the second size on, Keras traces it for sides that it does not know."""
    model = build(replace(SMALL, upsampling=upsampling))
    images = [np.random.default_rng(0).random((1, *size, 3), np.float32) for size in SIZES]
    for image in images:
        found = model.predict(image, verbose=0)
        np.testing.assert_allclose(found, model(image), rtol=1e-4, atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="cells of 8 px"):
        model.predict(np.zeros((1, 28, 20, 3), np.float32), verbose=0)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bilinear_upsampling_is_as_keras_does_it(dtype):
    image = np.random.default_rng(0).random((2, 3, 1, 4), np.float32)
    theirs = keras.layers.UpSampling2D(2, interpolation="bilinear")(image)
    ours = BilinearUpsampling(dtype=dtype)(image)
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, theirs, atol=1e-6 if dtype == "float32" else 1e-3)


@pytest.mark.parametrize("upsampling", ["transpose", "bilinear"])
def test_learns_two_images(upsampling):
    config = replace(SMALL, upsampling=upsampling, deep_supervision=1)
    harness.check_learns(harness.make_case(config), steps=30, rate=1e-2, above=0.9)


@pytest.mark.parametrize("name", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_steps_are_finite(name):
    case = harness.make_case(replace(SMALL, base_channels=4, depth=3), size_px=(16, 16))
    harness.check_steps_are_finite(case, name)


@pytest.mark.parametrize(
    ("norm", "upsampling"),
    [("batch", "transpose"), ("none", "bilinear"), ("group", "nearest")],
)
def test_training_step_compiles_under_xla(norm, upsampling):
    config = replace(SMALL, depth=3, norm=norm, upsampling=upsampling, deep_supervision=1)
    harness.check_xla(harness.make_case(config, size_px=(32, 16)), rtol=1e-3)


def test_save_and_load(tmp_path):
    config = replace(SMALL, deep_supervision=2, norm="group", upsampling="bilinear", dropout=0.1)
    case = harness.make_case(config)
    harness.check_save_and_load(case.build_seeded(), case.image_unit, tmp_path / "model.keras")


@pytest.mark.real
def test_learns_one_real_slice(real_data):
    """Issue 9, 'Shown by' 6: learns one real slice to a Dice above .95."""
    case = harness.read_real_slice(real_data, UNetConfig(base_channels=12, depth=4), side_px=128)
    harness.check_learns(case, steps=200, rate=1e-2, above=0.95)
