"""One file a command: `python -m experiments.NAME`; here is what the commands share."""

from __future__ import annotations

from typing import Any

from lesionkeras.cli import RunOptions
from lesionkeras.errors import RecipeError


def open_data(recipe: Any, options: RunOptions, progress: bool = True) -> Any:
    """Open the data set of a recipe, prepared before if need be; see `tfds_builders.open_builder`.

    Args:
        recipe: Its `data` names the data set and the config.
        options: Where raw and prepared files lie.
        progress: False says nothing.

    Returns:
        A TFDS builder that reads the prepared files.

    Raises:
        DataError: There is no such data set, its raw files are missing or wrong, or the prepared
            ones are damaged or cannot be written.
    """
    from tfds_builders import open_builder

    paths = (options.prepared_dir, options.data_dir)
    return open_builder(recipe.data.name, recipe.data.config, *paths, progress)


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
