import pytest
import tensorflow as tf

from lesionkeras.errors import RecipeError
from lesionkeras.training.precision import choose_policy, resolve_precision


@pytest.mark.parametrize(
    ("num_tpus", "capabilities", "policy"),
    [
        (8, [], "mixed_bfloat16"),
        (0, [(8, 0)], "mixed_bfloat16"),
        (0, [(7, 0), (8, 6)], "mixed_float16"),  # the weakest decides
        (0, [(6, 1)], "float32"),
        (0, [(0, 0)], "float32"),
        (0, [], "float32"),
    ],
)
def test_auto_takes_what_the_hardware_has(num_tpus, capabilities, policy):
    assert choose_policy(num_tpus, capabilities) == policy


def test_auto_asks_tensorflow(monkeypatch):
    experimental = tf.config.experimental
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"/{kind}:0"])
    monkeypatch.setattr(
        experimental, "get_device_details", lambda _: {"compute_capability": (7, 5)}
    )
    assert resolve_precision("auto") == "mixed_float16"
    monkeypatch.setattr(experimental, "get_device_details", lambda _: {})  # not an NVIDIA one
    assert resolve_precision("auto") == "float32"


def test_names_are_taken_at_their_word():
    names = ("float32", "bfloat16", "float16")
    assert [resolve_precision(n) for n in names] == ["float32", "mixed_bfloat16", "mixed_float16"]


def test_unknown_name_is_an_error():
    with pytest.raises(
        RecipeError, match=r"train\.precision is unknown: found 'half', wanted auto"
    ):
        resolve_precision("half")
