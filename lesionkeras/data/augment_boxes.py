"""Geometric changes to an image and its boxes, as operations that can be chained.

Each operation changes the view: which source pixel a pixel of the picture shows.  A chain of them
is one affine resampling (`apply_view`), so that nothing is smoothed twice.

What becomes of a box.  An unturned one keeps its corners.  A turned one becomes the bounds of its
inscribed ellipse, turned: lesions are round, and the bounds of the turned corners would be up to
twice as large.  Then it is clipped to the picture; one of which less than MIN_VISIBLE_SHARE of the
area remains, a sliver, is dropped: its row becomes padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from lesionkeras.boxes.clipping import MIN_VISIBLE_SHARE


def draw(key: Any, number: int, shape: tuple[int, ...] = ()) -> Any:
    """Uniform 0..1 from the key; another number gives other draws."""
    return tf.random.stateless_uniform(shape, seed=tf.random.fold_in(key, number))


class View(NamedTuple):
    """Source px = centre * side_px + matrix @ (view px - out_px / 2); y before x.

    Attributes:
        side_px: Of the square source.
        out_px: Of the square picture.
        matrix: float32 [2, 2].
        centre: float32 [2], shares of the source's side.
        zoom: float32 scalar, px of the picture a px of the source.
        is_turned: Whether `matrix` may have other numbers than its diagonal.
    """

    side_px: int
    out_px: int
    matrix: Any
    centre: Any
    zoom: Any
    is_turned: bool = False

    @classmethod
    def whole(cls, side_px: int) -> View:
        """Return the view that shows the source as it is."""
        return cls(side_px, side_px, tf.eye(2), tf.fill([2], 0.5), tf.constant(1.0))

    @property
    def shift(self) -> Any:
        """Source px, y and x, of the picture's corner; whole where it is neither zoomed nor turned.

        Whole, as pixels that are only moved stay as they are.
        """
        half = tf.fill([2], self.out_px / 2)
        shift = self.centre * self.side_px - tf.linalg.matvec(self.matrix, half)
        straight = tf.reduce_all(tf.abs(tf.linalg.diag_part(self.matrix)) == 1.0)
        return tf.where(straight, tf.round(shift), shift)


class Geometry(Protocol):
    """A geometric operation: it draws from a key and changes a view."""

    def __call__(self, view: View, boxes: Any, classes: Any, key: Any) -> View:
        """Return the changed view of an image with boxes [M, 4] px of the source, classes [M]."""


@dataclass(frozen=True)
class Zoom:
    """Enlarges by a factor from `low` to `high`, log-uniform."""

    low: float
    high: float

    def __call__(self, view: View, boxes: Any, classes: Any, key: Any) -> View:
        """Change the matrix."""
        zoom = self.low * tf.pow(self.high / self.low, draw(key, 5))
        return view._replace(matrix=view.matrix / zoom, zoom=view.zoom * zoom)


@dataclass(frozen=True)
class Rotate:
    """Turns about the picture's middle by up to `degrees`, uniform in +-."""

    degrees: float

    def __call__(self, view: View, boxes: Any, classes: Any, key: Any) -> View:
        """Change the matrix."""
        angle = self.degrees * math.pi / 180 * (2.0 * draw(key, 8) - 1.0)
        turn = tf.stack([[tf.cos(angle), -tf.sin(angle)], [tf.sin(angle), tf.cos(angle)]])
        return view._replace(matrix=turn @ view.matrix, is_turned=True)


@dataclass(frozen=True)
class Flip:
    """Mirrors, each axis in half of the images."""

    left_right: bool = True
    up_down: bool = True

    def __call__(self, view: View, boxes: Any, classes: Any, key: Any) -> View:
        """Change the matrix."""
        flips = tf.constant([float(self.up_down), float(self.left_right)])
        sign = tf.where(draw(key, 7, (2,)) < 0.5 * flips, -1.0, 1.0)
        return view._replace(matrix=view.matrix * sign[None])


@dataclass(frozen=True)
class Translate:
    """Moves by up to a fraction of the side, uniform in +-; what comes in is 0."""

    fraction: Any

    def __call__(self, view: View, boxes: Any, classes: Any, key: Any) -> View:
        """Change the centre."""
        return view._replace(centre=view.centre + self.fraction * (2.0 * draw(key, 6, (2,)) - 1.0))


