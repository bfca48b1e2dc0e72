import zlib

import cv2
import numpy as np
import pytest

from lesionkeras.ct import png16_fast
from lesionkeras.ct.png16 import HEADER_BYTES, check_png16_bytes, decode_png16, encode_png16
from lesionkeras.ct.png16_fast import (
    decode_fast,
    decode_opencv,
    inflate_rows,
    sum_rows,
    wrap_rows,
)
from lesionkeras.errors import DataError


def make_image(shape, seed=0):
    """Smooth with noise, so that an encoder chooses among the filters."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    smooth = 33_000 + 400 * np.sin(y / 9) * np.cos(x / 7)
    return (smooth + rng.normal(0, 12, shape)).astype(np.uint16)


def to_png(image, *options):
    return cv2.imencode(".png", image, options)[1].tobytes()


def filter_rows(image, kinds):
    """Filtered rows as the standard's 9.2 says, one type a row."""
    height, width = image.shape
    raw = image.astype(">u2").view(np.uint8).astype(int)
    rows = np.zeros((height, 1 + 2 * width), np.uint8)
    for y, kind in enumerate(kinds):
        rows[y, 0] = kind
        for x in range(2 * width):
            a = raw[y, x - 2] if x > 1 else 0
            b = raw[y - 1, x] if y else 0
            c = raw[y - 1, x - 2] if x > 1 and y else 0
            paeth = min((a, b, c), key=lambda v, p=a + b - c: abs(p - v))  # the first of the least
            rows[y, 1 + x] = (raw[y, x] - (0, a, b, (a + b) // 2, paeth)[kind]) % 256
    return rows


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (16, 16), (17, 5), (70, 300), (200, 190)])
@pytest.mark.parametrize("encode", [to_png, encode_png16], ids=["opencv", "ours"])
def test_decodes_as_opencv_does(shape, encode):
    image = make_image(shape)
    png = encode(image)
    found = decode_fast(png, check_png16_bytes(png, "a.png"))
    assert found.dtype == np.uint16 and np.array_equal(found, image)


@pytest.mark.parametrize(
    "kinds",
    [[0, 1, 2, 3, 4, 4, 3], [2] * 7, [0] * 7, [4, 2, 2, 2, 2, 2, 2], [0, 2, 2, 0, 2, 2, 2]],
    ids=["mixed", "up", "none", "paeth first", "none inside"],
)
def test_every_filter(kinds):
    image = make_image((7, 9), seed=1)
    image[3, 4:] = [0, 65535, 256, 255, 1]
    png = wrap_rows(filter_rows(image, kinds), encode_png16(image)[:HEADER_BYTES])
    assert check_png16_bytes(png, "a.png") == (7, 9)
    assert np.array_equal(decode_opencv(png, (7, 9)), image)  # OpenCV agrees that it is a PNG
    assert np.array_equal(decode_fast(png, (7, 9)), image)


@pytest.mark.parametrize("num_rows", [1, 15, 16, 17, 40])
def test_sum_rows_is_modulo_256(num_rows):
    rows = np.random.default_rng(2).integers(0, 256, (num_rows, 6)).astype(np.uint8)
    assert np.array_equal(sum_rows(rows), np.cumsum(rows.astype(int), axis=0) % 256)


def test_rows_longer_than_one_stored_block():
    image = make_image((300, 400), seed=3)  # 240,300 bytes: four blocks
    png = to_png(image)
    wrapped = wrap_rows(inflate_rows(png, (300, 400)), png[:HEADER_BYTES])
    assert check_png16_bytes(wrapped, "a.png") == (300, 400)
    assert np.array_equal(decode_opencv(wrapped, (300, 400)), image)


def remake(png, data):
    """The PNG with other image data in one chunk."""
    chunk = b"IDAT" + data
    crc = zlib.crc32(chunk).to_bytes(4, "big")
    return png[:HEADER_BYTES] + len(data).to_bytes(4, "big") + chunk + crc + png[-12:]


