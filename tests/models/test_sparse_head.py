from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from lesionkeras.config import RetinaNetRecipe
from lesionkeras.models import build_detector, retinanet
from lesionkeras.models.sparse_head import choose_cells, run_at_cells
from tests.models import detector_harness, harness
from tests.models.test_retinanet import SMALL
from tests.models.tiny_backbone import tiny_backbone  # noqa: F401

SIZES = ((5, 7), (3, 4), (1, 1))
NUM_CELLS = 5 * 7 + 3 * 4 + 1


def make_head():
    keras.utils.set_random_seed(2)
    layers = [keras.layers.Conv2D(6, 3, padding="same", activation="relu") for _ in range(2)]
    head = keras.Sequential(
        [keras.Input((None, None, 4)), *layers, keras.layers.Conv2D(5, 3, padding="same")]
    )
    for layer in head.layers:
        layer.bias.assign(np.random.default_rng(0).normal(size=layer.bias.shape))
    return head


def test_it_is_the_whole_head_with_its_gradients():
    """Every cell of every map: corners, edges, and a map smaller than the kernel."""
    random, head = np.random.default_rng(1), make_head()
    maps = [tf.constant(random.normal(size=(2, *size, 4)), tf.float32) for size in SIZES]
    cells = tf.constant(random.permutation(2 * NUM_CELLS), tf.int32)
    weights = tf.constant(random.normal(size=(2 * NUM_CELLS, 5)), tf.float32)
    results = []
    for is_sparse in (True, False):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            if is_sparse:
                kernels, biases = [h.kernel for h in head.layers], [h.bias for h in head.layers]
                rows = run_at_cells(maps, cells, kernels, biases)
            else:
                whole = tf.concat([tf.reshape(head(x), (2, -1, 5)) for x in maps], axis=1)
                rows = tf.gather(tf.reshape(whole, (-1, 5)), cells)
            loss = tf.reduce_sum(rows * weights)
        sources = [*maps, *(v.value for v in head.trainable_variables)]
        results.append([rows, *tape.gradient(loss, sources)])
    for ours, reference in zip(*results, strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-5 * np.abs(reference).max())


def test_wanted_cells_come_first():
    is_wanted = np.zeros((2, 6), bool)
    is_wanted[0, 4] = is_wanted[1, [0, 5]] = True
    assert sorted(choose_cells(is_wanted, 3).numpy().tolist()) == [4, 6, 11]
    chosen = choose_cells(is_wanted, 5).numpy().tolist()
    assert len(chosen) == 5 and {4, 6, 11} < {*chosen}


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_step_is_the_same_however_many_cells_have_room(monkeypatch, jit_compile):
    """With too little of it the whole head runs, and where chosen cells would cost more."""
    images, targets = detector_harness.make_squares(2, 160)
    targets["boxes"][1, 0] = [0, 134, 20, 160]  # in a corner
    recipe = RetinaNetRecipe(model=replace(SMALL, norm="none"))
    called, results = [], {}
    monkeypatch.setattr(
        retinanet, "run_at_cells", lambda *words: called.append(1) or run_at_cells(*words)
    )
    for rooms in ((1000,), (1,), (1, 30)):
        monkeypatch.setattr(retinanet, "CELLS_PER_IMAGE", rooms)
        keras.utils.set_random_seed(3)
        model = build_detector(recipe)
        harness.make_loud(model, ("class/", "box/"))
        called.clear()

        @tf.function(jit_compile=jit_compile)
        def step(model=model):
            with tf.GradientTape() as tape:
                loss = model.compute_loss(images, targets, model(images, training=True))
            return loss, tape.gradient(loss, [v.value for v in model.trainable_variables])

        loss, gradients = step()
        assert bool(called) == (rooms != (1000,))
        results[rooms] = [loss, *gradients]
    for rooms in ((1,), (1, 30)):
        for ours, reference in zip(results[rooms], results[(1000,)], strict=True):
            scale = np.abs(reference).max()
            np.testing.assert_allclose(ours, reference, atol=2e-5 * scale + 1e-7)
