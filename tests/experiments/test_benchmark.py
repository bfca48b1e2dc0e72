import json
import re
from pathlib import Path

import pytest

from experiments import benchmark
from lesionkeras.errors import RecipeError, RunError

REPORT = {
    "benchmark": "detection",
    "settings": {},
    "environment": {"git_commit": ""},
    "machine": {"cpu": "A CPU", "cores": 2, "gpus": []},
    "rows": [],
}


def test_an_unknown_benchmark_is_answered_with_the_nearest():
    with pytest.raises(
        RecipeError, match=r"found detecton, wanted one of .*did you mean detection"
    ):
        benchmark.main(["detecton"])


def test_counts_below_one_are_refused():
    for flag in ("--steps", "--repeats"):
        with pytest.raises(RecipeError, match=f"{flag}.*0"):
            benchmark.main(["detection", flag, "0"])


def test_a_result_that_cannot_be_written_is_refused_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(benchmark.BENCHMARKS, "detection", lambda *words: pytest.fail("measured"))
    for out, found in ((tmp_path, "a folder"), (tmp_path / "none" / "a.json", "no such folder")):
        with pytest.raises(RunError, match=rf"in {out}: found {found}; name another --out\."):
            benchmark.main(["detection", "--out", str(out)])
    assert not list(tmp_path.iterdir())


def test_flags_reach_the_benchmark_and_the_result_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    given = []
    monkeypatch.setitem(
        benchmark.BENCHMARKS, "detection", lambda *words: given.append(words) or REPORT
    )
    out = tmp_path / "result.json"
    words = "detection --image-size 224 --batch-size 8 --backbone resnet50 --steps 3 --repeats 4"
    benchmark.main([*words.split(), "--out", str(out)])
    ((recipe, steps, repeats),) = given
    assert (recipe.data.image_size_px, recipe.train.batch_size) == (224, 8)
    assert (recipe.model.backbone, steps, repeats) == ("resnet50", 3, 4)
    assert json.loads(out.read_text()) == REPORT
    assert "A CPU, 2 cores" in capsys.readouterr().out


def test_folders_reach_the_data_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = []
    monkeypatch.setitem(benchmark.BENCHMARKS, "data", lambda *words: given.append(words) or REPORT)
    benchmark.main(["data", "--data-dir", str(tmp_path), "--repeats", "3"])
    benchmark.main(["data", "--smoke", "--lits-dir", str(tmp_path / "lits")])
    assert [words[1:] for words in given] == [
        (2, 3, tmp_path, None, 512),
        (1, 1, None, tmp_path / "lits", 64),
    ]


def test_sizes_reach_the_segmentation_benchmark(monkeypatch: pytest.MonkeyPatch):
    given = []
    monkeypatch.setitem(
        benchmark.BENCHMARKS, "segmentation", lambda *words: given.append(words) or REPORT
    )
    for words in ("", "--image-size 96 --repeats 3", "--smoke"):
        benchmark.main(["segmentation", *words.split()])
    assert [words[1:] for words in given] == [
        (2, 5, 512, 64, (1, 8)),
        (2, 3, 96, 64, (1, 8)),
        (1, 1, 128, 8, (1, 2)),
    ]
    with pytest.raises(RecipeError, match=r"found 100, wanted a positive multiple of 32 "):
        benchmark.main(["segmentation", "--image-size", "100"])


@pytest.mark.slow
def test_reading_runs_without_any_data(tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "result.json"
    benchmark.main(["data", "--smoke", "--out", str(out)])
    tasks = [row["task"] for row in json.loads(out.read_text())["rows"]]
    assert tasks[:2] == ["PNG, every slice", "PNG, without neighbours"] and tasks[-1] == "LiTS"
    assert "prepared images" in capsys.readouterr().out


@pytest.mark.slow
def test_detectors_run_beside_kerascv(tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "result.json"
    benchmark.main(["detection", "--smoke", "--out", str(out)])
    assert "Measuring training step, float32\nMeasuring inference" in capsys.readouterr().err
    report = json.loads(out.read_text())
    rows, detectors = report["rows"], ["RetinaNet", "SSD", "Faster R-CNN", "baseline"]
    assert [row["task"] for row in rows] == ["training step"] * 4 + ["inference"] * 4
    for row, name in zip(rows, detectors * 2, strict=True):
        assert list(row["images_per_s"]) == [f"LesionKeras {name}", "KerasCV RetinaNet"]
        ours, peer = row["images_per_s"].values()
        assert ours["median"] > 0 and row["ratio"] == ours["median"] / peer["median"]
    (note,) = [note for note in report["notes"] if "with the same weights" in note]
    ours, peer = map(float, re.findall(r"\d+\.\d+", note))
    assert ours == pytest.approx(peer, rel=1e-3) and ours > 0.1


@pytest.mark.slow
def test_the_unet_runs_beside_monai(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Makes the environment of the peer where it is not there: a network is needed."""
    out = tmp_path / "result.json"
    benchmark.main(["segmentation", "--smoke", "--out", str(out)])
    report = json.loads(out.read_text())
    assert [row["task"] for row in report["rows"]][1:4] == [
        "1, MONAI, as it is",
        "1, MONAI, channels last",
        "1, MONAI, frozen",
    ]
    assert all(row["dice"] > 0.999 and row["ratio"] > 0 for row in report["rows"])
    assert "masks agree at Dice" in capsys.readouterr().out
