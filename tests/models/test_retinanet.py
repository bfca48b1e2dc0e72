from dataclasses import replace

import keras
import numpy as np
import pytest

from lesionkeras.boxes.anchors import make_anchors, num_anchors_per_cell
from lesionkeras.config import (
    AnchorConfig,
    DataConfig,
    DecodeConfig,
    FocalLossConfig,
    MatchConfig,
    RetinaNetConfig,
    RetinaNetRecipe,
)
from lesionkeras.errors import RecipeError
from lesionkeras.models import build_detector, check_detector
from lesionkeras.models.retinanet import build_retinanet
from tests.models import detector_harness, harness
from tests.models.tiny_backbone import tiny_backbone  # noqa: F401

SMALL = RetinaNetConfig(
    backbone="resnet34",
    pyramid_channels=16,
    head_convs=1,
    norm="group",
    anchors=AnchorConfig((8, 16, 32), 2.5, (1.0, 1.4), (0.5, 1.0, 2.0)),
)
RECIPE = RetinaNetRecipe(
    data=DataConfig(image_size_px=64),
    model=SMALL,
    decode=DecodeConfig(score_threshold=0.005, candidates=60, max_detections=9),
)
HEADS = ("class/", "box/")


def make_case(count=2, side_px=64, **changes):
    model = replace(SMALL, **changes)
    return harness.NetworkCase(
        lambda: build_detector(replace(RECIPE, model=model)),
        *detector_harness.make_squares(count, side_px),
    )


@pytest.fixture(scope="module")
def loud():
    """A network of two classes whose scores and boxes differ from anchor to anchor."""
    keras.utils.set_random_seed(5)
    model = build_detector(replace(RECIPE, model=replace(SMALL, num_classes=2)))
    harness.make_loud(model, HEADS, std=0.1)
    return model


