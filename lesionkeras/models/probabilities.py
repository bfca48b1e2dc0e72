"""From a segmentation network's logits to probabilities: one place for evaluation and export."""

from __future__ import annotations

from typing import Any

import keras

from lesionkeras.config import InferenceConfig

LEFT_RIGHT = 2  # axis of [B, H, W, C]
MIRRORS: tuple[tuple[int, ...], ...] = ((), (LEFT_RIGHT,), (1,), (1, LEFT_RIGHT))


def predict_probabilities(model: Any, image: Any, inference: InferenceConfig, target: str) -> Any:
    """Returns what a network says of each pixel, the mean of its mirrored views if it is asked for.

    Args:
        model: From image float [B, S, S, C] to logits [B, S, S, 1 or 3], or to a list of them whose
            first is at full resolution.
        image: float32 [B, S, S, C].
        inference: `flips`, `flip_left_right`, and `tumour_bias` for three logits.
        target: What one logit is of: "tumour" or "liver".

    Returns:
        float32 [B, S, S, 3], probabilities of background, liver and tumour.
    """
    ops, found = keras.ops, []
    for axes in MIRRORS if inference.flips else MIRRORS[:1]:
        if LEFT_RIGHT in axes and not inference.flip_left_right:
            continue
        outputs = model(ops.flip(image, axes) if axes else image, training=False)
        logits = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
        prob = to_probabilities(ops.cast(logits, "float32"), inference.tumour_bias, target)
        found.append(ops.flip(prob, axes) if axes else prob)
    return sum(found[1:], found[0]) / len(found)


def to_probabilities(logits: Any, tumour_bias: float, target: str) -> Any:
    """Returns probabilities of background, liver and tumour.

    Args:
        logits: float32 [..., 1 or 3].
        tumour_bias: Added to the tumour's logit of three.
        target: What one logit is of: "tumour" or "liver"; the other has probability 0.

    Returns:
        float32 [..., 3].

    >>> import numpy as np
    >>> logits = np.log(np.float32([1.0, 1.0, 2.0]))
    >>> [round(float(p), 3) for p in to_probabilities(logits, float(np.log(4)), "tumour")]  # 1:1:8
    [0.1, 0.1, 0.8]
    """
    ops = keras.ops
    if logits.shape[-1] != 1:
        return ops.softmax(logits + ops.convert_to_tensor([0.0, 0.0, tumour_bias], "float32"))
    prob = ops.sigmoid(logits)
    nothing = ops.zeros_like(prob)
    parts = (prob, nothing) if target == "liver" else (nothing, prob)
    return ops.concatenate([1.0 - prob, *parts], axis=-1)
