"""Builds that are killed, and builds by Beam: the records are those of an unbroken one."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow_datasets as tfds  # noqa: F401  (children are forked with it imported)

from lesionkeras.errors import DataError
from tfds_builders import Beam, open_builder
from tfds_builders.deeplesion.make_dummy_data import write_dummy_data

ROOT = Path(__file__).resolve().parents[2]
NUM_KILLS = 100


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_dummy_data(folder)
    return folder


def build(prepared, raw, beam=None):
    return open_builder("deeplesion", "all", prepared, raw, progress=False, beam=beam)


def read_records(prepared):
    """Every record file by its place below the data set's folder."""
    return {
        path.relative_to(prepared).as_posix(): path.read_bytes()
        for path in sorted(prepared.rglob("*.tfrecord*"))
    }


def check_all_or_nothing(prepared, wanted):
    """What could be opened is whole; anything else is hidden."""
    for target in prepared.iterdir():
        if target.name.startswith("."):
            assert target.name.endswith(".unfinished")
        else:
            assert read_records(prepared) == wanted


def test_killed_anywhere_and_run_again(raw, tmp_path):
    unbroken, prepared = tmp_path / "unbroken", tmp_path / "prepared"
    build(tmp_path / "first", raw)  # imports what children then need not
    start_s = time.monotonic()
    build(unbroken, raw)
    window_s = 1.1 * (time.monotonic() - start_s)
    wanted = read_records(unbroken)
    assert wanted
    context, draw = multiprocessing.get_context("fork"), random.Random(0)
    killed = finished = hidden = 0
    prepared.mkdir()
    for _ in range(NUM_KILLS):
        child = context.Process(target=build, args=(prepared, raw))
        child.start()
        time.sleep(draw.uniform(0, window_s))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        was_killed = child.exitcode == -signal.SIGKILL
        killed += was_killed
        window_s *= 1.05 if was_killed else 0.9  # a machine is now busy, now idle
        check_all_or_nothing(prepared, wanted)
        hidden += any(prepared.glob(".*.unfinished"))
        if any(prepared.glob("deeplesion-*")):
            finished += 1
            for target in prepared.glob("deeplesion-*"):
                target.rename(tmp_path / f"finished-{finished}")
    assert killed > NUM_KILLS / 2 and hidden > NUM_KILLS / 4  # the kills did fall into builds
    build(prepared, raw)
    assert read_records(prepared) == wanted
    assert not list(prepared.glob(".*"))


def test_beam_makes_the_same_records_as_another_process(raw, tmp_path):
    code = "from tests.tfds_builders.test_killed_builds import *; build(*map(Path, sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(tmp_path / "plain"), str(raw)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    builder = build(tmp_path / "beam", raw, Beam())
    assert read_records(tmp_path / "beam") == read_records(tmp_path / "plain")
    assert builder.info.splits["train"].num_examples == 1


def test_without_beam_nothing_is_written(raw, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"^Beam is not installed; pip install"):
        build(tmp_path / "beam", raw, Beam())
    assert not (tmp_path / "beam").exists()
