"""Inference of the U-Net of 64 to 1024 channels, beside MONAI's same network on PyTorch."""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lesionkeras.config import UNetConfig
from lesionkeras.errors import RunError
from lesionkeras.models.fast import compile_inference, count_operations, make_fast
from lesionkeras.models.freed_memory import ENVIRONMENT, keep_freed_memory
from lesionkeras.models.unet import build_unet
from lesionkeras.training import monai_unet
from lesionkeras.training.benchmark import compare, describe_machine, measure_rates
from lesionkeras.training.peers import MONAI_PINS, Child, get_peers_dir, make_environment
from lesionkeras.training.run import describe_environment

Infer = Callable[[np.ndarray], np.ndarray]

OURS, KERAS = "LesionKeras", "Keras"
NO_ONEDNN = "Keras, no oneDNN"
CALIBRATION_PX = 128  # side of the crop that batch norms take their statistics of
FOREGROUND = 0.3  # share of pixels above the threshold, so that masks have something to differ in
MATMUL_SIDE = 2048  # of the product that shows what the CPU can do


def benchmark_segmentation(
    steps: int, repeats: int, side_px: int, base_channels: int, batches: tuple[int, ...]
) -> dict[str, Any]:
    """Measures inference in images/s, float32, of networks with the same weights.

    Args:
        steps: Steps that are timed together.
        repeats: Turns of each contestant.
        side_px: Of the images.
        base_channels: Of the first level; five levels, each with twice as many: 64 to 1024.
        batches: Images at once.

    Returns:
        The report as JSON values; see `benchmark.format_report`. Each row is ours and one other,
        of the same turns, with the Dice of the two masks; "arithmetic" says how near the peak.

    Raises:
        RunError: MONAI's environment cannot be made, or a process ended before the first size of
            batch was measured; a later end is a note.
    """
    images = make_images(max(batches), side_px)
    model = build_network(base_channels, images)
    rows: list[dict[str, Any]] = []
    unmeasured: list[str] = []
    with open_contestants(model, images, base_channels) as (contestants, about):
        for batch in batches:
            try:
                rows += contestants.measure(batch, steps, repeats)
            except RunError as error:  # what is measured already is not lost
                if not rows:
                    raise
                unmeasured.append(f"batches of {batch} are not measured: {error}")
                break
    arithmetic = describe_arithmetic(model, side_px, rows, contestants.peak_gflop_s)
    return {
        "benchmark": "segmentation",
        "settings": {
            "network": f"U-Net {base_channels} to {base_channels * 16}",
            "image_size_px": side_px,
            "steps": steps,
            "repeats": repeats,
            **{f"peer_{name}": value for name, value in about.items()},
        },
        "environment": describe_environment(),
        "machine": describe_machine(),
        "columns": ("policy", "batch, beside", "who", "images/s"),
        "rows": rows,
        "arithmetic": arithmetic,
        "notes": format_notes(rows, arithmetic) + unmeasured,
    }


def format_notes(rows: list[dict[str, Any]], arithmetic: dict[str, float]) -> list[str]:
    """Formats what the table does not hold.

    Args:
        rows: Of `Contestants.measure`.
        arithmetic: Of `describe_arithmetic`.

    Returns:
        Lines: how far masks agree, and how near the peak.
    """
    costs = {name: s for row in rows[::-1] for name, s in row["cpu_s_per_image"].items()}
    return [
        f"masks agree at Dice {min(row['dice'] for row in rows):.6f} or more, "
        f"logits within {max(row['largest_difference'] for row in rows):.1g}",
        f"CPU seconds an image, batch of {rows[0]['task'].split(',')[0]}: "
        + ", ".join(f"{name} {seconds:.2f}" for name, seconds in costs.items()),
        "every process keeps the memory that it frees (glibc's malloc), ours and, by environment, "
        "the others'",
        "one image is {direct_gflop:.1f} GFLOP directly, {done_gflop:.1f} as ours does it: "
        "{direct_gflop_s:.0f} and {done_gflop_s:.0f} GFLOP/s".format(**arithmetic),
        "that is {share_of_peak_direct:.0%} and {share_of_peak_done:.0%} of the {peak_gflop_s:.0f} "
        "GFLOP/s of a large matrix product in the same turns".format(**arithmetic),
    ]


