import io
import zipfile

import numpy as np
import pytest

from lesionkeras.ct.findings import CtError
from lesionkeras.ct.mask_files import MaskFile, list_masks, pair_files
from lesionkeras.ct.nifti import read_nifti
from tests.ct.made_nifti import MASK, make

NIFTI = make(MASK)


def write_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(NIFTI)
    return folder


def write_zip(path, *names, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, NIFTI)
    return path


def name(files):
    return [file.name for file in files]


def say(call, *arguments):
    with pytest.raises(CtError) as error:
        call(*arguments)
    return error.value.name, str(error.value)


def test_a_folder_is_searched_at_any_depth(tmp_path):
    write_files(tmp_path, "b/liver_1.nii.gz", "liver_2.nii", "._liver_2.nii", "notes.txt")
    assert sorted(name(list_masks(tmp_path))) == ["liver_1", "liver_2"]


def test_scans_beside_the_masks_of_lits_are_left_out(tmp_path):
    write_files(tmp_path, "volume-3.nii", "segmentation-3.nii")
    assert name(list_masks(tmp_path)) == ["segmentation-3"]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_member_of_a_zip_reads_as_the_file_does(tmp_path, method):
    path = write_zip(tmp_path / "a.zip", "x/liver_1.nii", "__MACOSX/._liver_1.nii", method=method)
    (mask,) = list_masks(path)
    assert mask.name == "liver_1" and mask.where == f"{path}/x/liver_1.nii"
    read = read_nifti(mask.open(), "mask")
    np.testing.assert_array_equal(read.array, read_nifti(io.BytesIO(NIFTI), "mask").array)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_flipped_bit_in_a_zip_is_found(tmp_path, method):
    path = write_zip(tmp_path / "a.zip", "liver_1.nii", method=method)
    data = bytearray(path.read_bytes())
    data[data.index(b"liver_1.nii") + 11 + 400 * (method == zipfile.ZIP_STORED) + 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(CtError) as error:
        read_nifti(list_masks(path)[0].open(), "mask")
    assert error.value.name in ("damaged", "truncated")


def test_a_zip_that_is_none_or_packed_otherwise(tmp_path):
    no_zip = tmp_path / "no.zip"
    no_zip.write_bytes(b"PK nothing")
    assert say(list_masks, no_zip) == (
        "damaged",
        f"A zip cannot be read in {no_zip}; copy the file from its source again.",
    )
    other = write_zip(tmp_path / "lzma.zip", "a.nii", method=zipfile.ZIP_LZMA)
    assert say(list_masks(other)[0].open)[0] == "damaged"


def test_nothing_there(tmp_path):
    assert say(list_masks, tmp_path) == (
        "empty-folder",
        f"There is no mask in {tmp_path}: wanted files that end in .nii or .nii.gz; name the "
        "folder or zip that holds them.",
    )
    assert say(list_masks, tmp_path / "no")[0] == "not-found"
    assert say(MaskFile("a", tmp_path / "a.nii").open)[0] == "not-found"


def test_two_files_of_one_name_are_refused(tmp_path):
    write_files(tmp_path, "a/liver_1.nii", "b/liver_1.nii.gz")
    assert say(list_masks, tmp_path) == (
        "several-cases",
        f"Two masks have one name in {tmp_path}: found liver_1; leave one file a case there.",
    )


def pair(truths, predictions, folder):
    found = pair_files(
        *([MaskFile(n, folder / f"{n}.nii") for n in names] for names in (truths, predictions))
    )
    return [(row.case, row.prediction.name) for row in found]


def test_pairs_go_by_name_then_by_number(tmp_path):
    names = ["liver_10", "liver_9", "liver_x"]
    assert pair(names, names[::-1], tmp_path) == [
        (n, n) for n in ("liver_x", "liver_9", "liver_10")
    ]
    assert pair(["segmentation-07", "segmentation-11"], ["p11", "p7_"], tmp_path) == [
        ("segmentation-07", "p7_"),
        ("segmentation-11", "p11"),
    ]
    assert pair(["truth"], ["prediction_3"], tmp_path) == [("truth", "prediction_3")]


def test_a_case_without_a_partner_is_named(tmp_path):
    assert say(pair, ["a_1", "a_2", "a_3"], ["a_2"], tmp_path) == (
        "not-found",
        f"A truth has no prediction in {tmp_path}: found a_1, a_3, wanted one prediction each, by "
        "the same name or number; add the prediction, or take the truth away.",
    )
    assert "A prediction has no truth" in say(pair, ["a_2"], ["a_1", "a_2"], tmp_path)[1]
    # One of each, and yet not of one case.
    assert say(pair, ["a_1"], ["a_2"], tmp_path)[0] == "not-found"


def test_many_names_are_cut_short(tmp_path):
    names = [f"a_{i}" for i in range(13)]
    assert "a_9 and 3 more" in say(pair, [*names, "b"], ["b"], tmp_path)[1]


def test_one_number_twice_is_refused(tmp_path):
    text = f"Two masks have one number in {tmp_path}: found 1; leave one file a case there."
    assert say(pair, ["a_1", "b_1"], ["c_1", "d_2"], tmp_path) == ("several-cases", text)
