"""Speed of reading: PNG files, prepared images, volumes and building, beside the plainest way.

The plainest way is what the documentation of tf.data and nibabel shows, in parallel where tf.data
is.  Files are read before they are timed, so that both find them in the memory of the system.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from lesionkeras.config import DataConfig, DetectionAugmentConfig, SSDRecipe
from lesionkeras.ct.nifti import read_nifti
from lesionkeras.ct.window import HU_HIGH, HU_LOW, window_graph
from lesionkeras.data.decode import make_stacks
from lesionkeras.data.opening import Split
from lesionkeras.data.pipeline import make_eval
from lesionkeras.data.prepared import Prepared
from lesionkeras.data.splits import make_copies
from lesionkeras.errors import RunError
from lesionkeras.training.benchmark import Step, compare, describe_machine, measure_rates
from lesionkeras.training.run import describe_environment

Triple = tuple[Path | None, Path, Path | None]
OURS, PLAIN, NIBABEL = "LesionKeras", "plain tf.data", "nibabel"
BATCH_IMAGES = 8
PREPARED_IMAGES = 96  # 151 MB of int16 at 512 x 512 x 3
WINDOW_HU = (-160.0, 240.0)
SLICES_AN_IMAGE = 3


def list_triples(images_dir: Path) -> dict[str, list[Triple]]:
    """List the images that PNG files make, in three ways.

    Args:
        images_dir: DeepLesion's `Images_png`, or a folder of that shape.

    Returns:
        "every slice": each file is a key slice once, with the neighbours that are there; "without
        neighbours": those that have none, as most shared key slices; "no slice twice": images with
        both neighbours that share no slice, where nothing can be decoded less often.  Kinds
        without images are left out.
    """
    every: list[Triple] = []
    apart: list[Triple] = []
    for series in sorted(path for path in images_dir.iterdir() if path.is_dir()):
        files = {int(path.stem): path for path in series.glob("*.png") if path.stem.isdecimal()}
        used = -1
        for number in sorted(files):
            triple = (files.get(number - 1), files[number], files.get(number + 1))
            every.append(triple)
            if all(triple) and number - 1 > used:
                apart.append(triple)
                used = number + 1
    alone = [triple for triple in every if triple[0] is None and triple[2] is None]
    kinds = {"every slice": every, "without neighbours": alone, "no slice twice": apart}
    return {name: triples for name, triples in kinds.items() if triples}


def make_plain_stacks(files: Sequence[Triple]) -> tf.data.Dataset:
    """Return the same batches as `data.decode.make_stacks`, the plainest correct way."""

    def read_slice(name: Any) -> Any:
        stored = tf.io.decode_png(tf.io.read_file(name), channels=1, dtype=tf.uint16)[..., 0]
        image_hu = tf.cast(stored, tf.int32) - 32768
        return tf.cast(tf.clip_by_value(image_hu, HU_LOW, HU_HIGH), tf.int16)

    def load(names: Any) -> Any:
        image_hu = tf.stack([read_slice(names[i]) for i in range(SLICES_AN_IMAGE)], axis=-1)
        return window_graph(image_hu, WINDOW_HU)

    names = [[str(path or key) for path in (before, key, after)] for before, key, after in files]
    rows = tf.data.Dataset.from_tensor_slices(names)
    rows = rows.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return rows.batch(BATCH_IMAGES).prefetch(tf.data.AUTOTUNE)


def make_plain_eval(images: np.ndarray) -> tf.data.Dataset:
    """Return windowed batches of stored images, one image a call."""

    def load(row: Any) -> Any:
        image_hu = tf.numpy_function(lambda i: images[i], [row], tf.int16)
        return window_graph(tf.ensure_shape(image_hu, images.shape[1:]), WINDOW_HU)

    rows = tf.data.Dataset.range(len(images)).map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return rows.batch(BATCH_IMAGES).prefetch(tf.data.AUTOTUNE)


def _make_ours(images: np.ndarray) -> tf.data.Dataset:
    count = len(images)
    prepared = Prepared(
        images=images,
        boxes=np.zeros((count, 1, 4), np.float32),
        classes=np.full((count, 1), -1, np.int32),
        patients=("",) * count,
        files=("",) * count,
        spacing_mm=np.ones((count, 2), np.float32),
        size_px=np.tile(np.asarray(images.shape[1:3], np.int32), (count, 1)),
    )
    recipe = SSDRecipe(
        data=DataConfig(window_hu=WINDOW_HU), augment=DetectionAugmentConfig(mode="none")
    )
    split = Split(prepared, make_copies(count, 0))
    return make_eval(split, recipe, BATCH_IMAGES).map(lambda image_unit, _: image_unit)


def run_through(make: Callable[[], Iterable[Any]]) -> Step:
    """Return a step that makes a data set anew and reads it to its end."""

    def step() -> None:
        for _ in make():
            pass

    return step


def run_on(make: Callable[[], tf.data.Dataset], num_batches: int) -> Step:
    """Return a step that reads so many batches more of one data set, as training does.

    Its making, 50 ms, is no part of a step: thousands of batches follow it.
    """
    stream = iter(make().repeat())

    def step() -> None:
        for _ in range(num_batches):
            next(stream)

    return step


def check_equal(makers: Mapping[str, Callable[[], Iterable[Any]]], task: str) -> None:
    """Raise unless all contestants give the same batches: speed alone is no comparison.

    Args:
        makers: Name -> a function that makes a data set of tensors.
        task: What it is about, for the error.

    Raises:
        RunError: Two differ.
    """
    for batches in zip(*(make() for make in makers.values()), strict=True):
        first, *others = (np.asarray(batch) for batch in batches)
        if not all(np.array_equal(first, other) for other in others):
            raise RunError(
                "Contestants of a benchmark differ",
                where=task,
                found=" and ".join(makers),
                wanted="the same numbers",
            )


def _measure(
    unit: str, task: str, contestants: Mapping[str, Step], units: float, steps: int, repeats: int
) -> dict[str, Any]:
    rates = measure_rates(contestants, units, steps, repeats, task, warmup_steps=1)
    return {"policy": unit, "task": task, **compare(rates)}


def measure_pngs(images_dir: Path, steps: int, repeats: int) -> list[dict[str, Any]]:
    """Measure PNG files to windowed batches of three slices, each way of `list_triples`."""
    rows = []
    for kind, files in list_triples(images_dir).items():
        makers: dict[str, Callable[[], Any]] = {
            OURS: partial(make_stacks, files, WINDOW_HU, BATCH_IMAGES),
            PLAIN: partial(make_plain_stacks, files),
        }
        task, slices = f"PNG, {kind}", SLICES_AN_IMAGE * len(files)
        check_equal(makers, task)
        contestants = {name: run_through(make) for name, make in makers.items()}
        rows.append(_measure("slices/s", task, contestants, slices, steps, repeats))
    return rows


def measure_prepared(images_dir: Path, steps: int, repeats: int) -> dict[str, Any]:
    """Measure stored int16 images to windowed float32 batches."""
    files = list_triples(images_dir)["every slice"]
    stacks = [np.asarray(batch) for batch in make_stacks(files, (HU_LOW, HU_HIGH), 1)]
    some_hu = np.concatenate(stacks) * (HU_HIGH - HU_LOW) + HU_LOW
    with tempfile.TemporaryDirectory() as folder:
        path, shape = Path(folder) / "images.npy", (PREPARED_IMAGES, *some_hu.shape[1:])
        stored = np.lib.format.open_memmap(path, "w+", np.int16, shape)
        for i in range(PREPARED_IMAGES):
            stored[i] = np.round(some_hu[i % len(some_hu)])
        stored.flush()
        images = np.load(path, mmap_mode="r")
        makers = {OURS: lambda: _make_ours(images), PLAIN: lambda: make_plain_eval(images)}
        check_equal(makers, "prepared images")
        num_batches = PREPARED_IMAGES // BATCH_IMAGES
        contestants = {name: run_on(make, num_batches) for name, make in makers.items()}
        slices = SLICES_AN_IMAGE * PREPARED_IMAGES
        return _measure("slices/s", "prepared images", contestants, slices, steps, repeats)


def measure_volumes(volumes: Sequence[Path], steps: int, repeats: int) -> dict[str, Any] | None:
    """Measure .nii.gz files to int16 arrays beside nibabel, which checks neither HU nor geometry.

    Args:
        volumes: The files.
        steps: Passes over them that are timed together.
        repeats: Turns of each.

    Returns:
        The row, in MB/s of voxels; None where nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError:
        print("nibabel is not installed: its row is left out", file=sys.stderr)
        return None
    megabytes = sum(2 * read_nifti(path).array.size for path in volumes) / 1e6
    contestants: dict[str, Step] = {
        OURS: lambda: [read_nifti(path) for path in volumes],
        NIBABEL: lambda: [np.asanyarray(nibabel.nifti1.load(path).dataobj) for path in volumes],
    }
    return _measure("MB/s", ".nii.gz to memory", contestants, megabytes, steps, repeats)


