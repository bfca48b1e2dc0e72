import gzip
import sys
import types
import zipfile

import nibabel as nib
import numpy as np
import pytest

from lesionkeras.ct.findings import CtError
from lesionkeras.ct.reading import find_format, read_pair, read_volume, write_volume
from lesionkeras.ct.volume import like, to_canonical

RAS = np.array([[-0.7, 0, 0, 120], [0, 0.9, 0, -30], [0, 0, 2.5, -400], [0, 0, 0, 1]], np.float64)
IMAGE = np.arange(60, dtype=np.int16).reshape(3, 4, 5) - 30


def save(path, array=IMAGE, affine=RAS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(nib.Nifti1Image(array, affine).to_bytes(), 1))
    return path


def value(path, **options):
    """The value of the stored voxel (0, 0, 0): it tells which file was read."""
    return int(read_volume(path, **options).array[0, -1, 0])


def say(path, **options) -> tuple[str, str]:
    with pytest.raises(CtError) as error:
        read_volume(path, **options)
    return error.value.name, str(error.value).replace(str(path), "PATH")


@pytest.fixture
def nnunet(tmp_path):
    for i, name in enumerate(("liver_1", "liver_10", "liver_2")):
        save(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", np.full_like(IMAGE, i))
        save(tmp_path / "labelsTr" / f"{name}.nii.gz", np.full(IMAGE.shape, i, np.uint8))
    save(tmp_path / "imagesTs" / "liver_3_0000.nii.gz", np.full_like(IMAGE, 3))
    (tmp_path / "dataset.json").write_text("{}")
    (tmp_path / "imagesTr" / "._liver_1_0000.nii.gz").write_bytes(b"left by macOS")
    return tmp_path


@pytest.fixture
def dicom(monkeypatch):
    """Stands in for the DICOM reader: says what it was called with."""
    module = types.ModuleType("lesionkeras.ct.dicom")
    module.read_dicom = lambda path, **options: (path, options)
    monkeypatch.setitem(sys.modules, "lesionkeras.ct.dicom", module)


def test_formats_by_content(tmp_path):
    path = tmp_path / "scan.txt"
    for data, name in (
        (bytes(128) + b"DICM", "dicom"),
        (b"PK\x05\x06" + bytes(18), "zip"),
        (nib.Nifti1Image(IMAGE, RAS).to_bytes(), "nifti"),
        (gzip.compress(nib.Nifti2Image(IMAGE, RAS).to_bytes()), "nifti"),
        (gzip.compress(b"text"), ""),
        (b"text", ""),
        (b"", ""),
    ):
        path.write_bytes(data)
        assert find_format(path) == name


def test_nnunet_cases(nnunet):
    assert value(nnunet, case="liver_10") == 1
    assert value(nnunet, case="liver_2") == 2
    assert value(nnunet, case="liver_3") == 3
    assert value(nnunet / "imagesTr", case="liver_2") == 2
    assert value(nnunet / "imagesTs") == 3
    mask = read_volume(nnunet, case="liver_2", kind="mask")
    assert mask.array.dtype == np.uint8 and mask.array.max() == 2
    assert read_volume(nnunet / "labelsTr", case="liver_2", kind="mask").array.max() == 2


def test_cases_that_end_as_a_channel(tmp_path):
    for i in range(2):
        save(tmp_path / "imagesTr" / f"case_{i:04d}.nii.gz", np.full_like(IMAGE, i))
        save(tmp_path / "labelsTr" / f"case_{i:04d}.nii.gz", np.full(IMAGE.shape, i, np.uint8))
    for folder in (tmp_path, tmp_path / "imagesTr"):
        assert [value(folder, case=f"case_{i:04d}") for i in range(2)] == [0, 1]
    assert value(tmp_path, case="case_0001", kind="mask") == 1


def test_several_cases(nnunet):
    assert say(nnunet) == (
        "several-cases",
        "There is more than one case in PATH: found liver_1, liver_10, liver_2, liver_3; "
        "choose one with case=.",
    )
    for i in range(20):
        save(nnunet / "imagesTr" / f"m{i:02}_0000.nii.gz")
    text = say(nnunet)[1]
    assert "liver_3, m00, m01, m02, m03, m04, m05 and 14 more;" in text


def test_unknown_case(nnunet):
    assert say(nnunet, case="liver_3", kind="mask") == (
        "not-found",
        "A mask of case liver_3 is not there in PATH: found liver_1, liver_10, liver_2; "
        "choose one of these.",
    )


def test_case_of_several_channels(nnunet):
    save(nnunet / "imagesTr" / "liver_1_0001.nii.gz")
    assert say(nnunet, case="liver_1") == (
        "four-dimensional",
        "A case has more than one file in PATH: found imagesTr/liver_1_0000.nii.gz, "
        "imagesTr/liver_1_0001.nii.gz, wanted one channel, in one folder.",
    )


def test_flat_folder(tmp_path):
    save(tmp_path / "volume-0.nii.gz", np.full_like(IMAGE, 7))
    assert value(tmp_path) == 7
    save(tmp_path / "segmentation-0.nii", np.full(IMAGE.shape, 1, np.uint8))
    assert say(tmp_path)[0] == "several-cases"
    assert value(tmp_path, case="volume-0") == 7
    assert value(tmp_path, case="segmentation-0", kind="mask") == 1


def test_nifti_among_dicom_is_not_taken_silently(tmp_path, dicom):
    (tmp_path / "IM_1").write_bytes(bytes(128) + b"DICM")
    save(tmp_path / "liver.nii.gz")
    assert say(tmp_path) == (
        "several-cases",
        "There is more than one case in PATH: found liver, a DICOM series; choose one with case=.",
    )
    assert value(tmp_path, case="liver") == -30


def test_dicom_is_handed_on(tmp_path, dicom):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "IM").write_bytes(bytes(128) + b"DICM")
    with zipfile.ZipFile(tmp_path / "a.nii.gz", "w") as archive:
        archive.writestr("IM", b"")
    options = {"kind": "mask", "series_uid": "1.2", "resample": True}
    for path in (tmp_path / "a", tmp_path / "a" / "IM", tmp_path / "a.nii.gz"):
        assert read_volume(path, **options) == (path, options)
    inside = tmp_path / "a.nii.gz" / "series"
    assert read_volume(inside, **options) == (inside, options)


