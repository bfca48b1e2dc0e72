"""The run directory: its layout and its recipe.json."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesionkeras.errors import RecipeError, RunError
from lesionkeras.files import beside, write_json
from lesionkeras.recipe import diff, digest, format_value, from_json, to_json

PACKAGES = ("lesionkeras", "tensorflow", "keras", "keras-cv", "tensorflow-datasets", "numpy")
SAME_ON_RESUME = ("data_fingerprint", "weights_sha256")  # another one makes it another run
_RECIPE_FILE = "recipe.json"
_FOLDERS = ("tensorboard", "checkpoints", "figures")
_GIT_TIMEOUT_S = 10
_SHOWN_DIFFERENCES = 8  # more of them do not fit in one sentence


@dataclass(frozen=True)
class RunDirectory:
    """Where everything of one run stands (DESIGN, 5)."""

    path: Path
    resumed: bool  # the folder held this recipe's run already

    @classmethod
    def open(
        cls, out: Path, recipe: Any, experiment: str, environment: Mapping[str, Any]
    ) -> RunDirectory:
        """Makes a run directory, or opens the one that the same recipe left there.

        Args:
            out: The folder; made where it is missing.
            recipe: The recipe dataclass of the run.
            experiment: Name of the experiment ("ssd").
            environment: What `describe_environment` gave.

        Returns:
            The run directory; `resumed` says whether it was there.

        Raises:
            RunError: See `check_out`; also where the data or the starting weights of the run in
                the folder were others.  Nothing is changed then.
        """
        resumed = check_out(out, recipe, experiment)
        run = cls(Path(out), resumed)
        if resumed:
            _check_environment(run.recipe_json, environment)
        else:
            run.path.mkdir(parents=True, exist_ok=True)
            record = {"experiment": experiment, "digest": digest(recipe), "recipe": to_json(recipe)}
            write_json(run.recipe_json, record | {"environment": dict(environment)})
        for folder in _FOLDERS:
            (run.path / folder).mkdir(exist_ok=True)
        return run

    @property
    def recipe_json(self) -> Path:
        """All fields, digest and environment."""
        return self.path / _RECIPE_FILE

    @property
    def log_csv(self) -> Path:
        """An epoch a line."""
        return self.path / "log.csv"

    @property
    def tensorboard(self) -> Path:
        """Folder of event files."""
        return self.path / "tensorboard"

    @property
    def last(self) -> Path:
        """Checkpoint to resume from."""
        return self.path / "checkpoints" / "last.safetensors"

    @property
    def best(self) -> Path:
        """Weights of the best epoch."""
        return self.path / "checkpoints" / "best.safetensors"

    @property
    def nonfinite_batch(self) -> Path:
        """The batch at which the loss stopped being finite, if it did."""
        return self.path / "nonfinite_batch.npz"

    @property
    def model(self) -> Path:
        """The best model, whole."""
        return self.path / "model.keras"

    @property
    def predictions(self) -> Path:
        """COCO results on the test split."""
        return self.path / "predictions.json"

    @property
    def metrics(self) -> Path:
        """Scores with intervals."""
        return self.path / "metrics.json"

    @property
    def figures(self) -> Path:
        """Folder of the report's figures."""
        return self.path / "figures"

    @property
    def report(self) -> Path:
        """The one-file page."""
        return self.path / "report.html"

    @property
    def export(self) -> Path:
        """The SavedModel, version 1."""
        return self.path / "export" / "1"


def check_out(out: Path, recipe: Any, experiment: str) -> bool:
    """Checks, without writing, that a run may use a folder.

    Args:
        out: The folder that `--out` names; it may be missing.
        recipe: The recipe dataclass of the run.
        experiment: Name of the experiment.

    Returns:
        True where the folder holds this recipe's run, which then resumes.

    Raises:
        RunError: The folder is a file, holds other things, or holds another recipe's run (the
            fields that differ are named).
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise RunError(
            "A run needs a folder", where=str(out), found="a file", next_step="name another --out"
        )
    if (out / _RECIPE_FILE).exists():
        _check_same_recipe(out / _RECIPE_FILE, recipe, experiment)
        return True
    left_by_a_kill = beside(out / _RECIPE_FILE).name
    others = (
        sorted(p.name for p in out.iterdir() if p.name != left_by_a_kill) if out.exists() else []
    )
    if others:
        raise RunError(
            "A folder holds other files and no run",
            where=str(out),
            found=", ".join(others[:3]) + (", ..." if others[3:] else ""),
            wanted="an empty or missing folder",
            next_step="name another --out",
        )
    return False


def _check_same_recipe(path: Path, recipe: Any, experiment: str) -> None:
    record = _read_record(path)
    differences = []
    if record["experiment"] != experiment:
        differences.append(f"experiment {record['experiment']} (now {experiment})")
    else:
        try:
            old = from_json(record["recipe"], type(recipe), where=str(path))
        except RecipeError as error:
            raise RunError(
                "A folder holds a run of another version",
                where=str(path.parent),
                found=str(error).rstrip("."),
                next_step="name another --out",
            ) from error
        differences += [
            f"{name} {format_value(a)} (now {format_value(b)})" for name, a, b in diff(old, recipe)
        ]
    if differences:
        more = len(differences) - _SHOWN_DIFFERENCES
        raise RunError(
            "A folder holds another recipe's run",
            where=str(path.parent),
            found=", ".join(differences[:_SHOWN_DIFFERENCES])
            + (f" and {more} more" if more > 0 else ""),
            next_step="name another --out, or give the same flags to resume",
        )


def _check_environment(path: Path, environment: Mapping[str, Any]) -> None:
    """Checks that data and starting weights are those of the run in the folder.

    Raises:
        RunError: They are others.
    """
    old = _read_record(path).get("environment", {})
    changed = [name for name in SAME_ON_RESUME if old.get(name) != environment.get(name)]
    if changed:
        raise RunError(
            "A run cannot go on with other " + " and ".join(changed),
            where=str(path.parent),
            found=", ".join(str(environment.get(name)) for name in changed),
            wanted=", ".join(str(old.get(name)) for name in changed),
            next_step="name another --out",
        )


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record["recipe"], dict) and isinstance(record["experiment"], str):
            return record
        found = "no recipe and experiment"
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = repr(error)
    raise RunError(
        "A run's recipe cannot be read",
        where=str(path),
        found=found,
        next_step="name another --out",
    )


def describe_environment(
    data_fingerprint: str = "",
    weights_sha256: str = "",
    trained_on: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Describes what a run stands on besides its recipe.

    Args:
        data_fingerprint: Digest of the prepared data set.
        weights_sha256: Digest of the file that the starting weights were read from, if any.
        trained_on: What these weights say of whom they were trained on.

    Returns:
        Package versions, Python, machine, git commit ("" outside a checkout), data fingerprint,
        the SHA-256 of the weights ("" without), and whom they were trained on.
    """
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "packages": versions,
        "python": platform.python_version(),
        "machine": platform.platform(),
        "git_commit": _find_git_commit(),
        "data_fingerprint": data_fingerprint,
        "weights_sha256": weights_sha256,
        "weights_trained_on": list(trained_on),
    }


def _find_git_commit() -> str:
    """Names the commit of the checkout this file is tracked in, with -dirty after changes."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    tracked = [*git, "ls-files", "--error-unmatch", here.name]
    describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        for command in (tracked, describe):
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S
            )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
