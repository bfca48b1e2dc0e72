"""Optimizers and learning-rate schedules from a recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras

from lesionkeras.config import OptimizerConfig
from lesionkeras.errors import RecipeError
from lesionkeras.training.fused_adam import FusedAdam, FusedAdamW

# Decay would pull these towards 0 although they set no capacity (He 2019, "Bag of tricks", 3.1 "no
# bias decay").  Under TensorFlow Keras compares with the name of the tf.Variable ("bias:0").
NO_DECAY = r"(^|/)(bias|gamma|beta)(:\d+)?$"
SCHEDULES = ("constant", "cosine", "plateau")
PLATEAU_DELTA = 1e-4  # Keras' min_delta: what counts as a lower loss
LEAST_RISE = 0.01  # of the peak, at the start of a warm-up: a step at 0 would be a wasted one


@keras.saving.register_keras_serializable(package="lesionkeras")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise over the first steps, then constant or half a cosine down to zero.

    Args:
        peak: Learning rate after the rise.
        total_steps: Steps of the whole run.
        warmup_steps: Steps of the rise; the first step already has peak / warmup_steps, because
            a step at zero would be a wasted one.
        shape: "constant" or "cosine".

    >>> [round(float(WarmupSchedule(0.8, 6, 2, "cosine")(step)), 4) for step in range(7)]
    [0.4, 0.8, 0.8, 0.6828, 0.4, 0.1172, 0.0]
    """

    def __init__(self, peak: float, total_steps: int, warmup_steps: int, shape: str) -> None:
        self.peak, self.shape = peak, shape
        self.total_steps, self.warmup_steps = total_steps, warmup_steps

    def __call__(self, step: Any) -> Any:
        """Computes the learning rate of a step (from 0), float32."""
        step = keras.ops.cast(step, "float32")
        rise = keras.ops.minimum((step + 1.0) / max(self.warmup_steps, 1), 1.0)
        if self.shape == "constant":
            return self.peak * rise
        progress = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        fall = 0.5 * (1.0 + keras.ops.cos(math.pi * keras.ops.clip(progress, 0.0, 1.0)))
        return self.peak * rise * fall

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = ("peak", "total_steps", "warmup_steps", "shape")
        return {name: getattr(self, name) for name in names}


def build_optimizer(config: OptimizerConfig, total_steps: int) -> keras.optimizers.Optimizer:
    """Builds the optimizer of a run.

    Args:
        config: Name, rates and schedule; clip_norm is of the norm over all gradients.
        total_steps: Steps of the whole run, however often it is resumed.

    Returns:
        SGD, Adam, or AdamW that decays no bias, gamma and beta.  The rate of "plateau" is a
        variable that `training.schedules` sets, and so is any under a budget (`total_steps` 0).

    Raises:
        RecipeError: An unknown optimizer or schedule.
    """
    if config.schedule not in SCHEDULES:
        raise RecipeError(
            "optimizer.schedule is unknown",
            found=repr(config.schedule),
            wanted=", ".join(SCHEDULES),
        )
    warmup_steps = round(config.warmup_fraction * total_steps)
    rate: Any = config.learning_rate
    if (
        total_steps
        and config.schedule != "plateau"
        and (config.schedule == "cosine" or warmup_steps)
    ):
        rate = WarmupSchedule(config.learning_rate, total_steps, warmup_steps, config.schedule)
    shared: dict[str, Any] = {"learning_rate": rate, "global_clipnorm": config.clip_norm or None}
    if config.ema_momentum:  # the averages are variables of the optimizer, so they are resumed
        shared |= {"use_ema": True, "ema_momentum": config.ema_momentum}
    if config.name == "sgd":
        return keras.optimizers.SGD(momentum=config.momentum, nesterov=config.nesterov, **shared)
    if config.name == "adam":
        return FusedAdam(**shared)
    if config.name == "adamw":
        adamw = FusedAdamW(weight_decay=config.weight_decay, **shared)
        adamw.exclude_from_weight_decay(var_names=[NO_DECAY])
        return adamw
    raise RecipeError(
        "optimizer.name is unknown", found=repr(config.name), wanted="sgd, adam, adamw"
    )


def compute_budget_rate(config: OptimizerConfig, share: float) -> float:
    """Compute the learning rate where a run has used a share of its budget.

    Args:
        config: Peak, schedule and warm-up; "plateau" is constant here.
        share: 0 to 1.

    >>> config = OptimizerConfig(learning_rate=0.8, schedule="cosine", warmup_fraction=0.2)
    >>> [round(compute_budget_rate(config, share), 3) for share in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.008, 0.4, 0.8, 0.4, 0.0]
    """
    warmup, share = config.warmup_fraction, min(share, 1.0)
    rise = max(min(share / warmup, 1.0), LEAST_RISE) if warmup else 1.0
    if config.schedule != "cosine":
        return config.learning_rate * rise
    progress = max(share - warmup, 0.0) / (1.0 - warmup)
    return config.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * progress))


def compute_plateau_rate(config: OptimizerConfig, losses: Sequence[float]) -> float:
    """Compute the learning rate after epochs of some losses, as Keras' ReduceLROnPlateau does.

    From the losses alone: a run that is resumed needs to remember nothing else.

    Args:
        config: Peak, factor and patience.
        losses: An epoch each, of validation or of training.

    Source: Keras 3, `ReduceLROnPlateau` (min_delta 1e-4, no cooldown).

    >>> config = OptimizerConfig(learning_rate=0.1, plateau_factor=0.5, plateau_patience_epochs=2)
    >>> [compute_plateau_rate(config, [3.0, 2.0, 2.0, 2.5, 2.0, 1.0][:n]) for n in (3, 4, 5, 6)]
    [0.1, 0.05, 0.05, 0.05]
    """
    rate, best, waited = config.learning_rate, math.inf, 0
    for loss in losses:
        if loss < best - PLATEAU_DELTA:
            best, waited = loss, 0
            continue
        waited += 1
        if waited >= config.plateau_patience_epochs:
            rate, waited = rate * config.plateau_factor, 0
    return rate
