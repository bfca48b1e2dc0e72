"""What must hold for every segmentation network; a network's test names its case and calls these.

A check fails by assertion.  Each builds what it needs, so that none depends on another's training.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lesionkeras.config import SegmentationLossConfig
from lesionkeras.ct.reading import read_pair
from lesionkeras.ct.window import resize_hu_graph, window_numpy
from lesionkeras.models import build
from lesionkeras.segmentation_losses import segmentation_loss
from tests.models.harness import assert_same, flatten, policy

LOSS = SegmentationLossConfig()
NUM_LOGITS = {"binary": 1, "three_class": 3}


@dataclass(frozen=True)
class SegmenterCase:
    """A small network with a batch it can learn.

    Args:
        config: Of the network.
        image_unit: float32 [B, H, W, C].
        mask: uint8 [B, H, W] of 0, 1, 2.
    """

    config: Any
    image_unit: np.ndarray
    mask: np.ndarray

    def build_seeded(self, seed: int = 3) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return build(self.config)


def make_livers(count: int, height_px: int, width_px: int, channels: int = 3, seed: int = 0):
    """Livers, bright on dark, each with a tumour between the two; image_unit and mask."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height_px, :width_px]
    mask = np.zeros((count, height_px, width_px), np.uint8)
    for i in range(count):
        top, left = height_px * random.uniform(0.4, 0.6), width_px * random.uniform(0.4, 0.6)
        radius = np.hypot((y - top) / height_px, (x - left) / width_px)
        mask[i][radius < 0.35] = 1
        mask[i][np.hypot((y - top) / height_px, (x - left - 2) / width_px) < 0.15] = 2
    image = np.array([0.2, 0.8, 0.5])[mask][..., None]
    image = image + random.normal(0, 0.05, (*mask.shape, channels))
    return image.astype(np.float32), mask


def make_case(config: Any, count: int = 2, size_px: tuple[int, int] = (64, 32)) -> SegmenterCase:
    return SegmenterCase(config, *make_livers(count, *size_px, config.in_channels))


def settle_norms(model: keras.Model) -> None:
    """Averages that follow in a few steps, as all batches are the same."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5


def make_step(model: keras.Model, optimizer: Any, jit_compile: bool = False):
    """One training step: float32 loss before the update, and the gradients."""
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=jit_compile)
    def step(image_unit, mask):
        with tf.GradientTape() as tape:
            loss = segmentation_loss(model(image_unit, training=True), mask, LOSS)
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss, gradients

    return step


def train(model: keras.Model, case: SegmenterCase, steps: int, rate: float) -> list[float]:
    settle_norms(model)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    step = make_step(model, keras.optimizers.AdamW(schedule, weight_decay=1e-4))
    return [float(step(case.image_unit, case.mask)[0]) for _ in range(steps)]


def compute_dice(model: keras.Model, case: SegmenterCase) -> list[float]:
    """Dice of liver (labels 1 and 2) and of tumour, as inference sees them."""
    logits = flatten(model(case.image_unit, training=False))[0]
    found = logits.argmax(axis=-1)
    dice = []
    for label in (1, 2):
        ours, truth = found >= label, case.mask >= label
        assert truth.any()
        dice.append(2 * (ours & truth).sum() / (ours.sum() + truth.sum()))
    return dice


def check_shapes(config: Any, sizes_px: list[tuple[int, int]], scales: int = 1) -> keras.Model:
    """Logits of every size, before they are computed and after; returns the network."""
    model = build(config)
    for height, width in sizes_px:
        image_unit = make_livers(1, height, width, config.in_channels)[0]
        outputs = flatten(model(image_unit, training=False))
        symbolic = tf.nest.flatten(model(keras.Input((height, width, config.in_channels))))
        channels = NUM_LOGITS[config.head]
        wanted = [(1, height >> i, width >> i, channels) for i in range(scales)]
        assert [output.shape for output in outputs] == wanted
        assert [tuple(output.shape[1:]) for output in symbolic] == [s[1:] for s in wanted]
        assert {output.dtype.name for output in outputs} == {"float32"}
    return model


def check_learns(case: SegmenterCase, steps: int, rate: float, above: float) -> keras.Model:
    """The Dice of a batch's liver and tumour rise above a bound; returns the trained network."""
    model = case.build_seeded()
    losses = train(model, case, steps, rate)
    assert np.isfinite(losses).all()
    assert min(compute_dice(model, case)) > above, (losses, compute_dice(model, case))
    return model


