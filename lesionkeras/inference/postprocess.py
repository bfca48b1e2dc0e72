"""What is done to a volume's mask after the network: seven steps, each of them a function.

A mask is uint8 [z, y, x], 0 background, 1 liver, 2 tumour; spacing is of a voxel, z, y and x.
Pieces are connected across faces in 3-D, as lesions are counted (`metrics.corrected_protocol`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from lesionkeras.config import PostprocessConfig
from lesionkeras.errors import RecipeError
from lesionkeras.inference.necks import cut_necks

BACKGROUND, LIVER, TUMOUR = 0, 1, 2
FACES = ndimage.generate_binary_structure(3, 1)
NO_STEP = PostprocessConfig(
    closing_mm=0.0,
    fill_holes=False,
    liver_neck_mm=0.0,
    largest_liver=False,
    tumour_inside_liver=False,
    min_lesion_mm3=0.0,
    min_lesion_peak=0.0,
)
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Step:
    """One step: its words, its field in the recipe, and the mask it gives."""

    title: str
    field: str
    apply: Callable[[np.ndarray, Any, Spacing, PostprocessConfig], np.ndarray]
    tried: float | bool  # the field's value where a report tries a step that the recipe leaves out
    is_by_slice: bool = False  # works within each slice, so that slices need not make a volume


def _find_extent(foreground: np.ndarray) -> tuple[slice, ...]:
    """Return the box of what is True; 3-D steps work on that alone."""
    found = ndimage.find_objects(foreground.astype(np.uint8))
    return found[0] if found else (slice(0, 0),) * foreground.ndim


def make_disc(radius_mm: float, spacing_mm: tuple[float, float]) -> np.ndarray:
    """Return the pixels whose centre is within a radius of the middle one, uint8.

    Args:
        radius_mm: 0 or more.
        spacing_mm: Of a pixel, y and x.

    >>> make_disc(1.0, (1.0, 0.5)).tolist()
    [[0, 0, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 0]]
    """
    reach = [math.floor(radius_mm / spacing + 1e-6) for spacing in spacing_mm]
    y, x = np.ogrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    distance_mm = np.hypot(y * spacing_mm[0], x * spacing_mm[1])
    return (distance_mm <= radius_mm + 1e-6).astype(np.uint8)


def close_slices(mask: np.ndarray, radius_mm: float, spacing_mm: Spacing) -> np.ndarray:
    """Close gaps narrower than a disc's diameter in each slice, of the tumour and of the liver.

    Source: P5, 3.6, which closes the binary masks of its slices.

    >>> bars = np.uint8([[[2, 0, 2, 0, 0, 0, 2]] * 3])
    >>> close_slices(bars, 1.0, (5.0, 1.0, 1.0))[0, 1].tolist()
    [2, 2, 2, 0, 0, 0, 2]
    """
    disc = make_disc(radius_mm, spacing_mm[1:])
    room = max(disc.shape)  # beyond the edge is background, so that nothing grows there

    def close(foreground: np.ndarray) -> np.ndarray:
        padded = np.pad(foreground.astype(np.uint8), room)
        closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disc)
        return closed[room:-room, room:-room].astype(bool)

    return _change_slices(mask, close)


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill what liver encloses in its slice with liver, and what tumour encloses with tumour.

    Source: P3, 2.6.

    >>> mask = np.uint8([[[2, 2, 2, 0], [2, 1, 2, 0], [2, 2, 2, 1], [0, 0, 0, 0]]])
    >>> fill_holes(mask)[0, 1].tolist()
    [2, 2, 2, 0]
    """
    return _change_slices(mask, ndimage.binary_fill_holes)