def benchmark_data(
    images_dir: Path,
    volumes: Sequence[Path],
    build: Callable[[], object],
    read: Callable[[], object],
    steps: int,
    repeats: int,
) -> dict[str, Any]:
    """Measure everything between raw files and batches.

    Args:
        images_dir: PNG slices as in DeepLesion's `Images_png`, all of one size.
        volumes: .nii.gz files.
        build: Builds LiTS from them once, anew.
        read: Reads what `build` reads, and does nothing else.
        steps: Passes over the files that are timed together.
        repeats: Turns of each contestant.

    Returns:
        The report for `training.benchmark.format_report`.

    Raises:
        RunError: Contestants differ in what they give.
    """
    rows = [*measure_pngs(images_dir, steps, repeats), measure_prepared(images_dir, steps, repeats)]
    of_volumes = measure_volumes(volumes, steps, repeats)
    rows += [of_volumes] if of_volumes else []
    contestants: dict[str, Step] = {"building": build, "reading alone": read}
    rows.append(_measure("volumes/s", "LiTS", contestants, len(volumes), 1, repeats))
    return {
        "benchmark": "data",
        "columns": ("unit", "task", "who", "a second"),
        "settings": {"window_hu": WINDOW_HU, "images_a_batch": BATCH_IMAGES, "repeats": repeats},
        "environment": describe_environment(),
        "machine": describe_machine(),
        "rows": rows,
    }
