import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lesionkeras.ct.findings import CtError
from lesionkeras.ct.png16 import to_hu
from lesionkeras.errors import DataError
from tests.tfds_builders.harness import check_prepared, decode, read_boxes_px
from tests.tfds_builders.made_scans import (
    LESIONS,
    SHAPE,
    SPACING_MM,
    make_abdomen,
    write_dicom,
    write_ircadb01,
)
from tfds_builders import open_builder
from tfds_builders.ircadb01.ircadb01_dataset_builder import Builder
from tfds_builders.ircadb01.layout import list_cases
from tfds_builders.ircadb01.reading import group_masks, read_case
from tfds_builders.lits.patients import find_patient


def pack(folder: Path) -> None:
    """A folder to an archive of it beside it, as the publishers pack it."""
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for path in sorted(folder.rglob("image_*")):
            archive.write(path, path.relative_to(folder.parent))
    shutil.rmtree(folder)


def write_raw(folder: Path) -> Path:
    """Cases 1 (archives), 2 (no tumour), 12 (one folder deeper, one mask of all tumours)."""
    write_ircadb01(folder, 1)
    for part in ("PATIENT_DICOM", "MASKS_DICOM"):
        pack(folder / "3Dircadb1.1" / part)
    write_ircadb01(folder, 2, names=(), lesions=())
    write_ircadb01(folder / "3Dircadb1.12", 12, names=("livertumors",), lesions=LESIONS[:1])
    return folder