def _change_slices(mask: np.ndarray, grow: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Let tumour grow, and all that is no background; neither ever loses a pixel."""
    result = mask.copy()
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        region, tumour = mask[z] != BACKGROUND, mask[z] == TUMOUR
        result[z][grow(region) & ~region] = LIVER
        if tumour.any():
            result[z][grow(tumour)] = TUMOUR
    return result


def keep_largest_liver(mask: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Keep the largest piece of liver with its tumours; other liver becomes background.

    Tumours elsewhere stay: `keep_tumour_inside` is the step that drops them.

    >>> keep_largest_liver(np.uint8([[[1, 1, 2, 0, 1, 2, 0, 2]]]), (1.0, 1.0, 1.0)).tolist()
    [[[1, 1, 2, 0, 0, 2, 0, 2]]]
    """
    extent = _find_extent(mask != BACKGROUND)
    result, part = mask.copy(), mask[extent]
    # what has no liver in it is no piece of liver, however large
    pieces, count = ndimage.label(part != BACKGROUND, FACES)
    if count < 2:
        return result
    liver_sizes = np.bincount(pieces[part == LIVER], minlength=count + 1)
    if not liver_sizes.any():
        return result
    sizes = np.bincount(pieces.ravel(), minlength=count + 1) * (liver_sizes > 0)
    sizes[0] = 0
    result[extent][(pieces != sizes.argmax()) & (part == LIVER)] = BACKGROUND
    return result


def keep_tumour_inside(mask: np.ndarray) -> np.ndarray:
    """Drop tumours that touch no liver; a mask without any liver, of a binary head, stays.

    >>> keep_tumour_inside(np.uint8([[[1, 2, 2, 0, 2]]])).tolist()
    [[[1, 2, 2, 0, 0]]]
    """
    if not (mask == LIVER).any():
        return mask.copy()
    extent = _find_extent(mask != BACKGROUND)
    result, part = mask.copy(), mask[extent]
    tumours, count = ndimage.label(part == TUMOUR, FACES)
    touches = _find_touching(tumours, count, part == LIVER)
    result[extent][(tumours > 0) & ~touches[tumours]] = BACKGROUND
    return result


def _find_touching(tumours: np.ndarray, count: int, liver: np.ndarray) -> np.ndarray:
    """Which of the numbered tumours have a face in common with liver, bool [count + 1]."""
    touches = np.zeros(count + 1, bool)
    touches[np.unique(tumours[ndimage.binary_dilation(liver, FACES)])] = True
    return touches


def drop_small_tumours(mask: np.ndarray, least_mm3: float, spacing_mm: Spacing) -> np.ndarray:
    """Make tumours below a size liver, or background where they touch none.

    >>> drop_small_tumours(np.uint8([[[1, 2, 1, 2, 2]]]), 2.0, (1.0, 1.0, 1.0)).tolist()
    [[[1, 1, 1, 2, 2]]]
    """
    voxel_mm3 = math.prod(spacing_mm)

    def is_small(tumours: np.ndarray, count: int, extent: tuple[slice, ...]) -> np.ndarray:
        sizes_mm3 = np.bincount(tumours.ravel(), minlength=count + 1) * voxel_mm3
        return sizes_mm3 < least_mm3 * (1 - 1e-6)

    return _drop_tumours(mask, is_small)


def drop_faint_tumours(mask: np.ndarray, tumour_prob: np.ndarray, least_peak: float) -> np.ndarray:
    """Make tumours nowhere as probable as a peak liver, or background where they touch none.

    Args:
        mask: uint8 [z, y, x].
        tumour_prob: float [z, y, x], the tumour's probability.
        least_peak: The probability that a voxel of each tumour must reach.

    >>> prob = np.float16([[[0.1, 0.8, 0.1, 0.6, 0.9]]])
    >>> drop_faint_tumours(np.uint8([[[1, 2, 1, 2, 2]]]), prob, 0.85).tolist()
    [[[1, 1, 1, 2, 2]]]
    """

    def is_faint(tumours: np.ndarray, count: int, extent: tuple[slice, ...]) -> np.ndarray:
        peaks, inside = np.zeros(count + 1), tumours > 0
        np.maximum.at(peaks, tumours[inside], tumour_prob[extent][inside])
        return peaks < tumour_prob.dtype.type(least_peak)  # rounded alike

    return _drop_tumours(mask, is_faint)


def _drop_tumours(
    mask: np.ndarray, choose: Callable[[np.ndarray, int, tuple[slice, ...]], np.ndarray]
) -> np.ndarray:
    """Drop the tumours that `choose` says, bool [count + 1], of those numbered in an extent."""
    extent = _find_extent(mask != BACKGROUND)
    result, part = mask.copy(), mask[extent]
    tumours, count = ndimage.label(part == TUMOUR, FACES)
    dropped = choose(tumours, count, extent)
    dropped[0] = False
    instead = np.where(_find_touching(tumours, count, part == LIVER), LIVER, BACKGROUND)
    result[extent] = np.where(dropped[tumours], instead[tumours], part)
    return result


STEPS = (
    Step(
        "closing",
        "closing_mm",
        lambda mask, prob, spacing, config: close_slices(mask, config.closing_mm, spacing),
        2.0,  # mm: three pixels of most scans
        is_by_slice=True,
    ),
    Step(
        "holes filled",
        "fill_holes",
        lambda mask, prob, spacing, config: fill_holes(mask),
        True,
        is_by_slice=True,
    ),
    Step(
        "necks cut",
        "liver_neck_mm",
        lambda mask, prob, spacing, config: cut_necks(mask, config.liver_neck_mm, spacing),
        16.0,
    ),
    Step(
        "largest liver",
        "largest_liver",
        lambda mask, prob, spacing, config: keep_largest_liver(mask, spacing),
        True,
    ),
    Step(
        "tumour inside the liver",
        "tumour_inside_liver",
        lambda mask, prob, spacing, config: keep_tumour_inside(mask),
        True,
    ),
    Step(
        "least lesion size",
        "min_lesion_mm3",
        lambda mask, prob, spacing, config: drop_small_tumours(
            mask, config.min_lesion_mm3, spacing
        ),
        15.0,  # mm3: a ball of 3 mm, below which LiTS has stray voxels (tfds_builders/lits/README)
    ),
    Step(
        "least peak of a lesion",
        "min_lesion_peak",
        lambda mask, prob, spacing, config: drop_faint_tumours(mask, prob, config.min_lesion_peak),
        0.85,  # README has what it was chosen on
    ),
)


def postprocess(
    mask: np.ndarray, tumour_prob: np.ndarray | None, spacing_mm: Spacing, config: PostprocessConfig
) -> np.ndarray:
    """Do the steps that a recipe asks for, in their order.

    Args:
        mask: uint8 [z, y, x]; not changed.
        tumour_prob: float [z, y, x], the tumour's probability; None where it is not known.
        spacing_mm: Of a voxel, z, y and x.
        config: Which steps, and how far.

    Returns:
        uint8 [z, y, x].

    Raises:
        RecipeError: The probability is not known, and a step asks for it.
    """
    if tumour_prob is None and config.min_lesion_peak:
        raise RecipeError(
            "Lesions whose probabilities are not known have no peak",
            where="postprocess.min_lesion_peak",
            found=f"{config.min_lesion_peak:g} and no tumour_prob",
            wanted="the probabilities, or 0",
        )
    for step in STEPS:
        if getattr(config, step.field):
            mask = step.apply(mask, tumour_prob, spacing_mm, config)
    return mask


def keep_slice_steps(config: PostprocessConfig) -> PostprocessConfig:
    """Return a config with the steps alone that work slice by slice.

    >>> keep_slice_steps(PostprocessConfig(closing_mm=2.0, largest_liver=True)).largest_liver
    False
    """
    kept = {step.field: getattr(config, step.field) for step in STEPS if step.is_by_slice}
    return replace(NO_STEP, **kept)


def list_variants(
    config: PostprocessConfig, by_slice: bool = False
) -> Iterator[tuple[str, PostprocessConfig, bool]]:
    """List what a report compares: no step, the recipe's steps one by one, the others added to it.

    Args:
        config: Of the recipe.
        by_slice: Whether only steps count that work slice by slice.

    Yields:
        Title, the steps, and whether all of them are the recipe's own.
    """
    yield "none", NO_STEP, True
    done: dict[str, Any] = {}
    steps = [step for step in STEPS if step.is_by_slice or not by_slice]
    for step in steps:
        if value := getattr(config, step.field):
            done[step.field] = value
            yield f"+ {step.title}", replace(NO_STEP, **done), True
    for step in steps:
        if not getattr(config, step.field):
            more = replace(NO_STEP, **done | {step.field: step.tried})
            yield f"all of these + {step.title}", more, False
