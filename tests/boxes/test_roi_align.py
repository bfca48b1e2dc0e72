from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.boxes.roi_align import align_rois

GOLDEN = Path(__file__).parents[1] / "golden" / "torchvision_rcnn.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {key: file[key] for key in file.files if key.startswith("align/")}


def make_input(golden, samples):
    boxes = golden["align/inside" if samples == "whole" else "align/boxes"]
    features = golden["align/features"].transpose(0, 2, 3, 1)
    return features, np.stack([boxes, boxes[::-1]])


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", ["2", "3", "whole"])
def test_equals_torchvisions_and_so_does_its_gradient(golden, samples, aligned):
    features, boxes = make_input(golden, samples)
    x = tf.constant(features)
    with tf.GradientTape() as tape:
        tape.watch(x)
        found = align_rois(x, boxes, 4, 3, 0 if samples == "whole" else int(samples), aligned)
        rows = tf.transpose(found, (0, 1, 4, 2, 3))  # torchvision's [N, C, cells, cells]
        weight = tf.reshape(tf.linspace(-1.0, 1.0, tf.size(rows)), rows.shape)
        total = tf.reduce_sum(rows * weight)
    wanted = golden[f"align/out_{samples}_{aligned}"].reshape(rows.shape)
    assert np.abs(wanted).max() > 1 and np.any(wanted[0, 7])
    assert samples == "whole" or not np.any(wanted[0, 9])  # far outside
    np.testing.assert_allclose(rows, wanted, atol=1e-5)
    gradient = np.transpose(tape.gradient(total, x), (0, 3, 1, 2))
    np.testing.assert_allclose(gradient, golden[f"align/gradient_{samples}_{aligned}"], atol=1e-5)


def test_a_ramp_gives_the_middles_of_the_cells():
    """A pixel's value stands at its middle: on f(x, y) = x, y a region says where its cells are."""
    ys, xs = np.mgrid[0:12, 0:20] + 0.5
    features = np.stack([xs, ys], axis=-1)[None].astype(np.float32) * 8  # stride 8
    box = np.array([[[40.0, 16.0, 100.0, 64.0]]], np.float32)
    found = np.asarray(align_rois(features, box, 8, 4))[0, 0]
    np.testing.assert_allclose(found[0, :, 0], 40 + 15 * (np.arange(4) + 0.5), rtol=1e-6)
    np.testing.assert_allclose(found[:, 0, 1], 16 + 12 * (np.arange(4) + 0.5), rtol=1e-6)


def test_boxes_that_are_not_used_give_nothing():
    features = np.ones((1, 4, 4, 2), np.float32)
    boxes = np.array([[[0, 0, 8, 8], [4, 4, 16, 16]]], np.float32)
    found = np.asarray(align_rois(features, boxes, 4, 2, is_used=np.array([[0.0, 1.0]], "f4")))
    assert not found[0, 0].any() and (found[0, 1] == 1).all()


def test_it_keeps_the_features_type_and_compiles_under_xla(golden):
    features, boxes = make_input(golden, "2")

    def align(x):
        return align_rois(x, boxes, 4, 3)

    plain, compiled = (tf.function(align, jit_compile=jit)(features) for jit in (False, True))
    np.testing.assert_allclose(compiled, plain, atol=1e-5)
    half = align(tf.cast(features, tf.bfloat16))
    assert half.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(half, tf.float32), plain, atol=0.05)
