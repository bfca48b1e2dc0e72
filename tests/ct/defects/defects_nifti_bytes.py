"""Defects of NIfTI files: lengths, ends, and fields that say how the bytes are to be read."""

from __future__ import annotations

import gzip

import numpy as np

from tests.ct.defects.cases import RIGHT, Case, Defect, accept
from tests.ct.defects.defects_nifti import finish, start


def make_extension(rng, folder):
    """A DICOM header kept by the converter (code 2)."""
    scan, file = start(rng)
    size = 16 * int(rng.integers(1, 200))
    body = np.array([size, 2], "<i4").tobytes() + rng.bytes(size - 8)
    file.extension = b"\1\0\0\0" + body
    file.header["vox_offset"] = 348 + len(file.extension)
    return finish(rng, folder, file, scan)


def make_huge_extension(rng, folder):
    """The extension says that it is 2 GB long."""
    scan, file = start(rng)
    file.extension = b"\1\0\0\0" + np.array([2**31 - 16, 6], "<i4").tobytes() + b"\0" * 8
    file.header["vox_offset"] = 348 + len(file.extension)
    return finish(rng, folder, file, scan)


def make_huge_offset(rng, folder):
    _scan, file = start(rng)
    file.header["vox_offset"] = [2.0**31, 1e30, np.inf, np.nan, -352][int(rng.integers(5))]
    return finish(rng, folder, file, None)


def make_huge_dim(rng, folder):
    """A header of 32767 voxels an axis, 70 TB."""
    _scan, file = start(rng, version=int(rng.integers(1, 3)))
    file.header["dim"][1:4] = 32767 if file.header.dtype.itemsize == 348 else 2**40
    return finish(rng, folder, file, None)


def make_bad_dim(rng, folder):
    _scan, file = start(rng)
    at, value = [(0, 0), (0, 9), (0, -1), (1, 0), (2, -5), (3, -32768)][int(rng.integers(6))]
    file.header["dim"][at] = value
    return finish(rng, folder, file, None)


def make_bad_header_size(rng, folder):
    _scan, file = start(rng)
    file.header["sizeof_hdr"] = [0, 347, 2**31 - 1, 540][int(rng.integers(4))]
    return finish(rng, folder, file, None)


def make_bad_magic(rng, folder):
    """Analyze 7.5 has no magic, and its affine means something else."""
    _scan, file = start(rng)
    file.header["magic"] = [b"", b"ni1", b"abc", b"n+9"][int(rng.integers(4))]
    return finish(rng, folder, file, None)


def make_bad_datatype(rng, folder):
    _scan, file = start(rng)
    file.header["datatype"] = [0, 1, 3, 1536, 9999, -4][int(rng.integers(6))]
    return finish(rng, folder, file, None)


def make_bad_bitpix(rng, folder):
    scan, file = start(rng)
    file.header["bitpix"] = [0, 8, 32, -16][int(rng.integers(4))]
    return finish(rng, folder, file, scan)


def make_rest(rng, folder):
    scan, file = start(rng)
    file.rest = rng.bytes(int(rng.integers(1, 5000)))
    return finish(rng, folder, file, scan)


def make_truncated(rng, folder):
    scan, file = start(rng)
    path = file.write(folder / "scan.nii")
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(400, len(data)))])
    return Case(path, scan)


def make_truncated_gzip(rng, folder):
    scan, file = start(rng)
    path = file.write(folder / "scan.nii.gz")
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(len(data) // 4, len(data) - 9))])
    return Case(path, scan)


def make_cut_in_header(rng, folder):
    _scan, file = start(rng)
    path = file.write(folder / "scan.nii")
    path.write_bytes(path.read_bytes()[: int(rng.integers(0, 348))])
    return Case(path, None)


def make_bad_checksum(rng, folder):
    """One bit of the compressed data is wrong."""
    scan, file = start(rng)
    path = file.write(folder / "scan.nii.gz")
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data) // 2, len(data) - 4))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return Case(path, scan)


def make_wrong_suffix(rng, folder):
    """gzip under .nii, or plain under .nii.gz."""
    scan, file = start(rng)
    data = file.to_bytes()
    packed = rng.random() < 0.5
    path = folder / ("scan.nii" if packed else "scan.nii.gz")
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    return Case(path, scan)


def make_pair(rng, folder):
    """Header and data in two files."""
    scan, file = start(rng)
    file.header["magic"], file.header["vox_offset"] = b"ni1", 0
    data = file.to_bytes()
    (folder / "scan.hdr").write_bytes(data[:348])
    (folder / "scan.img").write_bytes(data[352:])
    return Case(folder / "scan.hdr", scan)


BAD_HEADER = ("damaged", "unknown-format", "truncated")
NIFTI_BYTES: dict[str, Defect] = {
    "extension": accept(make_extension, RIGHT),
    "extension of 2 GB": accept(make_huge_extension, RIGHT, "damaged", "truncated", "too-large"),
    "offset beyond the file": accept(make_huge_offset, *BAD_HEADER, "too-large"),
    "32767 voxels an axis": accept(make_huge_dim, "too-large", "truncated"),
    "impossible dim": accept(make_bad_dim, "damaged", "four-dimensional", "too-few-slices"),
    "impossible header size": accept(make_bad_header_size, *BAD_HEADER),
    "no magic (Analyze)": accept(make_bad_magic, *BAD_HEADER),
    "unknown datatype": accept(make_bad_datatype, *BAD_HEADER, "not-16-bit", "not-hu"),
    "wrong bitpix": accept(make_bad_bitpix, RIGHT, "damaged"),
    "bytes after the data": accept(make_rest, RIGHT, "damaged"),
    "truncated NIfTI": accept(make_truncated, "truncated"),
    "truncated gzip": accept(make_truncated_gzip, "truncated", "damaged"),
    "NIfTI cut in the header": accept(make_cut_in_header, *BAD_HEADER),
    "gzip with a wrong bit": accept(make_bad_checksum, *BAD_HEADER, "too-large"),
    "suffix of the other kind": accept(make_wrong_suffix, RIGHT, *BAD_HEADER),
    "pair of .hdr and .img": accept(make_pair, RIGHT, "unknown-format"),
}
