"""Headers of NIfTI-1 and NIfTI-2 single files: bytes to checked facts.

The meaning is nibabel's (sform before qform, slope 0 is no slope); what nibabel guesses or repairs
is refused here: no geometry, two geometries, an identity, units other than millimetres.
Source: nifti1.h (R. W. Cox et al. 2003) and nifti2.h (NIH 2011).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from lesionkeras.ct.findings import CtError
from lesionkeras.ct.volume import check_affine

HEADER_BYTES = {348: 1, 540: 2}  # sizeof_hdr -> NIfTI version
FIRST_DATA_BYTE = {1: 352, 2: 544}  # the header, and four bytes that say whether extensions follow
MOST_OFFSET_BYTES = 2**26  # extensions hold text; 64 MiB of it is no header
MOST_VOXELS = 2**31  # of one volume: 4 GiB as int16
MOST_SIDE = 2**15 - 1  # of an axis: NIfTI-1 cannot say more, and no scanner has it
VOXEL_MM = (1e-3, 100.0)  # as of DICOM; a voxel in metres has .0007
SFORM_QFORM_MM = 0.1  # float32 moves a corner by less than .01 mm; a voxel is larger than .3 mm
CHANGE_BOTH = "set one of the two to the true affine and the code of the other to 0"
COPY_AGAIN = "copy or convert the file from its source again"

_PLAIN = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"}
_LATER = {256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
TYPES = _PLAIN | _LATER  # datatype -> NumPy's name
COLOURS = {128: "RGB", 2304: "RGB with alpha"}
NOT_READ = {32: "complex64", 1536: "float128", 1792: "complex128", 2048: "complex256"}


def _make_layout(version: int) -> np.dtype:
    """Return the fields of a header that are read or written, at their places."""
    size, real, offset = ("i2", "f4", "f4") if version == 1 else ("i8", "f8", "i8")
    places: dict[str, tuple[Any, int, int]] = {  # name: type, byte in version 1, in version 2
        "sizeof_hdr": ("i4", 0, 0),
        "dim": ((size, 8), 40, 16),
        "datatype": ("i2", 70, 12),
        "bitpix": ("i2", 72, 14),
        "pixdim": ((real, 8), 76, 104),
        "vox_offset": (offset, 108, 168),
        "scl_slope": (real, 112, 176),
        "scl_inter": (real, 116, 184),
        "xyzt_units": ("u1" if version == 1 else "i4", 123, 500),
        "qform_code": ("i2" if version == 1 else "i4", 252, 344),
        "sform_code": ("i2" if version == 1 else "i4", 254, 348),
        "quatern": ((real, 3), 256, 352),
        "qoffset": ((real, 3), 268, 376),
        "srow": ((real, (3, 4)), 280, 400),
        "magic": ("S4" if version == 1 else "S8", 344, 4),
    }
    return np.dtype(
        {
            "names": list(places),
            "formats": [place[0] for place in places.values()],
            "offsets": [place[version] for place in places.values()],
            "itemsize": {1: 348, 2: 540}[version],
        }
    )


LAYOUTS = {version: _make_layout(version) for version in (1, 2)}
MAGIC = {1: b"n+1", 2: b"n+2\x00\r\n\x1a\n"}
# Half turns have 1 - b*b - c*c - d*d of 0, which float32 misses by so much: its root would turn the
# axes by .04 degrees, and a true turn of .04 degrees more or less cannot be seen in it.
HALF_TURN = 1e-7
NEAR_TURNS = 20  # to either side of a half turn
PAIR_MAGIC = {1: b"ni1", 2: b"ni2\x00\r\n\x1a\n"}


@dataclass(frozen=True)
class NiftiHeader:
    """What a header says, as far as it is read.

    Attributes:
        version: 1 or 2.
        shape: Stored axes i, j, k and, in a file of several volumes, the others.
        dtype: Of a stored voxel, with its byte order; None where NumPy has none (colours, complex).
        datatype: The header's code of it.
        offset: Byte of the first voxel.
        slope: scl_slope; a value is stored * slope + inter.
        inter: scl_inter.
        sform: float64 [4, 4], (i, j, k, 1) to RAS mm, or None if its code is 0.
        qforms: float64 [n, 4, 4], the same from quaternion and pixdim, or None if its code is 0;
            several where single precision cannot tell them apart, the likeliest first.
    """

    version: int
    shape: tuple[int, ...]
    dtype: np.dtype | None
    datatype: int
    offset: int
    slope: float
    inter: float
    sform: np.ndarray | None
    qforms: np.ndarray | None


def _refuse(where: str, found: str, wanted: str = "", next_step: str = COPY_AGAIN) -> CtError:
    what = "A NIfTI header contradicts its format"
    return CtError("damaged", what, where=where, found=found, wanted=wanted, next_step=next_step)


def find_version(start: bytes) -> int:
    """Return which version's header bytes start as (Analyze's look like 1), or 0.

    Args:
        start: Of a file, unzipped; four bytes are enough.

    >>> find_version((540).to_bytes(4, "big")), find_version(b"DICM")
    (2, 0)
    """
    little, big = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
    return HEADER_BYTES.get(little, HEADER_BYTES.get(big, 0)) if len(start) >= 4 else 0


def _unpack(data: bytes, where: str) -> tuple[np.void, int, str]:
    """Return (fields, version, byte order) of the header at the start of a file."""
    version = find_version(data)
    if not version:
        short = len(data) < 4
        found = f"{len(data)} bytes" if short else f"first bytes {data[:4].hex(' ')}"
        raise CtError(
            "truncated" if short else "unknown-format",
            "A file is not NIfTI",
            where=where,
            found=found,
            wanted="a NIfTI-1 or NIfTI-2 header",
            next_step=COPY_AGAIN,
        )
    order = "<" if int.from_bytes(data[:4], "little") in HEADER_BYTES else ">"
    layout = LAYOUTS[version].newbyteorder(order)  # type: ignore[arg-type]
    if len(data) < layout.itemsize:
        raise CtError(
            "truncated",
            "A NIfTI file ends within its header",
            where=where,
            found=f"{len(data)} bytes",
            next_step=COPY_AGAIN,
        )
    fields = np.frombuffer(data[: layout.itemsize], layout)[0]
    magic = fields["magic"]
    if magic != MAGIC[version]:
        pair = magic == PAIR_MAGIC[version] or not magic
        raise CtError(
            "unknown-format" if pair else "damaged",
            "A header stands without its voxels" if pair else "A NIfTI magic number is wrong",
            where=where,
            found="one file of a .hdr and .img pair" if pair else f"bytes {magic.hex(' ')}",
            wanted="a single .nii or .nii.gz file",
            next_step="load the pair with nibabel and save it as .nii.gz" if pair else COPY_AGAIN,
        )
    return fields, version, order


def _parse_shape(fields: np.void, where: str) -> tuple[int, ...]:
    """Return at least three sizes, each at least 1, of a product that memory can hold."""
    num_axes, *sizes = (int(size) for size in fields["dim"])
    if not 1 <= num_axes <= 7:
        raise _refuse(where, f"{num_axes} axes", "1 to 7")
    shape = (*sizes[:num_axes], 1, 1)[: max(3, num_axes)]
    if min(shape) < 1:
        raise _refuse(where, f"sizes {shape}", "at least 1 each")
    if max(shape) > MOST_SIDE or math.prod(shape[:3]) > MOST_VOXELS:
        raise CtError(
            "too-large",
            "A NIfTI header claims more voxels than a CT has",
            where=where,
            found=f"sizes {shape}",
            wanted=f"at most {MOST_SIDE} an axis and 2**31 together",
            next_step=COPY_AGAIN,
        )
    return shape


def _parse_offset(fields: np.void, version: int, where: str) -> int:
    offset = float(fields["vox_offset"])
    if not FIRST_DATA_BYTE[version] <= offset <= MOST_OFFSET_BYTES or offset % 1:
        wanted = f"a whole number from {FIRST_DATA_BYTE[version]} to {MOST_OFFSET_BYTES}"
        raise _refuse(where, f"vox_offset {offset:g}", wanted)
    return int(offset)


def _parse_type(fields: np.void, order: str, where: str) -> tuple[np.dtype | None, int]:
    datatype, bits = int(fields["datatype"]), int(fields["bitpix"])
    if datatype in COLOURS or datatype in NOT_READ:
        return None, datatype
    if datatype not in TYPES:
        raise _refuse(where, f"datatype {datatype}", "one that NIfTI defines")
    dtype = np.dtype(order + TYPES[datatype])
    if bits != 8 * dtype.itemsize:
        raise _refuse(where, f"bitpix {bits} of datatype {datatype}", f"{8 * dtype.itemsize}")
    return dtype, datatype


def _parse_qform(fields: np.void, where: str) -> np.ndarray:
    """Return the affines [n, 4, 4] that quaternion, offset, pixdim can mean, the likeliest first.

    Source: nifti1.h, method 2; nifti1_io.c takes half turns for exact.
    """
    b, c, d = (float(value) for value in fields["quatern"])
    qfac, *spacing = (float(value) for value in fields["pixdim"][:4])
    rest = 1 - (b * b + c * c + d * d)
    if rest < -1e-5:  # of float32 values; more is no rotation
        raise _refuse(where, f"a quaternion of length {math.sqrt(1 - rest):.3g}", "at most 1")
    if qfac not in (-1, 0, 1):
        raise _refuse(where, f"pixdim[0] {qfac:g}", "1 or -1")
    if min(spacing) < 0:
        raise _refuse(where, "a negative pixdim", "distances in mm")
    if not rest < HALF_TURN:
        turns = [(math.sqrt(rest) if rest == rest else math.nan, b, c, d)]
    else:
        b, c, d = (value / math.sqrt(1 - rest) for value in (b, c, d))
        most = math.sqrt(2 * HALF_TURN)
        turns = [(0.0, b, c, d), *((a, b, c, d) for a in np.linspace(-most, most, 2 * NEAR_TURNS))]
    scale = np.array(spacing) * [1, 1, -1 if qfac == -1 else 1]
    affines = np.tile(np.eye(4), (len(turns), 1, 1))
    for affine, turn in zip(affines, turns, strict=True):
        affine[:3, :3] = _to_rotation(*turn) * scale
    affines[:, :3, 3] = fields["qoffset"]
    return affines


def _to_rotation(a: float, b: float, c: float, d: float) -> np.ndarray:
    return np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )


def parse_header(data: bytes, where: str) -> NiftiHeader:
    """Parse the start of a single-file NIfTI.

    Args:
        data: At least the header's 348 or 540 bytes, unzipped.
        where: What to call the file in an error.

    Returns:
        Its facts; each is checked by itself, the geometry only by `find_affine`.

    Raises:
        CtError: unknown-format, truncated, damaged, too-large, no-geometry (units not mm).
    """
    with np.errstate(all="ignore"):  # signalling NaN in damaged fields
        fields, version, order = _unpack(data, where)
        dtype, datatype = _parse_type(fields, order, where)
        codes = {name: int(fields[f"{name}_code"]) for name in ("sform", "qform")}
        for name, code in codes.items():
            if not 0 <= code <= 5:
                raise _refuse(where, f"{name}_code {code}", "0 to 5")
        units = int(fields["xyzt_units"]) & 7
        if units not in (0, 2):  # nifti1.h: 1 metre, 3 micrometre; 0 was not filled in
            raise CtError(
                "no-geometry",
                "A NIfTI header does not measure in millimetres",
                where=where,
                found={1: "metres", 3: "micrometres"}.get(units, f"unit {units}"),
                next_step="convert the affine to millimetres and set xyzt_units to 2",
            )
        sform = np.eye(4)
        sform[:3] = fields["srow"]
        return NiftiHeader(
            version=version,
            shape=_parse_shape(fields, where),
            dtype=dtype,
            datatype=datatype,
            offset=_parse_offset(fields, version, where),
            slope=float(fields["scl_slope"]),
            inter=float(fields["scl_inter"]),
            sform=sform if codes["sform"] else None,
            qforms=_parse_qform(fields, where) if codes["qform"] else None,
        )


def measure_apart_mm(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return how far two affines lay a volume's corners apart.

    Args:
        one: float [4, 4], index to mm.
        other: The same.
        shape: Voxels along each of three axes.

    Returns:
        The largest distance of a corner's voxel centre, in mm; NaN if an affine is not finite.

    >>> measure_apart_mm(np.eye(4), np.diag([1, 1, 1.5, 1]), (1, 1, 11))
    5.0
    """
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in shape[:3]))])
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(((one - other) @ corners.T)[:3], axis=0).max())


