"""One file a command: `python -m experiments.NAME`; here is what the commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lesionkeras.cli import RunOptions
from lesionkeras.errors import RecipeError

# What `--smoke` changes in a detector's recipe; a second phase would be traced anew: 20 s.
SMOKE: dict[str, Any] = {"data.name": "liver_phantom", "data.config": "tiny", "train.epochs": 2}
SMOKE |= {"train.cpu_budget_s": 0.0, "train.whole_image_fraction": 0.0}


def open_data(recipe: Any, options: RunOptions, progress: bool = True) -> Any:
    """Open the data sets of a detection recipe: those that are pooled, those only tested on.

    Args:
        recipe: Its `data` names both.
        options: Raw folders in this order, "-" where a data set needs none; prepared ones.
        progress: False says nothing.

    Returns:
        `lesionkeras.data.data_sets.DataSets` of builders that read the prepared files.

    Raises:
        DataError, RecipeError: See `open_data_sets`; or two are mixed that must not be.
    """
    from lesionkeras.data.data_sets import DataSets, list_further, list_pooled

    pooled, further = list_pooled(recipe.data), list_further(recipe.data)
    builders = _open_all([*pooled, *further], options, progress)
    rest = dict(zip(recipe.data.test_sets, builders[len(pooled) :], strict=True))
    return DataSets(tuple(builders[: len(pooled)]), rest)


def open_data_sets(recipe: Any, options: RunOptions, progress: bool = True) -> list[Any]:
    """Open the data sets of a recipe that pools several: `data.name` is "lits+ircadb01".

    Args:
        recipe: Its `data` names data sets and configs, each with "+" between.
        options: Where raw and prepared files lie: a folder a data set, "-" where one needs none.
        progress: False says nothing.

    Returns:
        A TFDS builder each; see `tfds_builders.open_builder`.

    Raises:
        DataError: There is no such data set, its raw files are missing or wrong, or the prepared
            ones are damaged or cannot be written.
        RecipeError: There are not as many configs or folders as data sets.
    """
    from lesionkeras.data.data_sets import pair_configs

    return _open_all(pair_configs(recipe.data), options, progress)


def _open_all(names: list[tuple[str, str]], options: RunOptions, progress: bool) -> list[Any]:
    from tfds_builders import open_builder

    given = [folder for folder in (options.data_dir, *options.more_data_dirs) if folder]
    if given and len(given) != len(names):
        shown = " and ".join("/".join(filter(None, pair)) for pair in names)
        raise RecipeError(
            "Every data set needs its own",
            where="--data-dir",
            found=f"{len(given)} for {shown}",
            wanted="one a data set, in the order of --data",
        )
    folders: list[Path | None] = [None if str(path) == "-" else path for path in given]
    return [
        open_builder(name, config, options.prepared_dir, folder, progress)
        for (name, config), folder in zip(names, folders or [None] * len(names), strict=True)
    ]
