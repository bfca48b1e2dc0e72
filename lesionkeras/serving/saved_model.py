"""Serving functions as one version folder: SavedModel, warm-up requests, contract; all or nothing.

Written by `keras.export.ExportArchive`, because what `tf.saved_model.save` writes of a Keras 3
model loads in Python and fails at the first run in TensorFlow Serving's C++ loader ("Could not
find variable").
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata as package_metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lesionkeras.errors import ExportError
from lesionkeras.serving.contract import Signature, check_contract, write_contract
from lesionkeras.serving.warmup import write_warmup

if TYPE_CHECKING:
    import tensorflow as tf

VERSION = "1"  # a run has one export; TensorFlow Serving wants the number
PACKAGES = ("tensorflow", "keras", "keras-cv", "numpy", "lesionkeras")


def write_export(
    out_dir: Path,
    name: str,
    functions: Mapping[str, Any],
    requests: Sequence[tuple[str, dict[str, np.ndarray]]],
    promises: Mapping[str, Any],
) -> Path:
    """Writes `out_dir/1`; replaces what is there, once the new one keeps its contract.

    Args:
        out_dir: Folder of all versions, for example `runs/NAME/export`.
        name: Under which the model is served, for the warm-up requests.
        functions: Signature -> function of its inputs, in the contract's order, that gives a dict.
        requests: (signature, inputs) of each warm-up request.
        promises: What `contract.json` says; its "signatures" decide dtypes and shapes.

    Returns:
        `out_dir / "1"`.

    Raises:
        ExportError: What was written does not keep the contract.
    """
    final_dir, partial_dir = out_dir / VERSION, out_dir / f".{VERSION}.partial"
    shutil.rmtree(partial_dir, ignore_errors=True)
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_saved_model(functions, promises["signatures"], partial_dir)
    write_warmup(partial_dir, name, list(requests))
    write_contract(partial_dir, {"name": name, **promises, "packages": read_package_versions()})
    check_contract(partial_dir)
    _replace(final_dir, partial_dir)
    return final_dir


def check_warmup(warmup_hu: np.ndarray, num_slices: int) -> None:
    """Raises unless images can be a warm-up request.

    Args:
        warmup_hu: int16 [B, H, W, num_slices], HU, one image at least.
        num_slices: Channels that the network sees.

    Raises:
        ExportError: They are of another kind.
    """
    shape = warmup_hu.shape
    fits = len(shape) == 4 and shape[-1] == num_slices and shape[0] > 0
    if warmup_hu.dtype != np.int16 or not fits:
        raise ExportError(
            "The warm-up images are not CT slices",
            where="warmup_hu",
            found=f"{warmup_hu.dtype} {list(shape)}",
            wanted=f"int16 [B, H, W, {num_slices}]",
        )


def pad_empty_batch(rows: Any, filler: Any = 0) -> tf.Tensor:
    """Puts one row into a batch of none, because kernels between here and the answer refuse none.

    The caller cuts its outputs to the rows that it was given.

    Args:
        rows: Tensor [B, ...].
        filler: What the row is filled with; a scalar.

    Returns:
        `rows` where B > 0, else a tensor [1, ...].
    """
    import tensorflow as tf

    shape = tf.shape(rows)
    missing = tf.cast(shape[:1] == 0, tf.int32)
    filled = tf.fill(tf.concat([missing, shape[1:]], axis=0), tf.cast(filler, rows.dtype))
    return tf.ensure_shape(tf.concat([rows, filled], axis=0), [None, *rows.shape[1:]])


def read_package_versions() -> dict[str, str]:
    """Returns the versions of the packages that an export depends on; absent ones are left out."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = package_metadata.version(name)
        except package_metadata.PackageNotFoundError:  # run from a checkout, not installed
            continue
    return versions


def _write_saved_model(
    functions: Mapping[str, Any], signatures: Mapping[str, Signature], export_dir: Path
) -> None:
    import keras
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    for name, function in functions.items():
        specs = [
            tf.TensorSpec(tensor["shape"], tensor["dtype"], name=input_name)
            for input_name, tensor in signatures[name]["inputs"].items()
        ]
        archive.add_endpoint(name, function, input_signature=specs)
    archive.write_out(str(export_dir), verbose=False)


def _replace(final_dir: Path, new_dir: Path) -> None:
    """Puts a finished folder in the place of an old one; a server never sees half of either."""
    old_dir = final_dir.with_name(f".{final_dir.name}.old")
    shutil.rmtree(old_dir, ignore_errors=True)
    if final_dir.exists():
        final_dir.rename(old_dir)
    new_dir.rename(final_dir)
    shutil.rmtree(old_dir, ignore_errors=True)
