import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import evaluate
from lesionkeras.ct.nifti import write_nifti
from lesionkeras.ct.volume import Volume
from lesionkeras.errors import RunError
from lesionkeras.report.mask_evaluation import ScoringOptions

ROOT = Path(__file__).resolve().parents[2]
AFFINE = np.array([[0, 0, 0.5, 10.0], [0, 2.0, 0, 20], [5.0, 0, 0, 30], [0, 0, 0, 1]])


def run(*words):
    command = [sys.executable, "-m", "experiments.evaluate", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def write_masks(folder, names, affine=AFFINE):
    folder.mkdir()
    mask = np.ones((3, 4, 6), np.uint8)
    mask[1, 1, 1:3] = 2
    for name in names:
        write_nifti(folder / f"{name}.nii.gz", Volume(mask, affine))
    return folder


@pytest.fixture
def truth(tmp_path):
    return write_masks(tmp_path / "truth", ["segmentation-0", "segmentation-1"])


def test_anybodys_masks_leave_tables_figures_and_a_page(truth, tmp_path):
    pred = write_masks(tmp_path / "pred", ["mine_0", "mine_1"])
    done = run("--pred", pred, "--truth", truth, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["tumour", "Dice:", "1.0000", "mean", "of", "2", "cases,", "1.0000",
                                "to", "1.0000"]  # fmt: skip
    assert lines[-1] == f"Report: {tmp_path / 'out' / 'report.html'}"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["cases.csv", "lesions.csv", "report.html", "scores.json"]


def test_lits_knows_patients_and_the_default_folder_is_below_runs(
    truth, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    words = ["--pred", str(truth), "--truth", str(truth), "--protocol", "lits", "--lits"]
    evaluate.main(words)
    assert "lesion precision:" in capsys.readouterr().out
    (folder,) = (tmp_path / "runs").iterdir()
    summary = json.loads((folder / "scores.json").read_text())["summary"]
    assert folder.name.startswith("evaluate-lits-")
    assert (summary["num_cases"], summary["num_patients"]) == (2, 1)  # 0 and 1 are of one patient


def test_lits_knows_the_spacing_of_what_is_3d_ircadb():
    options = evaluate.add_lits(ScoringOptions())
    assert options.find_spacing("segmentation-28", 129) == (1.6, 0.57, 0.57)
    assert options.find_spacing("segmentation-3", 129) is None
    assert options.find_patient("segmentation-28") == "ircadb01_01"
    assert options.find_patient("mine") == "mine" != options.find_patient("yours")  # no number
    given = evaluate.add_lits(
        ScoringOptions(find_spacing=lambda case, n: (3.0, 1.0, 1.0), find_patient=str.upper)
    )
    assert given.find_spacing("segmentation-28", 129) == (1.6, 0.57, 0.57)
    assert given.find_spacing("segmentation-28", 43) == (3.0, 1.0, 1.0)
    assert given.find_patient("a") == "A"


def test_where_results_go_is_looked_at_before_scoring(truth, monkeypatch, capsys):
    from lesionkeras.report import mask_evaluation

    monkeypatch.setattr(mask_evaluation, "evaluate_files", None)
    file = truth / "segmentation-0.nii.gz"
    with pytest.raises(RunError, match="Results need a folder that can be written"):
        evaluate.main(["--pred", str(truth), "--truth", str(truth), "--out", str(file)])


def test_masks_apart_are_one_sentence_exit_2_and_nothing_written(truth, tmp_path):
    moved = AFFINE + np.diag([0.0] * 4)
    moved[0, 3] += 7
    pred = write_masks(tmp_path / "pred", ["segmentation-0", "segmentation-1"], moved)
    done = run("--pred", pred, "--truth", truth, "--out", tmp_path / "out")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert done.stderr.startswith("A mask does not lie where its image lies in ")
    assert done.stderr.rstrip().endswith("add --geometry stored.")
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--truth", "t"], "The command line cannot be read: found the following arguments"),
        (["--truth", "t", "--pred", "p", "--protocol", "x"], "A scoring protocol is unknown: "),
        (["--truth", "no", "--pred", "no"], "A file is not there in no; check its path."),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(words, text):
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr.startswith(text) and len(done.stderr.splitlines()) == 1


def test_help_comes_at_once():
    start = time.process_time()
    done = run("--help")
    assert done.returncode == 0 and "--geometry" in done.stdout
    assert time.process_time() - start < 1.0
    code = (
        "import sys, experiments.evaluate as e; e.cli_evaluate.build_parser('');"
        "print('numpy' in sys.modules)"
    )
    light = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert light.stdout.strip() == "False"


def write_boxes(folder):
    images = [{"id": i, "height": 100, "width": 100, "patient": f"p{i}"} for i in range(3)]
    boxes = [{"image_id": i, "category_id": 0, "bbox": [10, 10, 20, 20]} for i in (1, 2)]
    tree = {"images": images, "annotations": boxes, "categories": [{"id": 0, "name": "lesion"}]}
    (folder / "truth.json").write_text(json.dumps(tree))
    (folder / "found.json").write_text(json.dumps([box | {"score": 0.9} for box in boxes]))
    return ["--detections", folder / "found.json", "--truth", folder / "truth.json"]


def test_anybodys_boxes_leave_tables_figures_and_a_page(tmp_path):
    done = run(*write_boxes(tmp_path), "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["mAP50:", "1.000", "(1.000", "to", "1.000)"]
    assert lines[5].startswith("Sensitivity at 1 FP an image, IoU 0.5:")
    assert lines[-1] == f"Report: {tmp_path / 'out' / 'report.html'}"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["froc.csv", "images.csv", "lesions.csv", "report.html", "scores.json"]


def test_patients_given_beside_boxes_have_a_folder_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = list(map(str, write_boxes(tmp_path)))
    (tmp_path / "patients.csv").write_text("case,patient\n0,a\n1,a\n2,a\n")
    evaluate.main(words)
    evaluate.main([*words, "--patients", str(tmp_path / "patients.csv")])
    pages = list((tmp_path / "runs").glob("*/scores.json"))
    counts = [json.loads(page.read_text())["counts"]["patients"] for page in pages]
    assert sorted(counts) == [1, 3]


def test_boxes_of_several_detectors_are_scored_as_one(tmp_path):
    words = list(map(str, write_boxes(tmp_path)))
    (tmp_path / "silent.json").write_text("[]")
    words += ["--detections", str(tmp_path / "silent.json"), "--out", str(tmp_path / "out")]
    evaluate.main(words)
    fused = json.loads((tmp_path / "out" / "fused.json").read_text())
    assert [(box["image_id"], box["bbox"], box["score"]) for box in fused] == [
        (1, [10, 10, 20, 20], 0.45), (2, [10, 10, 20, 20], 0.45),
    ]  # fmt: skip


def test_what_was_fused_is_not_written_over(tmp_path):
    from lesionkeras.errors import RunError

    words = list(map(str, write_boxes(tmp_path)))
    (tmp_path / "found.json").rename(tmp_path / "fused.json")
    words[1] = str(tmp_path / "fused.json")
    with pytest.raises(RunError, match="would replace a file that they are computed from"):
        evaluate.main([*words, "--out", str(tmp_path)])


def test_a_runs_own_folder_is_refused(tmp_path):
    from lesionkeras.errors import RunError

    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(RunError, match=r"would replace a run's report .*name another --out"):
        evaluate.main([*map(str, write_boxes(tmp_path)), "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--pred", "p"], "A flag does not go with what is scored: found --pred with --detections"),
        (["--protocol", "lits"], "A flag does not go with what is scored: found --protocol with"),
        (["--lits"], "A flag does not go with what is scored: found --lits with --detections; "),
        (["--score", "low"], "--score cannot be read: found 'low', wanted a number"),
    ],
)
def test_flags_of_masks_do_not_go_with_boxes(tmp_path, words, text):
    from lesionkeras.errors import RecipeError

    with pytest.raises(RecipeError) as error:
        evaluate.main([*map(str, write_boxes(tmp_path)), *words])
    assert str(error.value).startswith(text)
    with pytest.raises(RecipeError, match="found --score with --pred; leave --score out"):
        evaluate.main(["--pred", "p", "--truth", "t", "--score", "0.2"])


def test_a_wrong_file_is_one_sentence_exit_2_and_nothing_written(tmp_path):
    words = write_boxes(tmp_path)
    (tmp_path / "found.json").write_text("[{}]")
    done = run(*words, "--out", tmp_path / "out")
    assert done.returncode == 2 and not (tmp_path / "out").exists() and done.stdout == ""
    assert done.stderr.startswith("A box's image_id is not among the truth's in found.json, entry ")
    assert len(done.stderr.splitlines()) == 1
