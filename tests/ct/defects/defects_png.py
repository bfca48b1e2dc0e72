"""Defects of 16-bit PNG slices, as DeepLesion stores them (stored = HU + 32768)."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from tests.ct.defects.cases import RIGHT, Case, Defect, accept
from tests.ct.defects.scans import Scan, make_scan

SIGNATURE = b"\x89PNG\r\n\x1a\n"
NOT_FOR = ("nibabel",)
OFFSET_HU = 32768


def make_chunk(name: bytes, data: bytes) -> bytes:
    """Return a PNG chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def make_png(image: np.ndarray, depth: int = 16, colour: int = 0, size=None) -> bytes:
    """Return a PNG of a big-endian array [rows, bytes or values]; size: what the header says."""
    rows, columns = image.shape[:2]
    height, width = size or (rows, columns)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in image)
    chunks = make_chunk(b"IHDR", header) + make_chunk(b"IDAT", zlib.compress(lines, 1))
    return SIGNATURE + chunks + make_chunk(b"IEND", b"")


def _start(rng: np.random.Generator) -> tuple[Scan, np.ndarray]:
    scan = make_scan(rng).keep(0, 1)
    return scan, (scan.array[0].astype(np.int32) + OFFSET_HU).astype(">u2")


def _finish(folder: Path, data: bytes, truth: Scan | None) -> Case:
    path = folder / "012.png"
    path.write_bytes(data)
    return Case(path, truth, not_for=NOT_FOR)


def make_clean(rng, folder):
    scan, stored = _start(rng)
    return _finish(folder, make_png(stored), scan)


def make_eight_bit(rng, folder):
    scan, stored = _start(rng)
    return _finish(folder, make_png((stored >> 8).astype(np.uint8), 8), scan)


def make_rgb(rng, folder):
    scan, stored = _start(rng)
    depth = int(rng.choice([8, 16]))
    image = np.stack([stored >> (16 - depth)] * 3, -1).astype(f">u{depth // 8}")
    return _finish(folder, make_png(image, depth, 2), scan)


def make_alpha(rng, folder):
    scan, stored = _start(rng)
    return _finish(folder, make_png(np.stack([stored, stored], -1), 16, 4), scan)


def make_cut(rng, folder):
    scan, stored = _start(rng)
    data = make_png(stored)
    return _finish(folder, data[: int(rng.integers(0, len(data)))], scan)


def make_wrong_bit(rng, folder):
    scan, stored = _start(rng)
    data = bytearray(make_png(stored))
    data[int(rng.integers(45, len(data) - 16))] ^= 1 << int(rng.integers(8))
    return _finish(folder, bytes(data), scan)


def make_bomb(rng, folder):
    """A header of up to 2**31 - 1 pixels a side, and data for a few or for 800 MB of them."""
    _, stored = _start(rng)
    side = int(rng.choice([20000, 2**16, 2**31 - 1]))
    if rng.random() < 0.9:
        return _finish(folder, make_png(stored, size=(side, side)), None)
    packer = zlib.compressobj(9)
    lines = packer.compress(bytes(40001 * 64)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = zlib.compressobj(9, zlib.DEFLATED, -15)
    repeat = block.compress(bytes(40001 * 64)) + block.flush(zlib.Z_FULL_FLUSH)
    header = struct.pack(">IIBBBBB", 20000, 20000, 16, 0, 0, 0, 0)
    data = lines + repeat * 311 + b"\x03\0" + struct.pack(">I", 1)  # 312 * 64 = 19968 lines
    chunks = make_chunk(b"IHDR", header) + make_chunk(b"IDAT", data) + make_chunk(b"IEND", b"")
    return _finish(folder, SIGNATURE + chunks, None)


PNGS: dict[str, Defect] = {
    "PNG": accept(make_clean, RIGHT),
    "PNG of 8 bits": accept(make_eight_bit, "A PNG cannot hold CT values"),
    "PNG of colours": accept(make_rgb, "A PNG cannot hold CT values"),
    "PNG with alpha": accept(make_alpha, "A PNG cannot hold CT values"),
    "PNG cut": accept(make_cut, "A PNG is truncated", "An image file is empty", "A PNG is damaged"),
    "PNG with a wrong bit": accept(make_wrong_bit, "A PNG is damaged", "A PNG is truncated"),
    "PNG bomb": accept(make_bomb, "A PNG is damaged", "A PNG is too large"),
}
