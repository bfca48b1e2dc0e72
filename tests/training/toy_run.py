"""A small run that can be told to die: `toy_run.py OUT [step EPOCH STEP | last EPOCH]`.

It holds what a resume can lose: batch normalisation, dropout's seed, AdamW's moments, a schedule.
"""

import os
import signal
import sys
from pathlib import Path

import keras
import tensorflow as tf

from lesionkeras.config import SSDRecipe
from lesionkeras.files import replacing
from lesionkeras.recipe import override
from lesionkeras.training import checkpoints
from lesionkeras.training.determinism import set_determinism
from lesionkeras.training.fit import compile_model, finish, fit
from lesionkeras.training.run import RunDirectory

STEPS, BATCH, SIDE_PX = 5, 4, 12
RECIPE = override(
    SSDRecipe(),
    {"train.epochs": 4, "train.batch_size": BATCH, "train.validate_every_epochs": 1},
)


def build_toy() -> keras.Model:
    layers = keras.layers
    image = keras.Input((SIDE_PX, SIDE_PX, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dropout(0.2)(x)
    return keras.Model(image, layers.Conv2D(1, 3, padding="same")(x))


def make_toy_train(first_epoch: int) -> tf.data.Dataset:
    def make_example(idx: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.random.stateless_normal((SIDE_PX, SIDE_PX, 3), (7, idx))
        return image, tf.reduce_mean(image, -1, keepdims=True)

    numbers = tf.data.Dataset.counter(first_epoch * STEPS * BATCH)
    return numbers.map(make_example, num_parallel_calls=2).batch(BATCH).prefetch(2)


class _KillAtStep(keras.callbacks.Callback):
    def __init__(self, epoch: int, step: int) -> None:
        super().__init__()
        self.at = (epoch, step)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch + 1) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_while_writing_last(epoch: int) -> None:
    """Dies with half of the checkpoint written, the best one already being this epoch's."""
    whole = checkpoints.write_last

    def write_last(run, model, state):
        if state.epoch < epoch:
            return whole(run, model, state)
        content = run.last.read_bytes()
        with replacing(run.last) as partial:
            partial.write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    import lesionkeras.training.callbacks as callbacks

    callbacks.write_last = write_last


def main(out: str, what: str = "", *at: str) -> None:
    set_determinism(RECIPE.train.seed)
    run = RunDirectory.open(Path(out), RECIPE, "toy", {})
    model = build_toy()
    compile_model(model, RECIPE, RECIPE.train.epochs * STEPS, loss="mse")
    killers = [_KillAtStep(int(at[0]), int(at[1]))] if what == "step" else []
    if what == "last":
        kill_while_writing_last(int(at[0]))
    validate = lambda model: {"map50": float(-model.trainable_variables[0].numpy().mean())}  # noqa: E731
    fit(model, RECIPE, run, make_toy_train, STEPS, validate, callbacks=killers)
    finish(model, run)


if __name__ == "__main__":
    main(*sys.argv[1:])
