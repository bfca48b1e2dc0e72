"""Makes damaged inputs from whole ones; the same generator makes the same damage."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

MOST_BYTES = 1 << 20
HEADER_BYTES = 400
DIGITS = re.compile(rb"-?\d+(\.\d+)?")
NUMBERS = (0, 1, 2, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31)
NUMBERS += (2**32 - 1, 2**32 - 2, 2**32 - 16, 512, 1024)


def _place(rng: random.Random, data: bytearray) -> int:
    """Return a place, in every second case near the start, where formats keep their headers."""
    return rng.randrange(min(len(data), HEADER_BYTES) if rng.random() < 0.5 else len(data))


def flip_bits(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[_place(rng, data)] ^= 1 << rng.randrange(8)


def set_bytes(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    size = min(rng.choice((1, 1, 2, 4, 16)), len(data) - at)
    data[at : at + size] = bytes([rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))]) * size


def set_number(rng: random.Random, data: bytearray) -> None:
    """Overwrite what may be a length, a count or an offset."""
    size = rng.choice((2, 2, 4, 4, 8))
    value = rng.choice(NUMBERS)
    if rng.random() < 0.3:
        value = max(0, value + rng.randrange(-3, 4))
    at = _place(rng, data)
    if rng.random() < 0.7:
        at -= at % 2
    number = (value % 2 ** (8 * size)).to_bytes(size, rng.choice(("little", "big")))
    data[at : at + size] = number[: len(data) - at]


def add_to_number(rng: random.Random, data: bytearray) -> None:
    """Change a number that is there by a little."""
    at = _place(rng, data)
    order = rng.choice(("little", "big"))
    value = int.from_bytes(data[at : at + 2], order) + rng.choice((-2, -1, 1, 2, 16, -16))
    data[at : at + 2] = (value % 65536).to_bytes(2, order)[: len(data) - at]


def cut_end(rng: random.Random, data: bytearray) -> None:
    del data[_place(rng, data) :]


def cut_out(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    del data[at : at + rng.choice((1, 2, 4, 8, 64, 1000))]


def repeat_chunk(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    chunk = bytes(data[at : at + rng.choice((1, 4, 8, 32, 256))])
    data[at:at] = chunk * rng.choice((1, 1, 2, 50))


def swap_chunks(rng: random.Random, data: bytearray) -> None:
    size = rng.choice((2, 4, 8, 16, 64))
    one, other = _place(rng, data), _place(rng, data)
    if abs(one - other) >= size and max(one, other) + size <= len(data):
        kept = bytes(data[one : one + size])
        data[one : one + size] = data[other : other + size]
        data[other : other + size] = kept


OPERATIONS = (
    flip_bits,
    set_bytes,
    set_number,
    set_number,
    add_to_number,
    cut_end,
    cut_out,
    repeat_chunk,
    swap_chunks,
)


def splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    """Put a piece of another input over, or between, one's own."""
    start = rng.randrange(len(other))
    piece = other[start : start + rng.choice((4, 16, 64, 512, 4096))]
    at = _place(rng, data)
    data[at : at + rng.choice((0, len(piece)))] = piece


def put_token(rng: random.Random, data: bytearray, tokens: Sequence[bytes]) -> None:
    """Put a token in place of another that is there, or anywhere."""
    token, old = rng.choice(tokens), rng.choice(tokens)
    at = data.find(old) if old else -1
    if at < 0 or rng.random() < 0.3:
        at, old = _place(rng, data), b"" if rng.random() < 0.5 else token
    data[at : at + len(old)] = token


def replace_number(rng: random.Random, data: bytearray, tokens: Sequence[bytes]) -> None:
    """Write another number, or a token, in place of a number that is written in digits."""
    places = [match.span() for match in DIGITS.finditer(data)]
    if places:
        start, stop = rng.choice(places)
        number = str(rng.choice(NUMBERS) - rng.choice((0, 0, 2, 1000))).encode()
        data[start:stop] = rng.choice(tokens) if rng.random() < 0.3 else number


def mutate(
    rng: random.Random,
    data: bytes,
    others: Sequence[bytes],
    tokens: Sequence[bytes],
    text: bool = False,
) -> bytes:
    """Return damaged bytes.

    Args:
        rng: Draws one to four operations.
        data: What is damaged.
        others: Inputs to take pieces from.
        tokens: Words that mean something in the format.
        text: Whether it is a text: most damage then leaves its form whole, or all would be refused
            for that alone.
    """
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not out:
            break
        kind = rng.random()
        if text and kind < 0.6:
            replace_number(rng, out, tokens)
        elif (kind < 0.2 or (text and kind < 0.8)) and tokens:
            put_token(rng, out, tokens)
        elif kind < 0.27:
            splice(rng, out, rng.choice(others))
        else:
            rng.choice(OPERATIONS)(rng, out)
    return bytes(out[:MOST_BYTES])
