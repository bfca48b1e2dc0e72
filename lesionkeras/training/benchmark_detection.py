"""Training steps and inference of our detectors beside KerasCV's RetinaNet on the same backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lesionkeras.config import (
    BaselineCNNRecipe,
    DetectionRecipe,
    FasterRCNNConfig,
    FasterRCNNRecipe,
    RetinaNetRecipe,
    SSDRecipe,
)
from lesionkeras.models import build_detector
from lesionkeras.training import concatenation_memory
from lesionkeras.training.benchmark import Step, compare, describe_machine, measure_rates
from lesionkeras.training.fit import compile_model
from lesionkeras.training.kerascv_retinanet import (
    SCHEDULE_STEPS,
    build_peer,
    compare_losses,
    make_twin,
    to_peer_targets,
)
from lesionkeras.training.precision import (
    BFLOAT16_CAPABILITY,
    FLOAT16_CAPABILITY,
    POLICIES,
    find_capabilities,
    resolve_precision,
)
from lesionkeras.training.run import describe_environment

OURS, PEER = "LesionKeras RetinaNet", "KerasCV RetinaNet"
BOX_SIDES_PX = (10.0, 60.0)  # of random lesions


def benchmark_detection(recipe: SSDRecipe, steps: int, repeats: int) -> dict[str, Any]:
    """Measures training step and inference, boxes included, under each policy of the hardware.

    All have random weights, the same optimizer, batch, images and `train.jit_compile`, and but for
    P2's baseline the same backbone.  Our RetinaNet has KerasCV's maps, heads, anchors and loss, and
    with the same weights gives the same loss; KerasCV's is as its `fit` trains it.

    Args:
        recipe: Network, image size, batch, optimizer; `train.precision` "auto" means all policies
            that the hardware runs natively.
        steps: Steps that are timed together.
        repeats: Turns of each contestant.

    Returns:
        The report as JSON values; see `benchmark.format_report`.  "concatenation" is what P2's
        takes beside plain layers, empty where the system does not say.
    """
    before = keras.config.dtype_policy()
    rows, notes = [], []
    concatenation = {}
    if concatenation_memory.STATUS.exists():
        side_px = recipe.data.image_size_px
        side_px -= side_px % concatenation_memory.POOLED_PX
        concatenation = concatenation_memory.measure_concatenation(side_px)
        notes.append(concatenation_memory.describe(concatenation, side_px))
    try:
        for policy in list_policies(recipe.train.precision, find_capabilities()):
            keras.config.set_dtype_policy(policy)
            tasks, note = build_contestants(recipe)
            notes += [note] * bool(note)
            for task, contestants in tasks.items():
                counts = (recipe.train.batch_size, steps, repeats)
                rates = measure_rates(contestants, *counts, f"{task}, {policy}")
                for name in (each for each in rates if each != PEER):
                    pair = compare({name: rates[name], PEER: rates[PEER]})
                    rows.append({"policy": policy, "task": task, **pair})
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
        "concatenation": concatenation,
        "notes": notes,
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


def list_recipes(recipe: SSDRecipe) -> dict[str, DetectionRecipe]:
    """List the detectors that are measured, all on the same images.

    Args:
        recipe: Backbone, classes, image size, batch and optimizer.

    Returns:
        Name -> recipe; the RetinaNet is `kerascv_retinanet.make_twin`, others are as they come.
    """
    shared: dict[str, Any] = {"data": recipe.data, "optimizer": recipe.optimizer}
    shared["train"] = recipe.train
    model = recipe.model
    two_stages = FasterRCNNConfig(backbone=model.backbone, num_classes=model.num_classes)
    return {
        OURS: make_twin(model.backbone, model.num_classes, **shared),
        "LesionKeras SSD": recipe,
        "LesionKeras Faster R-CNN": FasterRCNNRecipe(model=two_stages, **shared),
        "LesionKeras baseline": BaselineCNNRecipe(**shared),
    }


def build_contestants(recipe: SSDRecipe) -> tuple[dict[str, dict[str, Step]], str]:
    """Builds all networks under the current policy.

    Args:
        recipe: As for `list_recipes`.

    Returns:
        "training step" and "inference", each contestant -> one step on one random batch; and what
        the losses of our RetinaNet and of KerasCV's are with the same weights (float32 alone).
    """
    images, targets = make_batch(recipe)
    recipes, jit = list_recipes(recipe), recipe.train.jit_compile
    twin = recipes[OURS]
    assert isinstance(twin, RetinaNetRecipe)
    models = {name: build_detector(each) for name, each in recipes.items()}
    note = ""
    if keras.config.dtype_policy().name == "float32":
        ours, theirs = compare_losses(models[OURS], twin)
        note = f"loss of one batch with the same weights: ours {ours:.5f}, KerasCV's {theirs:.5f}"
    for name, model in models.items():
        compile_model(model, recipes[name], SCHEDULE_STEPS)
    peer = build_peer(twin)
    peer_detect = tf.function(
        lambda x: peer.decode_predictions(peer({"images": x}, training=False), x), jit_compile=jit
    )
    training = {n: make_training_step(m, images, targets) for n, m in models.items()}
    training[PEER] = make_training_step(peer, images, to_peer_targets(targets))
    inference = {
        n: _make_detection(tf.function(m.detect, jit_compile=jit), images)
        for n, m in models.items()
    }
    inference[PEER] = _make_detection(peer_detect, images)
    return {"training step": training, "inference": inference}, note


def _make_detection(detect: Any, images: Any) -> Step:
    return lambda: detect(images)["boxes"].numpy()  # numpy() waits for the device


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