@pytest.mark.parametrize(
    ("strides", "coarse_from"), [((8, 16, 32), "p5"), ((4, 64), "p5"), ((16, 128), "c5")]
)
def test_shapes_of_odd_sizes_and_any_strides(strides, coarse_from):
    anchors = replace(SMALL.anchors, strides_px=strides)
    model = build_retinanet(replace(SMALL, anchors=anchors, coarse_from=coarse_from))
    shapes = model.compute_output_shape((3, 97, 65, 3))
    cells = sum(-(-97 // s) * -(-65 // s) for s in strides)
    num_anchors = cells * num_anchors_per_cell(anchors)
    assert len(model.anchors(97, 65)) == num_anchors
    assert shapes["class_logits"] == (3, num_anchors, 1)
    assert shapes["box_deltas"] == (3, num_anchors, 4)
    assert shapes["pyramid"] == [(3, -(-97 // s), -(-65 // s), 16) for s in strides]
    names = {layer.name for layer in model.layers if layer.name.startswith("pyramid")}
    assert {f"pyramid{s}" for s in strides} <= names
    assert ("pyramid128" in names) == (128 in strides)  # what nobody asks for costs nothing
    assert ("pyramid32" in names) == (coarse_from == "p5")


def test_defaults_are_the_papers_with_anchors_from_16_px():
    config = RetinaNetConfig()
    model = build_retinanet(config)
    sides = np.sqrt(np.prod(np.diff(model.anchors(256, 256).reshape(-1, 2, 2), axis=1), axis=-1))
    assert sides.min() == pytest.approx(16, rel=1e-3)
    head = model.get_layer("class_head")
    kernels = [layer.kernel.shape for layer in head.layers if hasattr(layer, "kernel")]
    assert kernels == [(3, 3, 256, 256)] * 4 + [(3, 3, 256, 9)]
    assert model.match == MatchConfig(0.5, 0.4)


def test_rows_are_in_the_order_of_the_anchors():
    """Strides, then cells, then a cell's anchors, each with its classes or its four deltas."""
    model = build_retinanet(replace(SMALL, num_classes=2, head_convs=0))
    strides, per_cell = SMALL.anchors.strides_px, num_anchors_per_cell(SMALL.anchors)
    for stride in strides:  # a map of this stride says the stride, in channel 0
        layer = model.get_layer(f"pyramid{stride}")
        layer.set_weights([0 * layer.kernel.numpy(), np.eye(16)[0] * stride])
    for name in ("class", "box"):
        layer = model.get_layer(f"{name}_head").get_layer(name)
        kernel = 0 * layer.kernel.numpy()
        kernel[1, 1, 0] = 1000.0
        layer.set_weights([kernel, np.arange(kernel.shape[-1], dtype=np.float32)])
    outputs = model(np.zeros((1, 32, 64, 3), np.float32), training=False)
    for name, width in (("class_logits", 2), ("box_deltas", 4)):
        rows = []
        for stride in strides:
            cell = np.arange(per_cell * width).reshape(per_cell, width) + 1000.0 * stride
            rows += [cell] * ((32 // stride) * (64 // stride))
        np.testing.assert_array_equal(outputs[name][0], np.concatenate(rows))


def test_every_class_starts_at_the_prior():
    keras.utils.set_random_seed(0)  # one weight in a thousand draws is far out
    model = build_retinanet(replace(SMALL, num_classes=2, prior_prob=0.03))
    logits = model(detector_harness.make_squares(2, 64)[0], training=False)["class_logits"]
    np.testing.assert_allclose(keras.ops.sigmoid(logits), 0.03, rtol=0.5)
    assert model.get_layer("box_head").get_layer("box").bias.numpy().max() == 0


def test_learns_eight_images_and_images_without_a_lesion_do_no_harm():
    case = make_case(count=8, side_px=64)
    model = harness.check_learns(case, steps=60, below=0.3)
    logs = model.train_on_batch(case.image_unit, case.targets, return_dict=True)
    assert logs.keys() == {"loss", "class_loss", "box_loss"}
    detector_harness.check_lesion_free(model, case)


def test_without_a_box_the_loss_is_that_of_the_background(loud):
    image_unit, targets = detector_harness.make_squares(2, 64)
    nothing = detector_harness.take_lesions_away(targets, slice(2))
    loss = harness.check_step_is_finite(loud, image_unit, nothing)
    logits = np.asarray(loud(image_unit, training=True)["class_logits"], np.float64)
    prob = 1 / (1 + np.exp(-logits))
    assert loss == pytest.approx((-0.75 * prob**2 * np.log1p(-prob)).sum(), rel=1e-4)


def test_save_and_load(loud, tmp_path):
    detector_harness.check_reload(loud, detector_harness.make_squares(2, 64)[0], tmp_path)


def test_export(tmp_path):
    keras.utils.set_random_seed(5)
    model = build_detector(RECIPE)
    harness.make_loud(model, HEADS, std=0.1)
    detector_harness.check_export(RECIPE, model, tmp_path)


def test_config_round_trip():
    config = RetinaNetConfig(
        backbone="resnet34",
        weights="some.npz",
        input_scaling="imagenet_torch",
        num_classes=3,
        pyramid_channels=12,
        head_convs=2,
        norm="group",
        freeze_norm=True,
        frozen_stages=2,
        prior_prob=0.03,
        coarse_from="c5",
        anchors=AnchorConfig((16, 64), 3.5, (1.0, 1.25, 1.5), (0.75,)),
    )
    match = MatchConfig(0.6, 0.3, (0.1, 0.15, 0.25, 0.3))
    loss, decode = FocalLossConfig(0.5, 1.5, 2.0, 0.25), DecodeConfig(0.15, 0.6, 33, 7)
    for part in (config, match, loss, decode):  # every field differs from its default
        assert not [k for k, v in vars(part).items() if v == vars(type(part)())[k]]
    again = harness.check_config_round_trip(build_retinanet(config, match, loss, decode))
    assert (again.retinanet_config, again.match) == (config, match)
    assert (again.loss_config, again.decode) == (loss, decode)


def test_frozen_parts_do_not_learn():
    model = make_case(side_px=32, freeze_norm=True, frozen_stages=2).build_seeded()
    before = {v.path: v.numpy() for v in model.non_trainable_variables}
    model(detector_harness.make_squares(2, 32)[0], training=True)
    for variable in model.non_trainable_variables:  # statistics among them
        np.testing.assert_array_equal(variable, before[variable.path])
    trained = {v.path for v in model.get_layer("resnet34").trainable_variables}
    # neither stem nor the first two stages, nor a norm
    assert trained == {f"v2_stack_{i}_block1_1_conv/kernel" for i in (2, 3)}
    free = make_case().build_seeded().get_layer("resnet34")
    assert len(free.trainable_variables) == 2 + 4 + 2 * 4  # stem, four kernels, four norms


@pytest.mark.parametrize(
    "name", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_16_bit_policies(name):
    harness.check_policy(make_case(side_px=32), name)


def test_training_step_compiles_under_xla():
    harness.check_xla_training_step(make_case(), rtol=2e-3)


def test_detect_compiles_under_xla_and_is_decoding_by_hand(loud):
    image_unit = detector_harness.make_squares(2, 64)[0]
    found = harness.check_xla_function(loud.detect, image_unit, atol=2e-4)
    detector_harness.check_detections(found, 2, 9, 64)
    raw = loud(image_unit, training=False)
    raw = {key: np.asarray(raw[key], np.float64) for key in ("class_logits", "box_deltas")}
    prob = 1 / (1 + np.exp(-raw["class_logits"]))
    anchors = make_anchors(SMALL.anchors, 64, 64).astype(np.float64)
    size, delta = anchors[:, 2:] - anchors[:, :2], raw["box_deltas"] * loud.match.variances
    centre = (anchors[:, 2:] + anchors[:, :2]) / 2 + delta[..., :2] * size
    half = np.exp(delta[..., 2:]) * size / 2
    boxes = np.concatenate([centre - half, centre + half], axis=-1).clip(0, 64)
    found = {key: value.numpy() for key, value in found.items()}
    for i in range(2):  # the best of all cannot be suppressed
        anchor, class_ = np.unravel_index(prob[i].argmax(), prob[i].shape)
        assert found["scores"][i, 0] == pytest.approx(prob[i].max(), abs=1e-5)
        assert found["classes"][i, 0] == class_
        np.testing.assert_allclose(found["boxes"][i, 0], boxes[i, anchor], atol=1e-3)


def test_a_stride_without_a_map():
    wanted = (
        "An anchor stride has no map in model.anchors.strides_px: found 256, wanted some of "
        "[4, 8, 16, 32, 64, 128]; drop it."
    )
    config = replace(SMALL, anchors=AnchorConfig(strides_px=(8, 256)))
    for function in (
        lambda: build_retinanet(config),
        lambda: check_detector(replace(RECIPE, model=config)),
    ):
        with pytest.raises(RecipeError) as caught:
            function()
        assert str(caught.value) == wanted


def test_keras_own_loops_take_any_batch():
    case = make_case(4)
    detector_harness.check_fit(case.build_seeded(), case)
