import csv
import re
from dataclasses import replace

import cv2
import keras
import numpy as np
import pytest

from experiments.ssd import PAPER
from lesionkeras.boxes.anchors import make_anchors, num_anchors_per_cell
from lesionkeras.boxes.overlap import compute_iou
from lesionkeras.config import AnchorConfig, DecodeConfig, LossConfig, MatchConfig, SSDConfig
from lesionkeras.ct.png16 import to_hu
from lesionkeras.ct.window import resize_hu_graph, window_numpy
from lesionkeras.errors import RecipeError
from lesionkeras.models.ssd import build_ssd
from tests.models import detector_harness, harness

SMALL = SSDConfig(
    extra_channels=(16, 16, 16),
    top_down_channels=16,
    head_channels=16,
    prior_prob=0.01,
    anchors=AnchorConfig((8, 16, 32), 2.5, (1.0, 1.4), (0.5, 1.0, 2.0)),
)
DECODE = DecodeConfig(score_threshold=0.05, iou_threshold=0.45, candidates=60, max_detections=9)
MATCH = MatchConfig(0.5, 0.4, (0.1, 0.1, 0.2, 0.2))
LOSS = LossConfig(3.0, 1.0, 1.0)
HEADS = ("class", "box")


def make_squares(count, side_px, seed=0):
    """Bright squares on noise, one an image, two in the first; ground truth of three rows."""
    random = np.random.default_rng(seed)
    image_unit = random.normal(0.4, 0.03, (count, side_px, side_px, 3)).astype(np.float32)
    boxes = np.zeros((count, 3, 4), np.float32)
    classes = np.full((count, 3), -1, np.int32)
    for i in range(count):
        for j in range(2 if i == 0 else 1):
            width, height = random.integers(12, 25, 2)
            x1, y1 = (random.integers(0, side_px - size) for size in (width, height))
            image_unit[i, y1 : y1 + height, x1 : x1 + width] += 0.4
            boxes[i, j], classes[i, j] = (x1, y1, x1 + width, y1 + height), 0
    return image_unit.clip(0, 1), {"boxes": boxes, "classes": classes}


def make_case(count=2, side_px=64, config=SMALL):
    return harness.NetworkCase(
        lambda: build_ssd(config, MATCH, LOSS, DECODE), *make_squares(count, side_px)
    )


@pytest.fixture(scope="module")
def fresh():
    """A network with two classes, and its logits before anything is done to it."""
    keras.utils.set_random_seed(5)
    model = build_ssd(replace(SMALL, num_classes=2), MATCH, LOSS, DECODE)
    return model, np.array(model(make_squares(2, 64)[0], training=False)["class_logits"])


