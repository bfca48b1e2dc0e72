"""The anchor boxes of a detector, as one constant NumPy array.

KerasCV 0.9's `AnchorGenerator` gives the same boxes (tests/boxes/test_anchors.py compares them),
but casts them to the compute dtype: under `mixed_bfloat16` a coordinate of more than 256 px is off
by up to a pixel, which moves IoUs across the matching threshold.  It also needs five seconds of
imports where the anchor-recall report needs only NumPy.  Hence ours (DESIGN 3).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lesionkeras.config import AnchorConfig


def num_anchors_per_cell(config: AnchorConfig) -> int:
    """Number of anchors at each cell of each map.

    >>> num_anchors_per_cell(AnchorConfig(scales=(1.0, 1.4), ratios=(0.5, 1.0, 2.0)))
    6
    """
    return len(config.scales) * len(config.ratios)


def compute_map_size(side_px: int, stride_px: int) -> int:
    """Cells along one side of the map with this stride: 'same' padding rounds up.

    >>> compute_map_size(300, 64)
    5
    """
    return -(-side_px // stride_px)


@lru_cache(maxsize=32)
def make_anchors(config: AnchorConfig, height_px: int, width_px: int) -> np.ndarray:
    """All anchors of an image, in the order of the network's outputs.

    The order is strides ascending; in a map rows, then columns; in a cell scales, then ratios.
    The centre of cell (row i, column j) is `((j + .5) * stride, (i + .5) * stride)`: half a stride
    from the edge.  Anchors at the rim may hang over the image; they are not clipped, because a
    clipped anchor is another shape than the one its filter learns.

    Args:
        config: Strides, sizes and ratios.
        height_px: Height of the network's input.
        width_px: Width of the network's input.

    Returns:
        float32 `[A, 4]` xyxy in pixels, read-only (one array is shared by all callers).

    Raises:
        ValueError: If a stride, scale or ratio is missing or not positive, strides do not ascend,
            or the image has no pixels.

    Source: SSD (Liu et al. 2016), 2.2; ratios are height / width at equal area.

    >>> config = AnchorConfig(strides_px=(8,), size_factor=2.0, scales=(1.0,), ratios=(1.0, 4.0))
    >>> make_anchors(config, 8, 16)
    array([[ -4.,  -4.,  12.,  12.],
           [  0., -12.,   8.,  20.],
           [  4.,  -4.,  20.,  12.],
           [  8., -12.,  16.,  20.]], dtype=float32)
    """
    _check_config(config)
    if height_px < 1 or width_px < 1:
        raise ValueError(f"an image needs pixels, not {height_px} x {width_px}")
    scales, ratios = np.array(config.scales), np.sqrt(np.array(config.ratios))
    levels = []
    for stride in config.strides_px:
        side = config.size_factor * stride * scales[:, None]
        sizes = np.stack([side / ratios, side * ratios], axis=-1).reshape(-1, 2)
        xs = (np.arange(compute_map_size(width_px, stride)) + 0.5) * stride
        ys = (np.arange(compute_map_size(height_px, stride)) + 0.5) * stride
        centres = np.stack(np.meshgrid(xs, ys), axis=-1)[:, :, None, :]
        corners = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=-1)
        levels.append(corners.reshape(-1, 4))
    anchors = np.concatenate(levels).astype(np.float32)
    anchors.flags.writeable = False
    return anchors


def _check_config(config: AnchorConfig) -> None:
    """Raise ValueError for a grid that cannot be."""
    for name in ("strides_px", "scales", "ratios"):
        values = getattr(config, name)
        if not values or min(values) <= 0:
            raise ValueError(f"anchors.{name} must be positive numbers, not {values}")
    if config.size_factor <= 0:
        raise ValueError(f"anchors.size_factor must be positive, not {config.size_factor}")
    if list(config.strides_px) != sorted(set(config.strides_px)):
        raise ValueError(f"anchors.strides_px must ascend, not {config.strides_px}")
