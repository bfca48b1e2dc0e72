import gzip
import io
import zipfile
import zlib

import numpy as np
import pytest

from lesionkeras.ct.findings import CtError
from lesionkeras.ct.mask_files import MaskFile, list_masks, pair_files
from lesionkeras.ct.nifti import read_nifti
from tests.ct.made_nifti import MASK, make

NIFTI = make(MASK)
ZIPPED = gzip.compress(NIFTI)


def write_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(NIFTI)
    return folder


def write_zip(path, *names, method=zipfile.ZIP_DEFLATED, content=NIFTI):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, b"" if name.endswith("/") else content)
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
@pytest.mark.parametrize("ending", ["nii", "nii.gz", "NII.GZ"])
def test_a_member_of_a_zip_reads_as_the_file_does(tmp_path, method, ending):
    content = ZIPPED if ending != "nii" else NIFTI
    names = (f"x/liver_1.{ending}", f"__MACOSX/._liver_1.{ending}", "y.nii.gz/")
    path = write_zip(tmp_path / "A.ZIP", *names, method=method, content=content)
    (mask,) = list_masks(path)
    assert mask.name == "liver_1" and mask.where == f"{path}/x/liver_1.{ending}"
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


def test_a_zipped_file_in_a_zip_is_checked(tmp_path):
    path = write_zip(tmp_path / "a.zip", "liver_1.nii.gz", content=ZIPPED)
    data = path.read_bytes()
    crc = zlib.crc32(ZIPPED).to_bytes(4, "little")
    for changed in (data.replace(crc, b"oops"), data.replace(b"PK\1\2", b"PK\1\3")):
        path.write_bytes(changed)
        with pytest.raises(CtError, match="A zip cannot be read"):
            list_masks(path)[0].open()


def test_a_zipped_file_of_a_false_size_is_not_inflated(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.zip", "liver_1.nii.gz", content=ZIPPED)
    monkeypatch.setattr("lesionkeras.ct.mask_files.MOST_ZIPPED_BYTES", 20)
    assert say(list_masks(path)[0].open)[0] == "damaged"


def test_folders_that_are_named_like_masks_are_searched(tmp_path):
    write_files(tmp_path, "segmentation-1.nii/segmentation-1.NII")
    assert name(list_masks(tmp_path)) == ["segmentation-1"]


def test_a_zip_that_is_none_or_packed_otherwise(tmp_path):
    no_zip = tmp_path / "no.zip"
    no_zip.write_bytes(b"PK nothing")
    assert say(list_masks, no_zip) == (
        "damaged",
        f"A zip cannot be read in {no_zip}; copy the file from its source again.",
    )
    other = write_zip(tmp_path / "lzma.zip", "a.nii", method=zipfile.ZIP_LZMA)
    assert say(list_masks(other)[0].open) == (
        "damaged",
        f"A zip cannot be unpacked in {other}/a.nii: found method 14, wanted members stored or "
        "deflated; unpack it and give the folder.",
    )
    data = bytearray(write_zip(tmp_path / "secret.zip", "a.nii").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # as a zip with a password says it
    (tmp_path / "secret.zip").write_bytes(data)
    with pytest.raises(CtError, match="found it encrypted, wanted"):
        list_masks(tmp_path / "secret.zip")[0].open()


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


def pair(truths, predictions, folder, cases=()):
    found = pair_files(
        *([MaskFile(n, folder / f"{n}.nii") for n in names] for names in (truths, predictions)),
        cases,
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
        "the same name or number; add the prediction, or name the cases to score with --cases.",
    )
    assert "A prediction has no truth" in say(pair, ["a_2"], ["a_1", "a_2"], tmp_path)[1]
    # One of each, and yet not of one case.
    assert say(pair, ["a_1"], ["a_2"], tmp_path)[0] == "not-found"


def test_several_numbers_pair_nothing(tmp_path):
    text = (
        f"Names hold several numbers, so that none pairs them for sure in {tmp_path}: found "
        "p1_scan2, p2_scan1, wanted one number that tells cases apart, or the same names on both "
        "sides; rename the predictions as the truths are named."
    )
    truths = ["p1_scan2", "p2_scan1"]
    assert say(pair, truths, ["scan2_p1", "scan1_p2"], tmp_path) == ("several-cases", text)
    assert pair(truths, truths, tmp_path) == [("p2_scan1", "p2_scan1"), ("p1_scan2", "p1_scan2")]
    # A number that all share tells nothing apart.
    assert pair(["lits17_1", "lits17_2"], ["a1", "a2"], tmp_path)[1] == ("lits17_2", "a2")


def test_some_cases_alone(tmp_path):
    truths, predictions = ["seg-0", "seg-1", "seg-12"], ["volume-1", "volume-12"]
    assert pair(truths, predictions, tmp_path, ("12",)) == [("seg-12", "volume-12")]
    both = [("seg-1", "volume-1"), ("seg-12", "volume-12")]
    assert pair(truths, predictions, tmp_path, ("seg-12", "volume-1")) == both
    assert say(pair, truths, predictions, tmp_path, ("0",))[1].startswith(
        f"A truth has no prediction in {tmp_path}: found seg-0"
    )
    assert say(pair, truths, predictions, tmp_path, ("3", "1")) == (
        "not-found",
        "A case has no truth in --cases: found 3, wanted names or numbers of seg-0, seg-1, seg-12.",
    )


def test_a_case_alone_hides_no_second_number(tmp_path):
    truths, predictions = ["pat3_t1", "pat4_t1", "pat4_t2"], ["pat1", "pat3", "pat4"]
    name, text = say(pair, truths, predictions, tmp_path, ("pat3_t1",))
    assert name == "several-cases" and "pat3_t1, pat4_t1, pat4_t2" in text


def test_a_name_that_is_no_utf_8_is_refused(tmp_path):
    (tmp_path / "M\udcfcller.nii.gz").write_bytes(b"")
    name, text = say(list_masks, tmp_path)
    assert name == "unreadable-file" and r"found 'M\udcfcller'" in text


def test_many_names_are_cut_short(tmp_path):
    names = [f"a_{i}" for i in range(13)]
    assert "a_9 and 3 more" in say(pair, [*names, "b"], ["b"], tmp_path)[1]


def test_one_number_twice_is_refused(tmp_path):
    text = f"Two masks have one number in {tmp_path}: found 1; leave one file a case there."
    assert say(pair, ["a_1", "b_1"], ["c_1", "d_2"], tmp_path) == ("several-cases", text)
