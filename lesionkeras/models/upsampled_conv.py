"""A 3x3 convolution over an upsampled map and an image, without the upsampled map.

P2's concatenation upsamples 64x64x512 features to 512x512x512 (half a gigabyte, as much again for
its gradient, and once more concatenated with the image) and convolves it by 3x3.  Upsampling mixes
pixels, the convolution's taps mix channels: the two commute.  So each of the nine taps is taken on
the small map (64 times fewer products), and what it gives is upsampled, moved by its offset and
summed; that is a product with one small matrix along x and one along y.  The result is the same
sum in another order.

For one image of 512 px and 32 filters that is 4.7 MB of taps (64x64x288), twice 12.6 MB upsampled
along x and 33.6 MB of result; the plain way holds 537 MB upsampled and 540 MB concatenated, and as
much for their gradients.  Measured, forward and back (`experiments.benchmark detection`): 163 MB
and 1,779 MB, a twentieth of the time.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

KERNEL_PX = 3


def make_upsampling_matrix(size: int, factor: int, interpolation: str) -> np.ndarray:
    """Make the matrix that upsamples one axis and moves it by each tap of a 3x3 kernel.

    Args:
        size: Of the axis before.
        factor: By which it grows.
        interpolation: "nearest" or "bilinear" (centres of pixels stay, edges are repeated), as
            keras.layers.UpSampling2D.

    Returns:
        float32 [size * factor, size, 3]: what position y of the upsampled axis, as tap t of a
        kernel that stands at y, takes of position i; 0 where the tap hangs over the edge.

    >>> make_upsampling_matrix(2, 2, "nearest")[:, :, 0].tolist()  # from y - 1
    [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    """
    out = np.arange(size * factor)
    plain = np.zeros((len(out), size))
    if interpolation == "nearest":
        plain[out, out // factor] = 1.0
    else:
        place = np.clip((out + 0.5) / factor - 0.5, 0, size - 1)
        low = np.floor(place).astype(int)
        np.add.at(plain, (out, low), 1 - (place - low))
        np.add.at(plain, (out, np.minimum(low + 1, size - 1)), place - low)
    padded = np.pad(plain, ((1, 1), (0, 0)))
    taps = [padded[tap : tap + len(out)] for tap in range(KERNEL_PX)]
    return np.stack(taps, axis=-1).astype(np.float32)


@keras.saving.register_keras_serializable("lesionkeras")
class UpsampledConv2D(keras.layers.Layer):
    """The same as Conv2D(filters, 3, padding="same") on Concatenate([UpSampling2D(map), image]).

    Calling it maps (float [B, h, w, C], float [B, H, W, c]), sizes static, H a multiple of h and W
    the same of w, to [B, H, W, filters].  Its kernel is that of the plain way, [3, 3, C + c,
    filters].

    Args:
        filters: Channels of the result.
        interpolation: "nearest" or "bilinear".
    """

    def __init__(self, filters: int, interpolation: str = "bilinear", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.interpolation = filters, interpolation

    def build(self, input_shape: Any) -> None:
        """Make kernel and bias."""
        channels = sum(shape[-1] for shape in input_shape)
        shape = (KERNEL_PX, KERNEL_PX, channels, self.filters)
        self.kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, inputs: Any) -> Any:
        """Convolve (map, image)."""
        small, image = inputs
        _, height, width, channels = small.shape
        kernel = ops.cast(self.kernel, self.compute_dtype)
        factor = image.shape[1] // height
        along_y, along_x = (
            ops.reshape(
                make_upsampling_matrix(size, factor, self.interpolation).astype(self.compute_dtype),
                (size * factor, size * KERNEL_PX),
            )
            for size in (height, width)
        )
        # [B, h, w, (tap x, tap y, filters)]
        taps = ops.reshape(ops.transpose(kernel[:, :, :channels], (2, 1, 0, 3)), (channels, -1))
        x = ops.matmul(small, taps)
        x = ops.reshape(x, (-1, height, width * KERNEL_PX, KERNEL_PX * self.filters))
        x = ops.matmul(along_x, x)  # [B, h, W, (tap y, filters)]
        x = ops.reshape(x, (-1, height, width * factor, KERNEL_PX, self.filters))
        x = ops.transpose(x, (0, 1, 3, 2, 4))
        x = ops.reshape(x, (-1, height * KERNEL_PX, width * factor * self.filters))
        x = ops.matmul(along_y, x)
        x = ops.reshape(x, (-1, height * factor, width * factor, self.filters))
        x = x + ops.conv(image, kernel[:, :, channels:], padding="same")
        return x + ops.cast(self.bias, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the image's size with `filters` channels."""
        return (*input_shape[1][:3], self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {"filters": self.filters, "interpolation": self.interpolation}
        return {**super().get_config(), **own}
