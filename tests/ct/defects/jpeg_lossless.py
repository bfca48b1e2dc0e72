"""Encodes 16-bit grey images as JPEG lossless (process 14, selection value 1), to test decoders.

The commonest compression in CT archives, and no Python package encodes it.
Source: ITU-T T.81, annex H; DICOM PS3.5, A.4.1 (1.2.840.10008.1.2.4.70).
"""

from __future__ import annotations

import struct

import numpy as np

CODE_BITS = 5  # one length for all 17 categories: 11111 stays unused, as T.81 wants
HEADER = b"\xff\xd8"


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def encode(image: np.ndarray) -> bytes:
    """Return a JPEG lossless stream.

    Args:
        image: uint16 [rows, columns].
    """
    rows, columns = image.shape
    lengths = bytes(17 if i == CODE_BITS else 0 for i in range(1, 17))
    head = _segment(0xC3, struct.pack(">BHHB", 16, rows, columns, 1) + b"\x01\x11\x00")
    head += _segment(0xC4, b"\x00" + lengths + bytes(range(17)))
    head += _segment(0xDA, b"\x01\x01\x00\x01\x00\x00")
    bits = "".join(_encode_difference(value) for value in predict(image).ravel().tolist())
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    return HEADER + head + data + b"\xff\xd9"


def predict(image: np.ndarray) -> np.ndarray:
    """Return differences from the left (from above in the first column), modulo 2**16, signed."""
    values = image.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[0, 0] = 1 << 15
    differences = (values - predicted) & 0xFFFF
    return np.where(differences > 32768, differences - 65536, differences)


def _encode_difference(value: int) -> str:
    category = abs(value).bit_length()
    code = f"{category:05b}"
    if category in (0, 16):  # 16 means 32768 and has no further bits
        return code
    return code + f"{value if value > 0 else value + (1 << category) - 1:0{category}b}"
