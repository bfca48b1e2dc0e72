import subprocess
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from lesionkeras.boxes.coding import decode_boxes, encode_boxes
from lesionkeras.boxes.suppression import select_detections
from lesionkeras.config import AnchorConfig, DecodeConfig, FasterRCNNConfig
from lesionkeras.errors import RecipeError
from lesionkeras.models.rcnn_parts import (
    build_backbone,
    build_head,
    build_parts,
    build_pyramid,
    build_rpn,
)
from lesionkeras.training.peers import get_peers_dir, make_environment

GOLDEN = Path(__file__).parents[1] / "golden" / "torchvision_rcnn.npz"
# Pairs of which every index has both for one kind of machine, CPU or CUDA.
PINS = ("torch==2.12.1", "torchvision==0.27.1", "numpy==2.4.6")
C4 = AnchorConfig((16,), 1.0, (1.0, 2.0), (0.5, 1.0, 2.0))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def to_nhwc(maps):
    return np.transpose(maps, (0, 2, 3, 1))


def set_conv(layer, weights, name):
    kernel = np.transpose(weights[f"{name}.weight"], (2, 3, 1, 0))
    layer.set_weights([kernel, weights[f"{name}.bias"]])


def set_dense(layer, weights, name):
    layer.set_weights([weights[f"{name}.weight"].T, weights[f"{name}.bias"]])


def get_weights(golden, part):
    start = f"{part}/weight."
    return {key.removeprefix(start): golden[key] for key in golden if key.startswith(start)}


def test_box_coding_is_torchvisions(golden):
    variances = (0.1, 0.1, 0.2, 0.2)
    anchors, boxes, deltas = (golden[f"code/{k}"] for k in ("anchors", "boxes", "deltas"))
    np.testing.assert_allclose(
        encode_boxes(boxes, anchors, variances), golden["code/encoded"], rtol=1e-5, atol=1e-5
    )
    found = decode_boxes(deltas, anchors, variances)
    assert found[0, 2] - found[0, 0] > 62 * (anchors[0, 2] - anchors[0, 0])
    np.testing.assert_allclose(found, golden["code/decoded"], rtol=1e-5, atol=1e-5)


def test_suppression_is_torchvisions(golden):
    boxes, scores, classes = (golden[f"suppress/{k}"] for k in ("boxes", "scores", "classes"))
    kept = golden["suppress/kept"]
    assert 10 < len(kept) < 70
    pairs = scores[:, None] * np.eye(2)[classes]
    found = select_detections(boxes[None], pairs[None], DecodeConfig(0.0, 0.3, 80, 80))
    kept = kept[scores[kept] > 0]
    count = int(found["num_detections"][0])
    assert count == len(kept)
    np.testing.assert_array_equal(found["boxes"][0, :count], boxes[kept])
    np.testing.assert_allclose(found["scores"][0, :count], scores[kept], atol=1e-6)
    np.testing.assert_array_equal(found["classes"][0, :count], classes[kept])


def test_pyramid_is_torchvisions(golden):
    maps = {4 * 2**i: to_nhwc(golden[f"pyramid/in{i}"]) for i in range(4)}
    inputs = {s: keras.Input(m.shape[1:]) for s, m in maps.items()}
    model = keras.Model(list(inputs.values()), list(build_pyramid(inputs, 3, "none").values()))
    weights = get_weights(golden, "pyramid")
    for i, stride in enumerate(maps):
        set_conv(model.get_layer(f"lateral{stride}_conv"), weights, f"inner_blocks.{i}.0")
        set_conv(model.get_layer(f"smooth{stride}_conv"), weights, f"layer_blocks.{i}.0")
    found = model(list(maps.values()))
    for i, x in enumerate(reversed(found)):
        np.testing.assert_allclose(x, to_nhwc(golden[f"pyramid/out{i}"]), rtol=1e-4, atol=1e-5)


def test_rpn_is_torchvisions(golden):
    config = FasterRCNNConfig(rpn_channels=4, norm="none", anchors=AnchorConfig((8, 16), 1.0, (1,)))
    model, weights = build_rpn(4, config), get_weights(golden, "rpn")
    set_conv(model.get_layer("rpn_conv"), weights, "conv.0.0")
    set_conv(model.get_layer("rpn_class"), weights, "cls_logits")
    set_conv(model.get_layer("rpn_box"), weights, "bbox_pred")
    rows = [model(to_nhwc(golden[f"rpn/in{i}"])) for i in range(2)]
    for name in ("logits", "deltas"):
        found = np.concatenate([row[f"rpn_{name}"] for row in rows], axis=1)
        np.testing.assert_allclose(found, golden[f"rpn/{name}"], rtol=1e-4, atol=1e-5)


