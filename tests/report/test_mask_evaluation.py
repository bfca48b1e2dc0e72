import numpy as np
import pytest

from lesionkeras.ct.nifti import write_nifti
from lesionkeras.ct.volume import Volume
from lesionkeras.errors import DataError, RecipeError, RunError
from lesionkeras.report.mask_evaluation import (
    ScoringOptions,
    check_folder,
    evaluate_files,
    parse_options,
    read_patients,
)

AFFINE = np.array([[0, 0, 0.5, 10.0], [0, 2.0, 0, 20], [5.0, 0, 0, 30], [0, 0, 0, 1]])


@pytest.fixture
def folders(tmp_path):
    """Two cases: Dice 1 and 2 / 3 of the tumour."""
    mask = np.ones((3, 4, 6), np.uint8)
    mask[1, 1, 1:3] = 2
    half = mask.copy()
    half[1, 1, 2] = 1
    for name, masks in (("truth", (mask, mask)), ("pred", (mask, half))):
        (tmp_path / name).mkdir()
        for number, array in enumerate(masks):
            write_nifti(tmp_path / name / f"{name}-{number}.nii.gz", Volume(array, AFFINE))
    return tmp_path / "truth", tmp_path / "pred"


def test_cases_are_scored_in_turn_in_mm_of_the_truth(folders):
    steps = []
    found = evaluate_files(*folders, progress=lambda done, total: steps.append((done, total)))
    first, second = found.evaluator.cases
    assert steps == [(1, 2), (2, 2)]
    assert (first.case, first.patient, second.case) == ("truth-0", "truth-0", "truth-1")
    assert first.corrected.tumour_dice == 1.0
    assert second.corrected.tumour_dice == second.lits.tumour_dice == pytest.approx(2 / 3)
    assert second.corrected.spacing_mm == pytest.approx((5.0, 2.0, 0.5))
    assert second.corrected.lesions[0].volume_mm3 == pytest.approx(10.0)
    assert found.notes == {} and not found.knows_patients


def test_patients_are_asked_for_before_anything_is_read(folders):
    options = ScoringOptions(find_patient=lambda case: case[:5])
    found = evaluate_files(*folders, options)
    assert found.knows_patients
    found = found.evaluator
    assert {case.patient for case in found.cases} == {"truth"}
    assert found.summarise("corrected")["num_patients"] == 1
    (folders[1] / "pred-1.nii.gz").write_bytes(b"")
    seen = []
    with pytest.raises(DataError):
        evaluate_files(*folders, progress=lambda done, total: seen.append(done))
    assert seen == []


def test_cases_that_are_asked_for_are_scored_alone(folders):
    (folders[1] / "pred-0.nii.gz").unlink()
    options = parse_options("corrected", "checked", None, None, cases="truth-1")
    found = evaluate_files(*folders, options)
    assert [case.case for case in found.evaluator.cases] == ["truth-1"]
    assert found.predictions == {"truth-1": "pred-1"} and found.given["cases"] == "truth-1"


def test_a_label_that_means_nothing_here_names_the_case(folders):
    mask = np.full((3, 4, 6), 4, np.uint8)
    write_nifti(folders[1] / "pred-1.nii.gz", Volume(mask, AFFINE))
    with pytest.raises(DataError, match="no meaning here in truth-1: found 4"):
        evaluate_files(*folders)


def test_a_folder_for_results_is_one(tmp_path):
    (tmp_path / "file").write_text("")
    check_folder(tmp_path / "new" / "out")
    check_folder(tmp_path)  # of an earlier evaluation
    with pytest.raises(RunError) as caught:
        check_folder(tmp_path / "file")
    assert str(caught.value) == (
        f"Results need a folder that can be written in {tmp_path / 'file'}: found a file; name "
        "another --out."
    )
    with pytest.raises(RunError, match=rf"file/out: found a file, {tmp_path}/file; name another"):
        check_folder(tmp_path / "file" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_results_replace_no_file_that_they_come_from(tmp_path):
    check_folder(tmp_path, [str(tmp_path / "patients.csv"), None])
    with pytest.raises(RunError, match="a file that they are computed from in"):
        check_folder(tmp_path, [None, str(tmp_path / "new" / ".." / "cases.csv")])


def test_no_case_is_no_choice():
    with pytest.raises(RecipeError, match="--cases names no case"):
        parse_options("lits", "stored", None, None, " ,")


def test_a_table_of_patients(tmp_path):
    table = tmp_path / "patients.csv"
    table.write_text("patient,case\nanna,a_1\nanna,a_2\n")
    find_patient = read_patients(table)
    assert find_patient("a_1") == find_patient("a_2") == "anna"
    with pytest.raises(DataError) as error:
        find_patient("a_3")
    assert str(error.value) == (
        f"A table of patients lacks a case in {table}: found no patient of a_3; add its row."
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "A table of patients cannot be read in {}: found No such file or directory, "
         "wanted CSV with the columns case and patient; correct --patients."),
        (b"\xff\xfe\xff", "A table of patients cannot be read in {}: found no CSV in UTF-8, wanted "
         "CSV with the columns case and patient; correct --patients."),
        (b"case,who\na,b\n", "A table of patients lacks a column or rows in {}: found case, who, "
         "wanted case, patient; add what is missing."),
        (b"case,patient\na,anna\nb,cleo\na,anna\na,bert\n", "A table of patients gives a case to "
         "two patients in {}: found rows of a that differ, wanted one patient a case; leave the "
         "wrong row out."),
        (b"case,patient\n", "A table of patients lacks a column or rows in {}: found no row, "
         "wanted case, patient; add what is missing."),
    ],
)  # fmt: skip
def test_a_table_that_is_none(tmp_path, content, text):
    table = tmp_path / "patients.csv"
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_patients(table)
    assert str(error.value) == text.format(table)


def test_flags_become_options(tmp_path):
    (tmp_path / "p.csv").write_text("case,patient\na,b\n")
    options = parse_options("lits", "stored", "5, .7,.6", str(tmp_path / "p.csv"), debug=True)
    assert (options.protocol, options.geometry) == ("lits", "stored")
    assert options.find_spacing("a", 3) == (5.0, 0.7, 0.6)
    assert options.find_patient("a") == "b"
    plain = parse_options("corrected", "checked", None, None)
    assert plain == ScoringOptions(given={"protocol": "corrected", "geometry": "checked"})
    assert options.given["spacing_mm"] == "5, .7,.6" and plain.cases == ()


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("x", "checked", None, None), "A scoring protocol is unknown: found 'x'"),
        (("lits", "x", None, None), "--geometry cannot be read: found 'x', wanted checked or "),
        (("lits", "stored", "5,1", None), "--spacing-mm cannot be read: found '5,1', wanted three"),
        (("lits", "stored", "5,1,0", None), "--spacing-mm cannot be read: found '5,1,0'"),
        (("lits", "stored", "5,1,nan", None), "--spacing-mm cannot be read"),
    ],
)
def test_flags_that_cannot_be_read(flags, text):
    with pytest.raises(RecipeError) as error:
        parse_options(*flags)
    assert str(error.value).startswith(text)
