"""`last`, from which a run resumes bit for bit, and `best`, the weights of its best epoch.

Each is one file that replaces the one before at once, so that a process killed at any moment
leaves a whole checkpoint.  The log's rows and the best score travel inside `last`: after a kill,
all that a run knows comes from one epoch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lesionkeras.errors import RunError
from lesionkeras.training.log import Row
from lesionkeras.training.run import RunDirectory
from lesionkeras.training.tensors import read_tensors, write_tensors

# Keras numbers layers by what a process built before (conv2d, conv2d_7), and so does a restart.
_COUNTER = re.compile(r"_?\d+")


@dataclass
class TrainingState:
    """What a run knows besides its variables."""

    epoch: int = 0  # epochs finished
    step: int = 0  # training steps finished
    best_score: float | None = None
    best_epoch: int = 0
    cpu_s: float = 0.0  # of this process on all cores, in training steps and what feeds them
    rows: list[Row] = field(default_factory=list)  # of log.csv


def write_last(run: RunDirectory, model: keras.Model, state: TrainingState) -> None:
    """Writes everything that the next step depends on.

    Args:
        run: The run.
        model: Compiled, its optimizer built.
        state: Of the epoch that ended.
    """
    arrays = _collect("model", model.variables)
    arrays |= _collect("optimizer", model.optimizer.variables)
    write_tensors(run.last, arrays, json.dumps(asdict(state)))


def read_last(run: RunDirectory, model: keras.Model) -> TrainingState | None:
    """Puts model and optimizer back to the end of the last finished epoch.

    Args:
        run: The run.
        model: As for `write_last`: the same network, seed generators and optimizer.

    Returns:
        The state of that epoch; None where no epoch has finished yet.

    Raises:
        RunError: The checkpoint is damaged or of another network.
    """
    if not run.last.exists():
        return None
    arrays, text = _read(run.last)
    variables = {"model": model.variables, "optimizer": model.optimizer.variables}
    _restore(run.last, arrays, variables)
    return TrainingState(**json.loads(text))


def write_best(run: RunDirectory, model: keras.Model, epoch: int) -> None:
    """Writes the model's variables as those of the best epoch so far."""
    write_tensors(run.best, _collect("model", model.variables), json.dumps({"epoch": epoch}))


def read_best(run: RunDirectory, model: keras.Model) -> int:
    """Puts the best epoch's variables into a model.

    Args:
        run: The run.
        model: The same network; it need not be compiled.

    Returns:
        The epoch, from 1.

    Raises:
        RunError: There is no such checkpoint, or it is damaged or of another network.
    """
    if not run.best.exists():
        raise RunError(
            "A run has no best checkpoint",
            where=str(run.path),
            next_step="give the same command again to finish its training",
        )
    arrays, text = _read(run.best)
    _restore(run.best, arrays, {"model": model.variables})
    return json.loads(text)["epoch"]


def view_array(variable: keras.Variable) -> np.ndarray:
    """Shows a variable as an array, without a copy on a CPU; to be let go before the next step.

    `keras.ops.convert_to_numpy` copies: with it the checks and `last` of a network of ResNet34's
    size (283 MB with AdamW) took .67 s of CPU an epoch, like this about .2 s.
    """
    return np.asarray(tf.convert_to_tensor(variable.value))


def _collect(group: str, variables: Iterable[Any]) -> dict[str, np.ndarray]:
    """Names each variable by group, position (paths may repeat) and path."""
    return {
        f"{group}/{position} {variable.path}": view_array(variable)
        for position, variable in enumerate(variables)
    }


def _read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    try:
        return read_tensors(path)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(
            "A checkpoint is damaged",
            where=str(path),
            found=str(error),
            next_step="start again in a new --out",
        ) from error


def _restore(path: Path, arrays: dict[str, np.ndarray], groups: dict[str, Iterable[Any]]) -> None:
    """Checks all names and shapes, then assigns."""
    targets = [
        (f"{group}/{position} {variable.path}", variable)
        for group, variables in groups.items()
        for position, variable in enumerate(variables)
    ]
    wanted = [f"{_COUNTER.sub('', name)} {tuple(target.shape)}" for name, target in targets]
    found = [f"{_COUNTER.sub('', name)} {array.shape}" for name, array in arrays.items()]
    if wanted != found:
        pairs = zip([*wanted, "no more"], [*found, "no more"], strict=False)
        first_wanted, first_found = next(pair for pair in pairs if pair[0] != pair[1])
        raise RunError(
            "A checkpoint is another network's",
            where=str(path),
            found=first_found,
            wanted=first_wanted,
            next_step="start again in a new --out",
        )
    for (_, target), array in zip(targets, arrays.values(), strict=True):
        target.assign(array)
