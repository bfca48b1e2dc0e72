"""Optimizers and learning-rate schedules from a recipe."""

from __future__ import annotations

import math
from typing import Any

import keras

from lesionkeras.config import OptimizerConfig
from lesionkeras.errors import RecipeError

# Decay would pull these towards 0 although they set no capacity (He 2019, "Bag of tricks", 3.1 "no
# bias decay").  Under TensorFlow Keras compares with the name of the tf.Variable ("bias:0").
NO_DECAY = r"(^|/)(bias|gamma|beta)(:\d+)?$"


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
        SGD, or AdamW that decays no bias, gamma and beta.

    Raises:
        RecipeError: An unknown optimizer or schedule.
    """
    if config.schedule not in ("constant", "cosine"):
        raise RecipeError(
            "optimizer.schedule is unknown", found=repr(config.schedule), wanted="constant, cosine"
        )
    warmup_steps = round(config.warmup_fraction * total_steps)
    rate: Any = config.learning_rate
    if config.schedule == "cosine" or warmup_steps:
        rate = WarmupSchedule(config.learning_rate, total_steps, warmup_steps, config.schedule)
    clip = config.clip_norm or None
    if config.name == "sgd":
        return keras.optimizers.SGD(
            rate, momentum=config.momentum, nesterov=config.nesterov, global_clipnorm=clip
        )
    if config.name == "adamw":
        adamw = keras.optimizers.AdamW(rate, weight_decay=config.weight_decay, global_clipnorm=clip)
        adamw.exclude_from_weight_decay(var_names=[NO_DECAY])
        return adamw
    raise RecipeError("optimizer.name is unknown", found=repr(config.name), wanted="sgd, adamw")
