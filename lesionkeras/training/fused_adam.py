"""Adam and AdamW whose step is one pass over the memory.

Keras writes Adam as eight operations, each a pass over arrays of the weights' size: .20 CPU seconds
a step for a ResNet34's 21 million, of 1.6 that a batch of sixteen 64 px crops takes.  TensorFlow's
own kernel does the same sums at once: .085 seconds.  Keras' decay is three more passes, here one.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class _FusedStep:
    """Mixed in before Adam or AdamW; decay, clipping, averages and saving stay Keras'."""

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move a variable as Kingma and Ba 2015, algorithm 1, in Keras' form of epsilon."""
        is_plain = isinstance(variable, tf.Variable) and isinstance(gradient, tf.Tensor)
        is_plain = is_plain and not self.amsgrad
        if not is_plain or variable.dtype != tf.float32 or tf.distribute.has_strategy():
            super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]
            return
        row = self._get_variable_index(variable)
        step = tf.cast(tf.convert_to_tensor(self.iterations), tf.float32) + 1.0
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[row].value.handle,
            v=self._velocities[row].value.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


@keras.saving.register_keras_serializable("lesionkeras")
class FusedAdam(_FusedStep, keras.optimizers.Adam):
    """Keras' Adam; sparse gradients, AMSGrad and distributed training take Keras' own step."""


@keras.saving.register_keras_serializable("lesionkeras")
class FusedAdamW(_FusedStep, keras.optimizers.AdamW):
    """Keras' AdamW; sparse gradients, AMSGrad and distributed training take Keras' own step."""

    def _apply_weight_decay(self: Any, variables: Any) -> None:
        """Shrink the weights by rate times decay; Keras calls this before a step."""
        if tf.distribute.has_strategy():
            super()._apply_weight_decay(variables)
            return
        kept = 1.0 - tf.cast(self.learning_rate, tf.float32) * self.weight_decay
        for variable in variables:
            if isinstance(variable, keras.Variable):
                variable = variable.value  # whose name tells what does not decay
            if self._use_weight_decay(variable):
                variable.assign(variable * tf.cast(kept, variable.dtype))
