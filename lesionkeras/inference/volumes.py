"""Slices of a volume to its mask in the source's pixels, one volume at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lesionkeras.config import InferenceConfig, SegmentationRecipe
from lesionkeras.ct.grid import to_slice
from lesionkeras.ct.orientation import reorient
from lesionkeras.ct.volume import Source
from lesionkeras.ct.window import HU_HIGH, HU_LOW
from lesionkeras.data.liver_level import LEAST_LIVER_PX, find_median
from lesionkeras.data.segmentation import SegmentationSplit
from lesionkeras.data.segmentation_batches import make_segmentation_eval
from lesionkeras.data.slices import LESION, LIVER
from lesionkeras.models.probabilities import predict_probabilities

LOOK_SLICES = 12  # of a volume, for the level of its liver
LOOKS = 2
Predict = Callable[[Any], np.ndarray]


@dataclass(frozen=True)
class SegmentedVolume:
    """What a network says of one volume, and the truth beside it.

    Attributes:
        name: The volume in its data set.
        patient: Whose it is.
        spacing_mm: Of a voxel of the source, z, y and x.
        affine: float64 [4, 4], (z, y, x, 1) index of a voxel's centre to (L, P, S, 1) mm.
        source: How the file lay that the volume was read from.
        rows: Of the prepared slices, from caudal.
        mask: uint8 [z, y, x] as predicted: 0 background, 1 liver, 2 tumour.
        tumour_prob: float16 [z, y, x], the tumour's probability.
        truth: uint8 [z, y, x].
        square_masks: uint8 [z, S, S], as predicted at the network's size.
        square_truths: uint8 [z, S, S].
    """

    name: str
    patient: str
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    source: Source
    rows: np.ndarray
    mask: np.ndarray
    tumour_prob: np.ndarray
    truth: np.ndarray
    square_masks: np.ndarray
    square_truths: np.ndarray


def list_volumes(split: SegmentationSplit) -> dict[str, np.ndarray]:
    """Return the rows of each volume of a split from caudal to cranial, by its name.

    Args:
        split: Slices of any order; a volume may be there in part.
    """
    rows: dict[str, list[int]] = {}
    for row in np.unique(split.rows):
        rows.setdefault(split.slices.volumes[row], []).append(int(row))
    numbers = split.slices.numbers
    return {
        name: np.array(sorted(found, key=lambda row: numbers[row]), np.int64)
        for name, found in sorted(rows.items())
    }


def is_scattered(split: SegmentationSplit) -> bool:
    """Tell whether a volume is there in part or with gaps, so that its slices are no volume.

    Args:
        split: Slices of whole volumes as a rule; of some alone where slices were drawn (P5).

    Returns:
        True where surfaces, components and all else in three dimensions mean nothing.
    """
    names, totals = np.unique(np.asarray(split.slices.volumes), return_counts=True)
    num_slices = dict(zip(names.tolist(), totals.tolist(), strict=True))
    return any(
        len(rows) < num_slices[name] or bool(np.any(np.diff(split.slices.numbers[rows]) != 1))
        for name, rows in list_volumes(split).items()
    )


def make_predictor(model: Any, inference: InferenceConfig, target: str) -> Predict:
    """Return a compiled function from images to probabilities.

    It follows the model's weights: made once, it serves a run's every validation.

    Args:
        model: From image float32 [B, S, S, C] to logits [B, S, S, 1 or 3].
        inference: Flips, the tumour's bias.
        target: What a binary head finds: "tumour" or "liver".

    Returns:
        Image -> float32 [B, S, S, 3] probabilities of background, liver and tumour.
    """
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def predict(image: Any) -> Any:
        return predict_probabilities(model, image, inference, target)

    return lambda image: predict(image).numpy()


def decode_probabilities(prob: np.ndarray, threshold: float, is_binary: bool) -> np.ndarray:
    """Return the mask of probabilities.

    Args:
        prob: float32 [..., 3] of background, liver and tumour.
        threshold: What a binary head's probability must exceed.
        is_binary: Whether one head made them: then one of liver and tumour is 0 everywhere.

    Returns:
        uint8 [...]; without a binary head the likeliest class, of equal ones the first.

    >>> decode_probabilities(np.float32([[0.4, 0.3, 0.3], [0.2, 0.3, 0.5]]), 0.5, False).tolist()
    [0, 2]
    """
    if is_binary:
        found = prob[..., LIVER:] > threshold
        return (LIVER * found[..., 0] + LESION * found[..., 1]).astype(np.uint8)
    return prob.argmax(axis=-1).astype(np.uint8)


def segment_volumes(
    predict: Predict,
    split: SegmentationSplit,
    recipe: SegmentationRecipe,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[SegmentedVolume]:
    """Segment the volumes of a split one after the other, in the order of their names.

    Probabilities, not labels, are brought back to the source's pixels.

    Args:
        predict: From `make_predictor`.
        split: What is segmented.
        recipe: Its data, inference and head.
        progress: Called with slices done and slices in all.

    Yields:
        A volume; nothing of the one before is kept.
    """
    volumes, done = list_volumes(split), 0
    total = sum(map(len, volumes.values()))
    for name, rows in volumes.items():
        yield _segment(predict, SegmentationSplit(split.slices, rows), name, recipe)
        done += len(rows)
        progress(done, total)


def find_liver_hu(predict: Predict, volume: SegmentationSplit, recipe: SegmentationRecipe) -> float:
    """Return the median of a volume's liver as the network finds it, the truth not being asked.

    The network sees some slices as they are; then, in every further look, moved by what the look
    before has found.

    Args:
        predict: From `make_predictor`.
        volume: The volume; its rows in order.
        recipe: Its data, inference and head.

    Returns:
        HU; NaN where too little liver is found.
    """
    count = min(LOOK_SLICES, len(volume))
    rows = volume.rows[np.linspace(0, len(volume) - 1, count).round().astype(int)]
    some, found_hu = SegmentationSplit(volume.slices, rows), math.nan
    for _ in range(LOOKS):
        counts = np.zeros(HU_HIGH - HU_LOW + 1, np.int64)
        batches = _read(some, recipe, found_hu)
        masks = np.concatenate([_decode(predict(image), recipe) for image, _ in batches])
        for row, mask in zip(rows, masks, strict=True):
            liver_hu = volume.slices.read_image(row, 1)[mask == LIVER, 0].astype(np.int64)
            counts += np.bincount(liver_hu - HU_LOW, minlength=len(counts))
        if counts.sum() < LEAST_LIVER_PX:
            return math.nan
        found_hu = find_median(counts)
    return found_hu


def _segment(
    predict: Predict, volume: SegmentationSplit, name: str, recipe: SegmentationRecipe
) -> SegmentedVolume:
    slices, rows = volume.slices, volume.rows
    liver_hu = find_liver_hu(predict, volume, recipe) if recipe.data.liver_hu else math.nan
    height, width = (int(length) for length in slices.size_px[rows[0]])
    mask = np.empty((len(rows), height, width), np.uint8)
    tumour_prob = np.empty(mask.shape, np.float16)
    truth, done = np.empty_like(mask), 0
    square_masks, square_truths = [], []
    for image, square_truth in _read(volume, recipe, liver_hu):
        prob = predict(image)
        for each in prob:
            # background is what is left, also where the square does not reach
            native = to_slice(each[..., LIVER:], slices.find_grid(rows[done]))
            rest = 1.0 - native.sum(axis=-1, keepdims=True)
            whole = np.concatenate([rest, native], axis=-1)
            mask[done], tumour_prob[done] = _decode(whole, recipe), whole[..., LESION]
            truth[done] = slices.own_masks[rows[done]]
            done += 1
        square_masks.append(_decode(prob, recipe))
        square_truths.append(square_truth.numpy())
    return SegmentedVolume(
        name=name,
        patient=slices.patients[rows[0]],
        spacing_mm=slices.find_own_spacing_mm(rows[0]),
        affine=move_origin(slices.affines[rows[0]], int(slices.numbers[rows[0]])),
        source=Source("nifti", slices.source_codes[rows[0]]),
        rows=rows,
        mask=mask,
        tumour_prob=tumour_prob,
        truth=truth,
        square_masks=np.concatenate(square_masks),
        square_truths=np.concatenate(square_truths),
    )


def move_origin(affine: np.ndarray, slice_number: int) -> np.ndarray:
    """Return the affine of a volume that begins with a slice of another.

    Args:
        affine: [4, 4] of the other.
        slice_number: From its first, which is 0.

    >>> move_origin(np.diag([5.0, 1.0, 1.0, 1.0]), 3)[:, 3].tolist()
    [15.0, 0.0, 0.0, 1.0]
    """
    moved = np.array(affine, np.float64)
    moved[:, 3] = affine @ [slice_number, 0, 0, 1]
    return moved


def to_stored(
    volume: SegmentedVolume,
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Return a volume's masks as its file stored them, which the LiTS protocol's figures hang on.

    Args:
        volume: From `segment_volumes`.

    Returns:
        Truth and prediction, uint8 [k, j, i] of the file's axes, views; and the spacing, mm of k,
        j and i.
    """
    code = volume.source.code
    truth, affine = reorient(volume.truth, volume.affine, code)
    mask, _ = reorient(volume.mask, volume.affine, code)
    i_mm, j_mm, k_mm = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    return truth.T, mask.T, (k_mm, j_mm, i_mm)


def _read(volume: SegmentationSplit, recipe: SegmentationRecipe, liver_hu: float) -> Any:
    batch_size = recipe.inference.batch_size
    return make_segmentation_eval(volume, recipe.data, batch_size=batch_size, liver_hu=liver_hu)


def _decode(prob: np.ndarray, recipe: SegmentationRecipe) -> np.ndarray:
    is_binary = recipe.model.head == "binary"
    return decode_probabilities(prob, recipe.inference.threshold, is_binary)
