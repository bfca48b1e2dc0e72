"""Losses of masks, each in float32 whatever the precision policy, each defined on empty masks."""

from __future__ import annotations

from typing import Any

from keras import ops

from lesionkeras.config import SegmentationLossConfig
from lesionkeras.errors import RecipeError

WEIGHTS = ("dice_weight", "tversky_weight", "cross_entropy_weight", "focal_weight")
_LEAST = 1e-6  # below a line, or under a power: its slope at 0 may be infinite


def segmentation_loss(logits: Any, mask: Any, config: SegmentationLossConfig) -> Any:
    """Return the weighted sum of a config's losses.

    Args:
        logits: [B, H, W, 1] or [B, H, W, 3] of any float type; or a list of them at 1, 1/2, 1/4
            ... of the mask's sides, which count 1, 1/2, 1/4 ... of their sum.
        mask: Integers [B, H, W]: 0 background, 1 liver, 2 tumour.  A coarse map sees the nearest
            pixel: of each block of 2^i the one below and right of its centre.
        config: The losses.

    Returns:
        A float32 scalar.

    Raises:
        RecipeError: No loss has a weight, or there are not as many class weights as classes.
    """
    if not isinstance(logits, list | tuple):
        return _loss_of_one(logits, mask, config)
    weights = [0.5**i for i in range(len(logits))]
    losses = [
        _loss_of_one(scale, _shrink(mask, 2**i), config) * (weight / sum(weights))
        for i, (scale, weight) in enumerate(zip(logits, weights, strict=True))
    ]
    return sum(losses[1:], start=losses[0])


def check_loss(config: SegmentationLossConfig, num_classes: int) -> None:
    """Raise unless a config makes a loss.

    Args:
        config: The losses.
        num_classes: Of the head with background: 2 (binary) or 3.

    Raises:
        RecipeError: No loss has a weight, or there are not as many class weights as classes.
    """
    if not any(getattr(config, name) for name in WEIGHTS):
        raise RecipeError(
            "No loss has a weight",
            where="loss",
            found="0 for dice, tversky, cross_entropy and focal",
            wanted="one above 0",
            next_step="set loss.dice_weight=1",
        )
    if config.class_weights and len(config.class_weights) != num_classes:
        raise RecipeError(
            "The class weights do not fit the head",
            where="loss.class_weights",
            found=f"{len(config.class_weights)} numbers",
            wanted=f"{num_classes}: of background and of each class",
            next_step="name as many, or none",
        )


def _shrink(mask: Any, factor: int) -> Any:
    half = factor // 2
    return mask[:, half::factor, half::factor]


def _loss_of_one(logits: Any, mask: Any, config: SegmentationLossConfig) -> Any:
    if len(logits.shape) == len(mask.shape):  # keras.losses.Loss drops an axis of one logit
        logits = logits[..., None]
    log_prob, one_hot = compute_log_probabilities(logits), encode_mask(mask, logits, config)
    parts = (
        (config.dice_weight, lambda: dice_loss(log_prob, one_hot, config)),
        (config.tversky_weight, lambda: tversky_loss(log_prob, one_hot, config)),
        (config.cross_entropy_weight, lambda: focal_loss(log_prob, one_hot, config, gamma=0.0)),
        (
            config.focal_weight,
            lambda: focal_loss(log_prob, one_hot, config, gamma=config.focal_gamma),
        ),
    )
    check_loss(config, one_hot.shape[-1])
    losses = [weight * loss() for weight, loss in parts if weight]
    return sum(losses[1:], start=losses[0])


def compute_log_probabilities(logits: Any) -> Any:
    """Return the log-probability of each class, background first.

    Args:
        logits: [..., 1] (sigmoid) or [..., 3] (softmax) of any float type.

    Returns:
        float32 [..., 2] or [..., 3].
    """
    logits = ops.cast(logits, "float32")
    if logits.shape[-1] == 1:
        return -ops.concatenate([ops.softplus(logits), ops.softplus(-logits)], axis=-1)
    return ops.log_softmax(logits, axis=-1)