class TestIrcadb01(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own test case; it wants the same numbers of every config, so it sees one."""

    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ("volumes",)
    SPLITS = {"train": 1, "validation": 1, "test": 1}  # noqa: RUF012

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.EXAMPLE_DIR = str(write_raw(Path(cls.folder.name)))
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.folder.cleanup()


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture
def one(tmp_path):
    """A folder with case 5, unpacked."""
    write_ircadb01(tmp_path, 5)
    return tmp_path


def read(folder):
    (case,) = list_cases(folder)
    return read_case(case, case.patient)


def refuse(folder) -> CtError:
    with pytest.raises(CtError) as error:
        read(folder)
    return error.value


def test_slices(tmp_path, raw):
    splits = check_prepared(open_builder("ircadb01", "slices", tmp_path, raw, False))
    assert {len({e["patient"] for e in it}) for it in splits.values()} == {1}
    examples = {e["file"].decode(): e for it in splits.values() for e in it}
    assert sorted(examples) == [
        f"3Dircadb1.{number}/{z:04d}" for number in (1, 12, 2) for z in range(SHAPE[0])
    ]
    z1, _, y1, y2, x1, x2 = LESIONS[0]
    for number in (1, 12):
        example = examples[f"3Dircadb1.{number}/{z1:04d}"]
        assert example["patient"] == f"ircadb01_{number:02d}".encode()
        np.testing.assert_allclose(read_boxes_px(example), [[x1, y1, x2, y2]], atol=1e-4)
        image, mask = make_abdomen(number, lesions=LESIONS if number == 1 else LESIONS[:1])
        np.testing.assert_array_equal(to_hu(decode(example["png_key"])), image[z1])
        np.testing.assert_array_equal(decode(example["mask_png"]), mask[z1])
        np.testing.assert_allclose(example["spacing_mm"], SPACING_MM, rtol=1e-5)
    assert not any(len(e["lesions"]["label"]) for f, e in examples.items() if ".2/" in f)


def test_masks_of_the_liver_are_joined(one):
    scan = read(one)
    image, mask = make_abdomen(5)
    np.testing.assert_array_equal(scan.image.array, image)
    np.testing.assert_array_equal(scan.mask.array, mask)
    assert scan.mask.array.dtype == np.uint8
    np.testing.assert_array_equal(scan.mask.affine, scan.image.affine)
    assert scan.corrections[-1] == "labels-merged: 2 masks of tumours became label 2"


def test_tumour_outside_the_livers_mask_is_liver_too(one):
    _, mask = make_abdomen(5)
    write_dicom(one / "3Dircadb1.5" / "MASKS_DICOM" / "liver", mask == 1, mask=True)
    np.testing.assert_array_equal(read(one).mask.array, mask)


@pytest.mark.parametrize(
    "name", ["livercyst", "liverkyst", "liverkyste", "LiverCysts", "livercyst01"]
)
def test_cysts_stay_liver(one, name):
    _, mask = make_abdomen(5)
    cyst = np.zeros(SHAPE, bool)
    cyst[8:10, 20:23, 20:24] = True
    write_dicom(one / "3Dircadb1.5" / "MASKS_DICOM" / name, cyst & (mask == 1), mask=True)
    scan = read(one)
    np.testing.assert_array_equal(scan.mask.array, mask)
    assert scan.corrections[-1].endswith("label 2, 1 of cysts stayed liver")


def test_spellings_of_tumours(one):
    (case,) = list_cases(one)
    tumours = ["livertumor", "livertumors", "livertumor1", "livertumor07", "LiverTumour_2"]
    others = ["liverkyste", "tumor", "metastasectomie", "leftsurretumor", "rightkidney", "Stones"]
    groups = group_masks([f"M/{name}" for name in ["liver", *tumours, *others]], case)
    assert groups["tumour"] == sorted(f"M/{name}" for name in tumours)
    assert (groups["liver"], groups["cyst"]) == (["M/liver"], ["M/liverkyste"])


def test_unknown_names_after_the_liver_are_refused(one):
    masks = one / "3Dircadb1.5" / "MASKS_DICOM"
    (masks / "livertumor01").rename(masks / "liverthing")
    error = refuse(one)
    assert error.name == "bad-label"
    assert str(error).replace(str(one), "RAW") == (
        "Masks of the liver cannot be told apart in RAW/3Dircadb1.5/MASKS_DICOM: found a mask "
        "'liverthing', wanted one 'liver', and 'livertumor...' and 'livercyst...' where there are "
        "any; rename it, or move it away."
    )
    shutil.rmtree(masks / "liverthing")
    shutil.rmtree(masks / "liver")
    assert "found 0 masks of the liver" in str(refuse(one))


def test_masks_elsewhere_are_refused(one):
    masks = one / "3Dircadb1.5" / "MASKS_DICOM"
    shutil.rmtree(masks / "livertumor01")
    _, mask = make_abdomen(5)
    write_dicom(masks / "livertumor01", mask == 2, (1.75, 1.5, 1.3), mask=True)
    assert refuse(one).name == "affine-mismatch"
    shutil.rmtree(masks / "livertumor01")
    write_dicom(masks / "livertumor01", (mask == 2)[:-1], mask=True)
    assert refuse(one).name == "shape-mismatch"


@pytest.mark.parametrize("axes", [(0,), (1,), (2,)])
def test_a_mirrored_liver_is_refused(one, axes):
    masks = one / "3Dircadb1.5" / "MASKS_DICOM"
    _, mask = make_abdomen(5)
    for path in masks.glob("livertumor*"):
        shutil.rmtree(path)
    write_dicom(masks / "liver", np.flip(mask > 0, axes), mask=True)
    error = refuse(one)
    assert error.name == "affine-mismatch" and "a mirrored liver" in str(error)
    write_dicom(masks / "liver", mask * 0, mask=True)
    assert "an empty mask of the liver" in str(refuse(one))


def say(tmp_path, raw) -> str:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as error:
        open_builder("ircadb01", "slices", tmp_path / "prepared", raw, False)
    assert sorted(tmp_path.rglob("*")) == before
    return str(error.value).replace(str(raw), "RAW")


TREE = (
    "wanted RAW/3Dircadb1.1/PATIENT_DICOM and RAW/3Dircadb1.1/MASKS_DICOM, as folders or .zip, and "
    "so on up to 3Dircadb1.20; "
)


def test_no_data(tmp_path):
    assert say(tmp_path, None) == (
        "3D-IRCADb-01 needs its raw data: found no data folder, "
        + TREE.replace("RAW", "DATA_DIR")
        + "give --data-dir DATA_DIR (tfds build: --manual_dir DATA_DIR)."
    )
    folder = tmp_path / "raw"
    start, end = (
        "3D-IRCADb-01's data are not there in RAW: found ",
        "give the folder that holds them.",
    )
    assert say(tmp_path, folder) == f"{start}no such folder, {TREE}{end}"
    folder.mkdir()
    assert say(tmp_path, folder) == f"{start}no case, {TREE}{end}"
    (folder / "3Dircadb1.4.zip").touch()
    assert say(tmp_path, folder) == f"{start}no case, {TREE}unpack 3Dircadb1.4.zip."


def test_half_a_case_and_two_of_one(tmp_path, one):
    masks = one / "3Dircadb1.5" / "MASKS_DICOM"
    masks.rename(one / "kept")
    assert "found no MASKS_DICOM" in say(tmp_path, one)
    (one / "kept").rename(masks)
    shutil.copytree(one / "3Dircadb1.5", one / "again" / "3Dircadb1.5")
    assert say(tmp_path, one) == (
        "Case 5 is there twice in RAW: found 3Dircadb1.5/PATIENT_DICOM and "
        "again/3Dircadb1.5/PATIENT_DICOM, wanted one folder; remove or move one of them."
    )
    shutil.rmtree(one / "again")
    (one / "3Dircadb1.5").rename(one / "five")
    assert "found a folder without a number" in say(tmp_path, one)


def test_a_folder_of_one_case(one):
    (case,) = list_cases(one / "3Dircadb1.5")
    assert (case.number, case.name, case.patient) == (5, "3Dircadb1.5", "ircadb01_05")


def test_patients_are_those_of_lits(raw):
    patients = Builder.index_raw(raw, "slices").find_patients()
    assert patients["3Dircadb1.1"] == find_patient(28)
    assert patients["3Dircadb1.12"] == find_patient(39)


@pytest.mark.real
def test_real_volumes(tmp_path, real_data):
    builder = open_builder("ircadb01", "volumes", tmp_path, real_data / "ircadb01", False)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 1}
    (example,) = builder.as_dataset(split="train").as_numpy_iterator()
    image_hu, mask = example["image_hu"], example["mask"]
    assert image_hu.shape == mask.shape == (129, 512, 512)
    voxel_ml = np.prod(example["spacing_mm"].astype(np.float64)) / 1000
    assert (mask > 0).sum() * voxel_ml == pytest.approx(1489, rel=0.01)
    assert (mask == 2).sum() * voxel_ml == pytest.approx(111, rel=0.01)
    assert 60 <= np.median(image_hu[mask == 1]) <= 160
    assert np.median(image_hu[mask == 2]) < np.median(image_hu[mask == 1])
    np.testing.assert_allclose(example["spacing_mm"], [1.6, 0.57, 0.57], rtol=1e-5)
    assert example["patient"] == b"ircadb01_01"
    assert b"7 masks of tumours became label 2, 1 of cysts stayed liver" in example["corrections"]


def test_a_tumour_whose_files_were_not_copied_is_refused(tmp_path):
    write_ircadb01(tmp_path, 3)
    masks = tmp_path / "3Dircadb1.3" / "MASKS_DICOM"
    (masks / "skin").mkdir()  # another organ's does not matter
    (case,) = list_cases(tmp_path)
    assert (read_case(case, "").mask.array == 2).any()
    (masks / "livertumor03").mkdir()
    with pytest.raises(CtError) as error:
        read_case(case, "")
    assert error.value.name == "empty-folder" and "livertumor03" in str(error.value)
