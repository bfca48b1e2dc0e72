from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from experiments.faster_rcnn import RECIPES
from lesionkeras.boxes.overlap import compute_iou
from lesionkeras.boxes.roi_align import align_rois
from lesionkeras.config import (
    AnchorConfig,
    DataConfig,
    DecodeConfig,
    FasterRCNNConfig,
    FasterRCNNLossConfig,
    FasterRCNNMatchConfig,
    FasterRCNNRecipe,
    MatchConfig,
)
from lesionkeras.errors import RecipeError
from lesionkeras.models import build_detector, check_detector, rcnn_parts
from lesionkeras.models.faster_rcnn import FasterRCNN, build_faster_rcnn, choose_levels
from tests.models import detector_harness, harness

GOLDEN = Path(__file__).parents[1] / "golden" / "torchvision_rcnn.npz"
SMALL = FasterRCNNConfig(
    backbone="resnet34",
    pyramid_channels=16,
    anchors=AnchorConfig((8, 16), 2.0, (1.0, 1.5), (0.5, 1.0, 2.0)),
    rpn_channels=16,
    proposals=DecodeConfig(0.0, 0.7, 64, 16),
    roi_cells=4,
    roi_canonical_px=32.0,
    head_channels=32,
)
# More rows than there are anchors and proposals: whatever is drawn, it is all of them.
MATCH = FasterRCNNMatchConfig(sampled_anchors=2000, sampled_rois=100, positive_roi_fraction=0.5)
DECODE = DecodeConfig(0.05, 0.45, 60, 9)
SINGLE = replace(
    SMALL, pyramid_channels=0, anchors=AnchorConfig((16,), 1.0, (1.0, 1.5, 2.0), (0.5, 1.0, 2.0))
)
RECIPE = FasterRCNNRecipe(
    data=DataConfig(image_size_px=64), model=SMALL, match=MATCH, decode=DECODE
)


def build_tiny_resnet(name, last_stride=2):
    """A ResNet's interface, names and strides: building a real one costs seconds."""
    x = image = keras.Input((None, None, 3))
    maps = []
    widths = {"conv1": 8, **{f"v2_stack_{i}_block1_1": 12 + 4 * i for i in range(4)}}
    for (layer, width), stride in zip(widths.items(), (2, 2, 2, 2, last_stride), strict=True):
        conv = keras.layers.Conv2D(width, 3, stride, "same", use_bias=False, name=f"{layer}_conv")
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"{layer}_bn")(conv(x))
        x = keras.layers.ReLU(name=f"{layer}_relu")(x)
        maps.append(x)
    return keras.Model(image, maps[1:], name=name)


@pytest.fixture(scope="module", autouse=True)
def tiny_resnet():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rcnn_parts, "build_resnet", build_tiny_resnet)
        yield


def make_case(count=2, side_px=64, config=SMALL, match=MATCH):
    return harness.NetworkCase(
        lambda: build_faster_rcnn(config, match, None, DECODE),
        *detector_harness.make_squares(count, side_px),
    )


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def loud(tiny_resnet):
    """A network of two classes whose scores and boxes differ from place to place."""
    keras.utils.set_random_seed(5)
    model = build_faster_rcnn(replace(SMALL, num_classes=2), MATCH, None, DECODE)
    harness.make_loud(model, ("rpn", "head"), 0.1)
    return model


