"""A slice on a network's square grid, and what the network says back on the slice's own pixels.

Either the whole slice is resized to the square, or it is resized to a common size of pixels in mm
and then cropped or padded about its middle.  Both are a resize and a whole-pixel shift, so that the
way back is exact where sizes agree, and the middle of pixels falls on the middle of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from lesionkeras.ct.window import HU_LOW, resize_hu_graph, resize_mask_graph

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class SliceGrid:
    """Where a slice's pixels lie on the network's square; pairs are rows, columns.

    Attributes:
        size_px: Of the slice.
        resized_px: Of the slice after the resize.
        side_px: Of the square.
    """

    size_px: tuple[int, int]
    resized_px: tuple[int, int]
    side_px: int

    @property
    def shift_px(self) -> tuple[int, int]:
        """Row and column of the square at which the resized slice begins; negative where cut."""
        # towards 0, as TensorFlow crops and pads
        rows, columns = (int((self.side_px - length) / 2) for length in self.resized_px)
        return rows, columns

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the square a pixel of the slice."""
        pairs = zip(self.resized_px, self.size_px, strict=True)
        rows, columns = (new / old for new, old in pairs)
        return rows, columns


def find_grid(
    size_px: tuple[int, int], spacing_mm: tuple[float, float], side_px: int, pixel_mm: float
) -> SliceGrid:
    """Find where a slice lies on the square.

    Args:
        size_px: Rows and columns of the slice.
        spacing_mm: Of its pixels, y and x.
        side_px: Of the square.
        pixel_mm: Of the square's pixels, met to half a pixel over the slice; 0: the whole slice is
            resized to the square.

    >>> grid = find_grid((512, 512), (0.75, 0.75), 320, 1.5)
    >>> grid.resized_px, grid.shift_px, grid.scale
    ((256, 256), (32, 32), (0.5, 0.5))
    """
    if not pixel_mm:
        return SliceGrid(size_px, (side_px, side_px), side_px)
    rows, columns = (
        max(1, round(length * spacing / pixel_mm))
        for length, spacing in zip(size_px, spacing_mm, strict=True)
    )
    return SliceGrid(size_px, (rows, columns), side_px)


def _fit(image: Any, grid: SliceGrid, fill: Any) -> np.ndarray:
    """Crop or pad [h, w] about its middle."""
    square = np.full((grid.side_px, grid.side_px), fill, image.dtype)
    target, source = [], []
    for shift, length in zip(grid.shift_px, grid.resized_px, strict=True):
        begin, end = max(shift, 0), min(shift + length, grid.side_px)
        target.append(slice(begin, end))
        source.append(slice(begin - shift, end - shift))
    square[tuple(target)] = image[tuple(source)]
    return square


def place_hu(image_hu: np.ndarray, grid: SliceGrid) -> np.ndarray:
    """Bring a slice onto the square; beyond it is air.

    Args:
        image_hu: int16 [H, W].
        grid: Of this slice.

    Returns:
        int16 [S, S].
    """
    if image_hu.shape != grid.resized_px:
        image_hu = resize_hu_graph(image_hu[..., None], grid.resized_px).numpy()[..., 0]
    return image_hu if grid.resized_px == (grid.side_px,) * 2 else _fit(image_hu, grid, HU_LOW)


def place_mask(mask: np.ndarray, grid: SliceGrid) -> np.ndarray:
    """Bring a mask onto the square by the nearest pixel; beyond it is background.

    Args:
        mask: uint8 [H, W].
        grid: Of its slice.

    Returns:
        uint8 [S, S].
    """
    if mask.shape != grid.resized_px:
        mask = resize_mask_graph(mask[..., None], grid.resized_px).numpy()[..., 0]
    return mask if grid.resized_px == (grid.side_px,) * 2 else _fit(mask, grid, 0)


def place_hu_graph(image_hu: Any, resized_px: Any, side_px: int) -> tf.Tensor:
    """Do what `place_hu` does, as TensorFlow operations.

    Args:
        image_hu: int16 tensor [B, H, W, C]; sizes may be unknown.
        resized_px: Rows and columns after the resize: two ints or an int32 tensor [2].
        side_px: Of the square.

    Returns:
        int16 tensor [B, S, S, C].
    """
    import tensorflow as tf

    resized = resize_hu_graph(image_hu, resized_px)
    # padded with 0, and air is below: the shift of values makes the padding air
    square = tf.image.resize_with_crop_or_pad(resized - HU_LOW, side_px, side_px)
    return square + HU_LOW


def to_slice(values: np.ndarray, grid: SliceGrid, beyond: float | np.ndarray = 0.0) -> np.ndarray:
    """Bring what a network says of each pixel back onto the slice's pixels, linearly.

    Args:
        values: float32 [S, S, n], at most four numbers a pixel, such as probabilities.
        grid: Of the slice.
        beyond: Value of what the square does not reach.

    Returns:
        float32 [H, W, n].

    >>> grid = find_grid((2, 4), (1.0, 1.0), 2, 1.0)  # 2 x 4 px, of which the middle 2 x 2
    >>> to_slice(np.ones((2, 2, 1), np.float32), grid)[..., 0].tolist()
    [[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]]
    """
    resized = np.empty((*grid.resized_px, values.shape[-1]), np.float32)
    resized[:] = beyond
    target, source = [], []
    for shift, length in zip(grid.shift_px, grid.resized_px, strict=True):
        begin, end = max(shift, 0), min(shift + length, grid.side_px)
        source.append(slice(begin, end))
        target.append(slice(begin - shift, end - shift))
    resized[tuple(target)] = values[tuple(source)]
    if grid.resized_px == grid.size_px:
        return resized
    height, width = grid.size_px
    native = cv2.resize(resized, (width, height), interpolation=cv2.INTER_LINEAR)
    return native.reshape(height, width, values.shape[-1])
