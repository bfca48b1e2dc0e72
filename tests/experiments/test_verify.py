import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import verify
from tfds_builders.deeplesion.make_dummy_data import write_dummy_data

ROOT = Path(__file__).resolve().parents[2]


def run(*words):
    command = [sys.executable, "-m", "experiments.verify", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def raw(tmp_path):
    write_dummy_data(tmp_path / "raw")
    return tmp_path / "raw"


def test_clean_data_leaves_a_report_and_exit_0(raw, tmp_path):
    done = run("--data", "deeplesion/all", "--data-dir", raw, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"Report: {tmp_path / 'out' / 'report.html'}"
    assert json.loads((tmp_path / "out" / "findings.json").read_text())["counts"]["error"] == 0


def test_errors_are_exit_1_in_the_default_folder(raw, tmp_path, monkeypatch, capsys):
    cut = raw / "Images_png" / "009001_01_01" / "010.png"
    cut.write_bytes(cut.read_bytes()[:-20])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        verify.main(["--data", "deeplesion/all", "--data-dir", str(raw)])
    assert left.value.code == 1
    assert "A PNG is truncated" in capsys.readouterr().out
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("verify-deeplesion-all-")


def test_nothing_there_is_one_sentence_exit_2_and_nothing_written(tmp_path):
    done = run("--data", "deeplesion", "--data-dir", tmp_path / "no", "--out", tmp_path / "out")
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert done.stderr.startswith("DeepLesion's data are not there in ")
    assert len(done.stderr.splitlines()) == 1
