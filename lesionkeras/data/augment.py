"""Random changes to an image and its boxes; stateless, so that a key decides everything.

P1's four (3.2.2): brightness, contrast (imgaug's GammaContrast, .5 to 2.0), noise, translation.
Beyond P1, by recipe: zoom, rotation, flips and crops, window, resolution and grey-level curves.
The operations are in `augment_boxes` and `augment_pixels`; any chain of them is made by `compose`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from lesionkeras.boxes.clipping import MIN_VISIBLE_SHARE
from lesionkeras.config import AugmentConfig, DetectionAugmentConfig
from lesionkeras.data.augment_boxes import (
    Crop,
    Flip,
    Geometry,
    Rotate,
    Translate,
    View,
    Zoom,
    apply_view,
)
from lesionkeras.data.augment_pixels import (
    Brightness,
    Curve,
    Gamma,
    KeySliceOnly,
    Noise,
    Pixels,
    Resolution,
    ReverseSlices,
    Window,
    widen,
)
from lesionkeras.errors import RecipeError

__all__ = [
    "MIN_VISIBLE_SHARE",
    "P1_OPERATIONS",
    "augment",
    "compose",
    "draw_view",
    "find_read_window",
    "list_geometry",
    "list_pixels",
    "view_side_px",
]
P1_OPERATIONS = ("brightness", "contrast", "noise", "translation")  # of copies 1, 2, 3, 4
REPEATED = 1000  # from here on the keys of operations that a chain holds a second time
Augment = Callable[[Any, Any, Any, Any], tuple[Any, Any, Any]]


def _operations(config: AugmentConfig, copy: Any) -> dict[str, Any]:
    """Which of P1's operations an image gets, float32 0 or 1 each."""
    if config.mode == "copies":  # copy 0 is the image itself, the others cycle through the four
        chosen = tf.where(copy > 0, (copy - 1) % len(P1_OPERATIONS), -1)
        return {name: tf.cast(chosen == i, tf.float32) for i, name in enumerate(P1_OPERATIONS)}
    on = 0.0 if config.mode == "none" else 1.0
    return {name: tf.constant(on) for name in P1_OPERATIONS}


def _find_further(config: AugmentConfig) -> DetectionAugmentConfig | None:
    """The config where it may ask for more than every config does."""
    if isinstance(config, DetectionAugmentConfig) and config.mode == "online":
        return config
    return None


def find_read_window(window_hu: tuple[float, float], config: AugmentConfig) -> tuple[float, float]:
    """Return the window that images are read with before `augment` narrows it.

    Args:
        window_hu: Of the recipe.
        config: May move the window's ends.

    Raises:
        RecipeError: The ends could meet.
    """
    further = _find_further(config)
    if further is None:
        return window_hu
    if 2 * further.window_shift_hu >= window_hu[1] - window_hu[0]:
        raise RecipeError(
            "augment.window_shift_hu is too large for the window",
            found=f"{further.window_shift_hu:g} HU",
            wanted=f"less than half of {window_hu[1] - window_hu[0]:g} HU (data.window_hu)",
        )
    return widen(window_hu, further.window_shift_hu)


def list_geometry(config: AugmentConfig, copy: Any) -> list[Geometry]:
    """Return the geometric operations of a config, in their order.

    Args:
        config: Magnitudes.
        copy: int32 scalar, the copy's number; read in mode "copies" only.
    """
    moves = Translate(_operations(config, copy)["translation"] * config.translate_fraction)
    if config.mode != "online":
        return [moves]
    further = _find_further(config)
    turns: list[Geometry] = (
        [Rotate(further.rotation_deg)] if further and further.rotation_deg else []
    )
    crop = Crop(config.crop_size_px, config.crop_on_lesion_probability)
    return [
        Zoom(*config.scale),
        *turns,
        crop if config.crop_size_px else moves,
        Flip(config.flip_left_right, config.flip_up_down),
    ]


def list_pixels(
    config: AugmentConfig, copy: Any, window_hu: tuple[float, float] = (0.0, 1.0)
) -> list[Pixels]:
    """Return the operations of a config on grey levels, in their order.

    Args:
        config: Magnitudes.
        copy: int32 scalar, the copy's number; read in mode "copies" only.
        window_hu: Of the recipe; read where the config moves its ends.
    """
    on, further = _operations(config, copy), _find_further(config)
    listed: list[Pixels] = []
    if further:
        if further.reverse_slices:
            listed.append(ReverseSlices())
        if further.key_slice_only:
            listed.append(KeySliceOnly(further.key_slice_only))
        if further.window_shift_hu:
            listed.append(Window(window_hu, further.window_shift_hu))
        if further.curve_strength:
            listed.append(Curve(further.curve_strength))
        if further.min_resolution < 1:
            listed.append(Resolution(further.min_resolution))
    return [
        *listed,
        Gamma(*config.gamma, on["contrast"]),
        Brightness(on["brightness"] * config.brightness),
        Noise(on["noise"] * config.noise_std),
    ]


