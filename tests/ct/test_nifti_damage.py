import gzip
import logging
import os
import time

import nibabel as nib
import numpy as np
import pytest

from lesionkeras.ct.findings import CtError
from lesionkeras.ct.nifti import read_nifti
from tests.ct.made_nifti import (
    IMAGE,
    MASK,
    RAS,
    make,
    names,
    read,
    say,
)


@pytest.mark.parametrize("tail", [(1,), (1, 1), (1, 1, 1, 1)])
def test_single_volumes_are_squeezed(tail):
    def deepen(header):
        header["dim"][0, 0] = 3 + len(tail)

    volume = read(make(change=deepen))
    np.testing.assert_array_equal(volume.array, IMAGE[:, ::-1].T)
    assert names(volume) == ["squeezed"]


def test_one_slice_and_two_axes():
    assert read(make(IMAGE[:, :, :1])).array.shape == (1, 6, 7)
    flat = make(IMAGE[:, :, :1], change=lambda header: header["dim"].__setitem__((0, 0), 2))
    np.testing.assert_array_equal(read(flat).array, read(make(IMAGE[:, :, :1])).array)


def test_several_volumes():
    for shape in ((7, 6, 5, 2), (7, 6, 1, 5), (7, 6, 5, 1, 3)):
        name, text = say(make(np.zeros(shape, np.int16)))
        assert name == "four-dimensional"
        assert text == (
            f"A NIfTI file holds more than one volume in the file: found sizes {shape}, wanted "
            "three axes; save the one that is wanted as a file of its own."
        )


@pytest.mark.parametrize("zipped", [False, True])
def test_truncated(zipped):
    whole = make()
    pack = gzip.compress if zipped else bytes
    for size in (0, 3, 100, 347, 351, 352, 600, len(whole) - 1):
        assert say(pack(whole[:size]))[0] == "truncated", size
    if zipped:
        whole = gzip.compress(whole)
        for size in (2, 9, 200, len(whole) - 8, len(whole) - 1):
            assert say(whole[:size])[0] == "truncated", size


def test_bytes_that_follow():
    volume = read(make() + b"\0\0\0")
    np.testing.assert_array_equal(volume.array, IMAGE[:, ::-1].T)
    assert [str(c) for c in volume.corrections] == [
        "trailing-bytes-left-out: 3 bytes after the last voxel"
    ]
    assert names(read(gzip.compress(make() + b"\0\0\0"))) == ["trailing-bytes-left-out"]
    # A slice more than the header says: then the header is false.
    for pack in (bytes, gzip.compress):
        assert say(pack(make() + bytes(2 * 5 * 6)))[0] == "damaged"
    one_less = make(change=lambda header: header["dim"].__setitem__((0, 1), 6))
    assert say(one_less)[0] == "damaged"
    for length in (1, 7, 700):
        assert say(gzip.compress(make()) + b"g" * length)[0] in ("damaged", "truncated")


def test_checksum():
    data = bytearray(gzip.compress(make()))
    data[-8] ^= 1
    assert say(bytes(data)) == (
        "damaged",
        "A gzip file does not unpack in the file; copy the file from its source again.",
    )


