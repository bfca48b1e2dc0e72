"""The SSD's training step and inference beside KerasCV's RetinaNet on the same backbone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lesionkeras.config import SSDRecipe
from lesionkeras.models.backbones import build_kerascv_resnet
from lesionkeras.models.ssd import build_ssd
from lesionkeras.training.benchmark import Step, compare, describe_machine, measure_rates
from lesionkeras.training.fit import compile_model
from lesionkeras.training.optimizers import build_optimizer
from lesionkeras.training.precision import (
    BFLOAT16_CAPABILITY,
    FLOAT16_CAPABILITY,
    POLICIES,
    find_capabilities,
    resolve_precision,
)
from lesionkeras.training.run import describe_environment

OURS, PEER = "LesionKeras SSD", "KerasCV RetinaNet"
SCHEDULE_STEPS = 1000  # any: the schedule's length does not change a step's cost
BOX_SIDES_PX = (10.0, 60.0)  # of random lesions


def benchmark_detection(recipe: SSDRecipe, steps: int, repeats: int) -> dict[str, Any]:
    """Measures training step and inference, boxes included, under each policy of the hardware.

    Both have the same backbone with random weights, optimizer, batch and images, and the same
    `train.jit_compile`; each has its own anchors, necks, heads, loss and suppression.

    Args:
        recipe: Network, image size, batch, optimizer; `train.precision` "auto" means all policies
            that the hardware runs natively.
        steps: Steps that are timed together.
        repeats: Turns of each contestant.

    Returns:
        The report as JSON values; see `benchmark.format_report`.
    """
    before = keras.config.dtype_policy()
    rows = []
    try:
        for policy in list_policies(recipe.train.precision, find_capabilities()):
            keras.config.set_dtype_policy(policy)
            for task, contestants in build_contestants(recipe).items():
                print(f"Measuring {task}, {policy}", file=sys.stderr, flush=True)
                rates = measure_rates(contestants, recipe.train.batch_size, steps, repeats)
                rows.append({"policy": policy, "task": task, **compare(rates)})
    finally:
        keras.config.set_dtype_policy(before)
    return {
        "benchmark": "detection",
        "settings": {
            "backbone": recipe.model.backbone,
            "image_size_px": recipe.data.image_size_px,
            "batch_size": recipe.train.batch_size,
            "jit_compile": recipe.train.jit_compile,
            "steps": steps,
            "repeats": repeats,
        },
        "environment": describe_environment(),
        "machine": describe_machine(),
        "rows": rows,
    }


def list_policies(precision: str, capabilities: Sequence[tuple[int, int]]) -> list[str]:
    """Lists the Keras policies to measure: float32, and 16-bit ones that are not emulated.

    Args:
        precision: `train.precision`; anything but "auto" is measured alone.
        capabilities: CUDA compute capability of each GPU.

    Returns:
        Keras policy names.

    >>> list_policies("auto", []), list_policies("auto", [(7, 5)]), list_policies("float16", [])
    (['float32'], ['float32', 'mixed_float16'], ['mixed_float16'])
    """
    if precision != "auto":
        return [resolve_precision(precision)]
    weakest = min(capabilities, default=(0, 0))
    needed = {"float32": (0, 0), "bfloat16": BFLOAT16_CAPABILITY, "float16": FLOAT16_CAPABILITY}
    return [POLICIES[name] for name, capability in needed.items() if weakest >= capability]


def build_contestants(recipe: SSDRecipe) -> dict[str, dict[str, Step]]:
    """Builds both networks under the current policy.

    Args:
        recipe: Network, image size, batch and optimizer.

    Returns:
        "training step" and "inference", each contestant -> one step on one random batch.
    """
    images, targets = make_batch(recipe)
    ours = build_ssd(recipe.model, recipe.match, recipe.loss, recipe.decode)
    compile_model(ours, recipe, SCHEDULE_STEPS)
    peer = build_retinanet(recipe)
    padding = targets["classes"] < 0  # KerasCV's convention: -1 in boxes too, float classes
    peer_targets = {
        "boxes": tf.where(padding[..., None], -1.0, targets["boxes"]),
        "classes": tf.cast(targets["classes"], tf.float32),
    }
    jit = recipe.train.jit_compile
    detect = tf.function(ours.detect, jit_compile=jit)
    peer_detect = tf.function(
        lambda x: peer.decode_predictions(peer({"images": x}, training=False), x), jit_compile=jit
    )
    return {
        "training step": {
            OURS: make_training_step(ours, images, targets),
            PEER: make_training_step(peer, images, peer_targets),
        },
        "inference": {
            OURS: lambda: detect(images)["boxes"].numpy(),  # numpy() waits for the device
            PEER: lambda: peer_detect(images)["boxes"].numpy(),
        },
    }


def make_training_step(model: keras.Model, images: Any, targets: Any) -> Step:
    """Makes one call of the compiled step that `fit` runs; it waits for the loss.

    Args:
        model: Compiled, its optimizer built.
        images: One batch.
        targets: Its targets.

    Returns:
        The step; gives the loss.
    """
    # Not train_on_batch: it adds an empty sample weight, which RetinaNet's train_step refuses.
    model.make_train_function()
    return lambda: float(model.train_function(iter([(images, targets)]))["loss"])


def build_retinanet(recipe: SSDRecipe) -> Any:
    """Builds and compiles KerasCV's RetinaNet on the recipe's backbone, random weights.

    Losses have reduction "sum", because it divides by the number of positives itself.
    """
    import keras_cv

    backbone = build_kerascv_resnet(recipe.model.backbone, recipe.data.image_size_px)
    model = keras_cv.models.RetinaNet(
        backbone=backbone, num_classes=recipe.model.num_classes, bounding_box_format="xyxy"
    )
    model.compile(
        classification_loss=keras_cv.losses.FocalLoss(from_logits=True, reduction="sum"),
        box_loss=keras_cv.losses.SmoothL1Loss(l1_cutoff=1.0, reduction="sum"),
        optimizer=build_optimizer(recipe.optimizer, SCHEDULE_STEPS),
        jit_compile=recipe.train.jit_compile,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def make_batch(recipe: SSDRecipe) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Makes one random batch in the shapes of the pipeline.

    Args:
        recipe: Image size, batch size and rows of ground truth; `train.seed`.

    Returns:
        image_unit float32 [B, S, S, 3], and boxes float32 [B, M, 4] xyxy px and classes int32
        [B, M] with 1 to 5 lesions an image, the rest padding.
    """
    random = np.random.default_rng(recipe.train.seed)
    batch, side_px, rows = recipe.train.batch_size, recipe.data.image_size_px, recipe.data.max_boxes
    images = random.random((batch, side_px, side_px, 3), np.float32)
    sides = random.uniform(*BOX_SIDES_PX, (batch, rows, 2)).clip(max=side_px)
    corners = random.random((batch, rows, 2)) * (side_px - sides)
    boxes = np.concatenate([corners, corners + sides], axis=-1).astype(np.float32)
    real = np.arange(rows) < random.integers(1, min(5, rows) + 1, (batch, 1))
    classes = np.where(real, random.integers(0, recipe.model.num_classes, (batch, rows)), -1)
    targets = {
        "boxes": tf.constant(np.where(real[..., None], boxes, 0).astype(np.float32)),
        "classes": tf.constant(classes.astype(np.int32)),
    }
    return tf.constant(images), targets