def check_steps_are_finite(case: SegmenterCase, name: str) -> None:
    """Under a policy: float32 variables, logits and loss, and steps that change the weights.

    One step is on an empty mask.
    """
    with policy(name):
        model = case.build_seeded()
        assert model.compute_dtype == name.removeprefix("mixed_")
        assert {v.dtype for v in model.trainable_variables} == {"float32"}
        optimizer = keras.optimizers.Adam(1e-3)
        if name == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=128.0)
        step = make_step(model, optimizer)
        for mask in (case.mask, np.zeros_like(case.mask)):
            before = [v.numpy() for v in model.trainable_variables]
            loss, gradients = step(case.image_unit, mask)
            assert loss.dtype == tf.float32 and np.isfinite(float(loss))
            assert all(np.isfinite(g).all() for g in gradients)
            after = [v.numpy() for v in model.trainable_variables]
            assert all(np.isfinite(v).all() for v in after)
            assert any(np.any(a != b) for a, b in zip(before, after, strict=True))
        logits = flatten(model(case.image_unit, training=False))
        assert {value.dtype.name for value in logits} == {"float32"}
        assert all(np.isfinite(value).all() for value in logits)


def check_xla(case: SegmenterCase, rtol: float) -> None:
    """A training step compiles under XLA and does what the uncompiled one does."""
    results = []
    for jit_compile in (False, True):
        model = case.build_seeded()
        step = make_step(model, keras.optimizers.SGD(0.1), jit_compile)
        loss, gradients = step(case.image_unit, case.mask)
        results.append((float(loss), [g.numpy() for g in gradients]))
    (plain, gradients), (compiled, compiled_gradients) = results
    assert abs(compiled - plain) < rtol * abs(plain)
    largest = max(np.abs(g).max() for g in gradients)
    assert largest > 0
    for ours, reference in zip(compiled_gradients, gradients, strict=True):
        # Beside its own size: what cancels in a sum, as before a norm, is noise of the largest.
        atol = rtol * np.abs(reference).max() + 1e-5 * largest
        np.testing.assert_allclose(ours, reference, atol=atol)


def check_save_and_load(model: keras.Model, image_unit: np.ndarray, path: Path) -> None:
    """A .keras file gives the same outputs bit for bit."""
    wanted = model(image_unit, training=False)
    model.save(path)
    again = keras.models.load_model(path)
    assert_same(again(image_unit, training=False), wanted)
    # As text: from a file shapes come as lists.
    configs = [json.dumps(keras.saving.serialize_keras_object(m)["config"]) for m in (again, model)]
    assert configs[0] == configs[1]


def read_real_slice(real_data: Path, config: Any, side_px: int) -> SegmenterCase:
    """LiTS 1's slice with the most tumour and its neighbours, P3's window."""
    folder = real_data / "lits"
    image, mask = read_pair(folder / "volume-1.nii.gz", folder / "segmentation-1.nii.gz")
    z = int((mask.array == 2).sum(axis=(1, 2))[1:-1].argmax()) + 1
    stack_hu = np.moveaxis(image.array[z - 1 : z + 2], 0, -1)
    image_unit = window_numpy(
        np.asarray(resize_hu_graph(stack_hu, (side_px, side_px))), (-160.0, 240.0)
    )
    step = mask.array.shape[1] // side_px
    small = mask.array[z, step // 2 :: step, step // 2 :: step]
    return SegmenterCase(config, image_unit[None].astype(np.float32), small[None])
