"""MONAI's U-Net as a peer of the benchmark: a program for MONAI's own environment.

    python monai_unet.py WEIGHTS.npz IMAGES.npy

Nothing of this project is imported: that environment holds PyTorch and MONAI alone. Turns are asked
for line by line on stdin (`serve`). The network is MONAI's BasicUNet of 64 to 1024 channels, batch
norm and ReLU, with its last up-convolution halving the channels as the others do and as
Ronneberger's does: else it would not be the same network (and would have more to compute).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import numpy as np

VARIANTS = ("as it is", "channels last", "frozen")


def serve(
    infer: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    images: np.ndarray,
    about: Mapping[str, Any],
    questions: TextIO = sys.stdin,
    answers: TextIO = sys.stdout,
) -> None:
    """Answers questions, a JSON a line, until they end; first of all says what it is.

    `{"variant": NAME, "batch": B, "steps": N}` is answered with the seconds, and those of all
    cores, of N inferences of the first B images; with `"file"` it also writes the last result
    there, as numpy.save does.

    Args:
        infer: Variant -> float32 images [B, H, W, C] to float32 logits [B, H, W, n].
        images: float32 [N, H, W, C].
        about: What to say first.
        questions: Where they come from.
        answers: Where they go.
    """
    print(json.dumps(dict(about)), file=answers, flush=True)
    for line in questions:
        question = json.loads(line)
        batch = images[np.arange(question["batch"]) % len(images)]
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        for _ in range(question["steps"]):
            logits = infer[question["variant"]](batch)
        answer = {
            "seconds": time.perf_counter() - start_s,
            "cpu_seconds": time.process_time() - start_cpu_s,
        }
        if question.get("file"):
            np.save(question["file"], logits)
        print(json.dumps(answer), file=answers, flush=True)


def build_monai_unet(arrays: Mapping[str, np.ndarray]) -> Any:
    """Builds MONAI's U-Net with the weights of ours.

    Args:
        arrays: `LAYER/VARIABLE` of `models.unet.build_unet` (depth 5, batch norm, transpose).

    Returns:
        A torch.nn.Module in evaluation mode, [B, C, H, W] to logits.
    """
    from monai.networks.nets import BasicUNet
    from monai.networks.nets.basic_unet import UpCat

    widths = [arrays[f"down{level}_conv1/kernel"].shape[-1] for level in range(5)]
    channels, classes = arrays["down0_conv1/kernel"].shape[2], arrays["logits/bias"].size
    act, norm = ("relu", {"inplace": True}), ("batch", {"eps": 1e-5})
    network = BasicUNet(2, channels, classes, (*widths, widths[0]), act, norm)
    network.upcat_1 = UpCat(
        2, widths[1], widths[0], widths[0], act, norm, True, 0.0, "deconv", halves=True
    )
    downs = [network.conv_0, *(getattr(network, f"down_{i}").convs for i in range(1, 5))]
    ups = [getattr(network, f"upcat_{i}") for i in range(1, 5)]
    for level, convs in enumerate(downs):
        _fill_convs(convs, arrays, f"down{level}")
    for level, up in enumerate(ups):
        _fill_convs(up.convs, arrays, f"up{level}")
        _fill(up.upsample.deconv, arrays, f"up{level}")
    _fill(network.final_conv, arrays, "logits")
    return network.eval()


def _fill_convs(convs: Any, arrays: Mapping[str, np.ndarray], name: str) -> None:
    for i in (1, 2):
        block = getattr(convs, f"conv_{i - 1}")
        _fill(block.conv, arrays, f"{name}_conv{i}")
        norm = f"{name}_conv{i}_norm"
        pairs = (("weight", "gamma"), ("bias", "beta"))
        for theirs, ours in (*pairs, ("running_mean", "moving_mean")):
            _assign(getattr(block.adn.N, theirs), arrays[f"{norm}/{ours}"])
        _assign(block.adn.N.running_var, arrays[f"{norm}/moving_variance"])


def _fill(layer: Any, arrays: Mapping[str, np.ndarray], name: str) -> None:
    """[h, w, in, out], or [h, w, out, in] of a transposed one: both end as PyTorch has them."""
    _assign(layer.weight, arrays[f"{name}/kernel"].transpose(3, 2, 0, 1))
    _assign(layer.bias, arrays.get(f"{name}/bias", np.zeros(layer.bias.shape, np.float32)))


def _assign(tensor: Any, array: np.ndarray) -> None:
    import torch

    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def make_variants(network: Any, image: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Makes the ways in which people run it.

    Args:
        network: From `build_monai_unet`.
        image: float32 [H, W, C], to trace with.

    Returns:
        VARIANTS -> inference: PyTorch's default; `channels_last` memory; and traced, frozen and
        optimised for inference by TorchScript (batch norms folded, weights packed for oneDNN).
    """
    import copy

    import torch

    def infer_with(module: Any, memory_format: Any) -> Callable[[np.ndarray], np.ndarray]:
        def infer(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
                return module(x.contiguous(memory_format=memory_format)).numpy()

        return lambda images: infer(images).transpose(0, 2, 3, 1)

    example = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
    with torch.inference_mode():
        frozen = torch.jit.optimize_for_inference(torch.jit.trace(network, example))
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    formats = (torch.contiguous_format, torch.channels_last, torch.contiguous_format)
    modules = (network, last, frozen)
    return {
        name: infer_with(module, memory_format)
        for name, module, memory_format in zip(VARIANTS, modules, formats, strict=True)
    }


def main(weights_file: str, images_file: str) -> None:
    """Build, then answer until stdin ends."""
    import warnings
    from importlib.metadata import version

    warnings.filterwarnings("ignore")  # TorchScript is deprecated, in many lines
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    import torch

    with np.load(weights_file) as file:
        arrays = dict(file)
    images = np.load(images_file)
    about = {
        "monai": version("monai"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    variants = make_variants(build_monai_unet(arrays), images[0])
    serve(variants, images, about, answers=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
