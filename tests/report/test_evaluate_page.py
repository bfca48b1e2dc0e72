import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from lesionkeras.metrics.volumes import VolumeEvaluator
from lesionkeras.report.evaluate_page import (
    list_headlines,
    name_folder,
    write_evaluation,
)
from lesionkeras.report.evaluate_tables import pick_shown_rows
from lesionkeras.report.mask_evaluation import Evaluation, ScoringOptions

SPACING_MM = (5.0, 2.0, 0.5)


def make(true, predicted):
    truth, prediction = np.ones((2, 2, 4, 12), np.uint8)
    truth[0, 0, list(true)] = prediction[0, 0, list(predicted)] = 2
    return truth, prediction


@pytest.fixture
def evaluation():
    evaluator = VolumeEvaluator()
    for place, masks in enumerate(((0, 1, 4), (0, 1, 8)), start=1):
        evaluator.add(f"liver_{place}", f"p{place}", *make((0, 1, 4), masks), SPACING_MM)
    evaluator.add("<free>", "p3", *make((), (3,)), SPACING_MM)
    paired = {"liver_1": "mine_1", "liver_2": "mine_2", "<free>": "mine_3"}
    given = {"protocol": "corrected", "geometry": "stored"}
    notes = {"liver_1": "1 x 1 x 1 mm were taken instead"}
    return Evaluation(evaluator, notes, predictions=paired, given=given)


def test_masks_of_tumours_alone_are_told_of(tmp_path):
    """Their liver is no prediction of a liver."""
    evaluator = VolumeEvaluator()
    truth, prediction = make((0, 1, 4), (0, 1, 4))
    evaluator.add("whole", "p1", truth, prediction, SPACING_MM)
    alone = np.where(prediction == 2, prediction, 0).astype(np.uint8)
    evaluator.add("alone", "p2", truth, alone, SPACING_MM)
    summary = write_evaluation(tmp_path, "corrected", Evaluation(evaluator, {}))
    assert summary["num_tumour_alone"] == 1
    told = {name: remark for name, _, remark in list_headlines(summary)}
    assert told["liver Dice"].endswith("; 1 predictions have tumours alone")
    page = (tmp_path / "report.html").read_text()
    assert "1 of 2 predictions" in page and "have tumours and no liver beside them" in page
    assert summary["num_truth_alone"] == 0 and "truths" not in page
    evaluator.add("both", "p3", alone, prediction, SPACING_MM)
    write_evaluation(tmp_path, "corrected", Evaluation(evaluator, {}))
    assert "1 of 3 truths" in (tmp_path / "report.html").read_text()


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_cells(page):
    return re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", page)


def test_tables_have_a_row_a_case_and_a_row_a_lesion(evaluation, tmp_path):
    write_evaluation(tmp_path / "new" / "out", "corrected", evaluation)
    cases = read_csv(tmp_path / "new" / "out" / "cases.csv")
    assert [row["case"] for row in cases] == ["liver_1", "liver_2", "<free>"]
    assert float(cases[1]["tumour_dice"]) == pytest.approx(2 / 3)
    assert (cases[1]["num_found_0"], cases[1]["num_false_0.5"]) == ("1", "1")
    assert (cases[2]["tumour_dice"], cases[2]["false_positive_mm3"]) == ("", "5.0")
    assert float(cases[0]["liver_sensitivity"]) == 1.0
    assert (cases[0]["spacing_z_mm"], cases[0]["spacing_x_mm"]) == ("5.0", "0.5")
    lesions = read_csv(tmp_path / "new" / "out" / "lesions.csv")
    assert [(row["case"], row["kind"], row["found"]) for row in lesions] == [
        ("liver_1", "lesion", "True"),
        ("liver_1", "lesion", "True"),
        ("liver_2", "lesion", "True"),
        ("liver_2", "lesion", "False"),
        ("liver_2", "false component", "False"),
        ("<free>", "false component", "False"),
    ]
    assert (lesions[3]["centroid_i"], lesions[3]["volume_mm3"]) == ("4.0", "5.0")


@pytest.mark.parametrize("protocol", ["lits", "corrected"])
def test_figures_as_json_without_nan(evaluation, tmp_path, protocol):
    summary = write_evaluation(tmp_path, protocol, evaluation)
    read = json.loads((tmp_path / "scores.json").read_text())
    assert read["summary"]["protocol"] == summary["protocol"] == protocol
    assert read["cases"][2]["tumour_dice"] == (0.0 if protocol == "lits" else None)
    assert read["notes"] == {"liver_1": "1 x 1 x 1 mm were taken instead"}
    assert read["options"] == {"protocol": "corrected", "geometry": "stored"}
    assert [row["prediction"] for row in read["cases"]] == ["mine_1", "mine_2", "mine_3"]
    assert [row["kind"] for row in read["lesions"]] == ["lesion"] * 4 + ["false component"] * 2
    assert {"case", "kind", "volume_mm3", "dice", "found", "centroid_k"} <= read["lesions"][
        0
    ].keys()
    assert {"liver_2", "<free>"} <= {row["case"] for row in read["differences"]}


