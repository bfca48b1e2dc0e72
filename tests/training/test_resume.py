"""A run that is killed and started again ends as one that never was."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lesionkeras.training.log import read_log
from lesionkeras.training.tensors import read_tensors

ROOT = Path(__file__).parents[2]


def _train(out: Path, *kill: object) -> int:
    command = [sys.executable, str(Path(__file__).with_name("toy_run.py")), str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_NUM_INTRAOP_THREADS": "2"}
    done = subprocess.run(
        [*command, *map(str, kill)], env=environment, capture_output=True, text=True
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("resume")
    whole, killed = folder / "whole", folder / "killed"
    assert _train(whole) == 0
    assert _train(killed, "step", 2, 3) == -signal.SIGKILL
    assert [row["epoch"] for row in read_log(killed / "log.csv")] == [1]
    assert _train(killed, "last", 3) == -signal.SIGKILL
    assert [row["epoch"] for row in read_log(killed / "log.csv")] == [1, 2]
    assert _train(killed) == 0
    return whole, killed


@pytest.mark.parametrize("name", ["last", "best"])
def test_killed_run_has_the_same_bits(runs, name):
    whole, killed = (read_tensors(run / f"checkpoints/{name}.safetensors")[0] for run in runs)
    assert list(whole) == list(killed)
    for key in whole:
        np.testing.assert_array_equal(
            whole[key].reshape(-1).view(np.uint8), killed[key].reshape(-1).view(np.uint8), key
        )


def test_killed_run_has_each_epoch_once_in_its_log(runs):
    whole, killed = (read_log(run / "log.csv") for run in runs)
    for row in whole + killed:
        del row["seconds"]
    assert [row["epoch"] for row in killed] == [1, 2, 3, 4]
    assert whole == killed


def test_finished_run_leaves_nothing_half_written(runs):
    for run in runs:
        assert (run / "model.keras").exists()
        assert not list(run.rglob("*.partial*"))