class Contestants:
    """All who take turns, with the same weights and images.

    Args:
        model: Ours, as it is trained.
        images: float32 [N, S, S, 1].
        monai: The process of `monai_unet.py`.
        plain: The process of this module: Keras without oneDNN.
        folder: For results of the processes.
    """

    def __init__(
        self, model: keras.Model, images: np.ndarray, monai: Child, plain: Child, folder: Path
    ) -> None:
        self._images, self._folder = images, folder
        self._ours: dict[str, Infer] = {OURS: compile_inference(model), KERAS: compile_plain(model)}
        self._others = {f"MONAI, {variant}": (monai, variant) for variant in monai_unet.VARIANTS}
        self._others[NO_ONEDNN] = (plain, NO_ONEDNN)
        self.peak_gflop_s = 0.0  # the best turn of all

    def measure(self, batch: int, steps: int, repeats: int) -> list[dict[str, Any]]:
        """Measures one size of batch.

        Args:
            batch: Images at once.
            steps: Steps a turn.
            repeats: Turns of each.

        Returns:
            A row for ours beside each other.
        """
        logits = {name: self._infer(name, batch) for name in (*self._ours, *self._others)}
        cpu_s: dict[str, list[float]] = {name: [] for name in logits}

        def make_step(name: str) -> Callable[[], object]:
            return lambda: cpu_s[name].append(self._run(name, batch))

        steps_of = {name: make_step(name) for name in logits}
        turns = {**steps_of, "peak": self._multiply}
        rates = measure_rates(turns, batch, steps, repeats, f"batch {batch}", warmup_steps=1)
        return [
            {
                "policy": "float32",
                "task": f"{batch}, {name}",
                **compare({OURS: rates[OURS], name: rates[name]}),
                "cpu_s_per_image": {
                    who: statistics.median(cpu_s[who]) / batch for who in (OURS, name)
                },
                "dice": compute_dice(logits[OURS], logits[name]),
                "largest_difference": float(np.abs(logits[OURS] - logits[name]).max()),
            }
            for name in logits
            if name != OURS
        ]

    def _run(self, name: str, batch: int) -> float:
        """One step; returns the seconds that it took of all cores together."""
        if name in self._ours:
            start_s = time.process_time()
            self._ours[name](self._images[:batch])
            return time.process_time() - start_s
        child, variant = self._others[name]
        return child.ask(variant=variant, batch=batch, steps=1)["cpu_seconds"]

    def _infer(self, name: str, batch: int) -> np.ndarray:
        if name in self._ours:
            return self._ours[name](self._images[:batch])
        child, variant = self._others[name]
        file = self._folder / "logits.npy"
        child.ask(variant=variant, batch=batch, steps=1, file=str(file))
        return np.load(file)

    def _multiply(self) -> None:
        matrix = tf.ones((MATMUL_SIDE, MATMUL_SIDE))
        start_s = time.perf_counter()
        tf.matmul(matrix, matrix).numpy()
        rate = 2e-9 * MATMUL_SIDE**3 / (time.perf_counter() - start_s)
        self.peak_gflop_s = max(self.peak_gflop_s, rate)


@contextmanager
def open_contestants(
    model: keras.Model, images: np.ndarray, base_channels: int
) -> Iterator[tuple[Contestants, dict[str, Any]]]:
    """Opens the processes of the others; they end with the context.

    Args:
        model: Ours, as it is trained.
        images: float32 [N, S, S, 1].
        base_channels: Of the first level.

    Yields:
        All who take turns, and what MONAI's process says of itself.

    Raises:
        RunError: MONAI's environment cannot be made, or a process ended at once.
    """
    python = make_environment(get_peers_dir() / "-".join(MONAI_PINS).replace("==", "-"))
    keep_freed_memory()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        weights, files = folder / "weights.npz", folder / "images.npy"
        np.savez(weights, **list_weights(model))  # type: ignore[arg-type]  # names, not options
        np.save(files, images)
        words = [str(python), monai_unet.__file__, str(weights), str(files)]
        monai = stack.enter_context(Child("MONAI", words, ENVIRONMENT))
        words = [sys.executable, "-m", __name__, str(base_channels), str(weights), str(files)]
        variables = ENVIRONMENT | {"TF_ENABLE_ONEDNN_OPTS": "0"}
        plain = stack.enter_context(Child(NO_ONEDNN, words, variables))
        yield Contestants(model, images, monai, plain, folder), monai.about


