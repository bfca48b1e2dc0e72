"""NIfTI files made by hand, and what tests say of reading them."""

import io

import nibabel as nib
import numpy as np
import pytest

from lesionkeras.ct.findings import CtError
from lesionkeras.ct.nifti import read_nifti

RNG = np.random.default_rng(8)
IMAGE = RNG.integers(-1000, 1500, (7, 6, 5)).astype(np.int16)
MASK = RNG.integers(0, 3, (7, 6, 5)).astype(np.uint8)
# Axes to L, A, S of .7, .9 and 2.5 mm, turned by 36.87 degrees (3-4-5) about the patient's x axis.
RAS = np.array(
    [[-0.7, 0, 0, 120.5], [0, 0.72, -1.5, -33.25], [0, 0.54, 2.0, -400], [0, 0, 0, 1]], np.float64
)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0]) @ RAS


def make(array=IMAGE, affine=RAS, version=1, order="<", change=None, sform=1, qform=1, **header):
    """The bytes of a .nii that nibabel wrote, with fields changed afterwards."""
    kind = {1: nib.Nifti1Image, 2: nib.Nifti2Image}[version]
    image = kind(array, affine, kind.header_class(endianness=order), dtype=array.dtype)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    data = bytearray(image.to_bytes())
    fields = kind.header_class.template_dtype.newbyteorder(order)
    view = np.frombuffer(data, fields, 1)
    for name, value in header.items():
        view[name] = value
    if change is not None:
        change(view)
    return bytes(data)


def read(data: bytes, kind: str = "image", **options):
    return read_nifti(io.BytesIO(data), kind, **options)


def say(data: bytes, kind: str = "image") -> tuple[str, str]:
    with pytest.raises(CtError) as error:
        read(data, kind)
    return error.value.name, str(error.value)


def names(volume) -> list[str]:
    return [correction.name for correction in volume.corrections]


def check_like_nibabel(data: bytes, kind: str = "image") -> None:
    """nibabel's values at nibabel's places; its closest RAS, y and x turned, is ours."""
    near = nib.as_closest_canonical(
        (nib.Nifti1Image if data[:2] in (b"\x5c\x01", b"\0\0") else nib.Nifti2Image).from_bytes(
            data
        )
    )
    volume = read(data, kind)
    np.testing.assert_array_equal(volume.array, np.asanyarray(near.dataobj)[::-1, ::-1].T)
    last = np.array([*near.shape, 1]) - 1
    for corner in np.ndindex(2, 2, 2):
        z, y, x = corner * (last[:3][::-1])
        mm = near.affine @ [last[0] - x, last[1] - y, z, 1]
        np.testing.assert_allclose((volume.affine @ [z, y, x, 1])[:3], mm[:3] * [-1, -1, 1])
