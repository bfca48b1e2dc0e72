"""A trained detector as a SavedModel that takes Hounsfield units and gives boxes.

Everything between the two is inside: the resize and window of `ct.window` that training used, the
network, decoding and suppression.  Written by `keras.export.ExportArchive`, because what
`tf.saved_model.save` writes of a Keras 3 model loads in Python and fails at the first run in
TensorFlow Serving's C++ loader ("Could not find variable").
"""

from __future__ import annotations

import dataclasses
import shutil
from importlib import metadata as package_metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lesionkeras.config import SSDRecipe
from lesionkeras.ct.png16 import STORED_OFFSET_HU
from lesionkeras.ct.window import resize_hu_graph, window_graph
from lesionkeras.errors import ExportError
from lesionkeras.recipe import digest
from lesionkeras.serving.contract import check_contract, describe_signatures, write_contract
from lesionkeras.serving.warmup import write_warmup

if TYPE_CHECKING:
    import tensorflow as tf

VERSION = "1"  # a run has one export; TensorFlow Serving wants the number
PNG_HEADER_BYTES = 26  # signature, IHDR, width, height, bit depth (24), colour type (25)
PNG_16_BIT_GREY = b"\x10\x00"  # bit depth 16, colour type 0 (PNG specification, 11.2.2)
PACKAGES = ("tensorflow", "keras", "keras-cv", "numpy", "lesionkeras")


class Detector(Protocol):
    """A keras.Model that decodes its own outputs, such as `models.ssd.SSD`."""

    def detect(self, image_unit: Any) -> dict[str, Any]:
        """Maps float32 [B, S, S, 3] to boxes (px of S), scores, classes and num_detections."""


