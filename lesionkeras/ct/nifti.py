"""NIfTI files (.nii, .nii.gz) to volumes in HU or labels, and back.

Reading inflates, checks, converts and turns a few slices at a time, straight into the canonical
array: nothing is in memory twice, and nothing is inflated past what the header declares.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lesionkeras.ct.findings import Correction, CtError, make_correction
from lesionkeras.ct.hounsfield import Met, check_hu, check_rescale, to_hu, to_labels
from lesionkeras.ct.nifti_encode import encode_header
from lesionkeras.ct.nifti_header import (
    COLOURS,
    HEADER_BYTES,
    NOT_READ,
    NiftiHeader,
    find_affine,
    find_version,
    parse_header,
)
from lesionkeras.ct.nifti_stream import COPY_AGAIN, NiftiStream, open_stream, write_bytes
from lesionkeras.ct.orientation import CANONICAL, find_code, reorient
from lesionkeras.ct.volume import Source, Volume, check_affine

PART_BYTES = 2**19  # inflated, converted and turned together: fits a core's cache
IMAGE, MASK = np.dtype(np.int16), np.dtype(np.uint8)


def read_nifti_header(source: str | os.PathLike[str] | BinaryIO) -> NiftiHeader:
    """Read a NIfTI file's header and nothing else.

    Args:
        source: A .nii or .nii.gz, by path or open.

    Returns:
        Its facts, also of a file whose geometry or pixels `read_nifti` refuses.

    Raises:
        CtError: What `open_stream` and `parse_header` raise.
    """
    where = _name(source)
    with open_stream(source, where) as stream:
        return _read_start(stream, where)[0]


def _read_start(stream: NiftiStream, where: str) -> tuple[NiftiHeader, int]:
    """Return the header and how many bytes of the stream it took."""
    start = stream.read_up_to(min(HEADER_BYTES))
    if find_version(start) == 2:
        start += stream.read_up_to(max(HEADER_BYTES) - len(start))
    return parse_header(start, where), len(start)


def _name(source: str | os.PathLike[str] | BinaryIO) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else "the file"


def _check_type(header: NiftiHeader, kind: str, where: str) -> np.dtype:
    """Return the stored type if it can hold what is wanted."""
    facts = {"where": where, "next_step": "convert the scan again from its source"}
    datatype, dtype = header.datatype, header.dtype
    if kind == "image" and (datatype in COLOURS or (dtype is not None and dtype.itemsize == 1)):
        raise CtError(
            "not-16-bit",
            "A NIfTI file cannot hold CT values",
            found=COLOURS.get(datatype, "8 bits a voxel"),
            wanted="16 bits or more",
            **facts,
        )
    if dtype is None:
        raise CtError(
            "not-hu" if kind == "image" else "bad-label",
            "Voxels are not plain numbers",
            found=(COLOURS | NOT_READ)[datatype],
            wanted="whole numbers" if kind == "mask" else "int16",
            **facts,
        )
    return dtype


def _check_size(header: NiftiHeader, dtype: np.dtype, most_bytes: int, where: str) -> None:
    """Check that there is one volume and that the file can hold it, before memory is taken."""
    if math.prod(header.shape[3:]) != 1:
        raise CtError(
            "four-dimensional",
            "A NIfTI file holds more than one volume",
            where=where,
            found=f"sizes {header.shape}",
            wanted="three axes",
            next_step="save the one that is wanted as a file of its own",
        )
    num_bytes = header.offset + math.prod(header.shape[:3]) * dtype.itemsize
    if num_bytes > most_bytes:
        raise CtError(
            "truncated",
            "A NIfTI file is shorter than its header says",
            where=where,
            found=f"at most {most_bytes} bytes",
            wanted=f"{num_bytes}",
            next_step=COPY_AGAIN,
        )


def _list_parts(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[slice | int, ...]]:
    """Yield indices of [k, j, i] in the file's order, of about `PART_BYTES` each."""
    k, j, i = shape
    num_slices = PART_BYTES // (j * i * itemsize)
    if num_slices:
        yield from ((slice(first, first + num_slices),) for first in range(0, k, num_slices))
        return
    num_rows = max(1, PART_BYTES // (i * itemsize))
    for place in range(k):
        yield from ((place, slice(first, first + num_rows)) for first in range(0, j, num_rows))


def _check_end(
    stream: NiftiStream, header: NiftiHeader, dtype: np.dtype, where: str
) -> list[Correction]:
    """Check the checksum and that less than a plane is left: more means that a size is false."""
    sizes = header.shape[:3]
    plane_bytes = math.prod(sizes) // max(sizes) * dtype.itemsize
    num_left = len(stream.read_up_to(plane_bytes))
    if num_left >= plane_bytes:
        raise CtError(
            "damaged",
            "A NIfTI file holds more than its header says",
            where=where,
            found=f"{plane_bytes} bytes or more after {sizes} voxels",
            next_step=COPY_AGAIN,
        )
    detail = f"{num_left} bytes after the last voxel"
    return [make_correction("trailing-bytes-left-out", detail)] if num_left else []


def _fill(
    stream: NiftiStream, header: NiftiHeader, dtype: np.dtype, target: np.ndarray, where: str
) -> Met | None:
    """Fill [k, j, i] part by part; returns what an image's values met, None for a mask."""
    met = Met() if target.dtype == IMAGE else None
    slope, inter = check_rescale(header.slope, header.inter, where)
    native = dtype.newbyteorder("=")
    parts = list(_list_parts(target.shape, dtype.itemsize))
    buffer = np.empty(target[parts[0]].size, dtype)
    for part in parts:
        wanted = target[part]
        stored = buffer[: wanted.size]
        if stream.fill(stored) < stored.nbytes:
            raise CtError(
                "truncated",
                "A NIfTI file ends before its last voxel",
                where=where,
                wanted=f"{header.shape[:3]} voxels",
                next_step=COPY_AGAIN,
            )
        stored = stored.astype(native, copy=False).reshape(wanted.shape)
        if met is None:
            wanted[...] = to_labels(stored, slope, inter, where)
        else:
            wanted[...] = to_hu(stored, slope, inter, met, where)
    return met


def _list_corrections(header: NiftiHeader, kind: str) -> list[Correction]:
    """Return what reading changes by the header alone."""
    corrections = []
    if len(header.shape) > 3:
        detail = f"sizes {header.shape} became {header.shape[:3]}"
        corrections.append(make_correction("squeezed", detail))
    if kind == "mask" and header.dtype is not None and header.dtype != np.uint8:
        detail = f"labels were stored as {header.dtype.newbyteorder('=').name}"
        corrections.append(make_correction("mask-to-uint8", detail))
    return corrections


def read_nifti(
    source: str | os.PathLike[str] | BinaryIO,
    kind: str = "image",
    *,
    affine: np.ndarray | None = None,
) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file, zipped or not, whatever its name.

    Args:
        source: Path, or an open and seekable file.
        kind: "image": int16 HU; "mask": uint8 labels.
        affine: [4, 4], stored (i, j, k, 1) to LPS mm, known from elsewhere to be the true one: the
            file's own is then not looked at, and the caller names the correction.

    Returns:
        The volume in canonical orientation.

    Raises:
        CtError: not-found, unreadable-file, unknown-format, truncated, damaged, too-large,
            four-dimensional; of pixels: not-16-bit, bad-rescale, not-finite, not-hu, bad-label; of
            geometry: no-geometry, affine-mismatch, identity-affine and what `check_affine` raises.
    """
    assert kind in ("image", "mask"), kind
    where = _name(source)
    with open_stream(source, where, ahead=True) as stream:
        header, num_read = _read_start(stream, where)
        dtype = _check_type(header, kind, where)
        _check_size(header, dtype, stream.most_bytes, where)
        if affine is None:
            affine = find_affine(header, where)
        check_affine(affine, where)
        code = find_code(affine)
        # The stored order as a view of the canonical array: filling the one fills the other.
        shape, turned = _turn_shape(header.shape[:3], affine)
        array = _allocate(shape, IMAGE if kind == "image" else MASK, where)
        target = reorient(array, turned, code)[0].T
        corrections = _list_corrections(header, kind)
        stream.skip(header.offset - num_read)
        met = _fill(stream, header, dtype, target, where)
        corrections += _check_end(stream, header, dtype, where)
    if met is not None:
        corrections += check_hu(array, met, where)
    return Volume(array, turned, Source("nifti", code, tuple(corrections)))


def _turn_shape(shape: tuple[int, ...], affine: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """Return a canonical volume's shape and affine without its voxels."""
    hollow = np.broadcast_to(np.uint8(0), shape)
    view, turned = reorient(hollow, affine, CANONICAL)
    return view.shape, turned


def _allocate(shape: tuple[int, ...], dtype: np.dtype, where: str) -> np.ndarray:
    try:
        return np.empty(shape, dtype)
    except MemoryError as error:
        raise CtError(
            "too-large",
            "A volume does not fit the memory of this machine",
            where=where,
            found=f"{shape} voxels",
            next_step="read it on a machine with more memory",
        ) from error


def _is_zipped(path: Path) -> bool:
    """Return what a file's name asks for."""
    if path.name.endswith(".nii.gz"):
        return True
    if path.name.endswith(".nii"):
        return False
    raise CtError(
        "unknown-format",
        "A volume cannot be written under this name",
        where=str(path),
        wanted="a name that ends in .nii or .nii.gz",
    )


def write_nifti(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write a volume as NIfTI-1 in the orientation of its source, wholly or not at all.

    Args:
        path: Ends in .nii or .nii.gz; replaced if it is there.
        volume: int16 or uint8.

    Raises:
        CtError: unknown-format (name or type), too-large, unreadable-file (cannot be written).
    """
    path = Path(path)
    zipped, where = _is_zipped(path), str(path)
    if volume.array.dtype not in (IMAGE, MASK):
        found = str(volume.array.dtype)
        what = "A volume's type cannot be written"
        raise CtError("unknown-format", what, where=where, found=found, wanted="int16 or uint8")
    code = volume.source.code
    # NIfTI's first axis is the fastest in memory, an array's is the slowest.
    code = code if volume.source.kind == "nifti" else code[::-1]
    view, affine = reorient(volume.array, volume.affine, code)
    header = encode_header(view.shape, view.dtype, affine, where)
    voxels = np.ascontiguousarray(view.T, view.dtype.newbyteorder("<"))
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file:
            write_bytes(file, (header, voxels.reshape(-1).view(np.uint8).data), zipped)
        beside.replace(path)
    except OSError as error:
        raise CtError(
            "unreadable-file",
            "A volume cannot be written",
            where=where,
            found=error.strerror or "",
            next_step="name a place where you may write and that has room",
        ) from error
    finally:
        beside.unlink(missing_ok=True)
