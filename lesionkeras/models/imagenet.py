"""ImageNet weights from their hubs: ResNets under KerasCV's variable names, VGG16 under Keras'.

ResNet50 is Keras' own (v1: the stride of a bottleneck is in its first 1x1, as in KerasCV; other
hubs' ResNet50 has it in the 3x3 and does not fit).  ResNet34 is timm's, in torchvision's layout.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from lesionkeras.errors import RecipeError


@dataclass(frozen=True)
class Source:
    """Where weights are published.

    Attributes:
        url: The file, in one version.
        file: Its name in Keras' cache.
        file_hash: Its md5 or sha256.
        input_scaling: What the network wants as input, a key of `INPUT_SCALINGS`.
    """

    url: str
    file: str
    file_hash: str
    input_scaling: str


SOURCES = {
    # The sha256 is a public registry's (its two neighbours there equal the hub's own pages).
    "resnet34": Source(
        "https://huggingface.co/timm/resnet34.a1_in1k/resolve/"
        "0e8757122c4c09b15fb9300c0fd09b3fe89e28bf/model.safetensors",
        "resnet34.a1_in1k.safetensors",
        "829a220f9529d2b1ffdc8719d3273463001e0daf411eaf1916865d9db62c0ed2",
        "imagenet_torch",
    ),
    # Address and md5 are those of keras.applications.ResNet50(weights="imagenet").
    "resnet50": Source(
        "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "4d473c1dd8becc155b73f8504c6f6626",
        "imagenet_caffe",
    ),
    # Those of keras.applications.VGG16(weights="imagenet").
    "vgg16": Source(
        "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "6d6bbae143d832006294945121d1f1fc",
        "imagenet_caffe",
    ),
}
_CACHE_FOLDER = "models"  # of Keras' cache, where keras.applications puts its own
_TORCH_NAME = re.compile(r"(?:layer(\d)\.(\d+)\.)?(conv|bn|downsample\.)(\d)\.(\w+)")
_TORCH_VARIABLES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_NOT_IN_BACKBONE = ("fc.", "num_batches_tracked")  # the classifier; a counter that PyTorch keeps


def fetch_imagenet(backbone: str) -> Path:
    """Download a backbone's ImageNet weights, or find them in Keras' cache.

    Args:
        backbone: "resnet34", "resnet50" or "vgg16".

    Returns:
        The file as published, its hash checked.

    Raises:
        RecipeError: The hub is out of reach, or the file is not the one expected.
    """
    source = SOURCES[backbone]
    cache = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return Path(
            keras.utils.get_file(
                source.file,
                source.url,
                file_hash=source.file_hash,
                cache_subdir=_CACHE_FOLDER,
                cache_dir=str(cache),
            )
        )
    except Exception as error:  # get_file raises plain Exception where no hub answers
        text = str(error).removeprefix(f"URL fetch failure on {source.url}: ")
        found = " ".join(text.removeprefix("None -- ").split())
        raise RecipeError(
            f"ImageNet weights of {backbone} cannot be downloaded",
            where=source.url,
            found=found.rstrip(".") or repr(error),
            next_step=f"bring that file to {cache / _CACHE_FOLDER / source.file} from a machine "
            "that can, or give --weights FILE, an .npz as lesionkeras/models/weights.py describes, "
            "or --weights none",
        ) from error


def read_imagenet(backbone: str) -> dict[str, np.ndarray]:
    """Read a backbone's ImageNet weights, downloaded where they are not in the cache.

    Args:
        backbone: "resnet34", "resnet50" or "vgg16".

    Returns:
        float32 arrays by LAYER/VARIABLE in KerasCV's names, of VGG16 in keras.applications'.

    Raises:
        RecipeError: See `fetch_imagenet`.
    """
    path = fetch_imagenet(backbone)
    if backbone == "resnet34":
        return from_torchvision(_read_safetensors(path))
    # The network's own random weights must not move the generator that training goes on with: a
    # resumed run never comes here, and would draw other numbers.
    state = random.getstate()
    network = getattr(keras.applications, {"resnet50": "ResNet50", "vgg16": "VGG16"}[backbone])
    model = network(weights=str(path), include_top=False)
    random.setstate(state)
    return from_keras_applications(model)


def from_torchvision(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename a state dict of torchvision's ResNet18 or ResNet34 to KerasCV's layers.

    KerasCV's batch norm has epsilon 1.001e-5 where PyTorch's has 1e-5; variances stay as they are.

    Args:
        state: Arrays by PyTorch name, kernels [out, in, H, W]; the classifier is left out.

    Returns:
        Arrays by LAYER/VARIABLE, kernels [H, W, in, out].  A name that is not known stays, so that
        whoever assigns the arrays can say which it is.

    >>> names = ["conv1.weight", "layer2.0.downsample.1.running_mean", "layer1.2.bn2.bias"]
    >>> list(from_torchvision({name: np.zeros((2, 1, 3, 3)) for name in names}))
    ['conv1_conv/kernel', 'v2_stack_1_block1_0_bn/moving_mean', 'v2_stack_0_block3_2_bn/beta']
    >>> from_torchvision({"conv1.weight": np.zeros((64, 3, 7, 7))})["conv1_conv/kernel"].shape
    (7, 7, 3, 64)
    """
    arrays = {}
    for name, array in state.items():
        if name.startswith(_NOT_IN_BACKBONE) or name.endswith(_NOT_IN_BACKBONE):
            continue
        match = _TORCH_NAME.fullmatch(name)
        if not match:
            arrays[name] = array
            continue
        stack, block, kind, number, variable = match.groups()
        is_conv = kind == "conv" or kind + number == "downsample.0"
        layer = f"v2_stack_{int(stack) - 1}_block{int(block) + 1}_" if stack else "conv"
        layer += "0" if kind == "downsample." else number
        if is_conv:
            arrays[f"{layer}_conv/kernel"] = np.transpose(array, (2, 3, 1, 0))
        else:
            arrays[f"{layer}_bn/{_TORCH_VARIABLES.get(variable, variable)}"] = array
    return arrays


def from_keras_applications(model: keras.Model) -> dict[str, np.ndarray]:
    """Rename the weights of keras.applications.ResNet50 to KerasCV's layers, which have no biases.

    VGG16's stay as they are: it has neither stacks nor norms.

    A convolution's bias b before a batch norm of mean m is the same as no bias and mean m - b: the
    layers in between are linear.  Both use epsilon 1.001e-5.

    Args:
        model: keras.applications.ResNet50 or VGG16 without top.

    Returns:
        float32 arrays by LAYER/VARIABLE.
    """
    arrays = {}
    for layer in model.layers:
        name = re.sub(
            r"^conv(\d)_block", lambda stack: f"v2_stack_{int(stack[1]) - 2}_block", layer.name
        )
        for variable in layer.weights:
            arrays[f"{name}/{variable.name}"] = keras.ops.convert_to_numpy(variable)
    for bias in [key for key in arrays if key.endswith("_conv/bias")]:
        mean = bias.replace("_conv/bias", "_bn/moving_mean")
        arrays[mean] = arrays[mean] - arrays.pop(bias)
    return arrays


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read the float32 arrays of a file whose hash was checked.

    Source: https://github.com/huggingface/safetensors, "Format".
    """
    with path.open("rb") as file:
        start = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start))
    content = np.memmap(path, np.uint8, "r", offset=8 + start)
    arrays = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":  # not the text that `__metadata__` may hold, nor counters
            first, end = entry["data_offsets"]
            arrays[name] = content[first:end].view("<f4").reshape(entry["shape"])
    return arrays