def _make_keys(operations: Sequence[Any], key: Any) -> list[Any]:
    """A key each: the chain's, and another one where a kind comes again."""
    kinds = [type(operation) for operation in operations]
    return [
        tf.random.fold_in(key, REPEATED + i) if kind in kinds[:i] else key
        for i, kind in enumerate(kinds)
    ]


def _find_view(
    operations: Sequence[Geometry], boxes: Any, classes: Any, side_px: int, key: Any
) -> View:
    view = View.whole(side_px)
    for operation, own in zip(operations, _make_keys(operations, key), strict=True):
        view = operation(view, boxes, classes, own)
    return view


def _change_pixels(operations: Sequence[Pixels], image_unit: Any, key: Any) -> Any:
    for operation, own in zip(operations, _make_keys(operations, key), strict=True):
        image_unit = operation(image_unit, own)
    return tf.clip_by_value(image_unit, 0.0, 1.0)


def compose(geometry: Sequence[Geometry] = (), pixels: Sequence[Pixels] = ()) -> Augment:
    """Chain operations: the geometric ones are one resampling, those on grey levels follow.

    Args:
        geometry: Such as `Zoom(0.8, 1.25)`, `Rotate(15)`, `Crop(192, 0.6)`, `Flip()`.
        pixels: Such as `Gamma(0.8, 1.25)`, `Noise(0.01)`.

    Returns:
        A function for tf.data: image float32 [S, S, C] in 0..1, boxes float32 [M, 4] xyxy px,
        classes int32 [M] (padding -1) and a key int32 [2] -> the changed three.

    >>> mirror = compose([Flip()])
    >>> image, boxes, classes = mirror(tf.zeros((8, 8, 1)), tf.constant([[1.0, 0.0, 3.0, 2.0]]),
    ...                                tf.constant([0]), tf.constant([0, 2]))
    >>> boxes.numpy().tolist() in ([[5.0, 6.0, 7.0, 8.0]], [[5.0, 0.0, 7.0, 2.0]],
    ...                            [[1.0, 6.0, 3.0, 8.0]], [[1.0, 0.0, 3.0, 2.0]])
    True
    """

    def change(image_unit: Any, boxes: Any, classes: Any, key: Any) -> tuple[Any, Any, Any]:
        if geometry:
            view = _find_view(geometry, boxes, classes, image_unit.shape[0], key)
            image_unit, boxes, classes = apply_view(image_unit, boxes, classes, view)
        return _change_pixels(pixels, image_unit, key), boxes, classes

    return change


def draw_view(
    boxes: Any, classes: Any, side_px: int, config: AugmentConfig, copy: Any, key: Any
) -> View:
    """Draw the affine view of an image: zoom, rotation, crop or translation, flips.

    Args:
        boxes: float32 [M, 4] px.
        classes: int32 [M], padding -1.
        side_px: Side of the square image.
        config: Magnitudes.
        copy: int32 scalar, the copy's number; read in mode "copies" only.
        key: int32 [2] seed.
    """
    return _find_view(list_geometry(config, copy), boxes, classes, side_px, key)


def view_side_px(side_px: int, config: AugmentConfig) -> int:
    """Return the side of a training image: the crop's, or the whole image's."""
    cropped = config.mode == "online" and config.crop_size_px
    return min(config.crop_size_px, side_px) if cropped else side_px


def augment(
    image_unit: Any,
    boxes: Any,
    classes: Any,
    config: AugmentConfig,
    copy: Any,
    key: Any,
    window_hu: tuple[float, float] = (0.0, 1.0),
) -> tuple[Any, Any, Any]:
    """Change an image and its boxes as the key says.

    Args:
        image_unit: float32 [S, S, C], 0..1, of the window that `find_read_window` gives.
        boxes: float32 [M, 4] xyxy px.
        classes: int32 [M], padding -1.
        config: What is changed, and how much.
        copy: int32 scalar: which of P1's copies this is; 0 is the image itself.
        key: int32 [2] seed; the same key gives the same result.
        window_hu: Of the recipe.

    Returns:
        Image [s, s, C], boxes and classes, s as `view_side_px` says.
    """
    if config.mode == "none":
        return image_unit, boxes, classes
    change = compose(list_geometry(config, copy), list_pixels(config, copy, window_hu))
    return change(image_unit, boxes, classes, key)