@pytest.mark.parametrize("size_px", [(64, 64), (40, 97)])
def test_shapes_of_even_and_odd_sizes(loud, size_px):
    outputs = loud(np.full((1, *size_px, 3), 0.5, np.float32), training=False)
    num_anchors = len(loud.anchors(*size_px))
    cells = {stride: tuple(-(-side // stride) for side in size_px) for stride in (8, 16)}
    assert {name: value.shape for name, value in outputs.items()} == {
        "rpn_logits": (1, num_anchors),
        "rpn_deltas": (1, num_anchors, 4),
        **{f"map{stride}": (1, *cells[stride], 16) for stride in (8, 16)},
    }


def test_rows_are_in_the_order_of_the_anchors(loud):
    """Strides, then cells, then a cell's anchors: a logit says 100 x its number in the cell."""
    layer = loud.regions.get_layer("rpn").get_layer("rpn_class")
    weights = layer.get_weights()
    layer.set_weights([np.zeros_like(weights[0]), np.arange(6) * 100.0])
    found = np.asarray(loud(np.zeros((1, 32, 64, 3), np.float32), training=False)["rpn_logits"])[0]
    layer.set_weights(weights)
    np.testing.assert_array_equal(found, np.tile(np.arange(6) * 100.0, 4 * 8 + 2 * 4))
    shapes = loud.anchors(32, 64)[:, 2:] - loud.anchors(32, 64)[:, :2]
    assert len(np.unique(shapes[found == 300.0].round(3), axis=0)) == 2  # one a stride


def test_levels_are_torchvisions(golden):
    levels = choose_levels(golden["level/boxes"], (4, 8, 16, 32), 112.0)
    assert set(golden["level/levels"].tolist()) == {0, 1, 2, 3}
    np.testing.assert_array_equal(levels, golden["level/levels"])
    assert choose_levels(golden["level/boxes"], (16,), 112.0).numpy().max() == 0


def test_proposals_are_torchvisions(golden):
    variances = MatchConfig(variances=(1.0,) * 4)
    model = SimpleNamespace(
        anchors=lambda height_px, width_px: golden["propose/anchors"],
        match=FasterRCNNMatchConfig(rpn=variances),
        rcnn_config=replace(SMALL, proposals=DecodeConfig(0.0, 0.6, 60, 20)),
    )
    raw = {f"rpn_{name}": golden[f"propose/{name}"] for name in ("logits", "deltas")}
    found = np.asarray(FasterRCNN.propose(model, raw, 48, 64))
    for i in range(2):
        wanted = golden[f"propose/out{i}"]
        assert len(wanted) == 20
        np.testing.assert_allclose(found[i], wanted, atol=1e-4)


def test_decoding_is_torchvisions(golden):
    logits = golden["postprocess/logits"].reshape(2, 20, 3)
    deltas = golden["postprocess/deltas"].reshape(2, 20, 3, 4)[:, :, 1:]
    model = SimpleNamespace(
        rcnn_config=replace(SMALL, num_classes=2),
        match=FasterRCNNMatchConfig(),
        decode=DecodeConfig(0.1, 0.4, 40, 9),
    )
    found = {"class_logits": logits[..., 1:] - logits[..., :1], "box_deltas": deltas}
    proposals = golden["postprocess/proposals"]
    found = FasterRCNN.decode_regions(model, found, proposals, 48, 64)
    for i in range(2):
        count = int(found["num_detections"][i])
        assert count == len(golden[f"postprocess/scores{i}"]) > 3
        for name in ("boxes", "scores"):
            wanted = golden[f"postprocess/{name}{i}"]
            np.testing.assert_allclose(found[name][i, :count], wanted, atol=1e-4)
        labels = golden[f"postprocess/labels{i}"] - 1
        assert set(labels.tolist()) == {0, 1}
        np.testing.assert_array_equal(found["classes"][i, :count], labels)


def test_each_region_is_cut_from_its_own_map(loud):
    """32 px and more from stride 16, less from stride 8; what the head gets, by hand."""
    image_unit = detector_harness.make_squares(1, 64)[0]
    raw = loud(image_unit, training=False)
    boxes = np.array([[[4, 4, 60, 60], [10, 12, 30, 40], [0, 0, 32, 32]]], np.float32)
    wanted = [align_rois(raw[f"map{s}"], boxes, s, 4)[0] for s in (8, 16)]
    regions = np.stack([wanted[1][0], wanted[0][1], wanted[1][2]])
    head = loud.head(regions, training=False)
    found = loud.classify(raw, boxes, training=False)
    assert found["class_logits"].shape == (1, 3, 2)
    assert found["box_deltas"].shape == (1, 3, 2, 4)
    for name, value in found.items():
        np.testing.assert_allclose(value[0], head[name], atol=1e-4)


@pytest.fixture(scope="module")
def fresh(tiny_resnet):
    """A network before anything is done to it, its case, and its outputs."""
    case = make_case()
    model = case.build_seeded()
    return model, case, model(case.image_unit, training=False)


def test_every_score_starts_at_the_prior(fresh):
    model, case, raw = fresh
    np.testing.assert_allclose(1 / (1 + np.exp(-raw["rpn_logits"])), 0.05, rtol=0.3)
    logits = model.classify(raw, case.targets["boxes"], training=False)["class_logits"]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), 0.05, rtol=0.5)


def compute_parts(model, case, raw):
    model.reset_metrics()
    total = model.compute_loss(case.image_unit, case.targets, raw, training=False)
    parts = {metric.name: float(metric.result()) for metric in model.metrics}
    assert float(total) == pytest.approx(sum(parts.values()), rel=1e-5)
    return parts


def test_weights_of_the_losses(fresh):
    """The two box losses are weighted, none other."""
    one = compute_parts(*fresh)
    fresh[0].loss_config = FasterRCNNLossConfig(rpn_box_weight=3.0, box_weight=7.0)
    other = compute_parts(*fresh)
    fresh[0].loss_config = FasterRCNNLossConfig()
    assert min(one.values()) > 0
    assert {name: round(other[name] / one[name], 3) for name in one} == {
        "rpn_class_loss": 1.0,
        "rpn_box_loss": 3.0,
        "class_loss": 1.0,
        "box_loss": 7.0,
    }


def test_samples_differ_from_step_to_step_and_repeat_from_a_seed(fresh):
    """With fewer rows than anchors the losses depend on the draw, and that on the checkpoint."""
    model, runs = fresh[0], []
    model.match = replace(MATCH, sampled_anchors=8, sampled_rois=4)
    before = model.seeds.state.numpy()
    assert id(model.seeds.state) in {id(variable) for variable in model.variables}
    for _ in range(2):
        model.seeds.state.assign(before)
        runs.append([compute_parts(*fresh)["rpn_class_loss"] for _ in range(3)])
    model.match = MATCH
    assert len(set(runs[0])) == 3 and runs[0] == runs[1]


def test_no_gradient_flows_through_the_proposals(loud):
    """The second stage's loss alone moves no weight of the proposal network's outputs."""
    image_unit, targets = detector_harness.make_squares(2, 64)
    with tf.GradientTape() as tape:
        raw = loud(image_unit, training=False)
        proposals = loud.propose(raw, 64, 64)
        loss = tf.reduce_sum(loud.classify(raw, proposals, training=False)["class_logits"])
    rpn = loud.regions.get_layer("rpn")
    heads = [rpn.get_layer(name).kernel for name in ("rpn_class", "rpn_box")]
    shared = loud.regions.get_layer("smooth8_conv").kernel
    gradients = tape.gradient(loss, [*heads, shared])
    assert gradients[:2] == [None, None] and np.any(gradients[2])
    assert targets["classes"].shape == (2, 3)


def test_learns_four_images_and_images_without_a_lesion_do_no_harm():
    """The losses say little: the better the proposals, the more is asked of the second stage."""
    case = make_case(count=4, side_px=48, match=FasterRCNNMatchConfig())
    model = case.build_seeded()
    harness.compile_for_test(model, 40)
    for _ in range(40):
        logs = model.train_on_batch(case.image_unit, case.targets, return_dict=True)
    parts = {"rpn_class_loss", "rpn_box_loss", "class_loss", "box_loss"}
    assert logs.keys() == {"loss", *parts}
    found = model.detect(case.image_unit)
    iou = compute_iou(np.asarray(found["boxes"])[:, :1], case.targets["boxes"][:, :1])
    assert iou.mean() > 0.7 and np.min(found["scores"][:, 0]) > 0.3
    detector_harness.check_lesion_free(model, case)


def test_no_box_is_no_trouble(loud):
    image_unit = detector_harness.make_squares(2, 64)[0]
    nothing = {"boxes": np.zeros((2, 3, 4), "f4"), "classes": np.full((2, 3), -1, np.int32)}
    loss = harness.check_step_is_finite(loud, image_unit, nothing)
    raw = loud(image_unit, training=True)
    log_loss = np.log1p(np.exp(np.asarray(raw["rpn_logits"], np.float64))).mean()
    proposals = loud.propose(raw, 64, 64)
    logits = np.asarray(loud.classify(raw, proposals, training=True)["class_logits"], np.float64)
    is_real = np.asarray(proposals).any(axis=-1)
    log_loss += np.log1p(np.exp(logits).sum(axis=-1))[is_real].mean()
    assert loss == pytest.approx(log_loss, rel=1e-3)


def test_config_is_plain(loud):
    harness.check_config_round_trip(loud)


def test_detect_gives_what_every_detector_gives(loud):
    found = loud.detect(detector_harness.make_squares(3, 64)[0])
    detector_harness.check_detections(found, batch=3, rows=9, side_px=64)
    assert set(np.unique(found["classes"])) >= {0, 1}


def test_save_and_load(loud, tmp_path):
    detector_harness.check_reload(loud, detector_harness.make_squares(2, 64)[0], tmp_path)


def test_export(tmp_path):
    keras.utils.set_random_seed(5)
    model = build_detector(RECIPE)
    harness.make_loud(model, ("rpn", "head"), 0.1)
    detector_harness.check_export(RECIPE, model, tmp_path)


def test_config_round_trip():
    config = FasterRCNNConfig(
        backbone="vgg16",
        weights="some.npz",
        input_scaling="imagenet_caffe",
        num_classes=3,
        pyramid_channels=8,
        norm="none",
        freeze_norm=True,
        frozen_stages=1,
        anchors=AnchorConfig((4, 16), 3.5, (1.0, 1.25, 1.5), (0.75,)),
        rpn_channels=12,
        proposals=DecodeConfig(0.01, 0.65, 33, 7),
        roi_cells=3,
        roi_samples=1,
        roi_canonical_px=50.0,
        head_channels=20,
        dropout=0.25,
        prior_prob=0.02,
    )
    rpn = MatchConfig(0.6, 0.2, (0.5, 0.6, 0.7, 0.8))
    rois = MatchConfig(0.55, 0.45, (0.1, 0.15, 0.25, 0.3))
    match = FasterRCNNMatchConfig(rpn, 99, 0.4, rois, 55, 0.35)
    loss = FasterRCNNLossConfig(2.0, 0.25, 1.75, 0.5)
    decode = DecodeConfig(0.15, 0.6, 33, 7)
    for part in (config, match, loss, decode):  # every field differs from its default
        ours, default = vars(part), vars(type(part)())
        assert not [name for name in default if ours[name] == default[name]]
    model = build_faster_rcnn(config, match, loss, decode)
    again = FasterRCNN.from_config(model.get_config())
    assert [v.shape for v in again.variables] == [v.shape for v in model.variables]
    assert again.get_config() == model.get_config()
    assert (again.rcnn_config, again.match) == (config, match)
    assert (again.loss_config, again.decode) == (loss, decode)


def test_16_bit_policies():
    harness.check_policy(make_case(side_px=32), "mixed_float16")
    with harness.policy("mixed_bfloat16"):
        case = make_case(side_px=32, config=SINGLE)
        harness.check_step_is_finite(case.build_seeded(), case.image_unit, case.targets)


def test_training_step_compiles_under_xla():
    """A pyramid and dense layers; a ResNet's last stage is in test_faster_rcnn_resnet50.py."""
    harness.check_xla_training_step(make_case(), rtol=5e-3)


def test_detect_compiles_under_xla(loud):
    image_unit = detector_harness.make_squares(2, 64)[0]
    found = harness.check_xla_function(loud.detect, image_unit, atol=1e-3)
    detector_harness.check_detections(found, batch=2, rows=9, side_px=64)


def test_recipe_p2_has_the_anchors_that_p2_writes():
    model = RECIPES["p2"].model
    anchors = FasterRCNN.anchors(SimpleNamespace(rcnn_config=model), 512, 512)
    assert len(anchors) == 32 * 32 * 15
    sizes = (anchors[:15, 2:] - anchors[:15, :2]).round(3)
    np.testing.assert_allclose(
        np.sqrt(sizes.prod(axis=1)), np.repeat([16, 24, 32, 48, 96], 3), rtol=1e-3
    )
    np.testing.assert_allclose(sizes[:, 1] / sizes[:, 0], np.tile([0.5, 1, 2], 5), rtol=1e-3)
    assert RECIPES["p2"].match.rpn.positive_iou == 0.7
    assert (model.backbone, RECIPES["p2"].train.epochs) == ("resnet50", 150)


def test_frozen_norms_want_weights():
    recipe = replace(RECIPE, model=replace(SMALL, freeze_norm=True))
    with pytest.raises(RecipeError) as caught:
        check_detector(recipe)
    assert str(caught.value) == (
        "Frozen norms keep the statistics of weights in model.freeze_norm: found true with "
        "model.weights none, wanted weights, or norms that learn; give --weights, or set "
        "model.freeze_norm=false."
    )
    check_detector(RECIPE)
    check_detector(replace(recipe, model=replace(recipe.model, weights="imagenet")))


def test_keras_own_loops_take_any_batch():
    case = make_case(4)
    detector_harness.check_fit(case.build_seeded(), case)