@pytest.fixture(scope="module")
def loud(fresh):
    """The same network, with scores and boxes that differ from anchor to anchor."""
    model = fresh[0]
    harness.make_loud(model, HEADS)
    logits = model(make_squares(2, 64)[0], training=False)["class_logits"]
    mean, std = np.mean(logits, axis=(0, 1)), np.std(logits, axis=(0, 1))
    for stride in SMALL.anchors.strides_px:  # both classes -2 +- 1: neither always wins
        layer = model.get_layer(f"class{stride}")
        mean_row, std_row = (np.tile(v, layer.bias.shape[0] // 2) for v in (mean, std))
        layer.kernel.assign(layer.kernel.numpy() / std_row)
        layer.bias.assign((layer.bias.numpy() - mean_row) / std_row - 2.0)
    return model


def count_anchors(config, height_px, width_px):
    cells = (-(-height_px // s) * -(-width_px // s) for s in config.strides_px)
    return sum(cells) * num_anchors_per_cell(config)


@pytest.mark.parametrize("size_px", [(64, 64), (65, 97), (75, 40), (33, 32)])
def test_shapes_of_even_and_odd_sizes(loud, size_px):
    outputs = loud(np.full((1, *size_px, 3), 0.5, np.float32), training=False)
    num_anchors = count_anchors(SMALL.anchors, *size_px)
    assert num_anchors == len(loud.anchors(*size_px))
    assert outputs["class_logits"].shape == (1, num_anchors, 2)
    assert outputs["box_deltas"].shape == (1, num_anchors, 4)


def test_default_recipe_on_resnet50_knows_its_shapes_before_it_runs():
    config = SSDConfig(backbone="resnet50")
    shapes = build_ssd(config).compute_output_shape((3, 96, 65, 3))
    num_anchors = count_anchors(config.anchors, 96, 65)
    assert shapes == {
        "class_logits": (3, num_anchors, 1),
        "box_deltas": (3, num_anchors, 4),
    }


def test_recipe_paper_has_the_maps_that_p1_writes():
    model = build_ssd(PAPER.model)
    maps = [model.get_layer(f"extra{i}_relu").output for i in (1, 2, 3, 4)]
    shapes = keras.Model(model.input, maps).compute_output_shape((1, 224, 224, 3))
    assert shapes == [(1, side, side, 256) for side in (7, 4, 2, 1)]
    backbone = model.get_layer("resnet34").compute_output_shape((1, 224, 224, 3))
    assert backbone[-1] == (1, 7, 7, 512)
    strides = PAPER.model.anchors.strides_px
    assert strides == (32, 64, 128, 256)
    assert {f"class{s}" for s in strides} == {
        layer.name
        for layer in model.layers
        if layer.name.startswith("class") and isinstance(layer, keras.layers.Conv2D)
    }
    num_anchors = (49 + 16 + 4 + 1) * num_anchors_per_cell(PAPER.model.anchors)
    assert model.compute_output_shape((2, 224, 224, 3))["class_logits"] == (2, num_anchors, 1)


@pytest.fixture
def numbered(loud):
    """Heads that say which of a cell's numbers an output is: 1000 * stride + number."""
    heads = [loud.get_layer(f"{k}{s}") for k in HEADS for s in SMALL.anchors.strides_px]
    weights = [head.get_weights() for head in heads]
    for head, (kernel, bias) in zip(heads, weights, strict=True):
        stride = int(head.name.removeprefix("class").removeprefix("box"))
        head.set_weights([np.zeros_like(kernel), np.arange(len(bias)) + 1000.0 * stride])
    yield loud
    for head, before in zip(heads, weights, strict=True):
        head.set_weights(before)


def test_rows_are_in_the_order_of_the_anchors(numbered):
    """Strides, then cells, then a cell's anchors, each with its classes or its four deltas."""
    per_cell = num_anchors_per_cell(SMALL.anchors)
    outputs = numbered(np.zeros((1, 32, 64, 3), np.float32), training=False)
    for name, width in (("class_logits", 2), ("box_deltas", 4)):
        rows = []
        for stride in SMALL.anchors.strides_px:
            cell = np.arange(per_cell * width).reshape(per_cell, width) + 1000.0 * stride
            rows += [cell] * ((32 // stride) * (64 // stride))
        np.testing.assert_array_equal(outputs[name][0], np.concatenate(rows))


def test_every_score_starts_at_the_prior(fresh):
    logits = fresh[1]
    scores = np.exp(logits) / (1 + np.exp(logits).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(scores, SMALL.prior_prob, rtol=0.5)


def test_learns_eight_images():
    case = make_case(count=8, side_px=48)
    model = harness.check_learns(case, steps=24, below=0.3)
    logs = model.train_on_batch(case.image_unit, case.targets, return_dict=True)
    assert logs.keys() == {"loss", "class_loss", "box_loss"}


def test_no_box_is_no_trouble(loud):
    targets = {
        "boxes": np.zeros((2, 3, 4), np.float32),
        "classes": np.full((2, 3), -1, np.int32),
    }
    image_unit = make_squares(2, 64)[0]
    loss = harness.check_step_is_finite(loud, image_unit, targets)
    logits = np.asarray(loud(image_unit, training=True)["class_logits"], np.float64)
    hardest = np.sort(np.log1p(np.exp(logits).sum(axis=-1)), axis=None)[-3:]  # of the batch
    assert loss == pytest.approx(hardest.sum(), rel=1e-4)


def test_save_and_load(loud, tmp_path):
    image_unit = make_squares(2, 64)[0]
    harness.check_save_and_load(loud, image_unit, tmp_path)


def test_config_round_trip():
    config = SSDConfig(
        backbone="resnet34",
        weights="some.npz",
        input_scaling="imagenet_torch",
        num_classes=3,
        extra_channels=(8, 12),
        top_down_channels=0,
        head_channels=0,
        prior_prob=0.03,
        freeze_norm=True,
        frozen_stages=2,
        anchors=AnchorConfig((16, 64), 3.5, (1.0, 1.25, 1.5), (0.75,)),
    )
    match = MatchConfig(0.6, 0.3, (0.1, 0.15, 0.25, 0.3))
    loss, decode = LossConfig(2.0, 1.75, 0.5), DecodeConfig(0.15, 0.6, 33, 7)
    for part in (config, match, loss, decode):  # every field differs from its default
        same = {k for k, v in vars(part).items() if v == vars(type(part)())[k]}
        assert same <= {"backbone"}
    model = build_ssd(config, match, loss, decode)
    again = harness.check_config_round_trip(model)
    assert (again.ssd_config, again.match) == (config, match)
    assert (again.loss_config, again.decode) == (loss, decode)


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_16_bit_policies(name):
    harness.check_policy(make_case(side_px=32), name)


def test_training_step_compiles_under_xla():
    harness.check_xla_training_step(make_case(), rtol=2e-3)


def test_detect_compiles_under_xla(loud):
    found = harness.check_xla_function(loud.detect, make_squares(2, 64)[0], atol=2e-4)
    assert {name: value.shape for name, value in found.items()} == {
        "boxes": (2, 9, 4),
        "scores": (2, 9),
        "classes": (2, 9),
        "num_detections": (2,),
    }


def decode_by_hand(logits, deltas, anchors, height_px, width_px, variances):
    """Detections of one image, box by box in float64: (score, class, box) in falling order."""
    candidates = []
    for logit, (dx, dy, dw, dh), (x1, y1, x2, y2) in zip(
        logits.tolist(), deltas.tolist(), anchors.tolist(), strict=True
    ):
        width, height = x2 - x1, y2 - y1
        centre_x = (x1 + x2) / 2 + dx * variances[0] * width
        centre_y = (y1 + y2) / 2 + dy * variances[1] * height
        width, height = width * np.exp(dw * variances[2]), height * np.exp(dh * variances[3])
        box = (
            min(max(centre_x - width / 2, 0), width_px),
            min(max(centre_y - height / 2, 0), height_px),
            min(max(centre_x + width / 2, 0), width_px),
            min(max(centre_y + height / 2, 0), height_px),
        )
        total = 1 + sum(np.exp(value) for value in logit)
        candidates += [(np.exp(value) / total, k, box) for k, value in enumerate(logit)]
    candidates = [c for c in candidates if c[0] > DECODE.score_threshold]
    candidates.sort(key=lambda candidate: -candidate[0])
    kept = []
    for score, k, box in candidates[: DECODE.candidates]:
        rivals = np.array([b for _, other, b in kept if other == k]).reshape(-1, 4)
        if not (compute_iou(np.array([box]), rivals) > DECODE.iou_threshold).any():
            kept.append((score, k, box))
    return kept[: DECODE.max_detections]


def test_detect_is_decoding_by_hand(loud):
    image_unit = make_squares(3, 64, seed=4)[0][:, :, :50]
    raw = {k: np.asarray(v, np.float64) for k, v in loud(image_unit, training=False).items()}
    found = {k: np.asarray(v) for k, v in loud.detect(image_unit).items()}
    anchors = make_anchors(SMALL.anchors, 64, 50)
    for i in range(3):
        wanted = decode_by_hand(
            raw["class_logits"][i], raw["box_deltas"][i], anchors, 64, 50, loud.match.variances
        )
        count = found["num_detections"][i]
        assert count == len(wanted) > 3
        scores, classes, boxes = zip(*wanted, strict=True)
        assert len(set(classes)) == 2
        np.testing.assert_array_equal(found["classes"][i], [*classes, *[-1] * (9 - count)])
        np.testing.assert_allclose(found["scores"][i, :count], scores, atol=1e-5)
        np.testing.assert_allclose(found["boxes"][i, :count], boxes, atol=1e-3)
        assert not found["boxes"][i, count:].any()


def catch(**changes):
    with pytest.raises(RecipeError) as caught:
        build_ssd(replace(SMALL, **changes))
    return str(caught.value)


def test_frozen_stages_and_norms_are_not_trained():
    def list_trained(**changes):
        variables = build_ssd(replace(SMALL, **changes)).trainable_variables
        return {variable.path.split("/")[-2] for variable in variables}

    every, frozen = list_trained(), list_trained(freeze_norm=True, frozen_stages=3)
    backbone = {name for name in frozen if re.match("conv1|v2_stack", name)}
    assert backbone and all(re.match(r"v2_stack_3.*_conv$", name) for name in backbone)
    assert all(re.match("conv1|v2_stack", name) for name in every - frozen)


def test_unknown_input_scaling():
    assert catch(input_scaling="torch") == (
        "An input scaling is not known in model.input_scaling: found torch, wanted unit, "
        "none, bytes, imagenet_caffe, imagenet_torch; choose one of them."
    )


def test_priors_that_reach_certainty():
    assert catch(num_classes=4, prior_prob=0.25) == (
        "The classes together are certain at the start in model.prior_prob: found 0.25 for each "
        "of 4 classes, wanted below 0.25; lower it."
    )


def test_stride_without_a_map():
    assert catch(anchors=AnchorConfig(strides_px=(8, 256))) == (
        "An anchor stride has no map in model.anchors.strides_px: found 256, wanted some of "
        "[4, 8, 16, 32, 64, 128]; drop it, or add a layer to model.extra_channels."
    )


SLICE = "002680_06_01_344.png"  # a liver lesion of 33 x 31 px, the largest among the shared slices
SIDE_PX = 128


@pytest.mark.real
def test_learns_one_real_slice(real_data):
    """Part 1, 'Shown by' 3: SSD-ResNet34 learns one real slice to an IoU above .8."""
    folder = real_data / "deeplesion"
    with (folder / "DL_info.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["File_name"] == SLICE]
    assert [row["Coarse_lesion_type"] for row in rows] == ["4"]
    stored = cv2.imread(str(folder / "Images_png" / SLICE[:12] / SLICE[13:]), -1)
    assert stored.dtype == np.uint16 and stored.shape == (512, 512)
    stack_hu = np.stack([to_hu(stored)] * 3, axis=-1)  # its neighbours are not there
    image_unit = window_numpy(resize_hu_graph(stack_hu, (SIDE_PX, SIDE_PX)), (-160.0, 240.0))
    box = np.array([float(v) for v in rows[0]["Bounding_boxes"].split(",")], np.float32)
    box *= SIDE_PX / 512

    config = SSDConfig(
        extra_channels=(64,),
        top_down_channels=64,
        head_channels=64,
        anchors=AnchorConfig((4, 8, 16, 32), 2.0, (1.0, 1.4), (0.5, 1.0, 2.0)),
    )
    images = np.stack([image_unit, (image_unit + 0.03).clip(0, 1)])
    targets = {"boxes": np.tile(box, (2, 1, 1)), "classes": np.zeros((2, 1), np.int32)}
    case = harness.NetworkCase(lambda: build_ssd(config, MATCH, LOSS), images, targets)
    model = harness.check_learns(case, steps=36, below=0.05)
    found = model.detect(image_unit[None])
    assert compute_iou(np.asarray(found["boxes"])[0, :1], box[None])[0, 0] > 0.8
    assert found["scores"][0, 0] > 0.5


def test_keras_own_loops_take_any_batch():
    case = make_case(4)
    detector_harness.check_fit(case.build_seeded(), case)
