"""A trained segmentation network as a SavedModel: Hounsfield units in, a mask of their size out.

Everything between the two is inside: the grid and window that training used, the network, mirrored
views, and the way back to the input's pixels.  What needs a whole volume is not: post-processing of
pieces (largest liver, smallest lesion) is for whoever has all slices, see `inference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lesionkeras.config import SegmentationDataConfig, SegmentationRecipe
from lesionkeras.ct.window import standardise_graph, window_graph
from lesionkeras.data.liver_level import check_level_graph, find_level_graph, move_to_level_graph
from lesionkeras.data.slices import LIVER
from lesionkeras.errors import ExportError
from lesionkeras.models.probabilities import predict_probabilities
from lesionkeras.recipe import digest
from lesionkeras.serving.contract import describe_segmentation_signatures
from lesionkeras.serving.placing import (
    check_spacing_graph,
    find_resized_px,
    place_slices,
    take_planes,
)
from lesionkeras.serving.png import decode_png_graph, encode_mask_png_graph, encode_stored_png
from lesionkeras.serving.saved_model import check_warmup, pad_empty_batch, write_export

if TYPE_CHECKING:
    import tensorflow as tf

LABELS = ("background", "liver", "tumour")  # by mask value


def export_segmenter(
    model: Any,
    recipe: SegmentationRecipe,
    out_dir: Path,
    *,
    warmup_hu: np.ndarray,
    warmup_spacing_mm: tuple[float, float] = (0.75, 0.75),
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Writes `out_dir/1`: SavedModel, contract.json and warm-up requests; replaces what is there.

    Signatures, as `contract.describe_segmentation_signatures` says: `serving_default` takes
    `image_hu`, int16 [B, H, W, C] of any size, and gives `mask`, uint8 [B, H, W];
    `serving_probability` gives probabilities instead; `serving_png` takes 16-bit PNGs, one a
    slice, and gives the mask as a PNG.  Where `data.pixel_mm` is not 0 each also takes
    `spacing_mm`, float32 [B, 2]; where `data.slice_mm` is not 0, [B, 3] and any odd number of
    slices, of which the network's planes are made; where `data.liver_hu` is not 0, `liver_hu`,
    float32 [B].  A batch of none gives outputs of no rows.

    Args:
        model: keras.Model from float32 [B, S, S, C] to logits [B, S, S, 1 or 3], or to a list of
            them whose first is at full resolution.
        recipe: What it was trained with: grid, window, normalisation, head, target, inference.
        out_dir: Folder of all versions, for example `runs/NAME/export`.
        warmup_hu: int16 [B, H, W, C] of a typical size, HU; run by the server when it loads.
        warmup_spacing_mm: Of its pixels, y and x; used where `data.pixel_mm` is not 0.
        metadata: JSON values to record: git commit, data set, score.

    Returns:
        `out_dir / "1"`.

    Raises:
        ExportError: The network or the warm-up images do not fit the recipe, or the written export
            fails its contract.
    """
    data = recipe.data
    _check_network(model, recipe)
    check_warmup(warmup_hu, data.slices)
    spacing_mm: tuple[float, ...] = warmup_spacing_mm if data.pixel_mm else ()
    if find_reach_mm(data):
        spacing_mm = (data.slice_mm, *warmup_spacing_mm)
    requests = make_warmup_requests(warmup_hu, spacing_mm, bool(data.liver_hu))
    functions = make_serving_functions(model, recipe)
    promises = _describe(model, recipe) | {"metadata": metadata or {}}
    return write_export(out_dir, recipe.name, functions, requests, promises)


def _describe(model: Any, recipe: SegmentationRecipe) -> dict[str, Any]:
    """The contract's promises."""
    data = recipe.data
    return {
        "recipe_digest": digest(recipe),
        "labels": list(LABELS),
        "image_size_px": data.image_size_px,
        "pixel_mm": data.pixel_mm,
        "slice_mm": data.slice_mm,
        "window_hu": list(data.window_hu),
        "level_hu": data.liver_hu,
        "normalisation": data.normalisation,
        "inference": asdict(recipe.inference),
        "postprocessing": "none: it needs whole volumes",
        "signatures": describe_segmentation_signatures(
            data.slices,
            bool(data.pixel_mm),
            _name_found(model, recipe),
            reach_mm=find_reach_mm(data),
            has_level=bool(data.liver_hu),
        ),
    }