def describe_arithmetic(
    model: keras.Model, side_px: int, rows: list[dict[str, Any]], peak_gflop_s: float
) -> dict[str, Any]:
    """Says how far from the CPU's arithmetic ours is, by its best turn of one image.

    Args:
        model: Ours, as it is trained.
        side_px: Of the images.
        rows: Of `Contestants.measure`.
        peak_gflop_s: Of a large matrix product in the same turns, the best.

    Returns:
        Operations of one image in 1e9, direct and as we do them; those a second; shares of the
        peak. The direct ones may exceed it: Winograd's need a quarter.
    """
    shape = (side_px, side_px, model.input.shape[-1])
    direct, done = (count_operations(network, shape) / 1e9 for network in (model, make_fast(model)))
    rate = max(row["images_per_s"][OURS]["max"] for row in rows)
    return {
        "peak_gflop_s": peak_gflop_s,
        "direct_gflop": direct,
        "done_gflop": done,
        "direct_gflop_s": direct * rate,
        "done_gflop_s": done * rate,
        "share_of_peak_direct": direct * rate / peak_gflop_s,
        "share_of_peak_done": done * rate / peak_gflop_s,
    }


def compute_dice(a_logits: np.ndarray, b_logits: np.ndarray) -> float:
    """Computes the overlap of two masks: logits above 0.

    Args:
        a_logits: float [...].
        b_logits: The same shape.

    Returns:
        2 |A and B| / (|A| + |B|); NaN where both are empty, which shows nothing.

    >>> compute_dice(np.array([1.0, 2.0, -1.0]), np.array([1.0, -2.0, -1.0]))
    0.6666666666666666
    """
    a, b = a_logits > 0, b_logits > 0
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else math.nan


def make_images(count: int, side_px: int) -> np.ndarray:
    """Makes images like slices of CT: a body, an organ and lesions in it, noise.

    Args:
        count: How many, all different.
        side_px: Of each.

    Returns:
        float32 [count, S, S, 1], 0 to 1.
    """
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : side_px * 1j, -1 : 1 : side_px * 1j]
    images = np.zeros((count, side_px, side_px), np.float32)
    for image in images:
        image[(x / 0.9) ** 2 + (y / 0.7) ** 2 < 1] = 0.45
        for size, value in ((0.4, 0.6), (0.12, 0.5), (0.08, 0.52), (0.2, 0.7)):
            cy, cx = random.uniform(-0.4, 0.4, 2)
            image[(x - cx) ** 2 + (y - cy) ** 2 < size**2] = value
    noise = random.normal(0, 0.03, images.shape).astype(np.float32)
    return (images + noise).clip(0, 1)[..., None]


def build_network(base_channels: int, images: np.ndarray) -> keras.Model:
    """Builds our U-Net with random weights whose maps and mask are as lively as a trained one's.

    Args:
        base_channels: Of the first level.
        images: float32 [N, S, S, 1].

    Returns:
        A network with one logit; batch norms have statistics, scales and shifts of their own.
    """
    keras.utils.set_random_seed(0)
    model = build_unet(UNetConfig(in_channels=1, head="binary", base_channels=base_channels))
    norms = [la for la in model.layers if isinstance(la, keras.layers.BatchNormalization)]
    random = np.random.default_rng(0)
    for norm in norms:
        norm.gamma.assign(random.uniform(0.5, 1.5, norm.gamma.shape))
        norm.beta.assign(random.normal(0, 0.2, norm.beta.shape))
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # what is seen next is all that is remembered
    crop = images[:, -CALIBRATION_PX:, -CALIBRATION_PX:]
    middle = images.shape[1] // 2
    if middle > CALIBRATION_PX:
        crop = images[:1, middle - CALIBRATION_PX : middle, middle - CALIBRATION_PX : middle]
    model(crop, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    bias = model.get_layer("logits").bias
    bias.assign(bias - np.quantile(model(crop, training=False), 1 - FOREGROUND))
    return model


def list_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Lists a network's variables as `LAYER/VARIABLE` -> array."""
    return {f"{la.name}/{v.name}": v.numpy() for la in model.layers for v in la.weights}


def compile_plain(model: keras.Model) -> Infer:
    """Compiles a network as Keras runs it.

    Args:
        model: Any.

    Returns:
        float32 [B, H, W, C] -> logits.
    """
    run = tf.function(lambda images: model(images, training=False))
    return lambda images: run(tf.constant(images)).numpy()


def main(base_channels: str, weights_file: str, images_file: str) -> None:
    """Answers as `monai_unet.py` does, with Keras as this process's variables make it."""
    answers, sys.stdout = sys.stdout, sys.stderr
    config = UNetConfig(in_channels=1, head="binary", base_channels=int(base_channels))
    model = build_unet(config)
    with np.load(weights_file) as arrays:
        for layer in model.layers:
            for variable in layer.weights:
                variable.assign(arrays[f"{layer.name}/{variable.name}"])
    infer = {NO_ONEDNN: compile_plain(model)}
    monai_unet.serve(infer, np.load(images_file), {"engine": "keras"}, answers=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
