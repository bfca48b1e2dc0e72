"""Stored HU to a network's input at the speed of memory: a window is a table, a batch one call.

TensorFlow needs four passes over an image to window it, and copies what a NumPy function returns
unless it lies on a boundary of 64 bytes.  One pass through a table of all 65,536 values writes the
same float32 numbers where TensorFlow takes them over as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow as tf

from lesionkeras.ct.window import window_numpy

ALIGNMENT_BYTES = 64  # EIGEN_MAX_ALIGN_BYTES of TensorFlow's builds; what is not aligned is copied


def make_window_table(window_hu: tuple[float, float]) -> np.ndarray:
    """Return `image_unit` of every int16 value, in the order of their bits as uint16.

    Args:
        window_hu: Low and high end of the window, in HU.

    Returns:
        float32 [65536].

    >>> make_window_table((-160.0, 240.0))[[0, 40, 240, 65535 - 159]].tolist()
    [0.4000000059604645, 0.5, 1.0, 0.0]
    """
    return window_numpy(np.arange(2**16, dtype=np.uint16).view(np.int16), window_hu)


def empty_aligned(shape: Sequence[int]) -> np.ndarray:
    """Return float32 memory that TensorFlow takes over without a copy, not filled.

    Args:
        shape: Of the array.
    """
    num_bytes = int(np.prod(shape)) * np.dtype(np.float32).itemsize
    memory = np.empty(num_bytes + ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[start : start + num_bytes].view(np.float32).reshape(shape)


def window_into(image_hu: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """Window one image into memory that is there.

    Args:
        image_hu: int16, contiguous, at least two axes.
        table: From `make_window_table`.
        out: float32 of the same shape, contiguous.
    """
    flat = np.ascontiguousarray(image_hu).view(np.uint16).reshape(len(image_hu), -1)
    cv2.LUT(flat, table, out.reshape(len(out), -1))


def make_batch_reader(
    images: Any, window_hu: tuple[float, float]
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that reads and windows rows of stored images.

    Args:
        images: int16 [N, S, S, C] HU; may lie on disk (memmap).
        window_hu: Low and high end of the window, in HU.

    Returns:
        Rows int64 [b] -> `image_unit` float32 [b, S, S, C].
    """
    table, shape = make_window_table(window_hu), images.shape[1:]

    def read(rows: np.ndarray) -> np.ndarray:
        out = empty_aligned((len(rows), *shape))
        for row, image_unit in zip(rows, out, strict=True):
            window_into(images[row], table, image_unit)
        return out

    return read


def read_in_graph(read: Callable[[np.ndarray], np.ndarray], rows: Any, shape: Sequence[int]) -> Any:
    """Call a reader from tf.data.

    Args:
        read: From `make_batch_reader`.
        rows: int64 tensor [b].
        shape: Of one image.

    Returns:
        float32 tensor [b, *shape], b static where that of `rows` is.
    """
    # stateful, it would make op determinism run a stream's map on one thread
    image_unit = tf.numpy_function(read, [rows], tf.float32, stateful=False)
    return tf.ensure_shape(image_unit, (rows.shape[0], *shape))