def make_serving_functions(model: Any, recipe: SegmentationRecipe) -> dict[str, Any]:
    """Returns the serving functions, by signature, as plain functions of tensors.

    Args:
        model: The network.
        recipe: As for `export_segmenter`.

    Returns:
        "serving_default", "serving_probability" and "serving_png": functions of pixels and, where
        the recipe needs them, spacing and the liver's level, that return dicts.
    """
    segment_hu = _make_segment(model, recipe)

    def find_mask(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        found, level = segment_hu(*inputs)
        return {"mask": _decide(found, recipe, model.outputs[0].shape[-1] == 1), **level}

    def find_probabilities(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        found, level = segment_hu(*inputs)
        liver, tumour = found[..., 0], found[..., 1]
        both = {"liver": liver + tumour, "tumour": tumour}
        names = _name_found(model, recipe)
        return {**{f"{name}_probability": both[name] for name in names}, **level}

    def find_mask_png(png: tf.Tensor, *further: tf.Tensor) -> dict[str, tf.Tensor]:
        found = find_mask(decode_png_graph(png), *further)
        return {"mask_png_bytes": encode_mask_png_graph(found.pop("mask")), **found}

    return {
        "serving_default": find_mask,
        "serving_probability": find_probabilities,
        "serving_png": find_mask_png,
    }


def _make_segment(model: Any, recipe: SegmentationRecipe) -> Any:
    """One traced function for all signatures: the network stands in the graph once.

    It gives probabilities float32 [B, H, W, 2] of liver and tumour, and, where the recipe moves
    scans to a level, the liver's in a dict.
    """
    import tensorflow as tf

    data, side = recipe.data, recipe.data.image_size_px
    reach_mm, key = find_reach_mm(data), data.slices // 2
    num_slices, axes = (None, 3) if reach_mm else (data.slices, 2)
    further = {"spacing_mm": [None, axes]} if data.pixel_mm or reach_mm else {}
    further |= {"liver_hu": [None]} if data.liver_hu else {}
    specs = [tf.TensorSpec([None, None, None, num_slices], tf.int16)]
    specs += [tf.TensorSpec(shape, tf.float32) for shape in further.values()]

    @tf.function(
        input_signature=[tf.TensorSpec([None, side, side, data.slices], tf.int16)], autograph=False
    )
    def predict(square_hu: tf.Tensor) -> tf.Tensor:
        image = window_graph(square_hu, data.window_hu)
        if data.normalisation == "standardise":
            image = standardise_graph(image)
        found = predict_probabilities(model, image, recipe.inference, recipe.loss.target)
        return tf.ensure_shape(found, [None, side, side, len(LABELS)])

    def look(square_hu: tf.Tensor) -> tf.Tensor:
        labels = _decide(predict(square_hu)[..., 1:], recipe, model.outputs[0].shape[-1] == 1)
        return find_level_graph(square_hu[..., key], tf.equal(labels, LIVER))

    @tf.function(input_signature=specs, autograph=False)
    def segment_hu(image_hu: tf.Tensor, *rest: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        given, size_px = dict(zip(further, rest, strict=True)), tf.shape(image_hu)[1:3]
        count, spacing_mm, level = tf.shape(image_hu)[0], given.get("spacing_mm"), {}
        if spacing_mm is not None:
            spacing_mm = check_spacing_graph(spacing_mm, count)
        resized_px = find_resized_px(tf.shape(image_hu), spacing_mm, data.pixel_mm)
        square_hu = place_slices(image_hu, resized_px, side)
        if reach_mm and spacing_mm is not None:
            square_hu = take_planes(square_hu, spacing_mm[:, 0], data.slices, data.slice_mm)
        square_hu = pad_empty_batch(square_hu)
        if data.liver_hu:
            liver_hu = pad_empty_batch(check_level_graph(given["liver_hu"], count))
            unknown = tf.equal(liver_hu, 0.0)  # not NaN, which JSON does not know
            liver_hu = tf.cond(
                tf.reduce_any(unknown),
                lambda: tf.where(unknown, look(square_hu), liver_hu),
                lambda: liver_hu,
            )
            square_hu = move_to_level_graph(square_hu, liver_hu, data.liver_hu)
            level = {"liver_hu": liver_hu[:count]}
        # Background is what is left, also where the square does not reach.
        return _to_slices(predict(square_hu)[..., 1:][:count], resized_px, size_px), level

    return segment_hu


def make_warmup_requests(
    warmup_hu: np.ndarray, spacing_mm: Sequence[float], has_level: bool = False
) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Makes the requests that a server runs when it loads: one image, the batch, one as PNG.

    Args:
        warmup_hu: int16 [B, H, W, C], HU.
        spacing_mm: Of the slices as the signatures ask for it; empty where they do not.
        has_level: Whether they ask for the level of the liver; it is not known.

    Returns:
        (signature, inputs) of each request.
    """

    def add_further(name: str, rows: np.ndarray) -> dict[str, np.ndarray]:
        inputs = {name: rows}
        if spacing_mm:
            inputs["spacing_mm"] = np.array([spacing_mm] * len(rows), np.float32)
        if has_level:
            inputs["liver_hu"] = np.zeros(len(rows), np.float32)
        return inputs

    png = [encode_stored_png(slice_hu) for slice_hu in np.moveaxis(warmup_hu[0], -1, 0)]
    requests = [("serving_default", add_further("image_hu", warmup_hu[:1]))]
    if len(warmup_hu) > 1:
        requests.append(("serving_default", add_further("image_hu", warmup_hu)))
    requests.append(("serving_probability", add_further("image_hu", warmup_hu[:1])))
    return [*requests, ("serving_png", add_further("png", np.array([png], object)))]


def find_reach_mm(data: SegmentationDataConfig) -> float:
    """Return how far to each side of the key slice planes a common distance apart are seen.

    Args:
        data: Of a recipe.

    Returns:
        0 where a network sees whole slices, however far apart.
    """
    return data.slices // 2 * data.slice_mm


def _check_network(model: Any, recipe: SegmentationRecipe) -> None:
    num_slices, num_logits = model.inputs[0].shape[-1], model.outputs[0].shape[-1]
    if num_slices != recipe.data.slices or num_logits not in (1, 3):
        raise ExportError(
            "The network does not fit the recipe",
            where="model",
            found=f"{num_slices} channels in, {num_logits} logits out",
            wanted=f"{recipe.data.slices} channels in (data.slices), 1 or 3 logits out",
            next_step="export a network with the recipe that it was trained with",
        )


def _name_found(model: Any, recipe: SegmentationRecipe) -> list[str]:
    is_binary = model.outputs[0].shape[-1] == 1
    return [recipe.loss.target] if is_binary else ["liver", "tumour"]


def _to_slices(probabilities: Any, resized_px: Any, size_px: Any) -> Any:
    """Bring probabilities [B, S, S, n] back to the slices' pixels; beyond the square is 0."""
    import tensorflow as tf

    if resized_px is None:
        return tf.image.resize(probabilities, size_px, method="bilinear")

    def restore(row: tuple[Any, Any]) -> Any:
        resized = tf.image.resize_with_crop_or_pad(row[0], row[1][0], row[1][1])
        return tf.image.resize(resized, size_px, method="bilinear")

    restored = tf.map_fn(
        restore,
        (pad_empty_batch(probabilities), pad_empty_batch(resized_px, 1)),
        fn_output_signature=tf.TensorSpec([None, None, probabilities.shape[-1]], tf.float32),
    )
    return restored[: tf.shape(probabilities)[0]]


def _decide(probabilities: Any, recipe: SegmentationRecipe, is_binary: bool) -> Any:
    """From probabilities [B, H, W, 2] of liver and tumour to labels, uint8 [B, H, W]."""
    import tensorflow as tf

    if is_binary:
        found = tf.cast(probabilities > recipe.inference.threshold, tf.uint8)
        return found[..., 0] + 2 * found[..., 1]
    background = 1.0 - tf.reduce_sum(probabilities, axis=-1, keepdims=True)
    return tf.cast(tf.argmax(tf.concat([background, probabilities], -1), axis=-1), tf.uint8)
