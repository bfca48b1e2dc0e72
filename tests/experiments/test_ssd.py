"""The main job from its command line: what it leaves, how it resumes, how it refuses."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import ssd
from lesionkeras.cli import run_main
from lesionkeras.training.tensors import read_tensors

ROOT = Path(__file__).resolve().parents[2]
DUMMY = ROOT / "tfds_builders" / "deeplesion" / "dummy_data"
SMALL = ("--smoke", "--set", "train.images_per_epoch=96", "--set", "train.validate_every_epochs=2")
STEP_LIMIT_S = 600


def start(out, *words):
    """The main job in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "experiments.ssd", "--out", str(out), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes)


@pytest.fixture(scope="module")
def prepared_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prepared_dir):
    out = tmp_path_factory.mktemp("runs") / "whole"
    process = start(out, *SMALL, "--prepared-dir", str(prepared_dir))
    stdout, stderr = process.communicate(timeout=STEP_LIMIT_S)
    assert process.returncode == 0, stderr
    return out, stdout


def test_a_run_leaves_everything_and_ends_with_its_score(finished):
    out, stdout = finished
    lines = stdout.strip().splitlines()
    assert lines[-1].startswith("Score: mAP50 ") and "test images of 3 patients" in lines[-1]
    assert lines[-2].startswith("Sensitivity at 1 false positive an image: IoU 0.5 ")
    assert lines[-5:-2] == [f"Run: {out}", f"Report: {out}/report.html", f"Export: {out}/export/1"]
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["recipe"]["data"]["config"] == "tiny"
    assert recipe["environment"]["data_fingerprint"].startswith("liver_phantom-")
    with (out / "log.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["score_threshold_chosen_on"] == "validation"
    assert metrics["splits"]["test"]["lesions"] == metrics["counts"]["lesions"] > 0
    assert isinstance(json.loads((out / "predictions.json").read_text()), list)
    for name in ("model.keras", "export/1/saved_model.pb", "export/1/contract.json"):
        assert (out / name).stat().st_size > 0
    report = (out / "report.html").read_text()
    for text in ("P1: SSD ResNet34, 75 epochs", "This run", "of 3 patients", "data:image/png"):
        assert text in report, text
    figures = {path.stem for path in (out / "figures").iterdir()}
    assert {"figure5", "figure6", "figure7", "anchor_recall"} <= figures


def test_killed_in_mid_epoch_it_ends_with_the_same_bits(finished, prepared_dir):
    whole = finished[0]
    out = whole.parent / "killed"
    words = (*SMALL, "--prepared-dir", str(prepared_dir))
    process = start(out, *words)
    log, deadline = out / "log.csv", time.monotonic() + STEP_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and len(log.read_text().splitlines()) == 2:  # header and first epoch
            time.sleep(0.3)  # into the second
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.05)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    again = start(out, *words)
    stdout, stderr = again.communicate(timeout=STEP_LIMIT_S)
    assert again.returncode == 0, stderr
    assert f"Resuming: {out}" in stdout
    for name in ("last", "best"):
        expected, _ = read_tensors(whole / "checkpoints" / f"{name}.safetensors")
        found, _ = read_tensors(out / "checkpoints" / f"{name}.safetensors")
        assert found.keys() == expected.keys() and len(found) > 100
        for key in expected:
            np.testing.assert_array_equal(found[key], expected[key], err_msg=key)


def refuse(monkeypatch, capsys, *words):
    """The one sentence and the exit code with which a command is refused."""
    monkeypatch.setattr(sys, "argv", ["ssd", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        run_main(ssd.main)
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2, error
    assert error.count("\n") == 0 and error.endswith(".")
    return error


@pytest.fixture
def raw(tmp_path):
    return Path(shutil.copytree(DUMMY, tmp_path / "raw"))


@pytest.fixture
def words(tmp_path, raw):
    paths = ("--data-dir", raw, "--prepared-dir", tmp_path / "prepared", "--out", tmp_path / "run")
    return ("--data", "deeplesion/all", *paths)


def edit_csv(raw, old, new):
    path = raw / "DL_info.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def make_8_bit(raw):
    import cv2

    cv2.imwrite(str(raw / "Images_png/009001_01_01/010.png"), np.zeros((64, 64), np.uint8))


def truncate(raw):
    path = raw / "Images_png/009001_01_01/010.png"
    path.write_bytes(path.read_bytes()[:-20])


FAULTS = {
    "no data": (lambda raw: shutil.rmtree(raw), ["DL_info.csv", "Images_png"]),
    "column": (lambda raw: edit_csv(raw, "Bounding_boxes", "Boxes"), ["Bounding_boxes"]),
    "outside": (
        lambda raw: edit_csv(raw, '"10, 20, 26, 32"', '"110, 120, 126, 132"'),
        ["DL_info.csv", "row 2"],
    ),
    "degenerate": (
        lambda raw: edit_csv(raw, '"10, 20, 26, 32"', '"10, 20, 10, 32"'),
        ["DL_info.csv", "row 2"],
    ),
    "8 bit": (make_8_bit, ["010.png", "16"]),
    "truncated": (truncate, ["010.png"]),
    "two splits": (lambda raw: edit_csv(raw, "F,61,1", "F,61,3"), ["9001"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_data_is_one_sentence_and_nothing_is_written(
    monkeypatch, capsys, tmp_path, raw, words, fault
):
    make_fault, named = FAULTS[fault]
    make_fault(raw)
    error = refuse(monkeypatch, capsys, *words)
    for text in named:
        assert text in error
    assert not (tmp_path / "run").exists() and not (tmp_path / "prepared").exists()


def test_an_unknown_flag_names_the_nearest(monkeypatch, capsys):
    assert "--epochs" in refuse(monkeypatch, capsys, "--epoch", "3")


def test_another_recipes_run_is_left_alone(monkeypatch, capsys, finished):
    out = finished[0]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    error = refuse(monkeypatch, capsys, *SMALL, "--lr", "0.1", "--out", out)
    assert "optimizer.learning_rate" in error and str(out) in error
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