@pytest.mark.parametrize(
    ("header", "name", "found"),
    [
        ({"magic": b"nix"}, "damaged", "bytes 6e 69 78"),
        ({"magic": b"ni1"}, "unknown-format", "one file of a .hdr and .img pair"),
        ({"magic": b""}, "unknown-format", "one file of a .hdr and .img pair"),
        ({"datatype": 99}, "damaged", "datatype 99"),
        ({"bitpix": 8}, "damaged", "bitpix 8 of datatype 4"),
        ({"vox_offset": 300}, "damaged", "vox_offset 300"),
        ({"vox_offset": 0}, "damaged", "vox_offset 0"),
        ({"vox_offset": np.nan}, "damaged", "vox_offset nan"),
        ({"vox_offset": 352.5}, "damaged", "vox_offset 352.5"),
        ({"vox_offset": 1e30}, "damaged", "vox_offset 1e+30"),
        ({"vox_offset": 5000}, "truncated", "at most 772 bytes"),
        ({"sform_code": 9}, "damaged", "sform_code 9"),
        ({"qform_code": -1}, "damaged", "qform_code -1"),
        ({"dim": [0, 7, 6, 5, 1, 1, 1, 1]}, "damaged", "0 axes"),
        ({"dim": [9, 7, 6, 5, 1, 1, 1, 1]}, "damaged", "9 axes"),
        ({"dim": [3, 7, 0, 5, 1, 1, 1, 1]}, "damaged", "sizes (7, 0, 5)"),
        ({"dim": [3, 7, -6, 5, 1, 1, 1, 1]}, "damaged", "sizes (7, -6, 5)"),
        ({"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}, "too-large", "sizes (30000, 30000, 30000)"),
        ({"dim": [3, 700, 600, 500, 1, 1, 1, 1]}, "truncated", "at most 772 bytes"),
    ],
)
def test_damaged_headers(header, name, found):
    error = say(make(**header))
    assert error[0] == name
    assert f" in the file: found {found}" in error[1]


def test_extensions_are_passed_over():
    image = nib.Nifti1Image(IMAGE, RAS)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"a comment" * 300))
    for pack in (bytes, gzip.compress):
        np.testing.assert_array_equal(read(pack(image.to_bytes())).array, IMAGE[:, ::-1].T)


def test_nifti_2_too_large():
    dim = [3, 2**40, 2**40, 5, 1, 1, 1, 1]
    assert say(make(version=2, dim=dim))[0] == "too-large"


def test_gzip_bomb(tmp_path):
    """50 MB of zeros behind a small volume are not inflated, and a false size takes no memory."""
    start = time.perf_counter()
    assert say(gzip.compress(make() + bytes(5 * 10**7), 1))[0] == "damaged"
    packing_s = time.perf_counter() - start
    bomb = gzip.compress(make(dim=[3, 2000, 1000, 1000, 1, 1, 1, 1]) + bytes(10**6))
    start = time.perf_counter()
    assert say(bomb)[0] == "truncated"
    assert time.perf_counter() - start < max(0.2, packing_s)
    assert say(gzip.compress(gzip.compress(make())))[0] == "unknown-format"


def test_other_formats():
    assert say(b"DICM" + bytes(600)) == (
        "unknown-format",
        "A file is not NIfTI in the file: found first bytes 44 49 43 4d, wanted a NIfTI-1 or "
        "NIfTI-2 header; copy or convert the file from its source again.",
    )


def test_files_that_cannot_be_opened(tmp_path):
    loop, pipe = tmp_path / "loop", tmp_path / "pipe"
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    for path, name, text in (
        (tmp_path / "a.nii", "not-found", "A file is not there"),
        (tmp_path, "unreadable-file", "found a folder"),
        (loop, "unreadable-file", "Too many levels of symbolic links"),
        (pipe, "unreadable-file", "neither a file nor a folder"),
        ("a\0b", "unreadable-file", "a name that no file can have"),
        ("a" * 5000, "unreadable-file", "File name too long"),
    ):
        with pytest.raises(CtError) as error:
            read_nifti(path)
        assert error.value.name == name
        assert text in str(error.value)


def test_mutations():
    """No exception but ours, no result that its bytes cannot hold; all of them fast."""
    sources = [make(), make(version=2, order=">"), make(MASK.astype(np.float32)), make(MASK)]
    packed = [gzip.compress(data) for data in sources]
    rng = np.random.default_rng(3)
    read_num, slowest_s = 0, 0.0
    logging.getLogger("lesionkeras.ct").setLevel(logging.ERROR)
    for turn in range(2000):
        data = bytearray((sources + packed)[turn % 8])
        for place in rng.integers(0, min(len(data), 600), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        data = data[: rng.integers(0, len(data))] if turn % 5 == 0 else data
        start = time.perf_counter()
        try:
            volume = read(bytes(data), ("image", "mask")[turn % 2])
        except CtError:
            continue
        finally:
            slowest_s = max(slowest_s, time.perf_counter() - start)
        read_num += 1
        assert volume.array.size <= 1032 * len(data)
        assert np.isfinite(volume.affine).all() and min(volume.spacing_mm) > 0
    logging.getLogger("lesionkeras.ct").setLevel(logging.NOTSET)
    assert read_num > 100
    assert slowest_s < 2
