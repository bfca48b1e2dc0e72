import cv2
import numpy as np
import pytest

from lesionkeras.ct.nifti import read_nifti
from lesionkeras.errors import DataError
from tfds_builders.timing import open_timed_files, write_phantom


def test_phantom_files_hold_one_patient_both_ways(tmp_path):
    write_phantom(tmp_path, 64)
    volume, mask = (
        read_nifti(tmp_path / f"{name}-1.nii.gz", kind)
        for name, kind in (("volume", "image"), ("segmentation", "mask"))
    )
    assert volume.array.shape == mask.array.shape and volume.array.shape[1:] == (64, 64)
    assert set(np.unique(mask.array)) == {0, 1, 2}
    assert 20 < np.median(volume.array[mask.array == 1]) < 160
    series = sorted((tmp_path / "Images_png" / "000001_01_01").iterdir())
    assert len(series) == len(volume.array)
    stored = cv2.imread(str(series[5]), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(stored.astype(int) - 32768, volume.array[5])


def test_made_files_build_read_and_go(tmp_path):
    with open_timed_files(None, None, 64) as files:
        assert len(list(files.images_dir.glob("*/*.png"))) > 20
        assert [path.name for path in files.volumes] == ["volume-0.nii.gz", "volume-1.nii.gz"]
        assert len(files.read()) == 2
        files.build()
        made = files.volumes[0]
    assert not made.exists()


def test_folders_of_another_layout_are_named(tmp_path):
    files = open_timed_files(tmp_path, None, 64)
    with pytest.raises(DataError, match=r"DeepLesion's data are not there"), files:
        pass


@pytest.mark.real
def test_shared_files_are_found(real_data):
    with open_timed_files(real_data / "deeplesion", real_data / "lits", 64) as files:
        assert files.images_dir == real_data / "deeplesion" / "Images_png"
        assert len(files.volumes) == 6
