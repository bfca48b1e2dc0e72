"""Faster decoding of 16-bit grey PNG: inflated by isal (Intel ISA-L), unfiltered apart.

Half of OpenCV's time goes to zlib's inflate, which isal does in half of its own.  What is left are
the row filters: where all rows are filtered by the one above (as `encode_png16` writes them) NumPy
undoes them in one pass; else OpenCV does, from a PNG that holds the inflated rows as they are.
Nothing is held here to be right: what does not fit is left to OpenCV (`None`), checksums are not.
Source: PNG specification (W3C, 3rd edition), 9.2, 10.1; RFC 1950; RFC 1951, 3.2.4.
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np

HEADER_BYTES = 33  # signature 8; IHDR: length 4, name 4, data 13, CRC 4
END_CHUNK = b"\x00\x00\x00\x00IEND\xaeB`\x82"  # the last 12 bytes of every PNG
FILTER_NONE, FILTER_UP = 0, 2  # types of row filters (PNG specification, 9.2)
STORED_BLOCK_BYTES = 2**16 - 1  # the most that a block of DEFLATE without compression holds
GROUP_ROWS = 16
MOST_EXPANSION = 1032  # DEFLATE's: 258 bytes a pair of two one-bit codes
METHODS = slice(26, 29)  # of the file: compression, filter and interlace method


def _import_isal() -> Any:
    try:
        from isal import isal_zlib
    except ImportError:
        return None
    return isal_zlib


def _find_data(data: bytes) -> list[bytes]:
    """Return the chunks of image data; none where the order of chunks is left to OpenCV."""
    parts: list[bytes] = []
    position, last = HEADER_BYTES, b""
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        if name == b"IEND":
            return parts
        is_critical = not name[0] & 0x20  # whoever does not know it cannot decode the image
        if name == b"IDAT" and (not parts or last == b"IDAT"):
            parts.append(data[position + 8 : end])
        elif is_critical:
            return []
        position, last = end + 4, name
    return []


def inflate_rows(data: bytes, size: tuple[int, int]) -> np.ndarray | None:
    """Inflate the filtered rows of a PNG, never to more bytes than its size says.

    Args:
        data: The file's bytes, whose chunks `check_png16_bytes` found whole.
        size: (height, width) px.

    Returns:
        uint8 [H, 1 + 2 W]: filter type and filtered bytes of each row; None where isal is not
        installed, or the data are interlaced, damaged, or of another length.
    """
    isal = _import_isal()
    if isal is None or any(data[METHODS]):
        return None
    content = b"".join(_find_data(data))
    num_bytes = size[0] * (1 + 2 * size[1])
    if num_bytes > MOST_EXPANSION * len(content):
        return None
    inflater = isal.decompressobj()
    try:
        rows = inflater.decompress(content, num_bytes + 1)
    except isal.error:
        return None
    if len(rows) != num_bytes or not inflater.eof:
        return None
    return np.frombuffer(rows, np.uint8).reshape(size[0], -1)


def sum_rows(rows: np.ndarray) -> np.ndarray:
    """Add to every row all rows above it, modulo 256: what undoes the filter Up.

    Args:
        rows: uint8 [H, N].

    Returns:
        uint8 [H, N]; NumPy's own `accumulate` takes ten times as long.

    >>> sum_rows(np.array([[1, 200], [2, 100], [3, 0]], np.uint8)).tolist()
    [[1, 200], [3, 44], [6, 44]]
    """
    num_groups = -(-len(rows) // GROUP_ROWS)
    sums = np.zeros((num_groups, GROUP_ROWS, rows.shape[1]), np.uint8)
    flat = sums.reshape(-1, rows.shape[1])
    flat[: len(rows)] = rows
    for i in range(1, GROUP_ROWS):  # within all groups at once, then from group to group
        sums[:, i] += sums[:, i - 1]
    last = np.zeros_like(sums[:, -1])
    for i in range(1, num_groups):
        np.add(last[i - 1], sums[i - 1, -1], out=last[i])
    sums += last[:, None]
    return flat[: len(rows)]


def wrap_rows(rows: np.ndarray, header: bytes) -> bytes:
    """Return a PNG whose image data are the rows as they are, not compressed.

    Args:
        rows: uint8 [H, 1 + 2 W] from `inflate_rows`.
        header: The first 33 bytes of the file.

    Returns:
        The file's bytes.
    """
    isal, content = _import_isal(), rows.reshape(-1).data
    parts: list[Any] = [b"IDAT\x78\x01"]
    for start in range(0, len(content), STORED_BLOCK_BYTES):
        block = content[start : start + STORED_BLOCK_BYTES]
        is_last = start + len(block) == len(content)
        parts += [struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF), block]
    parts.append(struct.pack(">I", isal.adler32(content)))
    crc = 0
    for part in parts:
        crc = isal.crc32(part, crc)
    length = sum(map(len, parts)) - len(b"IDAT")
    return b"".join([header, struct.pack(">I", length), *parts, struct.pack(">I", crc), END_CHUNK])


def decode_fast(data: bytes, size: tuple[int, int]) -> np.ndarray | None:
    """Decode a 16-bit grey PNG that `check_png16_bytes` found whole.

    Args:
        data: The file's bytes.
        size: (height, width) px, as `check_png16_bytes` gave it.

    Returns:
        stored uint16 [H, W]; None where `decode_opencv` must decide.
    """
    rows = inflate_rows(data, size)
    if rows is None:
        return None
    filters = rows[:, 0]
    if filters[0] in (FILTER_NONE, FILTER_UP) and np.all(filters[1:] == FILTER_UP):
        # The high byte comes first.
        return sum_rows(rows[:, 1:]).view(">u2").astype(np.uint16)
    return decode_opencv(wrap_rows(rows, data[:HEADER_BYTES]), size)


def decode_opencv(data: bytes, size: tuple[int, int]) -> np.ndarray | None:
    """Decode a 16-bit grey PNG with OpenCV.

    Args:
        data: The file's bytes.
        size: (height, width) px, as `check_png16_bytes` gave it.

    Returns:
        stored uint16 [H, W]; None where OpenCV cannot, or finds another size or type.
    """
    try:
        flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # OpenCV's own limits, such as 2**20 px a side
        return None
    is_right = stored is not None and stored.dtype == np.uint16 and stored.shape == size
    return np.asarray(stored) if is_right else None
