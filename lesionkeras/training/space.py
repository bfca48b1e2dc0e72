"""What a search may change: ranges and alternatives of recipe fields, written as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lesionkeras.errors import RecipeError
from lesionkeras.recipe import find_nearest, flatten, format_value, override

_NOTATION = "path=low:high, path=low:high:log or path=a,b,c"


@dataclass(frozen=True)
class Dimension:
    """One recipe field and the values that a search tries for it."""

    path: str
    low: float = 0.0  # of a range, tried itself
    high: float = 0.0
    is_whole: bool = False  # only whole numbers of the range
    is_log: bool = False  # equal steps of the logarithm
    choices: tuple[str, ...] = ()  # alternatives, as `--set` takes them; () is a range


def parse_space(texts: Mapping[str, str], recipe: Any) -> list[Dimension]:
    """Reads a search space.

    Args:
        texts: Path to `low:high`, `low:high:log` or `a,b,c`; where the field is a tuple, `|`
            stands between alternatives (`0.5,2.0|0.8,1.25`).
        recipe: The recipe that the search starts from; every value must be one that it can take.

    Returns:
        The dimensions, in the order of the texts.

    Raises:
        RecipeError: Unknown path (the nearest is named), unreadable or impossible range.

    >>> from lesionkeras.config import SSDRecipe
    >>> parse_space({"train.batch_size": "4:16"}, SSDRecipe())[0].high
    16
    """
    if not texts:
        raise RecipeError("The search space is empty", wanted=f"--space {_NOTATION}")
    return [parse_dimension(path, text, recipe) for path, text in texts.items()]


def parse_dimension(path: str, text: str, recipe: Any) -> Dimension:
    """Reads one range or one list of alternatives.

    Args:
        path: The recipe field.
        text: `low:high`, `low:high:log` or `a,b,c`.
        recipe: The recipe that must be able to take every value.

    Returns:
        The dimension.

    Raises:
        RecipeError: Unknown path (the nearest is named), unreadable or impossible range.
    """
    value = _get_value(path, recipe)
    if ":" in text:
        return _parse_range(path, text, recipe)
    separator = "|" if isinstance(value, tuple) else ","
    choices = [choice.strip() for choice in text.split(separator) if choice.strip()]
    taken = [_get_value(path, override(recipe, {path: choice})) for choice in choices]
    distinct = list(dict.fromkeys(taken))
    if len(distinct) < 2:
        raise RecipeError(
            f"The search space of {path} cannot be read", found=repr(text), wanted=_NOTATION
        )
    return Dimension(path, choices=tuple(format_value(choice) for choice in distinct))


def parse_space_flags(items: list[str]) -> dict[str, str]:
    """Splits the values of `--space` into path and text.

    Args:
        items: Each `path=low:high`, `path=low:high:log` or `path=a,b,c`.

    Returns:
        Path to text; the later wins.

    Raises:
        RecipeError: An item without "=".
    """
    pairs = {}
    for item in items:
        path, equals, text = item.partition("=")
        if not equals:
            raise RecipeError("--space cannot be read", found=repr(item), wanted=_NOTATION)
        pairs[path.strip()] = text.strip()
    return pairs


def _get_value(path: str, recipe: Any) -> Any:
    values = flatten(recipe)
    if path not in values:
        nearest = find_nearest(path, values)
        raise RecipeError(
            "A field of the search space is unknown",
            found=path,
            next_step=f"did you mean {nearest}",
        )
    return values[path]


def _parse_range(path: str, text: str, recipe: Any) -> Dimension:
    low_text, high_text, *scale = text.split(":")
    if type(_get_value(path, recipe)) not in (int, float) or scale not in ([], ["log"]):
        raise RecipeError(
            f"The search space of {path} cannot be read", found=repr(text), wanted=_NOTATION
        )
    low = _get_value(path, override(recipe, {path: low_text}))
    high = _get_value(path, override(recipe, {path: high_text}))
    if low >= high or (scale and low <= 0):
        wanted = "low < high" + (", and low > 0 for log" if scale else "")
        raise RecipeError(
            f"The search space of {path} is impossible", found=repr(text), wanted=wanted
        )
    return Dimension(path, low, high, is_whole=isinstance(low, int), is_log=bool(scale))
