"""Averaged weights: the optimizer keeps them, what is tested and kept has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import numpy as np

from lesionkeras.training.checkpoints import view_array


@contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Give a model its averaged weights for a while, where its optimizer averages.

    Args:
        model: Compiled; some steps of training are done.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # of loss scaling
    if not optimizer.use_ema:
        yield
        return
    kept = [np.copy(view_array(variable)) for variable in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        for variable, array in zip(model.trainable_variables, kept, strict=True):
            variable.assign(array)
