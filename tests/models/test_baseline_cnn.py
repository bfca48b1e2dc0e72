from dataclasses import replace

import keras
import numpy as np
import pytest

from lesionkeras.config import (
    AugmentConfig,
    BaselineCNNConfig,
    BaselineCNNRecipe,
    DataConfig,
    DecodeConfig,
)
from lesionkeras.errors import RecipeError
from lesionkeras.models import build_detector, check_detector
from lesionkeras.models.baseline_cnn import build_baseline_cnn
from lesionkeras.models.weights import load_backbone_weights, resolve_input_scaling
from tests.models import detector_harness, harness
from tests.models.test_weights import CAFFE, write

SIDE_PX = 32
SMALL = BaselineCNNConfig(channels=(4, 5, 6, 7))
FRONTENDS = {
    "none": SMALL,
    "vgg16": replace(SMALL, frontend="vgg16", vgg_block=2, dropout=0.1),
    "vgg16_concat": replace(SMALL, frontend="vgg16_concat", train_vgg=True),
}


def make_recipe(config=SMALL, **changes):
    return BaselineCNNRecipe(
        data=DataConfig(image_size_px=SIDE_PX), model=replace(config, **changes)
    )


def make_case(config=SMALL, count=4):
    return harness.NetworkCase(
        lambda: build_detector(make_recipe(config)),
        *detector_harness.make_squares(count, SIDE_PX),
    )


@pytest.fixture(scope="module", params=FRONTENDS)
def network(request):
    keras.utils.set_random_seed(5)
    return build_detector(make_recipe(FRONTENDS[request.param]))


def test_default_is_p2s_four_convolutions_on_a_512_px_image():
    model = build_baseline_cnn(BaselineCNNConfig())
    shapes = [layer.output.shape[1:] for layer in model.layers if "drop" not in layer.name][2:]
    assert shapes == [
        (512, 512, 32),
        (512, 512, 32),
        (256, 256, 32),
        (256, 256, 64),
        (256, 256, 64),
        (128, 128, 64),
        (128 * 128 * 64,),
        (4,),
    ]


@pytest.mark.parametrize(("block", "shape"), [(2, (128, 128, 128)), (4, (32, 32, 512))])
def test_a_front_end_stands_in_the_images_place(block, shape):
    config = BaselineCNNConfig(frontend="vgg16", vgg_block=block)
    model = build_baseline_cnn(config)
    vgg16 = model.get_layer("vgg16")
    assert vgg16.compute_output_shape((1, 512, 512, 3)) == (1, *shape)
    assert model.get_layer("conv1").input.shape[1:] == shape
    assert not vgg16.trainable_variables and vgg16.variables


def test_the_concatenation_keeps_vgg16_at_64_px_and_never_upsamples_it():
    config = BaselineCNNConfig(frontend="vgg16_concat", channels=(4, 4, 4, 4))
    model = build_baseline_cnn(config)
    assert model.get_layer("vgg16").compute_output_shape((1, 512, 512, 3)) == (1, 64, 64, 512)
    conv = model.get_layer("conv1")
    assert conv.kernel.shape == (3, 3, 512 + 3, 4) and conv.output.shape[1:] == (512, 512, 4)
    widest = max(np.prod(layer.output.shape[1:]) for layer in model.layers if layer.name != "vgg16")
    assert widest == 512 * 512 * 4


def test_detections_are_one_box_of_score_one(network):
    image_unit = detector_harness.make_squares(3, SIDE_PX)[0]
    atol = 2e-4
    found = harness.check_xla_function(network.detect, image_unit, atol=atol)
    detector_harness.check_detections(found, 3, 1, SIDE_PX)
    assert found["num_detections"].numpy().tolist() == [1, 1, 1]
    assert (found["scores"].numpy() == 1).all() and not found["classes"].numpy().any()
    raw = np.asarray(network(image_unit, training=False)["box_unit"]) * SIDE_PX
    ordered = np.concatenate(
        [np.minimum(raw[:, :2], raw[:, 2:]), np.maximum(raw[:, :2], raw[:, 2:])], axis=1
    )
    np.testing.assert_allclose(found["boxes"][:, 0], ordered.clip(0, SIDE_PX), atol=atol)


def test_more_rows_are_padding():
    model = build_baseline_cnn(SMALL, SIDE_PX, DecodeConfig(0.0, 0.5, 4, 4))
    found = model.detect(detector_harness.make_squares(2, SIDE_PX)[0])
    detector_harness.check_detections(found, 2, 4, SIDE_PX)


def test_loss_is_the_error_of_the_largest_lesion_in_sides_of_the_image():
    model = build_baseline_cnn(SMALL, SIDE_PX)
    boxes = np.zeros((3, 3, 4), np.float32)
    classes = np.full((3, 3), -1, np.int32)
    boxes[0, :2], classes[0, :2] = [[0, 0, 8, 8], [16, 8, 32, 32]], 0  # the second is larger
    boxes[1, 0], classes[1, 0] = [4, 4, 8, 16], 0
    boxes[1, 1] = [0, 0, 32, 32]  # padding by its class, whatever stands there
    raw = np.array([[0.5, 0.25, 0.5, 1.0], [0.125, 0.125, 0.25, 0.5], [9.0, 9, 9, 9]], np.float32)
    targets = {"boxes": boxes, "classes": classes}
    loss = model.compute_loss(x=None, y=targets, y_pred={"box_unit": raw})
    assert float(loss) == pytest.approx(0.5**2 / 4 / 2)  # the third image has no lesion
    classes[:] = -1
    assert float(model.compute_loss(y=targets, y_pred={"box_unit": raw})) == 0.0


