"""A 3x3 convolution with a quarter of its multiplications: Winograd's F(4x4, 3x3).

A tile of 4x4 results needs 6x6 = 36 multiplications a pair of channels instead of 144. Tiles of
6x6 inputs, two wider than their results, and the kernel are transformed by small constant matrices;
what is between them are 36 plain matrix products; the result is transformed back:

    Y = A^T [ (G g G^T) * (B^T d B) ] A

Source: A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, section
4.3 (A, B, G for points 0, 1, -1, 2, -2). In float32 results differ from the direct sum by about
1e-5 of their size. It pays where channels are many: the transforms pass over 2.25 times the map
on either side of the products, whatever the number of channels.

The transforms are compiled by XLA, each step by itself: together they are one loop that computes
the steps within again and again (20 ms for what takes 8).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

# keras.ops cannot mark a function for XLA inside a graph that is not, nor name oneDNN's fused ops.
import tensorflow as tf

TILE_PX = 4  # results of a tile, on either axis
POINTS = TILE_PX + 2  # inputs of a tile, on either axis; products a tile and axis

_INPUT = np.array(  # B^T
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_KERNEL = np.array(  # G
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OUTPUT = np.array(  # A^T
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    np.float32,
)


def transform_kernel(kernel: np.ndarray) -> np.ndarray:
    """Transforms a kernel, in float64: G g G^T.

    Args:
        kernel: float [3, 3, in, out].

    Returns:
        float32 [36, in, out].

    >>> u = transform_kernel(np.ones((3, 3, 1, 1)))  # the corners: 1/4 * 1/4 and 1 * 1
    >>> u.shape, float(u[0, 0, 0]), float(u[35, 0, 0])
    ((36, 1, 1), 0.0625, 1.0)
    """
    exact = np.asarray(kernel, np.float64)
    transformed = np.einsum("ai,bj,ijcd->abcd", _KERNEL, _KERNEL, exact, optimize=True)
    return transformed.reshape(POINTS**2, *kernel.shape[2:]).astype(np.float32)


def convolve_winograd(x: Any, kernel: Any, bias: Any, relu: bool) -> Any:
    """Convolves with a transformed 3x3 kernel, stride 1, zeros around ('same').

    Args:
        x: float32 [B, H, W, in] of any sides.
        kernel: float32 [36, in, out] of `transform_kernel`.
        bias: float32 [out].
        relu: Whether ReLU follows.

    Returns:
        float32 [B, H, W, out].
    """
    products = tf.matmul(_transform_columns(_transform_rows(_pad(x)), x), kernel)
    return _sum_columns_up(_sum_rows_up(products, x), x, bias, relu)


def _get_sizes(x: Any) -> list[Any]:
    """Returns the sizes of a tensor: numbers where they are known, else tensors."""
    pairs = zip(x.shape, tf.unstack(tf.shape(x)), strict=True)
    return [dynamic if static is None else static for static, dynamic in pairs]


def _count_tiles(x: Any) -> tuple[Any, Any]:
    """Returns rows and columns of tiles over [B, H, W, C]; the last may reach beyond it."""
    _, height, width, _ = _get_sizes(x)
    return -(-height // TILE_PX), -(-width // TILE_PX)


def _pad(x: Any) -> Any:
    """Puts zeros around an image: one before, and behind up to one tile more than it has."""
    (rows, columns), (_, height, width, _) = _count_tiles(x), _get_sizes(x)
    down, right = TILE_PX * (rows + 1) - 1 - height, TILE_PX * (columns + 1) - 1 - width
    return tf.pad(x, [[0, 0], [1, down], [1, right], [0, 0]])


# XLA knows all sizes when it compiles. `like`, the image itself, is never read: it tells its sizes.


@tf.function(jit_compile=True)
def _transform_rows(padded: Any) -> Any:
    """[B, 4 (rows + 1), 4 (columns + 1), C] to [6, B, rows, 4 (columns + 1), C]: B^T d."""
    batch, height, width, channels = _get_sizes(padded)
    rows = height // TILE_PX - 1
    d = tf.reshape(padded, (batch, rows + 1, TILE_PX, width, channels))
    taken = [d[:, :rows, i] for i in range(TILE_PX)] + [d[:, 1:, i] for i in range(2)]
    return sum(tf.reshape(_INPUT[:, i], (POINTS, 1, 1, 1, 1)) * x for i, x in enumerate(taken))


@tf.function(jit_compile=True)
def _transform_columns(of_rows: Any, like: Any) -> Any:
    """What `_transform_rows` gave to [36, tiles, C]: (B^T d) B."""
    rows, columns = _count_tiles(like)
    batch, channels = _get_sizes(like)[0], of_rows.shape[-1]
    d = tf.reshape(of_rows, (POINTS, 1, batch, rows, columns + 1, TILE_PX, channels))
    taken = [d[..., :columns, j, :] for j in range(TILE_PX)] + [d[..., 1:, j, :] for j in range(2)]
    v = sum(tf.reshape(_INPUT[:, j], (1, POINTS, 1, 1, 1, 1)) * x for j, x in enumerate(taken))
    return tf.reshape(v, (POINTS**2, batch * rows * columns, channels))


@tf.function(jit_compile=True)
def _sum_rows_up(products: Any, like: Any) -> Any:
    """[36, tiles, C] to [6, B, rows, columns, 4, C]: M A."""
    rows, columns = _count_tiles(like)
    sizes = (POINTS, POINTS, _get_sizes(like)[0], rows, columns, 1, products.shape[-1])
    m = tf.reshape(products, sizes)
    return sum(tf.reshape(_OUTPUT[:, j], (1, 1, 1, 1, TILE_PX, 1)) * m[:, j] for j in range(POINTS))


@tf.function(jit_compile=True)
def _sum_columns_up(summed: Any, like: Any, bias: Any, relu: bool) -> Any:
    """What `_sum_rows_up` gave to [B, H, W, C]: A^T (M A), bias, ReLU; cut to the image."""
    rows, columns = _count_tiles(like)
    batch, height, width, _ = _get_sizes(like)
    y = sum(
        tf.reshape(_OUTPUT[:, i], (1, 1, TILE_PX, 1, 1, 1)) * summed[i][:, :, None]
        for i in range(POINTS)
    )
    y = tf.reshape(y, (batch, TILE_PX * rows, TILE_PX * columns, summed.shape[-1])) + bias
    y = tf.nn.relu(y) if relu else y
    return y[:, :height, :width]


class FoldedConv2D(keras.layers.Layer):
    """A convolution with its norm and ReLU in one step; for inference, its weights are constants.

    Args:
        kernel: float32 [k, k, in, out].
        bias: float32 [out].
        strides: As Conv2D's.
        padding: "same" or "valid".
        relu: Whether ReLU follows.
        winograd: Whether to go by `convolve_winograd`: 3x3, stride 1, "same" alone.
    """

    def __init__(
        self,
        kernel: np.ndarray,
        bias: np.ndarray,
        strides: tuple[int, int],
        padding: str,
        relu: bool,
        winograd: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(trainable=False, dtype="float32", **kwargs)
        self.filters, self.strides, self.padding = kernel.shape[-1], strides, padding
        self.sides, self.relu, self.winograd = kernel.shape[:2], relu, winograd
        self.kernel = tf.constant(transform_kernel(kernel) if winograd else kernel)
        self.bias = tf.constant(bias)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Returns [B, H', W', out] of [B, H, W, in]."""
        if self.winograd:
            return convolve_winograd(inputs, self.kernel, self.bias, self.relu)
        y = tf.nn.conv2d(inputs, self.kernel, self.strides, self.padding.upper())
        y = tf.nn.bias_add(y, self.bias)  # not "+": oneDNN fuses convolution, BiasAdd and ReLU
        return tf.nn.relu(y) if self.relu else y

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of what `call` gives."""
        lost = (0, 0) if self.padding == "same" else (self.sides[0] - 1, self.sides[1] - 1)
        sides = (
            None if side is None else -(-(side - gone) // stride)
            for side, gone, stride in zip(input_shape[1:3], lost, self.strides, strict=True)
        )
        return (input_shape[0], *sides, self.filters)


# Training, gradients included. The gradient of the image is the same convolution of Y's gradient
# with the kernel turned round, that of the kernel is G^T (V^T (A dY A^T)) G: 36 products thrice. On
# one AVX-512 core a step over 64x64x256 took .11 s instead of .17; over 32x32x256, or with fewer
# channels, it took longer.
MIN_CHANNELS = 256
MIN_PIXELS = 64 * 64  # of a batch
_KERNEL_32 = _KERNEL.astype(np.float32)


def pays(image_shape: Any, filters: int) -> bool:
    """Return whether a training step is cheaper this way: wide, large, and on a processor.

    Args:
        image_shape: [B, H, W, C], static; with an unknown size it does not.
        filters: Of the result.

    >>> pays((1, 64, 64, 256), 256), pays((1, 64, 64, 256), 36), pays((None, 64, 64, 256), 256)
    (True, False, False)
    """
    pixels = count_pixels(image_shape, filters, MIN_CHANNELS)
    return pixels is not None and pixels >= MIN_PIXELS


def count_pixels(image_shape: Any, filters: int, min_channels: int) -> int | None:
    """Count the pixels of a batch, where another way than the engine's convolution could pay.

    Args:
        image_shape: [B, H, W, C].
        filters: Of the result.
        min_channels: Fewest channels, of image and result.

    Returns:
        B H W; None with fewer channels, an unknown size, or a GPU or TPU.
    """
    if None in tuple(image_shape) or min(image_shape[-1], filters) < min_channels:
        return None
    if any(tf.config.list_physical_devices(kind) for kind in ("GPU", "TPU")):
        return None
    return int(np.prod(image_shape[:-1]))


@tf.custom_gradient
def convolve_trainable(x: Any, kernel: Any) -> Any:
    """Convolve with a 3x3 kernel, stride 1, zeros around ('same').

    Args:
        x: float32 [B, H, W, C] of any sides.
        kernel: float32 [3, 3, C, F].

    Returns:
        float32 [B, H, W, F]; its gradients too go by Winograd.
    """
    tiles = _to_tiles(x)
    y = _from_tiles(tf.matmul(tiles, _transform_kernel(kernel)), x, kernel.shape[3])

    def compute_gradients(upstream: Any) -> tuple[Any, Any]:
        turned = tf.transpose(kernel[::-1, ::-1], (0, 1, 3, 2))
        products = tf.matmul(_to_tiles(upstream), _transform_kernel(turned))
        of_image = _from_tiles(products, upstream, kernel.shape[2])
        of_products = _spread_columns(_spread_rows(_pad_to_tiles(upstream)))
        of_transformed = tf.matmul(tiles, of_products, transpose_a=True)
        square = tf.reshape(of_transformed, (POINTS, POINTS, *kernel.shape[2:]))
        return of_image, tf.einsum("ai,bj,abcd->ijcd", _KERNEL_32, _KERNEL_32, square)

    return y, compute_gradients


def _transform_kernel(kernel: Any) -> Any:
    """G g G^T, [3, 3, C, F] to [36, C, F]."""
    u = tf.einsum("ai,bj,ijcd->abcd", _KERNEL_32, _KERNEL_32, kernel)
    return tf.reshape(u, (POINTS**2, *kernel.shape[2:]))


def _to_tiles(x: Any) -> Any:
    """B^T d B, [B, H, W, C] to [36, tiles, C]."""
    return _transform_columns(_transform_rows(_pad(x)), x)


def _from_tiles(products: Any, like: Any, channels: int) -> Any:
    """A^T m A, [36, tiles, F] to [B, H, W, F]."""
    summed = _sum_rows_up(products, like)
    return _sum_columns_up(summed, like, tf.zeros([channels]), False)


def _pad_to_tiles(y: Any) -> Any:
    """Zeros below and on the right, up to whole tiles."""
    (rows, columns), (_, height, width, _) = _count_tiles(y), _get_sizes(y)
    return tf.pad(y, [[0, 0], [0, TILE_PX * rows - height], [0, TILE_PX * columns - width], [0, 0]])


@tf.function(jit_compile=True)
def _spread_rows(padded: Any) -> Any:
    """[B, 4 rows, W, F] to [6, B, rows, W, F]: A dY."""
    batch, height, width, channels = _get_sizes(padded)
    d = tf.reshape(padded, (batch, height // TILE_PX, TILE_PX, width, channels))
    weights = _OUTPUT.reshape(TILE_PX, POINTS, 1, 1, 1, 1)
    return sum(weights[i] * d[None, :, :, i] for i in range(TILE_PX))


@tf.function(jit_compile=True)
def _spread_columns(of_rows: Any) -> Any:
    """What `_spread_rows` gave to [36, tiles, F]: (A dY) A^T."""
    _, batch, rows, width, channels = _get_sizes(of_rows)
    columns = width // TILE_PX
    d = tf.reshape(of_rows, (POINTS, 1, batch, rows, columns, TILE_PX, channels))
    weights = _OUTPUT.reshape(TILE_PX, 1, POINTS, 1, 1, 1, 1)
    spread = sum(weights[j] * d[..., j, :] for j in range(TILE_PX))
    return tf.reshape(spread, (POINTS**2, batch * rows * columns, channels))


@keras.saving.register_keras_serializable("lesionkeras")
class WinogradConv2D(keras.layers.Conv2D):
    """A 3x3 Conv2D, stride 1, "same", that goes by Winograd in training where `pays` says so.

    Results differ from Conv2D's by about 1e-5 of their size.  Inference is Conv2D's own.
    """

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return [B, H, W, filters]; an activation follows in its own layer."""
        is_plain = keras.backend.backend() != "tensorflow" or self.compute_dtype != "float32"
        if not training or is_plain or not pays(inputs.shape, self.filters):
            return super().call(inputs)
        y = convolve_trainable(inputs, tf.convert_to_tensor(self.kernel))
        return tf.nn.bias_add(y, self.bias) if self.use_bias else y
