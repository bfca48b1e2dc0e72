"""The losses of a two-stage detector, float32 whatever the precision policy."""

from __future__ import annotations

from typing import Any

from keras import ops

from lesionkeras.losses import log_probabilities, smooth_l1


def rpn_loss(
    logits: Any, deltas: Any, target_deltas: Any, is_positive: Any, is_drawn: Any, beta: float
) -> tuple[Any, Any]:
    """Return a region proposal network's two losses, each divided by the anchors drawn.

    Args:
        logits: [B, S] of 'there is an object', of the anchors drawn.
        deltas: [B, S, 4].
        target_deltas: float32 [B, S, 4]; read where positive.
        is_positive: bool [B, S].
        is_drawn: bool [B, S]; the others do not count.
        beta: Of smooth L1.

    Returns:
        float32 scalars: log loss, box loss; 0 where nothing is drawn.

    Source: Ren et al. 2015, Faster R-CNN, equation 1; P2, equation 1.
    """
    logits = ops.cast(logits, "float32")
    drawn = ops.cast(is_drawn, "float32")
    positive = ops.cast(is_positive, "float32") * drawn
    total = ops.maximum(ops.sum(drawn), 1.0)
    class_loss = ops.sum((ops.softplus(logits) - positive * logits) * drawn) / total
    error = ops.cast(deltas, "float32") - target_deltas
    box_loss = ops.sum(ops.sum(smooth_l1(error, beta), axis=-1) * positive) / total
    return class_loss, box_loss


def roi_loss(
    class_logits: Any,
    box_deltas: Any,
    target_classes: Any,
    target_deltas: Any,
    is_drawn: Any,
    beta: float,
) -> tuple[Any, Any]:
    """Return a second stage's two losses, each divided by the proposals drawn.

    Args:
        class_logits: [B, S, C]; background's logit is 0.
        box_deltas: [B, S, C, 4], a set a class.
        target_classes: int32 [B, S]; -1 is background.
        target_deltas: float32 [B, S, 4]; read where there is a class.
        is_drawn: bool [B, S]; the others do not count.
        beta: Of smooth L1.

    Returns:
        float32 scalars: log loss over classes and background, box loss of the true class; 0 where
        nothing is drawn.

    Source: Girshick 2015, Fast R-CNN, equations 1 to 3.
    """
    drawn = ops.cast(is_drawn, "float32")
    positive = ops.cast(target_classes >= 0, "float32") * drawn
    total = ops.maximum(ops.sum(drawn), 1.0)
    log_background, log_classes = log_probabilities(class_logits)
    one_hot = ops.one_hot(ops.maximum(target_classes, 0), log_classes.shape[-1], dtype="float32")
    log_true = ops.sum(log_classes * one_hot, axis=-1)
    class_loss = -ops.sum(ops.where(target_classes >= 0, log_true, log_background) * drawn) / total
    error = ops.cast(box_deltas, "float32") - target_deltas[..., None, :]
    by_class = ops.sum(smooth_l1(error, beta), axis=-1)
    box_loss = ops.sum(ops.sum(by_class * one_hot, axis=-1) * positive) / total
    return class_loss, box_loss