def _check_voxel(affine: np.ndarray, where: str) -> None:
    """Refuse voxels of a size that only another unit than mm explains."""
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    if sides.min() < VOXEL_MM[0] or sides.max() > VOXEL_MM[1]:
        raise CtError(
            "no-geometry",
            "A voxel size is impossible in millimetres",
            where=where,
            found=" x ".join(f"{side:g}" for side in sides) + " mm",
            wanted=f"{VOXEL_MM[0]:g} to {VOXEL_MM[1]:g} mm",
            next_step="convert the affine to millimetres and set xyzt_units to 2",
        )


def _is_identity(affine: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Return whether an affine is RAS' identity, or LPS' (ITK writes it where it knows nothing).

    Tools that turn such a file permute its axes, flip them and move the origin to the last voxel.
    """
    axes, origin = abs(affine[:3, :3]), abs(affine[:3, 3])
    is_turned = np.isin(axes, (0, 1)).all() and all((axes.sum(axis=a) == 1).all() for a in (0, 1))
    ends = axes @ (np.array(shape[:3]) - 1)
    return bool(is_turned and ((origin == 0) | (origin == ends)).all())


def find_affine(header: NiftiHeader, where: str) -> np.ndarray:
    """Return where a header lays its voxels in the patient.

    Args:
        header: Of a volume of three axes.
        where: What to call the file in an error.

    Returns:
        float64 [4, 4], (i, j, k, 1) to LPS mm.

    Raises:
        CtError: no-geometry, affine-mismatch, identity-affine and what `check_affine` raises.
    """
    affine = header.sform
    if affine is None and header.qforms is not None:
        affine = header.qforms[0]
    if affine is None:
        raise CtError(
            "no-geometry",
            "A NIfTI file does not say where its voxels lie",
            where=where,
            found="sform_code 0 and qform_code 0",
            next_step="convert the scan again from its source, or set the affine and its code",
        )
    check_affine(affine, where)
    if header.sform is not None and header.qforms is not None:
        apart_mm = measure_apart_mm(header.sform, header.qforms[0], header.shape)
        if apart_mm > SFORM_QFORM_MM:
            apart_mm = min(measure_apart_mm(header.sform, q, header.shape) for q in header.qforms)
        if not apart_mm <= SFORM_QFORM_MM:
            raise CtError(
                "affine-mismatch",
                "sform and qform disagree",
                where=where,
                found=f"corners up to {apart_mm:.2f} mm apart",
                wanted=f"at most {SFORM_QFORM_MM} mm",
                next_step=CHANGE_BOTH,
            )
    _check_voxel(affine, where)
    if _is_identity(affine, header.shape):
        place = "the last voxel" if affine[:3, 3].any() else "0"
        raise CtError(
            "identity-affine",
            "An affine is the identity, so that millimetres are unknown",
            where=where,
            found=f"1 mm along each axis and the origin at {place}",
            next_step="convert the scan again from its source, or set its true affine",
        )
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
