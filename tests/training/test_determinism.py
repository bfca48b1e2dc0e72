import random

import keras
import numpy as np
import pytest
from tensorflow.python.framework import config

from lesionkeras.training.determinism import set_determinism


@pytest.fixture
def determinism_off_after():
    was_on = config.is_op_determinism_enabled()
    config.disable_op_determinism()
    yield
    if not was_on:
        config.disable_op_determinism()


def test_one_seed_seeds_everything(determinism_off_after):
    def draw(seed):
        set_determinism(seed)
        return random.random(), float(np.random.rand()), float(keras.random.uniform(()))

    first, other, again = draw(3), draw(4), draw(3)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert config.is_op_determinism_enabled()
