import nibabel as nib
import numpy as np
import pytest

from lesionkeras.ct.findings import CtError
from lesionkeras.ct.nifti import read_nifti, write_nifti
from lesionkeras.ct.orientation import CODES
from lesionkeras.ct.volume import like, to_canonical
from tests.ct.made_nifti import IMAGE, LPS, MASK, RAS, make, read


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("array", [IMAGE, MASK])
def test_written_is_what_nibabel_reads(tmp_path, name, array):
    volume = read(make(array), "image" if array is IMAGE else "mask")
    write_nifti(tmp_path / name, volume)
    image = nib.load(tmp_path / name)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array)
    assert image.get_data_dtype() == array.dtype
    for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        np.testing.assert_allclose(form, RAS, atol=1e-4)
        assert code == 1
    np.testing.assert_allclose(image.header.get_zooms(), (0.7, 0.9, 2.5), rtol=1e-6)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_all_48_come_back(tmp_path):
    path = tmp_path / "a.nii"
    for code in CODES:
        stored = np.zeros((4, 4))
        for i, letter in enumerate(code):
            stored["LPSRAI".index(letter) % 3, i] = (0.7, 0.9, 2.5)[i] * (1, -1)[letter in "RAI"]
        stored[:, 3] = 11, -12, 13, 1
        volume = to_canonical(IMAGE, stored, "nifti")
        write_nifti(path, volume)
        image = nib.load(path)
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), IMAGE)
        np.testing.assert_allclose(image.affine, np.diag([-1, -1, 1, 1]) @ stored, atol=1e-6)
        again = read_nifti(path)
        assert again.source.code == code
        np.testing.assert_array_equal(again.array, volume.array)
        np.testing.assert_allclose(again.affine, volume.affine, atol=1e-6)


def test_dicom_is_written_x_first(tmp_path):
    """A DICOM array is [z, y, x]; a NIfTI file whose first axis is z would surprise everybody."""
    volume = to_canonical(IMAGE, LPS[:, [2, 1, 0, 3]], "dicom")
    write_nifti(tmp_path / "a.nii", volume)
    image = nib.load(tmp_path / "a.nii")
    assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), IMAGE.T)


def test_prediction_on_the_grid_of_its_image(tmp_path):
    image = read(make())
    write_nifti(tmp_path / "mask.nii.gz", like(image, (image.array > 0).astype(np.uint8)))
    mask = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), IMAGE > 0)
    np.testing.assert_allclose(mask.affine, RAS, atol=1e-5)


def test_random_rotations_come_back(tmp_path):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        stored = np.eye(4)
        stored[:3, :3] = rotation * [0.7, 0.9, 2.5]
        stored[:3, 3] = rng.normal(size=3) * 300
        write_nifti(tmp_path / "a.nii", to_canonical(IMAGE, stored, "nifti"))
        image = nib.load(tmp_path / "a.nii")
        np.testing.assert_allclose(image.get_qform(), np.diag([-1, -1, 1, 1]) @ stored, atol=1e-4)
        np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-4)


def test_shear_that_a_quaternion_cannot_hold(tmp_path):
    stored = np.diag([0.7, 0.9, 2.5, 1])
    stored[0, 1] = 0.9 * 9e-4  # within what is taken for a right angle, .26 mm over 320 voxels
    wide = np.zeros((2, 320, 2), np.int16)
    write_nifti(tmp_path / "a.nii", to_canonical(wide, stored, "nifti"))
    assert nib.load(tmp_path / "a.nii").get_qform(coded=True)[1] == 0
    np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").affine[0, 1], stored[0, 1])


def test_same_volume_same_bytes(tmp_path):
    volume = read(make())
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, volume)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_refused_writing_leaves_nothing(tmp_path, monkeypatch):
    volume = read(make())
    (tmp_path / "old.nii").write_bytes(b"old")
    cases = (
        (tmp_path / "a.mha", volume, "unknown-format"),
        (tmp_path / "a.nii", like(volume, volume.array.astype(np.float32)), "unknown-format"),
        (tmp_path / "none" / "a.nii", volume, "unreadable-file"),
        (
            tmp_path / "a.nii",
            to_canonical(np.zeros((1, 1, 40000), np.uint8), LPS, "nifti"),
            "too-large",
        ),
    )
    for path, written, name in cases:
        with pytest.raises(CtError) as error:
            write_nifti(path, written)
        assert error.value.name == name

    def fill_the_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lesionkeras.ct.nifti.write_bytes", fill_the_disk)
    with pytest.raises(CtError, match="No space left on device"):
        write_nifti(tmp_path / "old.nii", volume)
    assert [path.name for path in tmp_path.iterdir()] == ["old.nii"]
    assert (tmp_path / "old.nii").read_bytes() == b"old"