def test_choices_that_do_not_exist(tmp_path):
    path = save(tmp_path / "a.nii.gz")
    assert say(path, case="a") == (
        "not-found",
        "There is no case to choose in PATH; leave case out.",
    )
    assert say(path, series_uid="1.2")[1] == (
        "There is no series to choose in PATH; leave series_uid out."
    )


def test_paths_that_are_not_there(tmp_path):
    assert say(tmp_path / "a") == ("not-found", "A file is not there in PATH; check its path.")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert say(loop)[0] == "unreadable-file"
    assert say(tmp_path / ("x" * 5000))[0] == "unreadable-file"
    assert say("a\0b")[0] == "unreadable-file"


def test_pair(tmp_path):
    image_path = save(tmp_path / "Ünï code" / "image 1.nii.gz")
    mask_path = save(tmp_path / "mask.nii.gz", (IMAGE > 0).astype(np.int16))
    image, mask = read_pair(image_path, mask_path)
    np.testing.assert_array_equal(mask.array, image.array > 0)
    # The same voxels stored the other way round: still the same place.
    turned = RAS @ [[-1, 0, 0, 2], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    save(mask_path, (IMAGE[::-1] > 0).astype(np.uint8), turned)
    image, mask = read_pair(image_path, mask_path)
    np.testing.assert_array_equal(mask.array, image.array > 0)


def test_pairs_that_are_none(tmp_path):
    image_path = save(tmp_path / "image.nii.gz")
    for array, affine, name in (
        (IMAGE[:2] > 0, RAS, "shape-mismatch"),
        (IMAGE > 0, RAS + 0.1 * np.eye(4, k=3), "affine-mismatch"),
    ):
        mask_path = save(tmp_path / "mask.nii.gz", array.astype(np.uint8), affine)
        with pytest.raises(CtError, match=r"in .*mask\.nii\.gz") as error:
            read_pair(image_path, mask_path)
        assert error.value.name == name


def test_write_and_read_again(tmp_path):
    image = read_volume(save(tmp_path / "a.nii.gz"))
    mask = like(image, (image.array > 3).astype(np.uint8))
    write_volume(tmp_path / "b.nii", mask)
    again = read_volume(tmp_path / "b.nii", kind="mask")
    np.testing.assert_array_equal(again.array, mask.array)
    np.testing.assert_allclose(again.affine, image.affine, atol=1e-6)
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "b.nii").dataobj), IMAGE > 3)
    write_volume(tmp_path / "c.nii.gz", to_canonical(IMAGE, np.diag([3.0, 2, 1, 1]), "array"))
    assert nib.load(tmp_path / "c.nii.gz").shape == IMAGE.shape[::-1]


@pytest.mark.real
@pytest.mark.parametrize("number", [0, 1, 2, 4, 6, 7])
def test_lits(real_data, number):
    paths = [real_data / "lits" / f"{name}-{number}.nii.gz" for name in ("volume", "segmentation")]
    image, mask = read_pair(*paths)
    for path, volume in zip(paths, (image, mask), strict=True):
        stored = nib.load(path)
        near = nib.as_closest_canonical(stored)
        np.testing.assert_array_equal(volume.array, np.asanyarray(near.dataobj)[::-1, ::-1].T)
        np.testing.assert_allclose(volume.spacing_mm, near.header.get_zooms()[::-1], rtol=1e-6)
        assert volume.corrections == () and volume.source.code == "LAS"
    liver_hu, tumour_hu = (np.median(image.array[mask.array == label]) for label in (1, 2))
    assert 60 <= liver_hu <= 160
    assert tumour_hu < liver_hu - 10
    # Anatomy, not only agreement: the liver lies on the right, and the spine behind it.
    on_the_right = (mask.array > 0).any((0, 1)).nonzero()[0].mean() < image.array.shape[2] / 2
    bright = (image.array == image.array.max()).sum((0, 2))
    assert on_the_right and np.average(np.arange(len(bright)), weights=bright) > len(bright) / 2
