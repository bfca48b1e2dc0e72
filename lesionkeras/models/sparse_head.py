"""A head of convolutions where it matters alone: at a few cells of a pyramid.

In training a box head is asked at positive anchors only, yet it is as wide as the class head: a
quarter of RetinaNet's products, of which one in a hundred reaches the loss.  Here each cell that is
asked for gets its own small image, as large as what it depends on, and the head's convolutions run
over these.  Values and gradients are those of the whole maps: what lies outside of a map is set to
zero before every convolution, as its padding would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops


def choose_cells(is_wanted: Any, most: int) -> Any:
    """Choose the wanted cells of a batch.

    Args:
        is_wanted: Bool [B, cells], static shape.
        most: How many there is room for.

    Returns:
        int32 [most], the wanted ones first, as rows of [B * cells]; others fill it up.
    """
    flat = ops.cast(ops.reshape(is_wanted, (-1,)), "float32")
    return ops.cast(ops.top_k(flat, most)[1], "int32")


def count_positions(num_convs: int) -> int:
    """Count the places at which 3x3 convolutions are taken for one cell.

    >>> count_positions(2)  # 3x3 for the first, one for the second
    10
    """
    return sum((2 * i + 1) ** 2 for i in range(num_convs))


def _describe_cells(sizes: Sequence[tuple[int, int]], radius: int) -> dict[str, np.ndarray]:
    """Where each cell stands in its map, and its patch in the row of all padded maps."""
    columns: dict[str, list[np.ndarray]] = {"row": [], "column": [], "start": []}
    spans: dict[str, list[np.ndarray]] = {"height": [], "width": [], "step": []}
    offset = 0
    for height, width in sizes:
        step = width + 2 * radius
        rows, cols = (part.ravel() for part in np.indices((height, width)))
        for name, value in (
            ("row", rows),
            ("column", cols),
            ("start", offset + rows * step + cols),
        ):
            columns[name].append(value)
        for name, number in (("height", height), ("width", width), ("step", step)):
            spans[name].append(np.full(height * width, number))
        offset += (height + 2 * radius) * step
    return {k: np.concatenate(v).astype(np.int32) for k, v in (columns | spans).items()}


def run_at_cells(
    maps: Sequence[Any], cells: Any, kernels: Sequence[Any], biases: Sequence[Any]
) -> Any:
    """Run a head of 3x3 convolutions, ReLU after each but the last, at chosen cells.

    Args:
        maps: Float [B, H, W, C] of each stride, static sizes but B.
        cells: int32 [K], rows of [B * cells of all maps], as `choose_cells` gives.
        kernels: [3, 3, in, out] of each convolution.
        biases: [out] of each.

    Returns:
        Float [K, out]: what the head gives there on the whole maps.
    """
    radius, dtype = len(kernels), maps[0].dtype
    sizes = [(int(x.shape[1]), int(x.shape[2])) for x in maps]
    channels = maps[0].shape[-1]
    padding = ((0, 0), (radius, radius), (radius, radius), (0, 0))
    padded = [ops.reshape(ops.pad(x, padding), (-1, _area(x, radius), channels)) for x in maps]
    places = sum(_area(x, radius) for x in maps)
    everything = ops.reshape(ops.concatenate(padded, axis=1), (-1, channels))
    table = _describe_cells(sizes, radius)
    image, cell = cells // len(table["row"]), cells % len(table["row"])
    of = {name: ops.take(values, cell) for name, values in table.items()}
    shift = np.arange(2 * radius + 1, dtype=np.int32)
    index = shift[:, None] * of["step"][:, None, None] + shift[None, :]
    index = index + (image * places + of["start"])[:, None, None]
    rows, columns = (of[k][:, None] + shift - radius for k in ("row", "column"))
    is_row = ops.logical_and(rows >= 0, rows < of["height"][:, None])
    is_column = ops.logical_and(columns >= 0, columns < of["width"][:, None])
    inside = ops.cast(ops.logical_and(is_row[:, :, None], is_column[:, None, :]), dtype)[..., None]
    x = ops.take(everything, index, axis=0)
    for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True), 1):
        x = ops.conv(x, ops.cast(kernel, dtype), padding="valid") + ops.cast(bias, dtype)
        if i < len(kernels):
            x = ops.relu(x) * inside[:, i : 2 * radius + 1 - i, i : 2 * radius + 1 - i]
    return ops.reshape(x, (-1, x.shape[-1]))


def _area(x: Any, radius: int) -> int:
    """Cells of a padded map."""
    return (int(x.shape[1]) + 2 * radius) * (int(x.shape[2]) + 2 * radius)