def encode_mask(mask: Any, logits: Any, config: SegmentationLossConfig) -> Any:
    """Return a mask as what the logits shall say.

    Args:
        mask: Integers [...]: 0 background, 1 liver, 2 tumour.
        logits: [..., 1 or 3]; only the last axis counts.
        config: `target` says what one logit is of.

    Returns:
        float32 [..., 2 or 3] of 0 and 1, background first.
    """
    mask = ops.cast(mask, "int32")
    if logits.shape[-1] == 1:
        lowest = {"liver": 1, "tumour": 2}[config.target]
        return ops.one_hot(ops.cast(mask >= lowest, "int32"), 2, dtype="float32")
    return ops.one_hot(mask, 3, dtype="float32")


def compute_overlap(
    log_prob: Any, one_hot: Any, config: SegmentationLossConfig, alpha: float, beta: float
) -> Any:
    """Return the Tversky index of each class but background, in the probabilities as they are.

    (TP + s) / (TP + alpha FP + beta FN + s), s being `smooth_px`: 1 where neither the mask nor the
    probabilities hold anything, and with a slope there.

    Args:
        log_prob: float32 [B, H, W, K].
        one_hot: float32 [B, H, W, K].
        config: `reduction`, `overlap_of`, `smooth_px`.
        alpha: Of false positives.
        beta: Of false negatives; both .5: Dice.

    Returns:
        float32 [K - 1] of the batch, or [B, K - 1] of its images.

    Source: Salehi et al. 2017, equation 3, whose alpha and beta are so too; P5, 3.2.
    """
    prob, truth = (_list_foreground(x, config) for x in (ops.exp(log_prob), one_hot))
    axes = (1, 2) if config.reduction == "image" else (0, 1, 2)
    both, predicted, wanted = (ops.sum(x, axis=axes) for x in (prob * truth, prob, truth))
    missed = alpha * (predicted - both) + beta * (wanted - both)
    return (both + config.smooth_px) / ops.maximum(both + missed + config.smooth_px, _LEAST)


def _list_foreground(x: Any, config: SegmentationLossConfig) -> Any:
    """Drop background; of three classes as regions add the tumour to the liver."""
    if x.shape[-1] == 3 and config.overlap_of == "regions":
        return ops.concatenate([x[..., 1:2] + x[..., 2:3], x[..., 2:3]], axis=-1)
    return x[..., 1:]


def dice_loss(log_prob: Any, one_hot: Any, config: SegmentationLossConfig) -> Any:
    """Return 1 - Dice, the mean of classes (and images); see `compute_overlap`.

    Source: Milletari et al. 2016, V-Net, 3, with the probabilities not squared; P4, 4.
    """
    return 1.0 - ops.mean(compute_overlap(log_prob, one_hot, config, 0.5, 0.5))


def tversky_loss(log_prob: Any, one_hot: Any, config: SegmentationLossConfig) -> Any:
    """Return (1 - Tversky) ** exponent, the mean of classes (and images); see `compute_overlap`.

    Source: P5, 3.2; with an exponent Abraham and Khan 2019, equation 4 (theirs is 1 / gamma).
    """
    overlap = compute_overlap(log_prob, one_hot, config, config.tversky_alpha, config.tversky_beta)
    if config.tversky_exponent == 1.0:
        return 1.0 - ops.mean(overlap)
    return ops.mean(ops.maximum(1.0 - overlap, _LEAST) ** config.tversky_exponent)


def focal_loss(log_prob: Any, one_hot: Any, config: SegmentationLossConfig, gamma: float) -> Any:
    """Return the focal loss, the mean of pixels; cross-entropy where gamma is 0.

    Pixels count as their class's weight, and the sum is divided by that of the weights.

    Args:
        log_prob: float32 [..., K].
        one_hot: float32 [..., K].
        config: `class_weights`.
        gamma: How much less a pixel counts that is right already.

    Returns:
        A float32 scalar.

    Raises:
        RecipeError: There are not K class weights.

    Source: Lin et al. 2017, equations 4 and 5.
    """
    log_right = ops.sum(one_hot * log_prob, axis=-1)
    loss = -log_right
    if gamma:
        loss *= ops.maximum(-ops.expm1(log_right), _LEAST) ** gamma
    if not config.class_weights:
        return ops.mean(loss)
    check_loss(config, one_hot.shape[-1])
    weight = ops.sum(one_hot * ops.convert_to_tensor(config.class_weights, "float32"), axis=-1)
    return ops.sum(weight * loss) / ops.maximum(ops.sum(weight), _LEAST)  # 0: no pixel counts
