"""Losses, each in float32 whatever the precision policy."""

from __future__ import annotations

from typing import Any

from keras import ops

from lesionkeras.config import FocalLossConfig, LossConfig

# A batch of 32 crops wants about 2,000; sorting all of its 100,000 anchors took a fifth of a step.
MAX_HARD_NEGATIVES = 4096


def smooth_l1(error: Any, beta: float) -> Any:
    """Return the smooth L1 loss: quadratic below beta, linear above.

    Args:
        error: float32 tensor of any shape.
        beta: Where the two pieces meet, in units of `error`.

    Source: Girshick 2015, Fast R-CNN, equation 3.
    """
    size = ops.abs(error)
    return ops.where(size < beta, 0.5 * ops.square(size) / beta, size - 0.5 * beta)


def log_probabilities(class_logits: Any) -> tuple[Any, Any]:
    """Return log-softmax over (background, classes), background's logit being 0.

    Args:
        class_logits: [..., C] of any float type.

    Returns:
        float32 [...] log-probability of background, float32 [..., C] of the classes.
    """
    logits = ops.cast(class_logits, "float32")
    zero = ops.zeros_like(logits[..., :1])
    log_sum = ops.logsumexp(ops.concatenate([zero, logits], axis=-1), axis=-1, keepdims=True)
    return -log_sum[..., 0], logits - log_sum


def select_hard_negatives(negative_loss: Any, num_wanted: Any) -> Any:
    """Return a float32 mask of the highest-loss negatives of a batch.

    Args:
        negative_loss: float32 [B, A], below 0 where an anchor is no negative; B need not be known
            while TensorFlow traces.
        num_wanted: float32 scalar; more than MAX_HARD_NEGATIVES are cut.

    Returns:
        float32 [B, A] of 0 and 1; ties go to the lower image, then the lower anchor.
    """
    flat = ops.reshape(negative_loss, (-1,))
    most = MAX_HARD_NEGATIVES
    if flat.shape[0] is None:
        flat = ops.pad(flat, ((0, most),), constant_values=-1.0)  # so that there are as many
    else:
        most = min(flat.shape[0], most)
    values, order = ops.top_k(flat, most)  # ties by index
    is_first = ops.arange(most) < ops.cast(num_wanted, "int32")
    chosen = ops.cast(ops.logical_and(is_first, values >= 0.0), "float32")
    chosen = ops.scatter(order[:, None], chosen, ops.shape(flat))
    if negative_loss.shape[0] is None:
        chosen = chosen[:-most]
    return ops.reshape(chosen, (-1, negative_loss.shape[1]))


def multibox_loss(
    class_logits: Any,
    box_deltas: Any,
    target_classes: Any,
    target_deltas: Any,
    state: Any,
    config: LossConfig,
) -> tuple[Any, Any]:
    """Return SSD's two losses, each summed over the batch and divided by its positives.

    Smooth L1 on positives; log loss on positives and on the batch's hardest negatives, a fixed
    number a positive.  They are sought in the whole batch, not image by image as in SSD: images
    without a lesion, of which SSD's data had none, then teach what is no lesion.

    Args:
        class_logits: [B, A, C]; background's logit is 0.
        box_deltas: [B, A, 4].
        target_classes: int32 [B, A]; read where state is 1.
        target_deltas: float32 [B, A, 4]; read where state is 1.
        state: int32 [B, A]; 1 positive, 0 negative, -1 ignored.
        config: Weights and the ratio of negatives.

    Returns:
        float32 scalars: class loss, box loss (weighted).

    Source: Liu et al. 2016, SSD, equations 1 to 3; P1, 3.3.
    """
    positive = ops.cast(ops.equal(state, 1), "float32")
    log_background, log_classes = log_probabilities(class_logits)
    one_hot = ops.one_hot(ops.maximum(target_classes, 0), log_classes.shape[-1], dtype="float32")
    positive_loss = -ops.sum(log_classes * one_hot, axis=-1) * positive
    negative_loss = ops.where(ops.equal(state, 0), -log_background, -1.0)
    num_positive = ops.maximum(ops.sum(positive), 1.0)
    num_wanted = config.negatives_per_positive * num_positive
    chosen = select_hard_negatives(ops.stop_gradient(negative_loss), num_wanted)
    box_error = ops.cast(box_deltas, "float32") - target_deltas
    box_loss = ops.sum(smooth_l1(box_error, config.smooth_l1_beta), axis=-1) * positive
    class_loss = ops.sum(positive_loss + negative_loss * chosen) / num_positive
    return class_loss, config.box_weight * ops.sum(box_loss) / num_positive


def focal_loss(logits: Any, targets: Any, alpha: float, gamma: float) -> Any:
    """Return the focal loss of each logit: cross-entropy, less of what is right already.

    With z the logit of what is true (-logit where nothing is), p = sigmoid(z), its cross-entropy is
    softplus(-z) and 1 - p is exp(-softplus(z)): no probability is rounded to 0 or 1 on the way.

    Args:
        logits: [...] of any float type.
        targets: Bool [...]; true where there is a lesion.
        alpha: Weight of true ones; of the others 1 - alpha.
        gamma: Exponent of 1 - p.

    Returns:
        float32 [...].

    Source: Lin et al. 2017, Focal Loss for Dense Object Detection, equation 5.
    """
    logits = ops.cast(logits, "float32")
    z = ops.where(targets, logits, -logits)
    cross_entropy = ops.softplus(-z)
    weight = ops.where(targets, alpha, 1.0 - alpha)
    return weight * ops.exp(-gamma * (cross_entropy + z)) * cross_entropy


def focal_class_loss(
    class_logits: Any, target_classes: Any, state: Any, config: FocalLossConfig
) -> tuple[Any, Any]:
    """Return RetinaNet's class loss, summed over the batch and divided by its positives.

    A batch without positives is divided by 1: it teaches what is no lesion.

    Args:
        class_logits: [B, A, C], each class yes or no.
        target_classes: int32 [B, A]; read where state is 1.
        state: int32 [B, A]; 1 positive, 0 negative, -1 ignored.
        config: Focal loss.

    Returns:
        float32 scalars: the loss, and what it was divided by.

    Source: Lin et al. 2017, Focal Loss for Dense Object Detection, 4.1 and 5.1.
    """
    is_positive = ops.equal(state, 1)
    num_positive = ops.maximum(ops.sum(ops.cast(is_positive, "float32")), 1.0)
    classes = ops.arange(class_logits.shape[-1], dtype="int32")
    is_class = ops.equal(ops.cast(target_classes, "int32")[..., None], classes)
    targets = ops.logical_and(is_class, is_positive[..., None])
    counted = ops.cast(ops.not_equal(state, -1), "float32")[..., None]
    class_loss = ops.sum(focal_loss(class_logits, targets, config.alpha, config.gamma) * counted)
    return class_loss / num_positive, num_positive


def sum_box_loss(box_deltas: Any, target_deltas: Any, is_positive: Any, beta: float) -> Any:
    """Return the smooth L1 loss of positive anchors, summed over coordinates and anchors.

    Args:
        box_deltas: [..., 4] of any float type.
        target_deltas: float32 [..., 4]; read where is_positive.
        is_positive: Bool [...].
        beta: As for `smooth_l1`.

    Returns:
        A float32 scalar.
    """
    error = ops.cast(box_deltas, "float32") - target_deltas
    return ops.sum(ops.where(is_positive[..., None], smooth_l1(error, beta), 0.0))