def test_the_page_shows_scores_cases_and_where_protocols_differ(evaluation, tmp_path):
    write_evaluation(tmp_path, "corrected", evaluation)
    page = (tmp_path / "report.html").read_text()
    cells = read_cells(page)
    assert "3 cases of 3 patients, 1 without a lesion. Scored with geometry stored." in page
    assert "mine_2" in cells
    assert "1 x 1 x 1 mm were taken instead" in page
    assert "&lt;free&gt;" in cells and "<free>" not in page
    assert cells[cells.index("lesion-free cases") + 1] == "1"
    assert cells[cells.index("of these left clean") + 1] == "0"
    assert cells[cells.index("false positive mm3, mean of these") + 1] == "5.0000"
    place = cells.index("tumour Dice", cells.index("why"))
    assert cells[place - 1 : place + 3] == ["&lt;free&gt;", "tumour Dice", "0.0000", "none"]
    assert cells[cells.index("above 0") + 1 : cells.index("above 0") + 4] == ["3", "1", "2"]
    assert cells[cells.index("cases without one: no liver in the truth") + 1] == "0"


def test_a_page_shows_lesions_and_the_largest_others(evaluation, tmp_path, monkeypatch):
    """Of thousands of false components it would be too long to open."""
    monkeypatch.setattr("lesionkeras.report.evaluate_tables.MAX_SHOWN_ROWS", 5)
    write_evaluation(tmp_path, "corrected", evaluation)
    page = (tmp_path / "report.html").read_text()
    told = re.findall(r"[^>]*lesions and false components", page)
    assert told == ["5, the largest, of 6 lesions and false components"]
    assert len(read_csv(tmp_path / "lesions.csv")) == 6


def test_lesions_are_shown_before_larger_false_components(monkeypatch):
    monkeypatch.setattr("lesionkeras.report.evaluate_tables.MAX_SHOWN_ROWS", 3)
    kinds = (("false component", 9.0), ("lesion", 1.0), ("false component", 3.0), ("lesion", 2.0))
    rows = [{"kind": kind, "volume_mm3": volume} for kind, volume in kinds]
    assert pick_shown_rows(rows) == [rows[0], rows[1], rows[3]]


def test_a_case_taken_for_a_patient_is_not_called_one(evaluation, tmp_path):
    guessed = Evaluation(evaluation.evaluator, {}, knows_patients=False)
    write_evaluation(tmp_path, "corrected", guessed)
    page = (tmp_path / "report.html").read_text()
    wanted = (
        "3 cases each taken for a patient of its own (--patients says whose they are), 1 without"
    )
    assert wanted in page and "3 patients" not in page
    assert json.loads((tmp_path / "scores.json").read_text())["knows_patients"] is False


def test_the_page_of_lits_has_every_figure_of_the_organisers(evaluation, tmp_path):
    summary = write_evaluation(tmp_path, "lits", evaluation)
    cells = read_cells((tmp_path / "report.html").read_text())
    for part in ("lesion_detection", "lesion_segmentation", "liver_segmentation"):
        for name, value in summary[part].items():
            place = cells.index(f"{part.split('_')[0]} {name.replace('_', ' ')}")
            assert cells[place + 1] == f"{value:.4f}"


def test_headlines_are_the_summarys(evaluation):
    rows = dict(
        (name, (value, remark))
        for name, value, remark in list_headlines(evaluation.evaluator.summarise("corrected"))
    )
    assert rows["tumour Dice"][0] == "0.8333"
    assert rows["tumour Dice"][1].startswith("mean of 2 cases, ")
    assert rows["lesions found, overlap above 0"] == ("3", "of 4; 2 false components")
    lits = {
        name: value for name, value, _ in list_headlines(evaluation.evaluator.summarise("lits"))
    }
    assert lits["lesion Dice per case"] == f"{(1 + 2 / 3 + 0) / 3:.4f}"


def test_one_patient_has_no_interval():
    evaluator = VolumeEvaluator()
    evaluator.add("a", "p", *make((0,), (0,)), SPACING_MM)
    summary = evaluator.summarise("corrected")
    assert math.isnan(summary["tumour"]["dice"]["low"])
    assert list_headlines(summary)[0] == ("tumour Dice", "1.0000", "mean of 1 cases")


def test_the_default_folder_is_of_the_masks_and_the_protocol():
    one = name_folder(Path("/t"), Path("/p"), ScoringOptions())
    assert one == name_folder(Path("/t"), Path("/p"), ScoringOptions())
    assert re.fullmatch(r"runs/evaluate-corrected-[0-9a-f]{8}", one.as_posix())
    assert one != name_folder(Path("/t"), Path("/q"), ScoringOptions())
    assert name_folder(Path("/t"), Path("/p"), ScoringOptions("lits")).name.startswith(
        "evaluate-lits-"
    )


def test_the_page_says_where_the_organisers_program_stops(tmp_path):
    evaluator = VolumeEvaluator()
    evaluator.add("empty", "a", *np.zeros((2, 2, 4, 12), np.uint8), SPACING_MM)
    write_evaluation(tmp_path, "lits", Evaluation(evaluator, {}))
    page = (tmp_path / "report.html").read_text()
    assert (
        "<strong>empty:</strong> no liver in the truth: the organisers&#x27; program stops" in page
    )
