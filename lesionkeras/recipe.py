"""A recipe as a tree of values: read, change by path, check, compare, write.

A recipe is a frozen dataclass of numbers, strings, booleans, tuples and other recipes
(`lesionkeras.config`).  A *path* names one of its values: `optimizer.learning_rate`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lesionkeras.errors import RecipeError
from lesionkeras.files import write_json
from lesionkeras.limits import ORDERED, PART_RULES, RULES

Recipe = TypeVar("Recipe")

_DIGEST_CHARACTERS = 16


def flatten(recipe: Any) -> dict[str, Any]:
    """Lists every value of a recipe by its path.

    Args:
        recipe: A dataclass of values and other recipes.

    Returns:
        Path to value, in the order of the fields.

    >>> from lesionkeras.config import SSDRecipe
    >>> flatten(SSDRecipe())["data.window_hu"]
    (-20.0, 220.0)
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            values |= {f"{field.name}.{path}": inner for path, inner in flatten(value).items()}
        else:
            values[field.name] = value
    return values


def flatten_tree(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Lists every value of nested dicts, as `to_json` gives them, by its path.

    Args:
        tree: Name to value or to another dict.
        prefix: What every path starts with.

    Returns:
        Path to value, in the order of the tree.

    >>> flatten_tree({"train": {"epochs": 3}})
    {'train.epochs': 3}
    """
    values: dict[str, Any] = {}
    for name, value in tree.items():
        inner = isinstance(value, Mapping)
        values |= flatten_tree(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return values


def override(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Returns a copy of a recipe with some values changed.

    Args:
        recipe: The recipe to start from; it stays as it is.
        changes: Path to new value; a string is read by the type of its field ("0.5,2.0").

    Returns:
        The changed recipe, checked.

    Raises:
        RecipeError: Unknown path (the nearest is named), unreadable value, value out of range.

    >>> from lesionkeras.config import SSDRecipe
    >>> override(SSDRecipe(), {"augment.gamma": "0.8,1.25"}).augment.gamma
    (0.8, 1.25)
    """
    for path, value in changes.items():
        recipe = _replace(recipe, path, value, recipe)
    check_recipe(recipe)
    return recipe


def check_recipe(recipe: Any) -> None:
    """Checks that every value of a recipe can be trained with.

    Args:
        recipe: A dataclass of values and other recipes.

    Raises:
        RecipeError: The first value that is out of range or an unknown name.
    """
    values = flatten(recipe)
    own = {
        f"{part.name}.{name}": rule
        for part in dataclasses.fields(recipe)
        for name, rule in PART_RULES.get(type(getattr(recipe, part.name)).__name__, {}).items()
    }
    for path, (wanted, is_good) in {**RULES, **own}.items():
        if path in values and not is_good(values[path]):
            value = values[path]
            known = re.findall("'([^']+)'", wanted) if isinstance(value, str) else []
            raise RecipeError(
                f"{path} is out of range" if not known else f"{path} is unknown",
                found=format_value(value) or "nothing",
                wanted=wanted,
                next_step=f"did you mean {find_nearest(value, known)}" if known and value else "",
            )
    for lower, upper in ORDERED:
        if lower in values and upper in values and values[lower] > values[upper]:
            raise RecipeError(
                f"{lower} is out of range",
                found=format_value(values[lower]),
                wanted=f"at most {upper} ({format_value(values[upper])})",
            )


def format_value(value: Any) -> str:
    """Writes a value as `--set` takes it.

    >>> format_value((0.5, 2.0)), format_value(True)
    ('0.5,2.0', 'true')
    """
    if isinstance(value, tuple | list):
        return ",".join(format_value(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def to_json(recipe: Any) -> dict[str, Any]:
    """Turns a recipe into JSON's types: nested dicts, with lists for tuples.

    Args:
        recipe: A dataclass of values and other recipes.

    Returns:
        Field name to value, dict or list.
    """
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def from_json(tree: Mapping[str, Any], cls: type[Recipe], where: str = "the recipe") -> Recipe:
    """Makes a recipe from what `to_json` gave; fields that are left out keep their default.

    A part that names all fields but later ones is older than these: they have the field's default.

    Args:
        tree: Field name to value, dict or list.
        cls: The dataclass to make.
        where: What an error calls the tree.

    Returns:
        The recipe, checked.

    Raises:
        RecipeError: Unknown field (the nearest is named), wrong type, value out of range.
    """
    changes = _list_not_yet(tree, cls()) | flatten_tree(tree)
    try:
        return override(cls(), changes)
    except RecipeError as error:
        raise RecipeError(
            error.what,
            where=where,
            found=error.found,
            wanted=error.wanted,
            next_step=error.next_step,
        ) from error


def _list_not_yet(tree: Mapping[str, Any], base: Any, prefix: str = "") -> dict[str, Any]:
    """Lists later fields, and their values, that a whole part of a recipe does not name."""
    missing = [field for field in dataclasses.fields(base) if field.name not in tree]
    is_whole = all(field.metadata.get("later") for field in missing)
    values = {prefix + field.name: field.default for field in missing if is_whole}
    for name, part in tree.items():
        if isinstance(part, Mapping) and dataclasses.is_dataclass(getattr(base, name, None)):
            values |= _list_not_yet(part, getattr(base, name), f"{prefix}{name}.")
    return values


def read_recipe(path: Path | str, cls: type[Recipe], experiment: str = "") -> Recipe:
    """Reads a recipe file: `{"experiment": "ssd", "recipe": {...}, ...}`.

    A run's `recipe.json` and a search's `winner.json` are such files.

    Args:
        path: The file.
        cls: The dataclass that the experiment takes.
        experiment: The experiment that asks; "" takes a recipe of any.

    Returns:
        The recipe, checked.

    Raises:
        RecipeError: No such file, no JSON, no recipe in it, another experiment's, unknown field.
    """
    wanted = 'a file like {"experiment": "ssd", "recipe": {...}}'
    try:
        tree = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(
            "A recipe file cannot be read",
            where=str(path),
            found=str(error.strerror),
            wanted=wanted,
        ) from error
    except ValueError as error:
        raise RecipeError(
            "A recipe file is not JSON", where=str(path), found=str(error), wanted=wanted
        ) from error
    if not isinstance(tree, dict) or not isinstance(tree.get("recipe"), dict):
        raise RecipeError("A recipe file holds no recipe", where=str(path), wanted=wanted)
    owner = tree.get("experiment", experiment)
    if experiment and owner != experiment:
        raise RecipeError(
            "A recipe file is another experiment's",
            where=str(path),
            found=repr(owner),
            wanted=repr(experiment),
            next_step=f"run it with python -m experiments.{owner}",
        )
    return from_json(tree["recipe"], cls, where=str(path))


def write_recipe(
    path: Path | str, recipe: Any, experiment: str, notes: Mapping[str, Any] | None = None
) -> None:
    """Writes a recipe file that `read_recipe` and `--recipe FILE` take; beside, then renamed.

    Args:
        path: The file; its folder exists.
        recipe: A dataclass of values and other recipes.
        experiment: Whose recipe it is ("ssd").
        notes: What else the file says (where the recipe comes from, its score).
    """
    tree = {"experiment": experiment, "digest": digest(recipe), "recipe": to_json(recipe)}
    write_json(Path(path), {**tree, **(notes or {})})


def diff(first: Any, second: Any) -> list[tuple[str, Any, Any]]:
    """Lists where two recipes differ.

    Args:
        first: A recipe.
        second: Another one; where only one of them has a path, the other's value is None.

    Returns:
        (path, value of first, value of second) for each path that differs, in field order.
    """
    return _diff_values(flatten(first), flatten(second))


def diff_trees(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Lists where two JSON trees differ, such as two `recipe.json`.

    Args:
        first: Nested dicts.
        second: Others; where only one has a path, the other's value is None.

    Returns:
        (path, value of first, value of second) for each path that differs, in order.

    >>> diff_trees({"train": {"epochs": 3}}, {"train": {"epochs": 5}})
    [('train.epochs', 3, 5)]
    """
    return _diff_values(flatten_tree(first), flatten_tree(second))


def _diff_values(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    return [(path, a.get(path), b.get(path)) for path in a | b if a.get(path) != b.get(path)]


def digest(recipe: Any) -> str:
    """Computes a name for a recipe's values: equal values, equal digest.

    A field that was added later counts only where it has another value than its default, so that
    recipes keep their names while the package grows (`config.shared.LATER`).

    Args:
        recipe: A dataclass of values and other recipes.

    Returns:
        The first 16 hexadecimal digits of the SHA-256 of its canonical JSON.
    """
    canonical = json.dumps(_list_named(recipe), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGEST_CHARACTERS]


def _list_named(recipe: Any) -> dict[str, Any]:
    """Lists what a digest is of: nested dicts without later fields at their default."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if not (field.metadata.get("later") and value == field.default):
            values[field.name] = _list_named(value) if dataclasses.is_dataclass(value) else value
    return values


def find_nearest(word: str, known: Iterable[str]) -> str:
    """Names the known word that a mistyped one most likely meant.

    Args:
        word: What was typed; for paths the last part alone is looked at too.
        known: What could have been meant, at least one word.

    Returns:
        The nearest of the known words.

    >>> find_nearest("--epoch", ["--out", "--epochs"])
    '--epochs'
    """

    def compute_likeness(candidate: str) -> float:
        pairs = [(word, candidate), (word.rpartition(".")[2], candidate.rpartition(".")[2])]
        return sum(difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio() for a, b in pairs)

    return max(known, key=compute_likeness)


def _replace(part: Any, path: str, value: Any, whole: Any, prefix: str = "") -> Any:
    """Replaces one value below `part`, which stands at `prefix` in `whole`."""
    name, _, rest = path.partition(".")
    types = typing.get_type_hints(type(part))
    is_group = dataclasses.is_dataclass(getattr(part, name, None))
    if name not in types or bool(rest) != is_group:
        known = flatten(whole)
        inside = [each for each in known if each.startswith(f"{prefix}{path}.")]
        nearest = inside[0] if inside else find_nearest(prefix + path, known)
        raise RecipeError(
            "A recipe field is unknown", found=prefix + path, next_step=f"did you mean {nearest}"
        )
    if rest:
        new = _replace(getattr(part, name), rest, value, whole, f"{prefix}{name}.")
    else:
        try:
            new = _convert(value, types[name])
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"{prefix}{path} cannot be read",
                found=repr(value),
                wanted=_describe(types[name]),
            ) from error
    return dataclasses.replace(part, **{name: new})


def _convert(value: Any, kind: Any) -> Any:
    """Turns a string or JSON value into a field's type.

    Raises:
        ValueError: The text is no such value.
        TypeError: The value is of another type.
    """
    if typing.get_origin(kind) is tuple:
        return _convert_tuple(value, typing.get_args(kind))
    if kind is bool and isinstance(value, str):
        return ("false", "true").index(value.strip().lower()) == 1
    if kind is float and isinstance(value, str | int) and not isinstance(value, bool):
        value = float(value)
    elif kind is int and isinstance(value, str):
        value = int(value)
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return value


def _convert_tuple(value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    if isinstance(value, str):
        value = [item for item in value.strip("()[] ").split(",") if item.strip()]
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r} is no tuple")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    return tuple(_convert(item, kind) for item, kind in zip(value, kinds, strict=True))


def _describe(kind: Any) -> str:
    """Says what a field of this type takes.

    >>> _describe(tuple[float, float])
    '2 numbers with commas between'
    """
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    if typing.get_origin(kind) is not tuple:
        return names[kind]
    kinds = typing.get_args(kind)
    count = "" if kinds[-1] is Ellipsis else f"{len(kinds)} "
    return f"{count}{names[kinds[0]].split(' ', 1)[1]}s with commas between"
