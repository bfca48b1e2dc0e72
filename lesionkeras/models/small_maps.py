"""A 3x3 convolution over a few pixels, trained as one matrix product.

The last stage of a ResNet sees a 64 px crop as 2x2 pixels of 512 channels.  oneDNN then spends its
time on bringing 9 MB of kernel into its own order, thrice a step; a matrix product reads it as it
lies: 26 instead of 49 ms of CPU a layer and step for a batch of 16 on two cores.  Of maps of more
pixels the convolution is the quicker.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from lesionkeras.models.winograd import count_pixels

MIN_CHANNELS = 512
MAX_PIXELS = 64  # of a batch


def pays(image_shape: Any, filters: int) -> bool:
    """Return whether a training step is cheaper as a matrix product: few pixels, many channels.

    Args:
        image_shape: [B, H, W, C], static; with an unknown size it does not.
        filters: Of the result.

    >>> pays((16, 2, 2, 512), 512), pays((16, 4, 4, 512), 512), pays((None, 2, 2, 512), 512)
    (True, False, False)
    """
    pixels = count_pixels(image_shape, filters, MIN_CHANNELS)
    return pixels is not None and pixels <= MAX_PIXELS


def is_wide(layer: keras.layers.Conv2D) -> bool:
    """Return whether a convolution is 3x3 and of channels enough to be a `SmallMapConv2D`."""
    return bool(layer.kernel_size == (3, 3) and layer.filters >= MIN_CHANNELS)


def convolve_as_product(x: Any, kernel: Any) -> Any:
    """Convolve with a 3x3 kernel, stride 1, zeros around ('same'): every pixel's nine in a row.

    Args:
        x: float32 [B, H, W, C], its sizes static.
        kernel: float32 [3, 3, C, F].

    Returns:
        float32 [B, H, W, F].
    """
    batch, height, width, channels = x.shape
    pixels = height * width
    nine = ops.matmul(_find_neighbours(height, width), ops.reshape(x, (batch, pixels, channels)))
    rows = ops.reshape(nine, (batch * pixels, 9 * channels))
    y = ops.matmul(rows, ops.reshape(kernel, (9 * channels, -1)))
    return ops.reshape(y, (batch, height, width, -1))


def _find_neighbours(height: int, width: int) -> np.ndarray:
    """Returns which pixel a kernel's tap sees: 0 or 1, [9 H W, H W]; beyond the edge none.

    A product with it is quicker than nine slices, whose gradients are images each.
    """
    row, column, i, j = np.indices((height, width, 3, 3)).reshape(4, -1)
    row, column = row + i - 1, column + j - 1
    seen = row * width + column
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return ((seen[:, None] == np.arange(height * width)) & is_inside[:, None]).astype(np.float32)


@keras.saving.register_keras_serializable("lesionkeras")
class SmallMapConv2D(keras.layers.Conv2D):
    """A 3x3 Conv2D, stride 1, "same", that trains as a matrix product where `pays` says so.

    Results differ from Conv2D's by rounding.  Inference is Conv2D's own.
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return [B, H, W, filters]; an activation follows in its own layer."""
        is_plain = self.compute_dtype != "float32" or not pays(inputs.shape, self.filters)
        if not training or is_plain:
            return super().call(inputs)
        y = convolve_as_product(inputs, self.kernel)
        return y + self.bias if self.use_bias else y