def get_data(png):
    """Its one IDAT chunk's data."""
    length = int.from_bytes(png[HEADER_BYTES : HEADER_BYTES + 4], "big")
    return png[HEADER_BYTES + 8 : HEADER_BYTES + 8 + length]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),  # the checksum of the rows
        lambda data: bytes(20),
        lambda data: zlib.compress(zlib.decompress(data)[:-1]),
        lambda data: zlib.compress(zlib.decompress(data) + b"\0"),
        lambda data: zlib.compress(bytes(10**7)),
    ],
    ids=["half", "checksum", "no zlib", "short", "long", "bomb"],
)
def test_what_is_not_right_is_left_to_the_other_decoder(damage):
    png = encode_png16(make_image((20, 30)))
    damaged = remake(png, damage(get_data(png)))
    assert check_png16_bytes(damaged, "a.png") == (20, 30)
    assert decode_fast(damaged, (20, 30)) is None


def test_sizes_that_the_data_cannot_hold_are_not_asked_for():
    """Some are beyond what C counts with; DEFLATE makes at most 1,032 bytes of one."""
    png = to_png(np.zeros((100, 500), np.uint16), cv2.IMWRITE_PNG_COMPRESSION, 9)
    assert inflate_rows(png, (100, 500)) is not None
    assert inflate_rows(png, (2**31 - 1, 2**31 - 1)) is None
    assert inflate_rows(png, (100 * 1032 * len(png), 500)) is None


def test_unknown_filter_is_left_too():
    rows = filter_rows(make_image((4, 4)), [0, 1, 2, 4])
    rows[2, 0] = 5
    png = encode_png16(make_image((4, 4)))
    assert decode_fast(remake(png, zlib.compress(rows.tobytes())), (4, 4)) is None


def test_interlaced_and_isal_absent(monkeypatch):
    png = encode_png16(make_image((4, 4)))
    assert decode_fast(png[:28] + b"\1" + png[29:], (4, 4)) is None
    monkeypatch.setattr(png16_fast, "_import_isal", lambda: None)
    assert decode_fast(png, (4, 4)) is None


def make_chunk(name, data=b""):
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")


def test_an_order_of_chunks_that_no_png_has_is_left_too():
    png = encode_png16(make_image((20, 30)))
    data, head, end = get_data(png), png[:HEADER_BYTES], png[-12:]
    one, other = make_chunk(b"IDAT", data[:99]), make_chunk(b"IDAT", data[99:])
    text = make_chunk(b"tEXt", b"a\0b")
    image = decode_opencv(png, (20, 30))
    for whole in (head + text + one + other + end, head + one + other + text + end + text):
        assert np.array_equal(decode_fast(whole, (20, 30)), image)
        assert np.array_equal(decode_png16(whole, "a.png"), image)
    for wrong in (head + one + text + other + end, head + make_chunk(b"ABCD") + one + other + end):
        assert decode_fast(wrong, (20, 30)) is None
        assert check_png16_bytes(wrong, "a.png") == (20, 30)
    assert decode_fast(head + one + end + other, (20, 30)) is None


def test_the_reader_takes_the_fast_way_and_names_what_neither_decodes(monkeypatch):
    png = encode_png16(make_image((20, 30)))
    damaged = remake(png, bytes(20))
    with pytest.raises(DataError, match=r"damaged in a\.png: found image data that do not decode"):
        decode_png16(damaged, "a.png")
    monkeypatch.setattr(png16_fast.cv2, "imdecode", None)  # not asked
    assert np.array_equal(decode_png16(png, "a.png"), make_image((20, 30)))


@pytest.mark.real
def test_shared_slices(real_data):
    paths = sorted((real_data / "deeplesion" / "Images_png").glob("*/*.png"))[::9]
    assert len(paths) > 10
    for path in paths:
        png = path.read_bytes()
        assert np.array_equal(decode_fast(png, (512, 512)), decode_opencv(png, (512, 512)))
