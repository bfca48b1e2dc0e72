"""P2's concatenation in processes of their own."""

import keras
import numpy as np
import pytest

from lesionkeras.errors import RunError
from lesionkeras.training import concatenation_memory
from lesionkeras.training.concatenation_memory import build_layer, measure_concatenation

on_linux = pytest.mark.skipif(not concatenation_memory.STATUS.exists(), reason="Linux says it")


def test_both_ways_are_the_same_function():
    ours, plain = (build_layer(way, 32) for way in concatenation_memory.WAYS)
    plain.get_layer("conv").set_weights(ours.get_layer("conv").get_weights())
    random = np.random.default_rng(0)
    inputs = [random.random((2, 4, 4, 512), np.float32), random.random((2, 32, 32, 3), np.float32)]
    found, wanted = (keras.ops.convert_to_numpy(model(inputs)) for model in (ours, plain))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@on_linux
def test_ours_takes_a_part_of_the_plain_way():
    found = measure_concatenation(256)
    # upsampled and concatenated alone are 270 MB of 256 x 256 px
    assert found["plain"]["memory_mb"] > 270 > 2 * found["ours"]["memory_mb"] > 0
    assert all(row["seconds"] > 0 for row in found.values())


@on_linux
def test_a_process_that_ends_without_a_result_is_named(monkeypatch):
    monkeypatch.setattr(concatenation_memory, "WAYS", ("neither",))
    with pytest.raises(RunError, match="Memory could not be measured"):
        measure_concatenation(12)  # no multiple of 8
