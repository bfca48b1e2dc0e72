"""A trained detector as a SavedModel that takes Hounsfield units and gives boxes.

Everything between the two is inside: the resize and window of `ct.window` that training used, the
network, decoding and suppression.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lesionkeras.config import DetectionRecipe
from lesionkeras.ct.window import window_graph
from lesionkeras.errors import ExportError
from lesionkeras.models.detector import Detector
from lesionkeras.recipe import digest
from lesionkeras.serving.contract import describe_signatures
from lesionkeras.serving.placing import (
    check_spacing_graph,
    find_resized_px,
    place_slices,
    take_boxes_back,
)
from lesionkeras.serving.png import decode_png_graph, encode_stored_png
from lesionkeras.serving.saved_model import check_warmup, pad_empty_batch, write_export

if TYPE_CHECKING:
    import tensorflow as tf

NUM_SLICES = 3  # previous, key and next slice


def export_detector(
    model: Detector,
    recipe: DetectionRecipe,
    out_dir: Path,
    *,
    operating_threshold: float,
    warmup_hu: np.ndarray,
    warmup_spacing_mm: tuple[float, float] = (1.0, 1.0),
    labels: tuple[str, ...] = ("lesion",),
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Writes `out_dir/1`: SavedModel, contract.json and warm-up requests; replaces what is there.

    Signature `serving_default` takes `image_hu`, int16 [B, H, W, 3] of any size; `serving_png`
    takes `png`, string [B, 3].  Both give what `contract.describe_signatures` says; a batch of
    none gives outputs of no rows.  Where the recipe has a `data.pixel_mm`, both also take
    `spacing_mm`, float32 [B, 2]: height and width of a pixel.

    Args:
        model: The trained network; under mixed precision it also runs so when served.
        recipe: What it was trained with: image size, window and decoding are read from it.
        out_dir: Folder of all versions, for example `runs/NAME/export`.
        operating_threshold: Score from which a user should look at a box, 0..1; only recorded.
        warmup_hu: int16 [B, H, W, 3] of a typical size, HU; run by the server when it loads.
        warmup_spacing_mm: y and x of their pixels; read where spacing is asked for.
        labels: Names of the lesion classes, by class number.
        metadata: JSON values to record: git commit, data set, score.

    Returns:
        `out_dir / "1"`.

    Raises:
        ExportError: Labels or warm-up images do not fit, or the written export fails its contract.
    """
    if len(labels) != recipe.model.num_classes:
        raise ExportError(
            "The labels do not fit the network",
            where="labels",
            found=f"{len(labels)} names",
            wanted=f"{recipe.model.num_classes}, one a lesion class",
        )
    check_warmup(warmup_hu, NUM_SLICES)
    promises = {
        "recipe_digest": digest(recipe),
        "labels": list(labels),
        "operating_threshold": float(operating_threshold),
        "image_size_px": recipe.data.image_size_px,
        "pixel_mm": recipe.data.pixel_mm,
        "window_hu": list(recipe.data.window_hu),
        "box_convention": recipe.data.box_convention,
        "decode": dataclasses.asdict(recipe.decode),
        "signatures": describe_signatures(recipe.decode.max_detections, bool(recipe.data.pixel_mm)),
        "metadata": metadata or {},
    }
    functions = make_serving_functions(model, recipe)
    requests = make_warmup_requests(warmup_hu, warmup_spacing_mm if recipe.data.pixel_mm else None)
    return write_export(out_dir, recipe.name, functions, requests, promises)


def make_serving_functions(model: Detector, recipe: DetectionRecipe) -> dict[str, Any]:
    """Returns the two serving functions, by signature, as plain functions of tensors.

    Args:
        model: The network.
        recipe: Image size, window and number of detections are read from it.

    Returns:
        "serving_default" and "serving_png", each a function of the images, and of their spacing
        where the network sees pixels of one size, that returns a dict.
    """
    import tensorflow as tf

    data, rows = recipe.data, recipe.decode.max_detections
    specs = [tf.TensorSpec([None, None, None, NUM_SLICES], tf.int16)]
    specs += [tf.TensorSpec([None, 2], tf.float32)] * bool(data.pixel_mm)

    # One traced function for both signatures: the network stands in the graph once.
    @tf.function(input_signature=specs, autograph=False)
    def detect_hu(image_hu: tf.Tensor, spacing_mm: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        size_px = tf.shape(image_hu)[1:3]
        if spacing_mm is not None:
            spacing_mm = check_spacing_graph(spacing_mm, tf.shape(image_hu)[0])
        resized_px = find_resized_px(tf.shape(image_hu), spacing_mm, data.pixel_mm)
        square_hu = pad_empty_batch(place_slices(image_hu, resized_px, data.image_size_px))
        found = model.detect(window_graph(square_hu, data.window_hu))
        found = {name: tensor[: tf.shape(image_hu)[0]] for name, tensor in found.items()}
        boxes = tf.cast(found["boxes"], tf.float32)
        boxes = take_boxes_back(boxes, resized_px, size_px, data.image_size_px)
        return {
            "boxes": tf.ensure_shape(boxes, [None, rows, 4]),
            "scores": tf.ensure_shape(tf.cast(found["scores"], tf.float32), [None, rows]),
            "classes": tf.ensure_shape(tf.cast(found["classes"], tf.int32), [None, rows]),
            "num_detections": tf.ensure_shape(tf.cast(found["num_detections"], tf.int32), [None]),
        }

    return {
        "serving_default": detect_hu,
        "serving_png": lambda png, *spacing_mm: detect_hu(decode_png_graph(png), *spacing_mm),
    }


def make_warmup_requests(
    warmup_hu: np.ndarray, spacing_mm: tuple[float, float] | None = None
) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Makes the requests that a server runs when it loads: one image, the batch, one as PNG.

    Args:
        warmup_hu: int16 [B, H, W, 3], HU.
        spacing_mm: y and x of a pixel, or None where it is not asked for.

    Returns:
        (signature, inputs) of each request.
    """

    def add_spacing(name: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        if spacing_mm is None:
            return {name: rows}
        return {name: rows, "spacing_mm": np.array([spacing_mm] * len(rows), np.float32)}

    png = [encode_stored_png(warmup_hu[0, ..., i]) for i in range(NUM_SLICES)]
    requests = [("serving_default", add_spacing("image_hu", warmup_hu[:1]))]
    if len(warmup_hu) > 1:
        requests.append(("serving_default", add_spacing("image_hu", warmup_hu)))
    return [*requests, ("serving_png", add_spacing("png", np.array([png], object)))]
