import shutil

import numpy as np
import pytest

from lesionkeras.ct.scan_print import ScanPrint
from lesionkeras.errors import DataError
from tests.tfds_builders.made_scans import make_affine, write_lits, write_nifti
from tfds_builders import open_builder
from tfds_builders.verify import list_verifiable, open_verifier, verify
from tfds_builders.verify_scans import decode_print, encode_print


@pytest.fixture
def raw(tmp_path):
    for number in (2, 4):
        write_lits(tmp_path / "raw", number)
    return tmp_path / "raw"


def run(raw, tmp_path, name="lits", config="slices"):
    verifier = open_verifier(name, config, raw)
    return verify(verifier, tmp_path, tmp_path / "checked.jsonl", lambda done, total: None)


def find(findings, severity):
    return {(f.name, f.where): f.text for f in findings if f.severity == severity}


def test_clean_scans_have_no_errors(raw, tmp_path):
    findings = run(raw, tmp_path)
    assert not find(findings, "error")
    notes = find(findings, "note")
    assert notes["contents", "the folder"] == "2 of 131 training volumes"
    assert notes["volume", "volume-2"].startswith("liver ")
    # Livers as small as a fist are worth a look.
    assert (
        "ml of liver, wanted 500 to 6000" in find(findings, "warning")["liver-volume", "volume-2"]
    )


def test_every_wrong_scan_is_found_and_what_is_corrected_is_said(raw, tmp_path):
    cut = raw / "volume-2.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-3000])
    image, mask = raw / "volume-4.nii.gz", raw / "segmentation-4.nii.gz"
    shutil.copy(image, raw / "volume-5.nii.gz")
    shutil.copy(mask, raw / "segmentation-5.nii.gz")
    write_nifti(raw / "segmentation-4.nii.gz", np.ones((4, 5, 6), np.uint8), make_affine())
    findings = run(raw, tmp_path)
    errors = find(findings, "error")
    assert set(errors) == {("truncated", "volume-2"), ("shape-mismatch", "volume-4")}
    assert "volume-2.nii.gz" in errors["truncated", "volume-2"]


@pytest.mark.parametrize("target", ["not-fetched", "volume-4.nii.gz"], ids=["annex", "loop"])
def test_a_link_to_nothing_is_its_cases_error(raw, tmp_path, target):
    (raw / "volume-4.nii.gz").unlink()
    (raw / "volume-4.nii.gz").symlink_to(target)
    errors = find(run(raw, tmp_path), "error")
    assert [where for _, where in errors] == ["volume-4"]
    assert "volume-4.nii.gz" in next(iter(errors.values()))
    with pytest.raises(DataError) as error:
        open_builder("lits", "slices", tmp_path / "prepared", raw, False)
    assert str(error.value).replace(str(raw), "RAW") == (
        "A raw file cannot be read in RAW/volume-4.nii.gz: found a link to nothing; copy or fetch "
        "the file, or take it away with its partner."
    )


def test_a_report_does_not_say_where_the_data_lie(raw, tmp_path):
    (raw / "volume-4.nii.gz").write_bytes(b"no scan")
    findings = run(raw, tmp_path)
    assert find(findings, "error")["unknown-format", "volume-4"].startswith(
        "A file is not NIfTI in volume-4.nii.gz: "
    )
    assert str(raw) not in (tmp_path / "checked.jsonl").read_text()
    assert not [finding for finding in findings if str(raw) in finding.text]


def test_copies_go_to_one_split(raw, tmp_path):
    shutil.copy(raw / "volume-4.nii.gz", raw / "volume-5.nii.gz")
    shutil.copy(raw / "segmentation-4.nii.gz", raw / "segmentation-5.nii.gz")
    text = find(run(raw, tmp_path), "corrected")["same-patient", "volume-5"]
    assert text.startswith("one patient with volume-4: similarity 1.00, ")
    assert text.endswith("slices are the same; both go to one split")


def test_print_survives_the_notebook():
    slices = frozenset({b"\0\1\0", b"ab\0"})  # zeros at an end are part of a hash
    shown = ScanPrint(np.arange(-60, 60, dtype=np.int8).reshape(4, 5, 6), slices)
    back = decode_print(encode_print(shown))
    np.testing.assert_array_equal(back.detail, shown.detail)
    assert back.detail.dtype == np.int8 and back.slices == slices


def test_scans_are_no_boxes(raw, tmp_path):
    assert {"lits", "ircadb01", "folder", "deeplesion"} <= set(list_verifiable())
    with pytest.raises(DataError, match="LiTS' data are not there"):
        open_verifier("lits", "slices", tmp_path / "nowhere")


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "pairs"),
    [("lits", {("volume-1", "volume-0"), ("volume-7", "volume-6")}), ("ircadb01", set())],
)
def test_real_data_have_no_errors_and_the_known_pairs(real_data, tmp_path, name, pairs):
    findings = run(real_data / name, tmp_path, name)
    assert not find(findings, "error")
    same = [f for f in findings if f.name == "same-patient"]
    assert {(f.where, f.text.split()[3].rstrip(":")) for f in same} == pairs
