"""Changes to the grey levels of an image, as operations that can be chained.

Each takes `image_unit` float32 [H, W, C] and a key, and returns the same shape; the chain clips to
0..1 at its end.  Magnitudes that may be tensors can be 0, so that a chain is one graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf

from lesionkeras.data.augment_boxes import draw

CURVE_KNOTS = 5  # of a random curve, at equal distances from 0 to 1


class Pixels(Protocol):
    """An operation on grey levels: it draws from a key."""

    def __call__(self, image_unit: Any, key: Any) -> Any:
        """Return the changed image."""


@dataclass(frozen=True)
class Window:
    """Moves the ends of the window, each by up to `shift_hu`, uniform in +-.

    The image comes with the widest window that can be drawn (`widen`), for what is cut off by one
    window another may show.
    """

    window_hu: tuple[float, float]
    shift_hu: float

    def __call__(self, image_unit: Any, key: Any) -> Any:
        """Return the image in the window that is drawn."""
        (low, high), (widest, upmost) = self.window_hu, widen(self.window_hu, self.shift_hu)
        moved = self.shift_hu * (2.0 * draw(key, 15, (2,)) - 1.0)
        low, high = low + moved[0], high + moved[1]
        image_hu = widest + (upmost - widest) * image_unit
        return tf.clip_by_value((image_hu - low) / (high - low), 0.0, 1.0)


def widen(window_hu: tuple[float, float], shift_hu: float) -> tuple[float, float]:
    """Return the widest window that `Window` can draw.

    >>> widen((-160.0, 240.0), 20.0)
    (-180.0, 260.0)
    """
    return window_hu[0] - shift_hu, window_hu[1] + shift_hu


@dataclass(frozen=True)
class ReverseSlices:
    """Gives half of the images from cranial, not from caudal, or the other way round."""

    def __call__(self, image_unit: Any, key: Any) -> Any:
        """Return the image with its channels in one of both orders."""
        return tf.where(draw(key, 9) < 0.5, image_unit[..., ::-1], image_unit)


@dataclass(frozen=True)
class KeySliceOnly:
    """Replaces the neighbours by the key slice, in the middle, in a share of the images."""

    share: float

    def __call__(self, image_unit: Any, key: Any) -> Any:
        """Return the image with three different channels or three equal ones."""
        middle = image_unit.shape[-1] // 2
        alone = tf.broadcast_to(image_unit[..., middle : middle + 1], tf.shape(image_unit))
        return tf.where(draw(key, 17) < self.share, alone, image_unit)


@dataclass(frozen=True)
class Curve:
    """Bends the grey levels by a rising curve; its slopes are 1 +- `strength`, then fitted.

    0 stays 0 and 1 stays 1.  Contrast agent and its phase raise liver, vessels and lesions by
    different amounts, which no single gamma does.
    """

    strength: float

    def __call__(self, image_unit: Any, key: Any) -> Any:
        """Return the bent image."""
        slopes = 1.0 + self.strength * (2.0 * draw(key, 16, (CURVE_KNOTS - 1,)) - 1.0)
        knots = tf.concat([[0.0], tf.cumsum(slopes) / tf.reduce_sum(slopes)], axis=0)
        place = tf.clip_by_value(image_unit, 0.0, 1.0) * (CURVE_KNOTS - 1)
        left = tf.minimum(tf.cast(place, tf.int32), CURVE_KNOTS - 2)
        begin, end = tf.gather(knots, left), tf.gather(knots, left + 1)
        return begin + (end - begin) * (place - tf.cast(left, tf.float32))


@dataclass(frozen=True)
class Resolution:
    """Scales down to a share of the size, uniform from `least` to 1, and up again."""

    least: float

    def __call__(self, image_unit: Any, key: Any) -> Any:
        """Return the coarser image, of the same size."""
        share = self.least + (1.0 - self.least) * draw(key, 14)
        size_px = tf.shape(image_unit)[:2]
        small_px = tf.maximum(tf.cast(tf.round(share * tf.cast(size_px, tf.float32)), tf.int32), 1)
        small = tf.image.resize(image_unit, small_px, antialias=True)
        return tf.ensure_shape(tf.image.resize(small, size_px), image_unit.shape)


@dataclass(frozen=True)
class Gamma:
    """Raises to a power from `low` to `high`, uniform; imgaug's GammaContrast (P1, 3.2.2)."""

    low: float
    high: float
    share: Any = 1.0  # how much of the change; 0 is none

    def __call__(self, image_unit: Any, key: Any) -> Any:
        """Return the image of another contrast."""
        drawn = self.low + (self.high - self.low) * draw(key, 1)
        return tf.pow(tf.maximum(image_unit, 0.0), 1.0 + self.share * (drawn - 1.0))


@dataclass(frozen=True)
class Brightness:
    """Adds up to `most`, uniform in +-."""

    most: Any

    def __call__(self, image_unit: Any, key: Any) -> Any:
        """Return the brighter or darker image."""
        return image_unit + self.most * (2.0 * draw(key, 2) - 1.0)


@dataclass(frozen=True)
class Noise:
    """Adds normal noise; its standard deviation is uniform in 0..`most`."""

    most: Any

    def __call__(self, image_unit: Any, key: Any) -> Any:
        """Return the noisy image."""
        noise = tf.random.stateless_normal(tf.shape(image_unit), seed=tf.random.fold_in(key, 4))
        return image_unit + self.most * draw(key, 3) * noise
