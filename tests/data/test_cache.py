import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lesionkeras.data.cache import UNFINISHED, open_cache

KILLED = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from lesionkeras.data.cache import open_cache

def write(folder):
    (folder / "half").touch()
    print("begun", flush=True)
    time.sleep(60)

open_cache(SimpleNamespace(data_path=sys.argv[1]), "name", write)
"""


def fill(folder):
    (folder / "whole").write_text("1")


def list_names(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


def test_a_cache_is_written_once(tmp_path):
    builder, calls = SimpleNamespace(data_path=tmp_path), []
    for _ in range(2):
        folder = open_cache(builder, "name", lambda folder: (calls.append(1), fill(folder)))
    assert (folder / "whole").read_text() == "1" and calls == [1]
    assert list_names(tmp_path) == ["name"]


def test_an_error_leaves_nothing(tmp_path):
    def fail(folder):
        fill(folder)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        open_cache(SimpleNamespace(data_path=tmp_path), "name", fail)
    assert list_names(tmp_path) == []


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    builder = SimpleNamespace(data_path=tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        open_cache(builder, "other", fill)
        (living,) = (tmp_path / "cache").glob(f"*{UNFINISHED}")
        assert (living / "half").exists()
        os.kill(process.pid, signal.SIGKILL)
    open_cache(builder, "name", fill)
    assert list_names(tmp_path) == ["name", "other"]
