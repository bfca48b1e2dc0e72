"""One file a command: `python -m experiments.NAME`; here is what the commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lesionkeras.cli import RunOptions
from lesionkeras.errors import RecipeError


def open_data(recipe: Any, options: RunOptions, progress: bool = True) -> Any:
    """Open the data sets of a detection recipe; see `tfds_builders.open_builder`.

    Args:
        recipe: Its `data` names the data sets that are pooled, and those that are only tested on.
        options: Where raw and prepared files lie: a folder a data set, first of those that are
            pooled, then of the others; "-" where one needs none.
        progress: False says nothing.

    Returns:
        `lesionkeras.data.data_sets.DataSets` of builders that read the prepared files.

    Raises:
        DataError: There is no such data set, its raw files are missing or wrong, or the prepared
            ones are damaged or cannot be written.
        RecipeError: There are not as many configs or folders as data sets, or two are mixed that
            must not be.
    """
    from lesionkeras.data.data_sets import DataSets, list_further, list_pooled
    from tfds_builders import open_builder

    pooled, further = list_pooled(recipe.data), list_further(recipe.data)
    names = [*pooled, *further]
    folders = _list_folders(options, len(names))
    builders = [
        open_builder(name, config, options.prepared_dir, folder, progress)
        for (name, config), folder in zip(names, folders, strict=True)
    ]
    rest = builders[len(pooled) :]
    return DataSets(
        tuple(builders[: len(pooled)]), dict(zip(recipe.data.test_sets, rest, strict=True))
    )


def _list_folders(options: RunOptions, count: int) -> list[Path | None]:
    """The raw folder of each data set."""
    folders = [folder for folder in (options.data_dir, *options.more_data_dirs) if folder]
    if len(folders) not in (0, count):
        raise RecipeError(
            "Every data set needs its own",
            where="--data-dir",
            found=f"{len(folders)} for {count} data sets",
            wanted="one a data set, in the order of --data, then of --test-sets; '-' for none",
        )
    return [None if str(folder) == "-" else folder for folder in folders] or [None] * count


def open_data_sets(recipe: Any, options: RunOptions, progress: bool = True) -> list[Any]:
    """Open the data sets of a recipe that pools several: `data.name` is "lits+ircadb01".

    Args:
        recipe: Its `data` names data sets and configs, each with "+" between.
        options: Where raw and prepared files lie: a folder a data set, "-" where one needs none.
        progress: False says nothing.

    Returns:
        A TFDS builder each.

    Raises:
        DataError: See `open_data`.
        RecipeError: There are not as many configs or folders as data sets.
    """
    from tfds_builders import open_builder

    names, configs = recipe.data.name.split("+"), recipe.data.config.split("+")
    folders = [folder for folder in (options.data_dir, *options.more_data_dirs) if folder]
    for what, given in (("data.config", configs), ("--data-dir", folders)):
        if given not in ([], [""]) and len(given) != len(names):
            raise RecipeError(
                "Every data set needs its own",
                where=what,
                found=f"{len(given)} for {len(names)} data sets",
                wanted="one a data set, in the order of --data",
            )
    configs = configs if len(configs) == len(names) else [""] * len(names)
    raw = [None if str(folder) == "-" else folder for folder in folders] or [None] * len(names)
    return [
        open_builder(name, config, options.prepared_dir, folder, progress)
        for name, config, folder in zip(names, configs, raw, strict=True)
    ]
