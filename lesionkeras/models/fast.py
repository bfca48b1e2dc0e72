"""A trained network made faster on the CPU: the same numbers by less work.

Batch norms are folded into the convolutions before them, ReLUs are done by them, and 3x3
convolutions of many channels go by Winograd's F(4x4, 3x3) (`winograd.py`).
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

# keras.ops has no function that is compiled, and split by image, by itself.
import tensorflow as tf

from lesionkeras.models.norm import FusedBatchNormalization
from lesionkeras.models.small_maps import SmallMapConv2D
from lesionkeras.models.winograd import TILE_PX, FoldedConv2D

# Fewest channels, of input and output alike, from which a 3x3 convolution goes by Winograd.
# CPU ms of direct -> Winograd, one AVX-512 core: 64 -> 64 of 256x128 20 -> 34; 128 -> 128 of
# 128x128 45 -> 39; 256 -> 256 of 128x64 120 -> 53; 512 -> 256 of 128x64 285 -> 100.
WINOGRAD_CHANNELS = 128


def compile_inference(
    model: keras.Model, winograd_channels: int = WINOGRAD_CHANNELS
) -> Callable[[np.ndarray], np.ndarray]:
    """Compiles a network's inference for the CPU; weights are those of this moment.

    Each size of image is compiled when it first comes (seconds). Batches go image by image: the
    maps of one stay nearer to the caches, and the cores are busy with one.

    Args:
        model: A functional network with one input and one output.
        winograd_channels: As `make_fast`.

    Returns:
        float32 [B, H, W, C] -> float32 [B, ...], as `model.predict` gives it to about 1e-4.
    """
    fast = make_fast(model, winograd_channels)
    run = tf.function(lambda image: fast(image, training=False))

    def infer(images: np.ndarray) -> np.ndarray:
        images = np.asarray(images, np.float32)
        results = [run(tf.constant(images[i : i + 1])).numpy() for i in range(len(images))]
        empty = np.zeros(model.compute_output_shape((0, *images.shape[1:])), np.float32)
        return np.concatenate([empty, *results])

    return infer


def make_fast(model: keras.Model, winograd_channels: int = WINOGRAD_CHANNELS) -> keras.Model:
    """Returns a network for inference that gives what another gives, in less time.

    Changed are float32 convolutions alone, with what follows them and nothing else reads: batch
    norm, ReLU. All other layers are shared with the given network; nested networks are changed too.

    Args:
        model: A functional network, `channels_last`.
        winograd_channels: Fewest channels, in and out, of a 3x3 convolution that goes by Winograd.

    Returns:
        A network of the same inputs and outputs. Its convolutions are constants: it can be neither
        trained nor saved, and later changes of the given network's weights do not reach it.
    """
    model = keras.Model(model.input, model.output, name=model.name)  # one that was never compiled
    plans = {plan[0].name: plan for plan in _find_chains(model)}
    gone = {layer.name for chain in plans.values() for layer in chain[1:]}

    def replace(layer: keras.layers.Layer) -> keras.layers.Layer:
        if layer.name in plans:
            return _fold(plans[layer.name], winograd_channels)
        is_network = isinstance(layer, keras.Model) and hasattr(layer, "operations")
        return make_fast(layer, winograd_channels) if is_network else layer

    def call(layer: keras.layers.Layer, *inputs: Any, **options: Any) -> Any:
        return inputs[0] if layer.name in gone else layer(*inputs, **options)

    return keras.models.clone_model(model, clone_function=replace, call_function=call)


def fold_norms(model: keras.Model) -> keras.Model:
    """Returns a network for inference with its batch norms and ReLUs in its convolutions.

    Nothing goes by Winograd, so that whole batches on any device gain, and logits are those of the
    given network but for rounding (1e-5 of `experiments.unet`'s default, 8 slices of 384 px, where
    a slice takes 138 instead of 179 CPU ms; folding and tracing take 2 s, so that it pays from
    about 60 slices on: for a test, not for each validation, whose weights are new).

    Args:
        model: As for `make_fast`.
    """
    return make_fast(model, winograd_channels=sys.maxsize)


def _find_chains(model: keras.Model) -> Iterator[list[keras.layers.Layer]]:
    """Yields each convolution that can be folded, with the layers that go into it."""
    readers: dict[str, list[str]] = defaultdict(list)
    config = model.get_config()
    uses = {entry["name"]: len(entry["inbound_nodes"]) for entry in config["layers"]}
    for entry in config["layers"]:
        for source in _list_sources(entry["inbound_nodes"]):
            readers[source].append(entry["name"])
    for output in model.outputs:  # what is read from outside must stay
        readers[output._keras_history.operation.name].append("")
    for layer in model.layers:
        if not _can_fold(layer) or uses[layer.name] != 1:
            continue
        chain = [layer]
        for is_next in (_is_batch_norm, _is_relu):
            names = readers[chain[-1].name]
            if len(names) == 1 and names[0] and uses[names[0]] == 1 and _is_linear(chain[0]):
                follower = model.get_layer(names[0])
                chain += [follower] if is_next(follower) else []
        yield chain


def _list_sources(nodes: Any) -> Iterator[str]:
    """Yields the layer of every tensor in a serialised call, however deep it stands."""
    if isinstance(nodes, dict):
        history = nodes.get("config", {}) if nodes.get("class_name") == "__keras_tensor__" else None
        if history is not None:
            yield history["keras_history"][0]
            return
        nodes = list(nodes.values())
    if isinstance(nodes, list | tuple):
        for node in nodes:
            yield from _list_sources(node)


def _can_fold(layer: keras.layers.Layer) -> bool:
    return (
        type(layer) in (keras.layers.Conv2D, SmallMapConv2D)
        and layer.data_format == "channels_last"
        and layer.groups == 1
        and tuple(layer.dilation_rate) == (1, 1)
        and layer.compute_dtype == "float32"
        and (_is_linear(layer) or layer.activation is keras.activations.relu)
    )


def _is_linear(layer: keras.layers.Conv2D) -> bool:
    return layer.activation is keras.activations.linear


def _is_batch_norm(layer: keras.layers.Layer) -> bool:
    return (
        type(layer) in (keras.layers.BatchNormalization, FusedBatchNormalization)
        and layer.axis in (-1, 3)
        and layer.compute_dtype == "float32"
    )


def _is_relu(layer: keras.layers.Layer) -> bool:
    if type(layer) is keras.layers.Activation:
        return layer.activation is keras.activations.relu
    shape = ("max_value", "negative_slope", "threshold")
    return type(layer) is keras.layers.ReLU and not any(getattr(layer, name) for name in shape)


def _fold(chain: list[keras.layers.Layer], winograd_channels: int) -> FoldedConv2D:
    conv, norms = chain[0], [layer for layer in chain[1:] if _is_batch_norm(layer)]
    kernel = keras.ops.convert_to_numpy(conv.kernel).astype(np.float64)
    bias = keras.ops.convert_to_numpy(conv.bias) if conv.use_bias else np.zeros(conv.filters)
    for norm in norms:  # one at most
        kernel, bias = fold_batch_norm(kernel, bias, norm)
    winograd = (
        kernel.shape[:2] == (3, 3)
        and min(kernel.shape[2:]) >= winograd_channels
        and tuple(conv.strides) == (1, 1)
        and conv.padding == "same"
    )
    return FoldedConv2D(
        kernel.astype(np.float32),
        bias.astype(np.float32),
        tuple(conv.strides),
        conv.padding,
        relu=not _is_linear(conv) or len(chain) > 1 + len(norms),
        winograd=winograd,
        name=conv.name,
    )


def fold_batch_norm(
    kernel: np.ndarray, bias: np.ndarray, norm: keras.layers.BatchNormalization
) -> tuple[np.ndarray, np.ndarray]:
    """Folds a batch norm, as it is in inference, into the convolution before it.

    Args:
        kernel: float64 [h, w, in, out].
        bias: float [out].
        norm: Over the channels.

    Returns:
        Kernel and bias, float64: one convolution that gives what both gave.

    >>> norm = keras.layers.BatchNormalization(epsilon=0)
    >>> norm.build((None, 1, 1, 1))
    >>> norm.set_weights([np.array([v]) for v in (6.0, 1.0, 5.0, 4.0)])  # gamma beta mean var
    >>> kernel, bias = fold_batch_norm(np.full((1, 1, 1, 1), 2.0), np.array([7.0]), norm)
    >>> float(kernel[0, 0, 0, 0]), float(bias[0])  # 2 * 6 / sqrt(4); (7 - 5) * 6 / sqrt(4) + 1
    (6.0, 7.0)
    """
    mean, variance = (
        keras.ops.convert_to_numpy(v).astype(np.float64)
        for v in (norm.moving_mean, norm.moving_variance)
    )
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * keras.ops.convert_to_numpy(norm.gamma)
    shift = keras.ops.convert_to_numpy(norm.beta) if norm.center else 0.0
    return kernel * scale, (bias - mean) * scale + shift


def count_operations(model: keras.Model, image_shape: tuple[int, int, int]) -> int:
    """Counts the multiplications and additions of a network's convolutions, for one image.

    Args:
        model: A functional network, as it is or from `make_fast`.
        image_shape: [H, W, C] of the image.

    Returns:
        2 for each product that is summed; of Winograd's the matrix products alone.
    """
    total = 0

    def call(layer: keras.layers.Layer, *inputs: Any, **options: Any) -> Any:
        nonlocal total
        result = layer(*inputs, **options)
        if isinstance(layer, keras.layers.Conv2DTranspose):  # the kernel falls on every input
            total += 2 * math.prod(inputs[0].shape[1:3]) * math.prod(layer.kernel.shape)
        elif isinstance(layer, FoldedConv2D) and layer.winograd:
            tiles = math.prod(-(-side // TILE_PX) for side in result.shape[1:3])
            total += 2 * tiles * math.prod(layer.kernel.shape)
        elif isinstance(layer, FoldedConv2D | keras.layers.Conv2D):
            total += 2 * math.prod(result.shape[1:3]) * math.prod(layer.kernel.shape)
        return result

    plain = keras.Model(model.input, model.output)
    keras.models.clone_model(
        plain, keras.Input(image_shape), call_function=call, clone_function=lambda layer: layer
    )
    return total