def test_learns_four_images_and_images_without_a_lesion_do_no_harm():
    case = make_case()
    model = harness.check_learns(case, steps=60, below=0.1)
    logs = model.train_on_batch(case.image_unit, case.targets, return_dict=True)
    assert logs.keys() == {"loss", "box_loss"}
    detector_harness.check_lesion_free(model, case)


def test_every_front_end_has_a_finite_step(network):
    case = make_case()
    harness.check_step_is_finite(network, case.image_unit, case.targets)


def test_reload(network, tmp_path):
    detector_harness.check_reload(network, detector_harness.make_squares(2, SIDE_PX)[0], tmp_path)


def test_export(tmp_path):
    recipe = make_recipe()
    detector_harness.check_export(recipe, build_detector(recipe), tmp_path)


def test_config_round_trip():
    config = BaselineCNNConfig(
        frontend="vgg16",
        vgg_block=4,
        weights="some.npz",
        input_scaling="bytes",
        train_vgg=True,
        upsampling="nearest",
        channels=(3, 4, 5, 6),
        dropout=0.05,
    )
    decode = DecodeConfig(0.15, 0.6, 33, 7)
    assert not [k for k, v in vars(config).items() if v == vars(BaselineCNNConfig())[k]]
    harness.check_config_round_trip(build_baseline_cnn(replace(config, dropout=0.0), 64, decode))
    model = build_baseline_cnn(config, 64, decode)  # a dropout's generator is named by a counter
    again = type(model).from_config(model.get_config())
    assert (again.baseline_config, again.side_px, again.decode) == (config, 64, decode)


@pytest.mark.parametrize(
    "name", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_16_bit_policies(name):
    harness.check_policy(make_case(), name)


@pytest.mark.parametrize("frontend", ["none", pytest.param("vgg16_concat", marks=pytest.mark.slow)])
def test_training_step_compiles_under_xla(frontend):
    harness.check_xla_training_step(make_case(FRONTENDS[frontend], count=2), rtol=2e-3)


@pytest.mark.parametrize("frontend", ["vgg16", "vgg16_concat"])
def test_weights_of_the_whole_vgg16_fill_its_first_blocks(tmp_path, frontend):
    random, path = np.random.default_rng(0), tmp_path / "vgg16.npz"
    whole = build_baseline_cnn(FRONTENDS["vgg16_concat"], SIDE_PX).get_layer("vgg16")
    arrays = {
        f"{layer.name}/{v.name}": random.normal(size=v.shape).astype(np.float32)
        for layer in whole.layers
        for v in layer.weights
    }
    assert len(arrays) == 26
    write(path, arrays, CAFFE)
    config = resolve_input_scaling(replace(FRONTENDS[frontend], weights=str(path)))
    assert config.input_scaling == "imagenet_caffe"
    model = build_baseline_cnn(config, SIDE_PX)
    load_backbone_weights(model, config)
    vgg16, count = model.get_layer("vgg16"), 0
    for layer in vgg16.layers:
        for variable in layer.weights:
            wanted = arrays[f"{layer.name}/{variable.name}"]
            np.testing.assert_array_equal(variable, wanted)
            count += 1
    assert count == (8 if frontend == "vgg16" else 26)


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        (
            replace(make_recipe(), augment=AugmentConfig(crop_size_px=64)),
            "A dense layer sees images of one size in augment.crop_size_px: found 64, wanted 0; "
            "set augment.crop_size_px=0.",
        ),
        (
            make_recipe(weights="imagenet"),
            "Weights have no place in the network in model.weights: found imagenet without a "
            "front end, wanted none; set model.frontend=vgg16 or vgg16_concat, or "
            "model.weights=none.",
        ),
    ],
)
def test_what_makes_no_network_is_refused_before_it_is_built(recipe, text):
    check_detector(make_recipe())
    with pytest.raises(RecipeError) as caught:
        check_detector(recipe)
    assert str(caught.value) == text


def test_a_side_must_divide():
    with pytest.raises(RecipeError, match=r"found 36 px, wanted a multiple of 8 px;"):
        build_baseline_cnn(FRONTENDS["vgg16_concat"], 36)


@pytest.mark.real
@pytest.mark.parametrize(
    "frontend",
    ["none", *(pytest.param(f, marks=pytest.mark.slow) for f in FRONTENDS if f != "none")],
)
def test_learns_one_real_slice(real_data, frontend):
    config = replace(FRONTENDS[frontend], channels=(8, 8, 8, 8), train_vgg=False, dropout=0.0)
    recipe = replace(make_recipe(config), data=DataConfig(image_size_px=128))
    detector_harness.check_learns_one_real_slice(recipe, real_data, steps=1000, below=1e-3)


def test_keras_own_loops_take_any_batch():
    case = make_case()
    detector_harness.check_fit(case.build_seeded(), case)