def test_head_is_torchvisions(golden):
    """Three classes there, the first background; ours has background's logit at 0."""
    config = FasterRCNNConfig(roi_cells=2, head_channels=8, num_classes=2)
    model, weights = build_head(3, config), get_weights(golden, "head")
    # ours flattens cells, then channels
    weights["fc6.weight"] = weights["fc6.weight"].reshape(8, 3, 2, 2)
    weights["fc6.weight"] = weights["fc6.weight"].transpose(0, 2, 3, 1).reshape(8, 12)
    for ours, theirs in (("dense1", "fc6"), ("dense2", "fc7")):
        set_dense(model.get_layer(f"head_{ours}"), weights, theirs)
    for kind in ("weight", "bias"):
        scores, boxes = weights[f"cls_score.{kind}"], weights[f"bbox_pred.{kind}"]
        weights[f"cls_score.{kind}"], weights[f"bbox_pred.{kind}"] = (
            scores[1:] - scores[0],
            boxes[4:],
        )
    set_dense(model.get_layer("head_class"), weights, "cls_score")
    set_dense(model.get_layer("head_box"), weights, "bbox_pred")
    found = model(to_nhwc(golden["head/in"]))
    logits, deltas = golden["head/logits"], golden["head/deltas"].reshape(-1, 3, 4)
    np.testing.assert_allclose(found["class_logits"], logits[:, 1:] - logits[:, :1], atol=1e-5)
    np.testing.assert_allclose(found["box_deltas"], deltas[:, 1:], atol=1e-5)


@pytest.mark.slow
def test_stored_vectors_are_todays_torchvisions(golden, tmp_path):
    """Makes torchvision's environment where it is not there: a network is needed."""
    python = make_environment(get_peers_dir() / "-".join(PINS).replace("==", "-"), PINS)
    out = tmp_path / "out.npz"
    subprocess.run([str(python), str(GOLDEN.with_suffix(".py")), str(out)], check=True)
    with np.load(out) as found:
        assert set(found) == set(golden)
        for name in found:
            np.testing.assert_allclose(found[name], golden[name], atol=1e-5, err_msg=name)


def list_trained(backbone):
    return {layer.name for layer in backbone.layers if layer.trainable and layer.weights}


def test_frozen_parts():
    config = FasterRCNNConfig(backbone="resnet34", frozen_stages=2)
    trained = list_trained(build_backbone(config))
    assert {name[:10] for name in trained} == {"v2_stack_2", "v2_stack_3"}
    assert any(name.endswith("_bn") for name in trained)
    trained = list_trained(build_backbone(replace(config, frozen_stages=0, freeze_norm=True)))
    assert "conv1_conv" in trained and not any(name.endswith("_bn") for name in trained)
    trained = list_trained(build_backbone(replace(config, backbone="vgg16")))
    assert {name[:6] for name in trained} == {"block3", "block4", "block5"}


def test_maps_of_vgg16_are_keras_own():
    ours = build_backbone(FasterRCNNConfig("vgg16"))
    theirs = keras.applications.VGG16(weights=None, include_top=False)
    names = ["block3_conv3", "block4_conv3", "block5_conv3", "block5_pool"]
    theirs = keras.Model(theirs.input, [theirs.get_layer(name).output for name in names])
    ours.set_weights(theirs.get_weights())
    image = np.random.default_rng(0).normal(size=(1, 32, 64, 3)).astype(np.float32)
    for found, wanted in zip(ours(image), theirs(image), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    shapes = ours.compute_output_shape((1, 33, 65, 3))  # rounded up, as anchors are
    assert [shape[1:3] for shape in shapes] == [(9, 17), (5, 9), (3, 5), (2, 3)]


SHAPES = {
    "resnet34": (16, 256, 3),
    "resnet50": (16, 1024, 3),
    "vgg16": (16, 512, 0),
}


@pytest.mark.parametrize("backbone", SHAPES)
def test_without_a_pyramid_a_resnets_last_stage_is_the_second_stage(backbone):
    """One map of stride 16; the last stage is shared with the backbone that weights are read into,
    keeps the 7 x 7 cells, and is not run on the image."""
    stride, channels, num_blocks = SHAPES[backbone]
    config = FasterRCNNConfig(backbone, pyramid_channels=0, anchors=C4, head_channels=16)
    parts = build_parts(config)
    shapes = parts.regions.compute_output_shape((2, 64, 96, 3))
    assert shapes == {
        f"map{stride}": (2, 4, 6, channels),
        "rpn_logits": (2, 4 * 6 * 6),
        "rpn_deltas": (2, 4 * 6 * 6, 4),
    }
    assert parts.backbone.name == backbone
    own = {id(v) for v in parts.backbone.variables}
    shared = [v for v in parts.head.variables if id(v) in own]
    first = {id(v) for v in parts.regions.variables}
    assert not [v for v in shared if id(v) in first]
    assert own <= first | {id(v) for v in shared}
    if not num_blocks:
        assert not shared
        return
    assert {v.path.split("/")[-2][:10] for v in shared} == {"v2_stack_3"}
    stage = parts.head.get_layer("last_stage")
    assert stage.compute_output_shape((5, 7, 7, channels))[:3] == (5, 7, 7)


def catch(**changes):
    with pytest.raises(RecipeError) as caught:
        build_parts(FasterRCNNConfig(**{"backbone": "resnet34", **changes}))
    return str(caught.value)


def test_strides_without_a_map():
    assert catch(anchors=AnchorConfig((4, 64))) == (
        "An anchor stride has no map in model.anchors.strides_px: found 64, wanted some of "
        "[4, 8, 16, 32]; drop it."
    )
    assert catch(pyramid_channels=0) == (
        "An anchor stride has no map in model.anchors.strides_px: found 4, wanted some of [16]; "
        "drop it, or set model.pyramid_channels."
    )


def test_unknown_backbone():
    assert "found resnet18, wanted resnet34 or resnet50" in catch(backbone="resnet18")
