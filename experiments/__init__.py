"""One file a command: `python -m experiments.NAME`; here is what the commands share."""

from __future__ import annotations

from typing import Any

from lesionkeras.cli import RunOptions


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