def export_detector(
    model: Detector,
    recipe: SSDRecipe,
    out_dir: Path,
    *,
    operating_threshold: float,
    warmup_hu: np.ndarray,
    labels: tuple[str, ...] = ("lesion",),
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Writes `out_dir/1`: SavedModel, contract.json and warm-up requests; replaces what is there.

    Signature `serving_default` takes `image_hu`, int16 [B, H, W, 3] of any size; `serving_png`
    takes `png`, string [B, 3].  Both give what `contract.describe_signatures` says.

    Args:
        model: The trained network; under mixed precision it also runs so when served.
        recipe: What it was trained with: image size, window and decoding are read from it.
        out_dir: Folder of all versions, for example `runs/NAME/export`.
        operating_threshold: Score from which a user should look at a box, 0..1; only recorded.
        warmup_hu: int16 [B, H, W, 3] of a typical size, HU; run by the server when it loads.
        labels: Names of the lesion classes, by class number.
        metadata: JSON values to record: git commit, data set, score.

    Returns:
        `out_dir / "1"`.

    Raises:
        ExportError: Labels or warm-up images do not fit, or the written export fails its contract.
    """
    _check_arguments(recipe, labels, warmup_hu)
    final_dir, partial_dir = out_dir / VERSION, out_dir / f".{VERSION}.partial"
    shutil.rmtree(partial_dir, ignore_errors=True)
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_saved_model(model, recipe, partial_dir)
    write_warmup(partial_dir, recipe.name, make_warmup_requests(warmup_hu))
    promises = {
        "name": recipe.name,
        "recipe_digest": digest(recipe),
        "labels": list(labels),
        "operating_threshold": float(operating_threshold),
        "image_size_px": recipe.data.image_size_px,
        "window_hu": list(recipe.data.window_hu),
        "decode": dataclasses.asdict(recipe.decode),
        "signatures": describe_signatures(recipe.decode.max_detections),
        "packages": read_package_versions(),
        "metadata": metadata or {},
    }
    write_contract(partial_dir, promises)
    check_contract(partial_dir)
    _replace(final_dir, partial_dir)
    return final_dir


def make_serving_functions(model: Detector, recipe: SSDRecipe) -> dict[str, Any]:
    """Returns the two serving functions, by signature, as plain functions of tensors.

    Args:
        model: The network.
        recipe: Image size, window and number of detections are read from it.

    Returns:
        "serving_default" and "serving_png", each a function of one tensor that returns a dict.
    """
    import tensorflow as tf

    side_px, rows = recipe.data.image_size_px, recipe.decode.max_detections

    # One traced function for both signatures: the network stands in the graph once.
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.int16)], autograph=False)
    def detect_hu(image_hu: tf.Tensor) -> dict[str, tf.Tensor]:
        resized_hu = resize_hu_graph(image_hu, (side_px, side_px))
        found = model.detect(window_graph(resized_hu, recipe.data.window_hu))
        size_px = tf.cast(tf.shape(image_hu)[1:3], tf.float32)  # height, width
        scale = tf.stack([size_px[1], size_px[0], size_px[1], size_px[0]]) / float(side_px)
        return {
            "boxes": tf.ensure_shape(tf.cast(found["boxes"], tf.float32) * scale, [None, rows, 4]),
            "scores": tf.ensure_shape(tf.cast(found["scores"], tf.float32), [None, rows]),
            "classes": tf.ensure_shape(tf.cast(found["classes"], tf.int32), [None, rows]),
            "num_detections": tf.ensure_shape(tf.cast(found["num_detections"], tf.int32), [None]),
        }

    return {
        "serving_default": detect_hu,
        "serving_png": lambda png: detect_hu(decode_png_graph(png)),
    }


def decode_png_graph(png: Any) -> tf.Tensor:
    """Decodes slice stacks of three 16-bit grey PNGs each; a missing neighbour is the key slice.

    Args:
        png: String tensor [B, 3]: previous, key, next; an empty string means missing.

    Returns:
        `image_hu`, int16 [B, H, W, 3].

    Raises:
        tf.errors.InvalidArgumentError: When run: a PNG is not 16-bit grey (an 8-bit one would be
            stretched without a word), is damaged, or sizes differ within the batch.
    """
    import tensorflow as tf

    from lesionkeras.data.decode import stack_slices

    # Zero bytes behind, so that a file that is too short fails this check and not the cut itself.
    padded = tf.strings.join([png, tf.constant(bytes(PNG_HEADER_BYTES))])
    kind = tf.strings.substr(padded, PNG_HEADER_BYTES - 2, 2)
    missing = (tf.strings.length(png) == 0) & tf.constant([True, False, True])
    is_grey = tf.debugging.Assert(
        tf.reduce_all(missing | (kind == PNG_16_BIT_GREY)),
        ["every slice must be a 16-bit grey PNG; bit depth and colour type found:", kind],
    )
    with tf.control_dependencies([is_grey]):  # else the decoder may speak first
        png = tf.identity(png)
    return tf.map_fn(
        lambda stack: stack_slices(stack[0], stack[1], stack[2]),
        png,
        fn_output_signature=tf.TensorSpec([None, None, 3], tf.int16),
    )


def make_warmup_requests(warmup_hu: np.ndarray) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Makes the requests that a server runs when it loads: one image, the batch, one as PNG.

    Args:
        warmup_hu: int16 [B, H, W, 3], HU.

    Returns:
        (signature, inputs) of each request.
    """
    import tensorflow as tf

    stored = (warmup_hu[0].astype(np.int32) + STORED_OFFSET_HU).astype(np.uint16)
    png = [tf.io.encode_png(stored[..., i : i + 1]).numpy() for i in range(3)]
    requests = [("serving_default", {"image_hu": warmup_hu[:1]})]
    if len(warmup_hu) > 1:
        requests.append(("serving_default", {"image_hu": warmup_hu}))
    return [*requests, ("serving_png", {"png": np.array([png], object)})]


def read_package_versions() -> dict[str, str]:
    """Returns the versions of the packages that an export depends on; absent ones are left out."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = package_metadata.version(name)
        except package_metadata.PackageNotFoundError:  # run from a checkout, not installed
            continue
    return versions


def _check_arguments(recipe: SSDRecipe, labels: tuple[str, ...], warmup_hu: np.ndarray) -> None:
    if len(labels) != recipe.model.num_classes:
        raise ExportError(
            "The labels do not fit the network",
            where="labels",
            found=f"{len(labels)} names",
            wanted=f"{recipe.model.num_classes}, one a lesion class",
        )
    if warmup_hu.dtype != np.int16 or warmup_hu.ndim != 4 or warmup_hu.shape[-1] != 3:
        raise ExportError(
            "The warm-up images are not CT slices",
            where="warmup_hu",
            found=f"{warmup_hu.dtype} {list(warmup_hu.shape)}",
            wanted="int16 [B, H, W, 3]",
        )


def _write_saved_model(model: Detector, recipe: SSDRecipe, export_dir: Path) -> None:
    import keras
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    signatures = describe_signatures(recipe.decode.max_detections)
    for name, function in make_serving_functions(model, recipe).items():
        ((input_name, tensor),) = signatures[name]["inputs"].items()
        spec = tf.TensorSpec(tensor["shape"], tensor["dtype"], name=input_name)
        archive.add_endpoint(name, function, input_signature=[spec])
    archive.write_out(str(export_dir), verbose=False)


def _replace(final_dir: Path, new_dir: Path) -> None:
    """Puts a finished folder in the place of an old one; a server never sees half of either."""
    old_dir = final_dir.with_name(f".{final_dir.name}.old")
    shutil.rmtree(old_dir, ignore_errors=True)
    if final_dir.exists():
        final_dir.rename(old_dir)
    new_dir.rename(final_dir)
    shutil.rmtree(old_dir, ignore_errors=True)
