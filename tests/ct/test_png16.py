import struct
import sys
import zlib

import cv2
import numpy as np
import pytest

from lesionkeras.ct.png16 import (
    STORED_OFFSET_HU,
    check_png16_bytes,
    check_png16_ends,
    decode_png16,
    encode_mask_png,
    encode_png16,
    read_png16,
    to_hu,
    to_stored,
)
from lesionkeras.errors import DataError

STORED = np.arange(15, dtype=np.uint16).reshape(3, 5) * 4096 + 7
AGAIN = "; copy the file from the source again."


def encode(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def make_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def make_png(idat: bytes, depth: int = 16, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", 5, 3, depth, colour, 0, 0, 0)
    chunks = make_chunk(b"IHDR", header) + make_chunk(b"IDAT", idat) + make_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def say(tmp_path, data: bytes) -> str:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(DataError) as error:
        read_png16(path)
    return str(error.value).replace(str(path), "a.png")


def test_values_survive(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(STORED))
    stored = read_png16(path)
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, STORED)


def test_hand_made_png(tmp_path):
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in STORED)
    path = tmp_path / "a.png"
    path.write_bytes(make_png(zlib.compress(rows)))
    np.testing.assert_array_equal(read_png16(path), STORED)


def test_size_is_height_width():
    assert check_png16_bytes(encode(STORED), "a.png") == (3, 5)


def test_to_hu_clips_padding():
    stored = np.array([[0, 32768 - 2048, 31744, 32768, 32768 + 3071, 65535]], np.uint16)
    image_hu = to_hu(stored)
    assert image_hu.dtype == np.int16
    assert image_hu.tolist() == [[-1024, -1024, -1024, 0, 3071, 3071]]


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.zeros((3, 5), np.uint8), "8-bit grey"),
        (np.zeros((3, 5, 3), np.uint8), "8-bit RGB"),
        (np.zeros((3, 5, 3), np.uint16), "16-bit RGB"),
        (np.zeros((3, 5, 4), np.uint8), "8-bit RGB with alpha"),
    ],
)
def test_wrong_kind_is_named(tmp_path, array, kind):
    assert say(tmp_path, encode(array)) == (
        f"A PNG cannot hold CT values in a.png: found {kind}, wanted a 16-bit grey PNG" + AGAIN
    )


def test_every_truncation_is_named(tmp_path):
    data = encode(STORED)
    for length in range(1, len(data)):
        assert say(tmp_path, data[:length]) == (
            f"A PNG is truncated in a.png: found an end after {length} bytes, "
            "wanted a 16-bit grey PNG" + AGAIN
        )


def test_empty_and_absent(tmp_path):
    assert say(tmp_path, b"").startswith("An image file is empty in a.png: found 0 bytes, wanted")
    with pytest.raises(DataError, match=r"An image cannot be read in .*b\.png: found No such file"):
        read_png16(tmp_path / "b.png")


def test_not_a_png(tmp_path):
    assert say(tmp_path, b"\xff\xd8\xff\xe0 JFIF, then more").startswith(
        "A file is not a PNG in a.png: found first bytes ff d8 ff e0 20 4a 46 49, wanted"
    )


def test_every_flipped_byte_is_named(tmp_path):
    data = encode(STORED)
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 0x55
        message = say(tmp_path, bytes(broken))
        assert message.startswith(("A PNG is", "A file is not a PNG", "A PNG cannot"))


def test_data_that_do_not_decode(tmp_path):
    assert "found image data that do not decode" in say(tmp_path, make_png(b"no deflate stream"))


def test_no_image_data(tmp_path):
    header = struct.pack(">IIBBBBB", 5, 3, 16, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + make_chunk(b"IHDR", header) + make_chunk(b"IEND", b"")
    assert "A PNG is damaged in a.png: found no image data" in say(tmp_path, png)


def test_sizes_beyond_the_decoder_are_an_error(tmp_path):
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 16, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + make_chunk(b"IHDR", header)
    png += make_chunk(b"IDAT", zlib.compress(b"0")) + make_chunk(b"IEND", b"")
    assert "found image data that do not decode" in say(tmp_path, png)


@pytest.mark.parametrize("seed", range(20))
def test_garbage_after_the_signature(tmp_path, seed):
    garbage = np.random.default_rng(seed).bytes(200)
    assert say(tmp_path, b"\x89PNG\r\n\x1a\n" + garbage).startswith("A PNG is damaged in a.png")


def test_ends_find_truncation_and_kind(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(STORED))
    with path.open("rb") as file:
        assert check_png16_ends(file, "a.png") == (3, 5)
    path.write_bytes(encode(STORED)[:-1])
    with path.open("rb") as file, pytest.raises(DataError, match="A PNG is truncated"):
        check_png16_ends(file, "a.png")
    path.write_bytes(encode(STORED.astype(np.uint8)))
    with path.open("rb") as file, pytest.raises(DataError, match="found 8-bit grey"):
        check_png16_ends(file, "a.png")


def make_noise(height, width):
    """Tissue with noise, air, padding and both ends of the range."""
    stored = np.random.default_rng(height * width).normal(32818, 25, (height, width))
    stored = stored.astype(np.uint16)
    stored[: height // 3] = 31744
    stored.flat[:2] = 0, 65535
    return stored


def decode_with_cv2(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (3, 5), (512, 512), (97, 768)])
@pytest.mark.parametrize("isal", [True, False])
def test_encoded_png_decodes_bit_for_bit(monkeypatch, shape, isal):
    if not isal:  # as where it is not installed
        monkeypatch.setitem(sys.modules, "isal", None)
    stored = make_noise(*shape)
    png = encode_png16(stored)
    assert check_png16_bytes(png, "a.png") == shape
    decoded = decode_with_cv2(png)
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, stored)
    np.testing.assert_array_equal(decode_png16(png, "a.png"), stored)


def test_encoded_png_decodes_in_tensorflow():
    import tensorflow as tf

    stored = make_noise(40, 56)
    decoded = tf.io.decode_png(encode_png16(stored), channels=1, dtype=tf.uint16)[..., 0]
    np.testing.assert_array_equal(decoded.numpy(), stored)
    mask = (stored > 32818).astype(np.uint8) * 2
    decoded = tf.io.decode_png(encode_mask_png(mask), channels=1, dtype=tf.uint8)[..., 0]
    np.testing.assert_array_equal(decoded.numpy(), mask)


def test_encoded_png_takes_views_of_a_volume():
    volume = np.arange(4 * 6 * 8, dtype=np.int16).reshape(4, 6, 8)[:, ::-1, ::2]
    png = encode_png16(to_stored(volume[1]))
    np.testing.assert_array_equal(decode_with_cv2(png), volume[1].astype(np.int32) + 32768)


def test_encoded_png_is_not_larger_than_needed():
    stored = make_noise(512, 512)
    assert len(encode_png16(stored)) < 1.1 * len(encode(stored))


def test_encoded_mask_decodes():
    mask = np.random.default_rng(0).integers(0, 3, (37, 21)).astype(np.uint8)
    decoded = decode_with_cv2(encode_mask_png(mask))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, mask)


def test_stored_is_hu_plus_32768_over_the_whole_range():
    image_hu = np.arange(-32768, 32768, dtype=np.int16)
    stored = to_stored(image_hu)
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored.astype(np.int32), image_hu.astype(np.int32) + 32768)
    assert STORED_OFFSET_HU == 32768
    inside = (image_hu >= -1024) & (image_hu <= 3071)
    np.testing.assert_array_equal(to_hu(stored)[inside], image_hu[inside])
