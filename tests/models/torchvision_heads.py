"""torchvision's RetinaNet heads on seeded weights; runs where torchvision is, without Keras.

    python tests/models/torchvision_heads.py OUT.npz

made tests/models/torchvision_heads.npz with torch 2.13.0 and torchvision 0.28.0.
"""

import sys
from functools import partial

import numpy as np

CHANNELS, CONVS, ANCHORS, CLASSES, GROUPS = 64, 4, 3, 2, 32
SIZES = ((5, 6), (3, 3))  # of two maps
WIDTHS = {"class": CLASSES, "box": 4}  # numbers an anchor
NAMES = {"class": ("classification_head", "cls_logits"), "box": ("regression_head", "bbox_reg")}


def make_features() -> list[np.ndarray]:
    """Two maps of two images, float32 [2, H, W, C]."""
    random = np.random.default_rng(7)
    return [random.normal(size=(2, *size, CHANNELS)).astype(np.float32) for size in SIZES]


def make_weights(head: str, norm: str) -> list[np.ndarray]:
    """Weights in the order of Keras' layers: kernel, bias or gamma and beta, ..., kernel, bias."""
    random = np.random.default_rng(11 + len(head))
    arrays = []
    for _ in range(CONVS):
        arrays.append(random.normal(0, 0.06, (3, 3, CHANNELS, CHANNELS)))
        arrays.append(random.normal(1 if norm == "group" else 0, 0.2, CHANNELS))
        if norm == "group":
            arrays.append(random.normal(0, 0.2, CHANNELS))
    arrays.append(random.normal(0, 0.06, (3, 3, CHANNELS, ANCHORS * WIDTHS[head])))
    arrays.append(random.normal(0, 0.2, ANCHORS * WIDTHS[head]))
    return [array.astype(np.float32) for array in arrays]


def run(norm: str) -> dict[str, np.ndarray]:
    """What torchvision's heads give for both maps together."""
    import torch
    from torch import nn
    from torchvision.models.detection.retinanet import RetinaNetHead

    layer = partial(nn.GroupNorm, GROUPS) if norm == "group" else None
    heads = RetinaNetHead(CHANNELS, ANCHORS, CLASSES, norm_layer=layer).eval()
    state = {}
    for name, (prefix, last) in NAMES.items():
        arrays = iter(torch.tensor(array) for array in make_weights(name, norm))
        for i in range(CONVS):
            state[f"{prefix}.conv.{i}.0.weight"] = next(arrays).permute(3, 2, 0, 1)
            for key in ("1.weight", "1.bias") if norm == "group" else ("0.bias",):
                state[f"{prefix}.conv.{i}.{key}"] = next(arrays)
        state[f"{prefix}.{last}.weight"] = next(arrays).permute(3, 2, 0, 1)
        state[f"{prefix}.{last}.bias"] = next(arrays)
    heads.load_state_dict(state)
    with torch.inference_mode():
        found = heads([torch.tensor(x).permute(0, 3, 1, 2) for x in make_features()])
    return {
        name: found[key].numpy()
        for name, key in zip(NAMES, ("cls_logits", "bbox_regression"), strict=True)
    }


def main(path: str) -> None:
    """Writes what torchvision gives for both norms."""
    found = {f"{norm}_{k}": v for norm in ("none", "group") for k, v in run(norm).items()}
    np.savez_compressed(path, **found)


if __name__ == "__main__":
    main(sys.argv[1])
