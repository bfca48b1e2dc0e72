"""Nothing that tells who a patient is leaves a file: planted in every source, looked for all over.

Each class of defect and clean files are read with a name, an ID, a birth date and a path planted in
every file; then logs at DEBUG, warnings, stdout, stderr, errors with their causes, corrections and
the files that `write_volume` writes are searched.
"""

import gzip
import logging
import traceback
import warnings

import pytest
from pydicom.dataset import Dataset

from lesionkeras.ct.reading import read_volume, write_volume
from lesionkeras.errors import DataError
from tests.ct.defects import dicom_files, nifti_files
from tests.ct.defects.clean import CLEAN
from tests.ct.defects.outcomes import limited, made, without_rights
from tests.ct.defects.table import DEFECTS, GROUPS

NAME, PATIENT_ID, BIRTH, PATH = "QUIXOTESON", "PID-7719", "19310704", "/ARCHIVE/HIDDEN_WARD/P1"
SECRETS = (NAME, PATIENT_ID, BIRTH, "HIDDEN_WARD")
CLASSES = [name for name in DEFECTS if name not in GROUPS["PNG"]]
TEXTS = (
    "ImageComments",
    "StudyDescription",
    "SeriesDescription",
    "InstitutionName",
    "PatientComments",
    "ProtocolName",
    "StudyID",
    "AccessionNumber",
    "RequestedProcedureDescription",
    "DerivationDescription",
)


def plant(ds: Dataset) -> None:
    ds.PatientName = f"{NAME}^Alonso"
    ds.PatientID = PATIENT_ID + str(ds.get("PatientID", ""))  # two patients stay two
    ds.OtherPatientIDs, ds.PatientBirthDate = [PATIENT_ID, "x"], BIRTH
    ds.ReferringPhysicianName = ds.OperatorsName = f"{NAME}^Doctor"
    for keyword in TEXTS:
        setattr(ds, keyword, f"{NAME} {PATIENT_ID} {BIRTH} {PATH}"[: 16 if "ID" in keyword else 64])
    item = Dataset()
    item.PatientID, item.ReferencedFileID = PATIENT_ID, PATH.split("/")[1:]
    ds.OtherPatientIDsSequence = [item]
    block = ds.private_block(0x0021, "PLANTED", create=True)
    block.add_new(0x01, "LO", NAME)
    block.add_new(0x02, "UN", f"{PATIENT_ID} {PATH} ".encode())


@pytest.fixture
def planted(monkeypatch):
    write_encoded, to_bytes = dicom_files.write_encoded, nifti_files.Nifti.to_bytes

    def write(ds, path, syntax):
        plant(ds)
        write_encoded(ds, path, syntax)

    def pack(file):
        texts = {"descrip": NAME + BIRTH, "aux_file": PATH, "db_name": PATIENT_ID}
        texts |= {"intent_name": PATIENT_ID, "data_type": NAME}
        for field in set(texts) & set(file.header.dtype.names):
            file.header[field] = texts[field].encode()
        return to_bytes(file)

    monkeypatch.setattr(dicom_files, "write_encoded", write)
    monkeypatch.setattr(nifti_files.Nifti, "to_bytes", pack)


def read_and_say(case, folder) -> str:
    """Return all that reading and writing an instance says or writes."""
    try:
        with without_rights(case.locked), limited():
            volume = read_volume(case.path, **case.options)
    except DataError as error:
        # The names of files and folders are the user's; these are not under test here.
        return repr(error) + "".join(traceback.format_exception(error))
    written = folder / "written.nii.gz"
    write_volume(written, volume)
    content = gzip.decompress(written.read_bytes()).decode("latin-1")
    return " ".join([repr(volume.source), *map(str, volume.corrections), content])


def find_secrets(defect, name, seed, capfd, caplog, tmp_path) -> list[str]:
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned, made(defect, name, seed) as case:
        warnings.simplefilter("always")
        caplog.clear()  # of what pydicom said of the texts when they were written
        capfd.readouterr()
        said = read_and_say(case, tmp_path)
    said += "".join(capfd.readouterr()) + caplog.text + " ".join(str(w.message) for w in warned)
    return [secret for secret in SECRETS if secret in said]


@pytest.mark.parametrize("name", CLASSES)
def test_no_patient_is_named_by_a_defect(name, planted, capfd, caplog, tmp_path):
    assert find_secrets(DEFECTS[name], name, 0, capfd, caplog, tmp_path) == []


@pytest.mark.parametrize("seed", range(12))
def test_no_patient_is_named_by_a_clean_file(seed, planted, capfd, caplog, tmp_path):
    assert find_secrets(CLEAN, "clean", seed, capfd, caplog, tmp_path) == []


def test_secrets_are_planted(planted, tmp_path):
    for name in ("truncated", "bytes after the data"):
        with made(DEFECTS[name], name, 1) as case:
            files = [case.path, *case.path.rglob("*")]
            data = b"".join(path.read_bytes() for path in files if path.is_file())
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        assert all(secret.encode() in data for secret in SECRETS), name
