"""Which data sets a detection recipe names, and which must not meet.

DeepLesion is divided twice: officially (Train_Val_Test), and by the text-mined labels whose 'liver'
list P2 trained on.  197 of that list's 1,995 training lesions are official validation rows, so that
a detector of the one measured on the other has seen what it is measured on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lesionkeras.config import DataConfig, SegmentationDataConfig
from lesionkeras.errors import RecipeError

P2_DATA_SET, P2_CONFIG = "deeplesion", "p2"
SHARED_LESIONS = (
    "197 of the 1,995 training lesions of P2's list are validation rows of the official split"
)


@dataclass(frozen=True)
class DataSets:
    """Prepared TFDS builders.

    Attributes:
        pooled: Whose images are trained on, and divided.
        further: Whose images are tested on alone, by the name in `data.test_sets`.
    """

    pooled: tuple[Any, ...]
    further: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, data_sets: Any) -> DataSets:
        """Return data sets, also where one builder was given."""
        return data_sets if isinstance(data_sets, cls) else cls((data_sets,))


def list_pooled(data: DataConfig) -> list[tuple[str, str]]:
    """Return name and config of the data sets that are pooled.

    Args:
        data: Names them, with "+" between.

    Raises:
        RecipeError: There are not as many configs as names, or see `check_mixing`.

    >>> list_pooled(DataConfig(name="lits+ircadb01"))
    [('lits', ''), ('ircadb01', '')]
    >>> list_pooled(DataConfig(name="deeplesion", protocol="p2"))
    [('deeplesion', 'p2')]
    """
    check_mixing(data)
    if data.protocol == "p2":
        return [(P2_DATA_SET, P2_CONFIG)]
    return pair_configs(data)


def pair_configs(data: DataConfig | SegmentationDataConfig) -> list[tuple[str, str]]:
    """Return name and config of the data sets that `name` and `config` list with "+" between.

    Raises:
        RecipeError: There are not as many configs as names.

    >>> pair_configs(DataConfig(name="lits+ircadb01", config="slices+boxes"))
    [('lits', 'slices'), ('ircadb01', 'boxes')]
    """
    names, configs = data.name.split("+"), data.config.split("+")
    if configs == [""]:
        configs *= len(names)
    if len(configs) != len(names):
        raise RecipeError(
            "Every data set needs its own",
            where="data.config",
            found=f"{len(configs)} for {len(names)} data sets",
            wanted="one a data set, in the order of --data",
        )
    return list(zip(names, configs, strict=True))


def list_further(data: DataConfig) -> list[tuple[str, str]]:
    """Return name and config of the data sets that are only tested on.

    >>> list_further(DataConfig(test_sets=("deeplesion/liver", "lits")))
    [('deeplesion', 'liver'), ('lits', '')]
    """
    parts = [name.partition("/") for name in data.test_sets]
    return [(name, config) for name, _, config in parts]


def check_mixing(data: DataConfig) -> None:
    """Raise where a recipe mixes P2's split of DeepLesion with the official one.

    Args:
        data: Of the recipe.

    Raises:
        RecipeError: It does, it asks for P2's split of another data set, or for P1's and for other
            test images.
    """
    names, configs = data.name.split("+"), data.config.split("+")
    further = [f"{name}/{config}" for name, config in list_further(data)]
    is_p2 = data.protocol == "p2"
    if data.protocol == "paper" and (further or data.held_out):
        raise RecipeError(
            "P1's split has no other test images",
            where="--split paper",
            found="data.test_sets" if further else "data.held_out",
            next_step="leave it out, or give --split patient",
        )
    if is_p2 and names != [P2_DATA_SET]:
        raise RecipeError(
            "P2's split is of DeepLesion alone",
            where="--split p2",
            found=f"--data {data.name}",
            wanted=f"--data {P2_DATA_SET}",
        )
    if P2_CONFIG in configs and not is_p2:
        raise _make_mixing_error("--data deeplesion/p2 with the official split", "give --split p2")
    if is_p2 and configs not in ([""], [P2_CONFIG]):
        found = f"--split p2 with --data {P2_DATA_SET}/{data.config}"
        raise _make_mixing_error(found, f"give --data {P2_DATA_SET}, or --split patient")
    mixed = [
        name
        for name in further
        if name.startswith(f"{P2_DATA_SET}/")
        and (is_p2 or (name.endswith(f"/{P2_CONFIG}") and P2_DATA_SET in names))
    ]
    if mixed:
        found = (
            f"data.test_sets {mixed[0].rstrip('/')} beside {'--split p2' if is_p2 else data.name}"
        )
        raise _make_mixing_error(found, "leave it out of data.test_sets")


def _make_mixing_error(found: str, next_step: str) -> RecipeError:
    return RecipeError(
        f"P2's split and the official one of DeepLesion cannot be mixed, as {SHARED_LESIONS}",
        found=found,
        wanted="one of the two",
        next_step=next_step,
    )
