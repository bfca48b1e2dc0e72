"""Whether a recipe's field decides anything in it: only then can it be as a paper has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

LOSS_WEIGHTS = tuple(
    f"loss.{name}_weight" for name in ("dice", "tversky", "cross_entropy", "focal")
)
DRAWN = ("patient", "volume", "p5")  # protocols that hold out `data.held_out_fraction`
Values = Mapping[str, Any]


def _is_alone(path: str) -> Callable[[Values], bool]:
    """A loss with another one added is another loss."""
    return lambda values: not any(values.get(each) for each in LOSS_WEIGHTS if each != path)


# Field to when it decides something and is meant as a paper means it; others always are.
IN_USE: dict[str, Callable[[Values], bool]] = {
    "loss.tversky_alpha": lambda values: bool(values.get("loss.tversky_weight")),
    "loss.tversky_beta": lambda values: bool(values.get("loss.tversky_weight")),
    "loss.tversky_weight": _is_alone("loss.tversky_weight"),
    "data.held_out_fraction": lambda values: (
        not values.get("data.held_out") and values.get("data.protocol") in DRAWN
    ),
    # else slices are brought to pixels of one size first
    "data.image_size_px": lambda values: not values.get("data.pixel_mm"),
    "train.epochs": lambda values: not values.get("train.cpu_budget_s"),  # else what ends first
    "model.weights": lambda values: values.get("model.backbone") == "resnet50",
}


def is_in_use(values: Values, path: str) -> bool:
    """Tells whether a field decides what a paper says of it.

    Args:
        values: All fields of the recipe, by path.
        path: Of the field.

    >>> is_in_use({"loss.tversky_weight": 0.0}, "loss.tversky_alpha")
    False
    >>> is_in_use({"loss.dice_weight": 1.0, "loss.cross_entropy_weight": 1.0}, "loss.dice_weight")
    False
    """
    if path == "loss.dice_weight" and values.get(path):
        return _is_alone(path)(
            values
        )  # a weight of 0 is in use: it says that there is no such loss
    return path not in IN_USE or IN_USE[path](values)
