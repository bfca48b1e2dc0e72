"""Headers of NIfTI-1 single files: a volume's shape, type and affine to bytes."""

from __future__ import annotations

import numpy as np

from lesionkeras.ct.findings import CtError
from lesionkeras.ct.nifti_header import (
    FIRST_DATA_BYTE,
    LAYOUTS,
    MAGIC,
    MOST_SIDE,
    SFORM_QFORM_MM,
    TYPES,
    measure_apart_mm,
    parse_header,
)
from lesionkeras.ct.volume import check_affine


def _to_quaternion(rotation: np.ndarray) -> np.ndarray:
    """Return b, c, d of a proper rotation, with a >= 0; the eigenvector of Bar-Itzhack's matrix."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    lower = np.array(
        [
            [xx - yy - zz, 0, 0, 0],
            [yx + xy, yy - xx - zz, 0, 0],
            [zx + xz, zy + yz, zz - xx - yy, 0],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    b, c, d, a = np.linalg.eigh(lower / 3)[1][:, -1]
    return np.array([b, c, d]) * (-1 if a < 0 else 1)


def encode_header(shape: tuple[int, ...], dtype: np.dtype, affine: np.ndarray, where: str) -> bytes:
    """Encode a NIfTI-1 header; sform and qform say the same, with code 1 (scanner).

    Args:
        shape: i, j, k.
        dtype: Of a stored voxel, in `TYPES`.
        affine: [4, 4], (i, j, k, 1) to LPS mm.
        where: What to call the file in an error.

    Returns:
        352 bytes, little endian: the header, and that no extension follows.

    Raises:
        CtError: "too-large"; what `check_affine` raises.
    """
    check_affine(affine, where)
    if max(shape) > MOST_SIDE:
        raise CtError(
            "too-large",
            "NIfTI-1 cannot hold a volume",
            where=where,
            found=f"sizes {shape}",
            wanted=f"at most {MOST_SIDE} an axis",
        )
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    lengths = np.linalg.norm(ras[:3, :3], axis=0)
    left, _, right = np.linalg.svd(ras[:3, :3] / lengths)
    rotation = left @ right  # the nearest one
    qfac = -1.0 if np.linalg.det(rotation) < 0 else 1.0
    names = {name: code for code, name in TYPES.items()}
    fields = np.zeros((), LAYOUTS[1].newbyteorder("<"))
    fields["sizeof_hdr"], fields["magic"], fields["xyzt_units"] = 348, MAGIC[1], 2
    fields["dim"] = [3, *shape, 1, 1, 1, 1]
    fields["datatype"], fields["bitpix"] = names[dtype.str[1:]], 8 * dtype.itemsize
    fields["pixdim"] = [qfac, *lengths, 1, 1, 1, 1]
    fields["vox_offset"], fields["scl_slope"] = FIRST_DATA_BYTE[1], 1
    fields["quatern"] = _to_quaternion(rotation * [1, 1, qfac])
    fields["qoffset"], fields["srow"] = ras[:3, 3], ras[:3]
    fields["sform_code"] = 1
    written = parse_header(_mark_qform(fields), where)
    assert written.sform is not None and written.qforms is not None
    # A quaternion cannot hold the last bit of a shear; then the sform stands alone.
    same = measure_apart_mm(written.sform, written.qforms[0], shape) <= SFORM_QFORM_MM / 2
    fields["qform_code"] = int(same)
    return fields.tobytes() + bytes(4)


def _mark_qform(fields: np.ndarray) -> bytes:
    """Return the bytes of a header whose qform counts."""
    marked = fields.copy()
    marked["qform_code"] = 1
    return marked.tobytes()
