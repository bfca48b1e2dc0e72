"""What stands in a source file about a person reaches no record, log, cache, notebook or report."""

import logging

import pydicom
import pytest

from experiments import verify
from lesionkeras.ct.findings import CtError
from lesionkeras.ct.reading import read_volume
from tests.tfds_builders.made_scans import write_ircadb01
from tfds_builders import open_builder

NAME, PATIENT_ID, BIRTH, STORED_PATH = "QUIXOTESON", "PID-7719", "19310704", "HIDDEN_WARD"
SECRETS = [text.encode() for text in (NAME, PATIENT_ID, BIRTH, STORED_PATH)]


def plant(path):
    ds = pydicom.dcmread(path)
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"{NAME}^A", PATIENT_ID, BIRTH
    ds.ImageComments = ds.StudyDescription = ds.SeriesDescription = f"{NAME} {PATIENT_ID} {BIRTH}"
    item = pydicom.Dataset()
    item.ReferencedFileID = ["ARCHIVE", STORED_PATH]
    ds.ReferencedImageSequence = [item]
    ds.save_as(path)


@pytest.fixture
def raw(tmp_path):
    write_ircadb01(tmp_path / "raw", 3)
    for path in (tmp_path / "raw").rglob("image_*"):
        plant(path)
    return tmp_path / "raw"


def find_secrets(folder):
    found = []
    for path in folder.rglob("*"):
        data = path.name.encode() + (path.read_bytes() if path.is_file() else b"")
        found += [(path.name, secret) for secret in SECRETS if secret in data]
    return found


def test_nobody_is_named(raw, tmp_path, caplog, capfd, monkeypatch):
    assert len(find_secrets(raw)) > 4 * 20  # they are planted
    caplog.set_level(logging.DEBUG)
    for config in ("slices", "volumes"):
        open_builder("ircadb01", config, tmp_path / "prepared", raw)
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", "ircadb01", "--data-dir", str(raw), "--out", str(tmp_path / "out")]
    verify.main(arguments)
    for folder in ("prepared", "out"):
        assert find_secrets(tmp_path / folder) == []
        assert any((tmp_path / folder).rglob("*"))
    volume = read_volume(raw / "3Dircadb1.3" / "PATIENT_DICOM")
    said = "".join([caplog.text, *capfd.readouterr(), repr(volume.source)]).encode()
    assert said and not [secret for secret in SECRETS if secret in said]


def test_uids_to_choose_by_are_shown_and_never_kept(raw, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    case = raw / "3Dircadb1.3" / "PATIENT_DICOM"
    uids = ["1.2.826.0.1.7719.1", "1.2.826.0.1.7719.2"]
    for number, path in enumerate(sorted(path for path in case.rglob("*") if path.is_file())):
        ds = pydicom.dcmread(path)
        ds.SeriesInstanceUID = uids[number % 2]
        ds.save_as(path)
    with pytest.raises(CtError, match="more than one series") as error:
        open_builder("ircadb01", "slices", tmp_path / "prepared", raw)
    assert error.value.name == "several-series"
    assert all(uid in str(error.value) for uid in uids)  # what the terminal shows
    with pytest.raises(SystemExit):
        verify.main(["--data", "ircadb01", "--data-dir", str(raw), "--out", str(tmp_path / "out")])
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert {"findings.json", "report.html", "checked.jsonl"} <= set(written)
    for text in (*written.values(), caplog.text, *capfd.readouterr()):
        assert not any(uid in text for uid in uids)
    assert "more than one series" in written["findings.json"]
    assert not (tmp_path / "prepared").exists()