@dataclass(frozen=True)
class Crop:
    """Takes a part of `size_px`, a share of the parts with a lesion in it, the others anywhere."""

    size_px: int
    on_lesion_probability: float

    def __call__(self, view: View, boxes: Any, classes: Any, key: Any) -> View:
        """Change the centre and the size of the picture."""
        out_px = min(self.size_px, view.side_px)
        extent = tf.fill([2], out_px / view.side_px / view.zoom)
        return view._replace(
            out_px=out_px, centre=self._choose(boxes / view.side_px, classes, extent, key)
        )

    def _choose(self, boxes: Any, classes: Any, extent: Any, key: Any) -> Any:
        """Centre (y, x) of a crop, all relative to the image's side."""
        weights = tf.where(classes >= 0, 0.0, -1e9)
        num_lesions = tf.reduce_sum(tf.cast(classes >= 0, tf.int32))
        row = tf.argmax(weights + draw(key, 10, classes.shape))  # one of the lesions, at random
        x1, y1, x2, y2 = tf.unstack(boxes[row])
        middle = tf.stack([(y1 + y2) / 2, (x1 + x2) / 2])
        # it stays inside, but for some of those near the edge of a picture that is turned
        reach = tf.maximum(extent - tf.stack([y2 - y1, x2 - x1]), 0.0) / 2
        on_lesion = middle + reach * (2.0 * draw(key, 11, (2,)) - 1.0)
        anywhere = extent / 2 + (1.0 - extent) * draw(key, 12, (2,))
        wanted = (num_lesions > 0) & (draw(key, 13) < self.on_lesion_probability)
        centre = tf.where(wanted, on_lesion, anywhere)
        inside = tf.clip_by_value(centre, extent / 2, 1.0 - extent / 2)
        return tf.where(extent < 1.0, inside, tf.constant([0.5, 0.5]))


def move_image(image_unit: Any, view: View) -> Any:
    """Resample an image bilinearly; outside it is 0.

    Args:
        image_unit: float32 [S, S, C].
        view: Of it.

    Returns:
        float32 [out_px, out_px, C].
    """
    # the op counts pixel centres from 0, boxes count pixel edges: hence the half pixels
    (yy, yx), (xy, xx) = (tf.unstack(row) for row in tf.unstack(view.matrix))
    offset = tf.linalg.matvec(view.matrix, tf.fill([2], 0.5)) + view.shift - 0.5
    zero = tf.zeros([])
    matrix = tf.stack([xx, xy, offset[1], yx, yy, offset[0], zero, zero])
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image_unit[None],
        transforms=matrix[None],
        output_shape=[view.out_px, view.out_px],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]
    return tf.ensure_shape(moved, (view.out_px, view.out_px, image_unit.shape[-1]))


def move_boxes(boxes: Any, classes: Any, view: View) -> tuple[Any, Any]:
    """Move boxes with their image, clip them to the picture, and drop slivers.

    Args:
        boxes: float32 [M, 4] xyxy px of the source.
        classes: int32 [M], padding -1.
        view: Of the image.

    Returns:
        float32 [M, 4] xyxy px of the picture and int32 [M]; dropped rows become padding.
    """
    low, high = _turn_boxes(boxes, view) if view.is_turned else _stretch_boxes(boxes, view)
    whole = tf.reduce_prod(high - low, axis=1)
    low, high = tf.clip_by_value(low, 0.0, view.out_px), tf.clip_by_value(high, 0.0, view.out_px)
    share = tf.math.divide_no_nan(tf.reduce_prod(high - low, axis=1), whole)
    keep = (classes >= 0) & (share >= MIN_VISIBLE_SHARE)
    moved = tf.where(keep[:, None], tf.concat([low, high], axis=1), 0.0)
    return moved, tf.where(keep, classes, -1)


def _stretch_boxes(boxes: Any, view: View) -> tuple[Any, Any]:
    """Corners (x, y) of boxes of an unturned view, the lower first."""
    factor = tf.linalg.diag_part(view.matrix)
    corners = (tf.reshape(boxes, [-1, 2, 2]) - view.shift[::-1]) / factor[::-1]
    return tf.reduce_min(corners, axis=1), tf.reduce_max(corners, axis=1)


def _turn_boxes(boxes: Any, view: View) -> tuple[Any, Any]:
    """Corners (x, y) of the bounds of each box's inscribed ellipse in the view."""
    inverse = tf.linalg.inv(view.matrix)[::-1, ::-1]  # x before y
    low, high = boxes[:, :2], boxes[:, 2:]
    middle = tf.linalg.matvec(inverse, (low + high) / 2 - view.shift[::-1])
    # the ellipse is a circle stretched by half the box's sides: its bounds are its rows' lengths
    half = tf.linalg.norm(inverse[None] * ((high - low) / 2)[:, None, :], axis=2)
    return middle - half, middle + half


def apply_view(image_unit: Any, boxes: Any, classes: Any, view: View) -> tuple[Any, Any, Any]:
    """Return image, boxes and classes as a view shows them; see `move_image`, `move_boxes`."""
    return move_image(image_unit, view), *move_boxes(boxes, classes, view)
