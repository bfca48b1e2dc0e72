"""Which number format a run computes in."""

from __future__ import annotations

from collections.abc import Sequence

from lesionkeras.errors import RecipeError

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
BFLOAT16_CAPABILITY = (8, 0)  # NVIDIA Ampere: first tensor cores with bfloat16
FLOAT16_CAPABILITY = (7, 0)  # NVIDIA Volta: first tensor cores


def choose_policy(num_tpus: int, capabilities: Sequence[tuple[int, int]]) -> str:
    """Chooses the fastest policy that is safe on the hardware.

    bfloat16 before float16, because its range is float32's: no loss scaling, no overflow.  A CPU
    keeps float32: without the instructions a 16-bit policy is about ten times slower there, and
    only float32 resumes bit for bit.

    Args:
        num_tpus: TPU cores that TensorFlow sees.
        capabilities: CUDA compute capability of each GPU; (0, 0) where it has none.

    Returns:
        A Keras policy name.

    >>> choose_policy(0, []), choose_policy(0, [(9, 0)]), choose_policy(0, [(9, 0), (7, 5)])
    ('float32', 'mixed_bfloat16', 'mixed_float16')
    """
    if num_tpus:
        return POLICIES["bfloat16"]
    weakest = min(capabilities, default=(0, 0))
    if weakest >= BFLOAT16_CAPABILITY:
        return POLICIES["bfloat16"]
    return POLICIES["float16"] if weakest >= FLOAT16_CAPABILITY else POLICIES["float32"]


def resolve_precision(name: str) -> str:
    """Turns `--precision` into a Keras policy name.

    Args:
        name: auto (by `choose_policy`), float32, bfloat16 or float16.

    Returns:
        float32, mixed_bfloat16 or mixed_float16, for `keras.config.set_dtype_policy`.

    Raises:
        RecipeError: Another name.
    """
    if name in POLICIES:
        return POLICIES[name]
    if name != "auto":
        raise RecipeError(
            "train.precision is unknown", found=repr(name), wanted="auto, " + ", ".join(POLICIES)
        )
    import tensorflow as tf

    return choose_policy(len(tf.config.list_logical_devices("TPU")), find_capabilities())


def find_capabilities() -> list[tuple[int, int]]:
    """Finds the CUDA compute capability of each GPU; (0, 0) where it has none."""
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [detail.get("compute_capability", (0, 0)) for detail in details]
