import pickle
import shutil
import tempfile
from functools import partial
from pathlib import Path

import nibabel
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
    make_affine,
    to_stored,
    write_lits,
    write_nifti,
)
from tfds_builders import open_builder
from tfds_builders.lits.ircadb import FIRST_VOLUME, PUBLISHED, find_case, find_spacing_mm
from tfds_builders.lits.layout import list_cases
from tfds_builders.lits.lits_dataset_builder import Builder
from tfds_builders.lits.patients import GROUPS, find_patient, name_patients
from tfds_builders.lits.reading import read_case


def write_raw(folder: Path) -> Path:
    """Volumes 1 (of patient 0), 4 without lesion, 9 as .nii, in batches."""
    write_lits(folder / "Training Batch 1", 1)
    write_lits(folder / "Training Batch 1" / "media" / "nas", 4, lesions=())
    write_lits(folder / "Training Batch 2", 9, suffix=".nii")
    return folder


class TestLits(tfds.testing.DatasetBuilderTestCase):
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


@pytest.fixture
def raw(tmp_path):
    return write_raw(tmp_path / "raw")


@pytest.fixture(scope="module")
def shared_raw(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def splits(tmp_path_factory, shared_raw):
    builder = open_builder("lits", "slices", tmp_path_factory.mktemp("p"), shared_raw, False)
    return check_prepared(builder)


@pytest.fixture(scope="module")
def prepared(splits):
    return {e["file"].decode(): e for examples in splits.values() for e in examples}


def say(tmp_path, raw, config="slices") -> str:
    """The error's text; nothing may have been written."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as error:
        open_builder("lits", config, tmp_path / "prepared", raw, False)
    assert sorted(tmp_path.rglob("*")) == before
    return str(error.value).replace(str(raw), "RAW")


def test_every_slice_of_every_volume_is_there_once(prepared):
    assert sorted(prepared) == [
        f"volume-{number}/{z:04d}" for number in (1, 4, 9) for z in range(SHAPE[0])
    ]


def test_detectors_and_segmenters_read_it(tmp_path, shared_raw, splits):
    from lesionkeras.config import DataConfig, SegmentationDataConfig
    from lesionkeras.data.prepared import prepare
    from lesionkeras.data.slices import prepare_slices

    builder = open_builder("lits", "slices", tmp_path, shared_raw, False)
    name = next(s for s, it in splits.items() if it[0]["volume"] == b"volume-9")
    images = prepare(builder, name, DataConfig(image_size_px=96))
    z1, _, y1, y2, x1, x2 = LESIONS[0]
    row = images.files.index(f"volume-9/{z1:04d}")
    scale = [96 / SHAPE[2], 96 / SHAPE[1]] * 2
    np.testing.assert_allclose(images.real_boxes(row), [[x1, y1, x2, y2]] * np.array(scale))
    slices = prepare_slices(builder, name, SegmentationDataConfig(image_size_px=96))
    row = slices.files.index(f"volume-9/{z1:04d}")
    assert slices.volumes[row] == "volume-9" and slices.numbers[row] == z1
    assert slices.has_lesion[row] and slices.has_liver[row]
    inside = slices.masks[row][
        round(y1 * 2) + 1 : y2 * 2 - 1, round(x1 * 1.5) + 1 : int(x2 * 1.5) - 1
    ]
    assert np.all(inside == 2)


def test_one_lesion_from_voxel_to_box(prepared, shared_raw):
    path = shared_raw / "Training Batch 2" / "segmentation-9.nii"
    stored = np.asarray(nibabel.load(path).dataobj)
    assert stored.shape == SHAPE[::-1]  # i, j, k; LAS: i to the left, j to ventral, k to cranial
    i, j, k = (int(places[0]) for places in np.nonzero(stored == 2))
    example = prepared[f"volume-9/{k:04d}"]
    (box,) = read_boxes_px(example)
    z1, z2, y1, y2, x1, x2 = LESIONS[0]
    np.testing.assert_allclose(box, [x1, y1, x2, y2], atol=1e-4)
    row, column = SHAPE[1] - 1 - j, i
    assert y1 <= row < y2 and x1 <= column < x2 and z1 <= k < z2
    assert decode(example["mask_png"])[row, column] == 2
    image = np.asarray(nibabel.load(path.with_name("volume-9.nii")).dataobj)
    assert to_hu(decode(example["png_key"]))[row, column] == image[i, j, k]


def test_slices_hold_their_neighbours(prepared):
    for z in range(SHAPE[0]):
        example = prepared[f"volume-1/{z:04d}"]
        assert (example["slice"], example["num_slices"]) == (z, SHAPE[0])
        for name, step in (("png_previous", -1), ("png_next", 1)):
            other = prepared.get(f"volume-1/{z + step:04d}")
            assert example[name] == (other["png_key"] if other else b"")


def test_facts_of_a_slice(prepared):
    example = prepared["volume-1/0007"]
    np.testing.assert_allclose(example["spacing_mm"], SPACING_MM, rtol=1e-6)
    mask = decode(example["mask_png"])
    assert (example["liver_px"], example["lesion_px"]) == ((mask > 0).sum(), (mask == 2).sum())
    assert example["lesion_px"] == 6 * 7  # 6 rows, 7 columns of the first lesion
    assert (example["patient"], example["volume"]) == (b"lits_000", b"volume-1")
    assert example["corrections"] == b""
    empty = prepared["volume-4/0007"]
    assert empty["lesion_px"] == 0 < empty["liver_px"] and len(empty["lesions"]["label"]) == 0


def test_corrections_are_in_the_records_and_counted(tmp_path, raw):
    mask = write_lits(raw / "Training Batch 2", 9, suffix=".nii")[1]
    path = raw / "Training Batch 2" / "segmentation-9.nii"
    write_nifti(path, to_stored(mask).astype(np.float32), np.eye(4))
    builder = open_builder("lits", "volumes", tmp_path / "prepared", raw, False)
    found = {
        example["volume"].decode(): example["corrections"].decode()
        for split in builder.info.splits
        for example in builder.as_dataset(split=split).as_numpy_iterator()
    }
    assert found["volume-1"] == found["volume-4"] == ""
    first, second = found["volume-9"].split("; ")
    assert first == "mask-to-uint8: labels were stored as float32"
    assert second.startswith("mask-affine-from-image: ")
    again = tfds.builder_from_directory(str(builder.data_path))
    assert again.info.metadata["corrections"] == {"mask-affine-from-image": 1, "mask-to-uint8": 1}
    assert again.info.metadata["patients"] == {
        "volume-1": "lits_000",
        "volume-4": "lits_004",
        "volume-9": "lits_009",
    }


def test_volumes(tmp_path, shared_raw):
    builder = open_builder("lits", "volumes", tmp_path, shared_raw, False)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }
    for split in builder.info.splits:
        (example,) = builder.as_dataset(split=split).as_numpy_iterator()
        name = example["volume"].decode()
        case = next(case for case in list_cases(shared_raw).cases if case.name == name)
        scan = read_case(case, "")
        np.testing.assert_array_equal(example["image_hu"], scan.image.array)
        np.testing.assert_array_equal(example["mask"], scan.mask.array)
        assert example["image_hu"].dtype == np.int16 and example["mask"].dtype == np.uint8
        np.testing.assert_array_equal(example["affine"], scan.image.affine)
        np.testing.assert_allclose(example["spacing_mm"], SPACING_MM, rtol=1e-6)
        assert example["source_code"] == b"LAS"


def test_cases_can_be_shared_among_processes(shared_raw, prepared):
    raw = Builder.index_raw(shared_raw, "slices")
    patients = raw.find_patients()
    make = pickle.loads(pickle.dumps(partial(Builder.make_examples, config="slices")))
    for case in raw.cases:
        pair = pickle.loads(pickle.dumps((case, patients[case.name])))
        for key, example in make(pair):
            wanted = prepared[key]
            assert example["png_next"] == wanted["png_next"]
            assert example["mask_png"] == wanted["mask_png"]
            assert example["patient"].encode() == wanted["patient"]
            assert len(example["lesions"]) == len(wanted["lesions"]["label"])


def test_scans_of_one_patient_share_the_split(tmp_path, shared_raw):
    folder = tmp_path / "raw"
    shutil.copytree(shared_raw, folder)
    batch = folder / "Training Batch 1"
    write_lits(batch, 0)  # known: 0 and 1
    write_lits(batch, 12, seed=9)  # found: the content of 9
    patients = Builder.index_raw(folder, "slices").find_patients()
    assert patients["volume-0"] == patients["volume-1"] == "lits_000"
    assert patients["volume-12"] == patients["volume-9"] == "lits_009"
    assert patients["volume-4"] == "lits_004"


def test_raw_is_surveyed_once_while_it_stays_the_same(raw, monkeypatch):
    from tfds_builders.lits import lits_dataset_builder

    seen = []

    def count(case, patient):
        seen.append(case.name)
        return read_case(case, patient)

    monkeypatch.setattr(lits_dataset_builder, "read_case", count)
    index = Builder.index_raw(raw, "slices")
    index.check()
    assert index.num_images == 3 * SHAPE[0] and len(seen) == 3
    Builder.index_raw(raw, "volumes").check()
    assert len(seen) == 3
    write_lits(raw / "Training Batch 2", 9, seed=8, suffix=".nii", lesions=())
    Builder.index_raw(raw, "slices").check()
    assert len(seen) == 6


def test_what_is_said(tmp_path, raw, capsys):
    shutil.copy(raw / "Training Batch 2" / "volume-9.nii", raw / "test-volume-3.nii")
    open_builder("lits", "slices", tmp_path / "p", raw)
    line = capsys.readouterr().out.strip().splitlines()[-1]
    (folder,) = (tmp_path / "p").iterdir()
    assert line == (
        f"lits/slices: 60 images (20 train, 20 validation, 20 test) prepared in {folder}; "
        "3 of 131 training volumes; 1 test volumes without masks: left out"
    )


TREE = (
    "wanted RAW/volume-0.nii with RAW/segmentation-0.nii and so on up to 130, .nii or .nii.gz, or "
    "the same in folders such as 'RAW/Training Batch 1'; "
)


def test_no_data(tmp_path, raw):
    assert say(tmp_path, None) == (
        "LiTS needs its raw data: found no data folder, "
        + TREE.replace("RAW", "DATA_DIR")
        + "give --data-dir DATA_DIR (tfds build: --manual_dir DATA_DIR)."
    )
    empty = tmp_path / "raw2"
    start = f"LiTS' data are not there in {empty}: found "
    tree = TREE.replace("RAW", str(empty))
    end = f"{tree}give the folder that holds them."
    assert say(tmp_path, empty) == (start + "no such folder, " + end).replace(str(empty), "RAW")
    (empty / "lits").mkdir(parents=True)
    text = say(tmp_path, empty)
    assert text.startswith("LiTS' data are not there in RAW: found no file volume-N.nii or")
    assert text.endswith("try --data-dir RAW/lits.")
    (empty / "test-volume-0.nii").touch()
    assert "found 1 test volumes only" in say(tmp_path, empty)


def test_half_a_pair_and_two_of_one(tmp_path, raw):
    mask = raw / "Training Batch 2" / "segmentation-9.nii"
    data = mask.read_bytes()
    mask.unlink()
    assert say(tmp_path, raw) == (
        "segmentation-9 is missing in RAW: found Training Batch 2/volume-9.nii without it, wanted "
        "a pair of volume and segmentation; copy segmentation-9.nii there, or remove its partner."
    )
    mask.write_bytes(data)
    (raw / "Training Batch 1" / "segmentation-9.nii.gz").write_bytes(b"")
    assert say(tmp_path, raw) == (
        "segmentation-9 is there twice in RAW: found Training Batch 1/segmentation-9.nii.gz and "
        "Training Batch 2/segmentation-9.nii, wanted one file; remove or move one of them."
    )


def test_other_files_and_links_are_passed_over(raw):
    (raw / "._volume-9.nii").write_bytes(b"a Mac's")
    (raw / "volume-9.nii.part").write_bytes(b"half")
    (raw / "circle").symlink_to(raw, target_is_directory=True)
    assert [case.number for case in list_cases(raw).cases] == [1, 4, 9]


@pytest.mark.parametrize("config", ["slices", "volumes"])
def test_a_bad_scan_leaves_nothing(tmp_path, raw, config):
    path = raw / "Training Batch 2" / "volume-9.nii"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "RAW/Training Batch 2/volume-9.nii" in say(tmp_path, raw, config)
    mask = write_lits(raw / "Training Batch 2", 9, suffix=".nii")[1]
    mask[0, 0, 0] = 9
    write_nifti(path.with_name("segmentation-9.nii"), to_stored(mask), make_affine())
    assert "found 1 voxels of 9" in say(tmp_path, raw, config)


def test_instructions_show_the_tree():
    text = Builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    assert "Training Batch 1/\n        volume-0.nii\n        segmentation-0.nii" in text


def test_patients():
    assert [find_patient(number) for number in (0, 1, 6, 7)] == ["lits_000"] * 2 + ["lits_006"] * 2
    assert find_patient(27) == "lits_027" and find_patient(48) == "lits_048"
    assert len({find_patient(number) for number in range(131)}) == 131 - len(GROUPS)
    assert name_patients([{3}, {130, 46}]) == {
        3: "lits_003",
        46: "ircadb01_19",
        130: "ircadb01_19",
    }


def test_published_voxels():
    assert (FIRST_VOLUME, sorted(PUBLISHED)) == (28, list(range(1, 21)))
    assert [find_case(number) for number in (27, 28, 45, 47, 48)] == [None, 1, 18, 20, None]
    assert find_spacing_mm(46, 124) == (4.0, 0.70, 0.70)
    assert find_spacing_mm(46, 123) is None and find_spacing_mm(3, 129) is None
    for in_plane_mm, z_mm, num_slices in PUBLISHED.values():  # a liver fits in
        assert 280 < 512 * in_plane_mm < 450 and 140 < z_mm * num_slices < 500


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory, real_data):
    folder = tmp_path_factory.mktemp("lits")
    for number in (0, 2):
        for kind in ("volume", "segmentation"):
            name = f"{kind}-{number}.nii.gz"
            (folder / name).symlink_to(real_data / "lits" / name)
    return folder


@pytest.mark.real
def test_real_slices(tmp_path, real_folder):
    splits = check_prepared(open_builder("lits", "slices", tmp_path, real_folder, False))
    examples = {e["file"].decode(): e for it in splits.values() for e in it}
    assert len(examples) == 28 + 43
    assert {len({e["patient"] for e in it}) for it in splits.values()} == {1}
    boxes = {"volume-0": 0, "volume-2": 0}
    for example in examples.values():
        boxes[example["volume"].decode()] += len(example["lesions"]["label"])
        assert example["corrections"] == b""
    assert all(boxes.values())
    # One lesion, from its voxels in the file to the record.
    name = "volume-2"
    stored = np.asarray(nibabel.load(real_folder / "segmentation-2.nii.gz").dataobj)
    image = np.asarray(nibabel.load(real_folder / "volume-2.nii.gz").dataobj)
    k = int(np.argmax((stored == 2).sum(axis=(0, 1))))
    i, j = np.nonzero(stored[:, :, k] == 2)
    example = examples[f"{name}/{k:04d}"]
    rows, columns = 511 - j, i  # stored LAS
    (box,) = read_boxes_px(example)
    wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(box, wanted, atol=1e-3)
    key_hu = to_hu(decode(example["png_key"]))
    np.testing.assert_array_equal(key_hu[rows, columns], image[i, j, k])
    assert set(decode(example["mask_png"])[rows, columns]) == {2}
    np.testing.assert_allclose(example["spacing_mm"], [3.0, 0.775391, 0.775391], atol=1e-3)


@pytest.mark.real
@pytest.mark.parametrize(
    ("number", "liver_ml", "lesion_ml"),
    [(0, 1364, 6.4), (1, 1486, 15.9), (2, 1923, 8.5), (6, 1883, 24.0), (7, 1713, 18.1)],
)
def test_real_mask_and_image_agree(real_data, number, liver_ml, lesion_ml):
    case = next(c for c in list_cases(real_data / "lits").cases if c.number == number)
    scan = read_case(case, "")
    image_hu, mask = scan.image.array, scan.mask.array
    liver_hu, lesion_hu = np.median(image_hu[mask == 1]), np.median(image_hu[mask == 2])
    assert 60 <= liver_hu <= 160 and lesion_hu < liver_hu
    voxel_ml = np.prod(scan.image.spacing_mm) / 1000
    assert (mask > 0).sum() * voxel_ml == pytest.approx(liver_ml, rel=0.01)
    assert (mask == 2).sum() * voxel_ml == pytest.approx(lesion_ml, rel=0.02)
    assert scan.corrections == ()


def test_errors_are_named(raw):
    write_nifti(
        raw / "Training Batch 2" / "volume-9.nii", np.zeros((9, 9, 9, 2), np.int16), np.eye(4)
    )
    with pytest.raises(CtError) as error:
        Builder.index_raw(raw, "slices").check()
    assert error.value.name == "four-dimensional"
