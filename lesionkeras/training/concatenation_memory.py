"""What P2's concatenation takes in memory and time: our layer beside the plain layers.

Each is measured in a process of its own, whose high-water mark no other can raise:

    python -m lesionkeras.training.concatenation_memory plain 512
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lesionkeras.errors import RunError
from lesionkeras.models.upsampled_conv import KERNEL_PX, UpsampledConv2D

WAYS = ("ours", "plain")
CHANNELS, POOLED_PX, FILTERS = 512, 8, 32  # VGG16 without its last two poolings
REPEATS = 3
MB = 1e6
STATUS = Path("/proc/self/status")  # Linux alone has it
_SHOWN_CHARACTERS = 300  # of what a process says


def build_layer(way: str, side_px: int) -> keras.Model:
    """Build upsampling, concatenation and the convolution after them.

    Args:
        way: "ours", or "plain": Keras' UpSampling2D, Concatenate and Conv2D.
        side_px: Of the image.

    Returns:
        (float32 [B, side / 8, side / 8, 512], float32 [B, side, side, 3]) to [B, side, side, 32].
    """
    small = keras.Input((side_px // POOLED_PX, side_px // POOLED_PX, CHANNELS))
    image = keras.Input((side_px, side_px, 3))
    if way == "ours":
        x = UpsampledConv2D(FILTERS, "bilinear", name="conv")([small, image])
    else:
        large = keras.layers.UpSampling2D(POOLED_PX, interpolation="bilinear")(small)
        both = keras.layers.Concatenate()([large, image])
        x = keras.layers.Conv2D(FILTERS, KERNEL_PX, padding="same", name="conv")(both)
    return keras.Model([small, image], x)


def measure_here(way: str, side_px: int) -> dict[str, float]:
    """Measure forward pass and gradients of one image, in this process.

    Args:
        way: One of WAYS.
        side_px: Of the image.

    Returns:
        "memory_mb", by which the process' high-water mark rose; "seconds", the median of a step.
    """
    import tensorflow as tf

    model = build_layer(way, side_px)
    random = np.random.default_rng(0)
    side = side_px // POOLED_PX
    small = tf.constant(random.random((1, side, side, CHANNELS), np.float32))
    image = tf.constant(random.random((1, side_px, side_px, 3), np.float32))

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(small)
            loss = tf.reduce_mean(tf.square(model([small, image])))
        return tape.gradient(loss, [small, *model.trainable_variables])

    step.get_concrete_function()
    before_kb, seconds = _read_peak_kb(), []
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        step()[0].numpy()
        seconds.append(time.perf_counter() - start_s)
    risen_kb = _read_peak_kb() - before_kb
    return {"memory_mb": risen_kb * 1024 / MB, "seconds": statistics.median(seconds)}


def _read_peak_kb() -> int:
    # not getrusage: its mark of a new process is the parent's
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure_concatenation(side_px: int) -> dict[str, dict[str, float]]:
    """Measure both ways, each in a process of its own, on the CPU.

    Args:
        side_px: Of the image; a multiple of 8.

    Returns:
        Way -> as `measure_here`.

    Raises:
        RunError: A process ended without a result.
    """
    found = {}
    for way in WAYS:
        print(f"Measuring the concatenation's memory, {way}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", __name__, way, str(side_px)],
            capture_output=True,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        )
        if done.returncode:
            raise RunError(
                "Memory could not be measured",
                where=f"a process of its own, {way}",
                found=" ".join(done.stderr.split())[-_SHOWN_CHARACTERS:],
                next_step="give it more memory, or a smaller --image-size",
            )
        found[way] = json.loads(done.stdout.splitlines()[-1])
    return found


def describe(found: dict[str, dict[str, float]], side_px: int) -> str:
    """Say what was measured in a line.

    Args:
        found: From `measure_concatenation`.
        side_px: Of the image.

    >>> ours, plain = ({"memory_mb": mb, "seconds": s} for mb, s in ((200, 0.5), (3000, 2.0)))
    >>> describe({"ours": ours, "plain": plain}, 512)
    'concatenation, a step of one image of 512 px: ours 200 MB in 0.50 s, plain 3000 MB in 2.00 s'
    """
    parts = [
        f"{way} {row['memory_mb']:.0f} MB in {row['seconds']:.2f} s" for way, row in found.items()
    ]
    return f"concatenation, a step of one image of {side_px} px: " + ", ".join(parts)


if __name__ == "__main__":
    print(json.dumps(measure_here(sys.argv[1], int(sys.argv[2]))))
