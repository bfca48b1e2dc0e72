"""Stored pixels to HU: one table a pixel format maps every possible word at once.

The table holds bit masks, sign, padding, rescale, rounding and clipping, so that each slice costs
one look-up, straight into its place in the volume.
Source: DICOM PS3.5, 8.1 (pixel encoding); PS3.3, C.7.5.1.1.2 (padding), C.11.1 (rescale).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lesionkeras.ct.dicom_decode import FrameDecoder, join_frames, lend_decoder, split_fragments
from lesionkeras.ct.dicom_parse import inflate
from lesionkeras.ct.dicom_slices import MAX_SIDE_PX, PixelFormat, Slice
from lesionkeras.ct.dicom_tags import UNCOMPRESSED
from lesionkeras.ct.findings import Correction, CtError, make_correction
from lesionkeras.ct.hounsfield import AIR_HU, Met, check_hu
from lesionkeras.ct.resample import MAX_VOXELS

INT16_MIN, INT16_MAX = -32768, 32767
FINE, PADDED, BEYOND = 0, 1, 2
MAX_THREADS = 4  # reading and unpacking; beyond four a disk is the limit


@dataclass(frozen=True)
class Table:
    """What each stored word means.

    Attributes:
        values: int16 HU or uint8 mask, [2**bits_allocated].
        flags: uint8, `FINE`, `PADDED` (became air) or `BEYOND` (more than int16 holds).
        rounded_hu: By how much rounding changed a value at most.
    """

    values: np.ndarray
    flags: np.ndarray
    rounded_hu: float


def _to_stored(words: np.ndarray, pixels: PixelFormat) -> np.ndarray:
    """Return the numbers that words stand for: the counted bits, with their sign."""
    bits = pixels.bits_stored
    stored = (words >> (pixels.high_bit + 1 - bits)) & ((1 << bits) - 1)
    return (
        np.where(stored >> (bits - 1), stored - (1 << bits), stored) if pixels.is_signed else stored
    )


def _find_padding(words: np.ndarray, stored: np.ndarray, pixels: PixelFormat) -> np.ndarray:
    """Return which words are padding.

    A padding value may need more bits than are stored (63536, which is -2000, beside 12 bits): it
    counts as the word itself and as the number that the word stands for.
    """
    if pixels.padding is None:
        return np.zeros(words.shape, bool)
    ends = [
        pixels.padding,
        pixels.padding if pixels.padding_limit is None else pixels.padding_limit,
    ]
    first, last = _to_stored(np.array(ends), pixels)
    is_inside = (stored >= min(first, last)) & (stored <= max(first, last))
    return is_inside | (words == ends[0])


@lru_cache(maxsize=64)
def build_table(pixels: PixelFormat, kind: str) -> Table:
    """Build the table of a pixel format.

    Args:
        pixels: The format.
        kind: "image" for HU, "mask" for 1 where the stored number is above 0.

    Returns:
        A table of all words of `bits_allocated`.

    >>> table = build_table(PixelFormat(16, 12, 11, False, slope=1.0, intercept=-1024.0), "image")
    >>> table.values[[0, 1064, 4095, 4096 + 1064]].tolist()
    [-1024, 40, 3071, 40]
    """
    words = np.arange(1 << pixels.bits_allocated, dtype=np.int64)
    stored = _to_stored(words, pixels)
    if kind == "mask":
        return Table((stored > 0).astype(np.uint8), np.zeros(words.shape, np.uint8), 0.0)
    exact = stored * pixels.slope + pixels.intercept
    hu = np.rint(exact)
    is_padding = _find_padding(words, stored, pixels)
    flags = np.where(is_padding, PADDED, np.where(hu > INT16_MAX, BEYOND, FINE))
    values = np.where(is_padding, AIR_HU, np.clip(hu, INT16_MIN, INT16_MAX))
    rounded_hu = float(abs(exact - hu)[flags == FINE].max(initial=0.0))
    return Table(values.astype(np.int16), flags.astype(np.uint8), rounded_hu)


def _iterate_frames(slices: list[Slice], decoder: FrameDecoder) -> Iterator[tuple[Slice, bytes]]:
    """Yield the bytes of each frame of one file, in order of frames."""
    first = slices[0]
    header, entry = first.header, first.entry
    num_bytes = math.prod(first.size) * first.pixels.bits_allocated // 8
    with entry.open() as file:
        if header.deflated_offset is not None:
            file.seek(header.deflated_offset)
            data = inflate(file.read(), entry.name)[header.pixels_offset :]
            for part in slices:
                yield part, data[part.frame * num_bytes : (part.frame + 1) * num_bytes]
            return
        if header.syntax in UNCOMPRESSED:
            for part in slices:
                file.seek(header.pixels_offset + part.frame * num_bytes)
                yield part, file.read(num_bytes)
            return
        file.seek(header.pixels_offset)
        fragments = split_fragments(file.read(), entry.name)
    frames = join_frames(fragments, first.num_frames, entry.name)
    for part in slices:
        yield part, decoder.decode(part, frames[part.frame])


def _to_words(part: Slice, data: bytes) -> np.ndarray:
    """Return a frame's words [H, W] in the machine's byte order."""
    wanted = math.prod(part.size) * part.pixels.bits_allocated // 8
    if len(data) != wanted:
        raise CtError(
            "truncated",
            "A DICOM file ends early",
            where=part.entry.name,
            found=f"{len(data)} bytes of pixels",
            wanted=f"{wanted}",
            next_step="copy the file from its source again",
        )
    order = ">" if part.header.is_big_endian else "<"
    if part.pixels.bits_allocated == 16:
        return np.frombuffer(data, order + "u2").reshape(part.size)
    words = np.frombuffer(data, np.uint8)
    if part.header.is_big_endian and part.header.pixels_vr == "OW" and len(words) % 2 == 0:
        words = words.reshape(-1, 2)[:, ::-1]  # two pixels a word
    return words.reshape(part.size)


@dataclass(frozen=True)
class _Filled:
    """What was met in one frame: lowest, highest, greatest rounding, and announced padding."""

    low: int
    high: int
    rounded_hu: float
    num_padded: int


def _fill(part: Slice, data: bytes, kind: str, out: np.ndarray) -> _Filled:
    """Write a frame into its place."""
    words = _to_words(part, data)
    table = build_table(part.pixels, kind)
    np.take(table.values, words, out=out, mode="clip")
    num_padded = 0
    low, high = int(words.min()), int(words.max())
    if table.flags[low : high + 1].any():
        flags = table.flags[words]
        num_padded = int(np.count_nonzero(flags == PADDED))
        if (flags == BEYOND).any():
            raise CtError(
                "bad-rescale",
                "Rescaled values leave what CT has",
                where=part.entry.name,
                found=f"more than {INT16_MAX} HU",
                next_step="export the series again from its source",
            )
    return _Filled(int(out.min()), int(out.max()), table.rounded_hu, num_padded)


def _check(
    slices: list[Slice], array: np.ndarray, filled: list[_Filled], where: str
) -> list[Correction]:
    """Check that the whole can be HU, put air where padding is, and name what was changed."""
    met = Met(
        low=min(one.low for one in filled),
        high=max(one.high for one in filled),
        rounded_hu=max(one.rounded_hu for one in filled),
    )
    if met.low < AIR_HU:
        met.count_deep(array)
        np.maximum(array, np.int16(AIR_HU), out=array)
    if met.high <= AIR_HU:
        raise CtError("not-hu", "Every pixel is padding", where=where, wanted="HU")
    corrections = list(check_hu(array, met, where))
    rescales = {(part.pixels.slope, part.pixels.intercept) for part in slices}
    if len(rescales) > 1:
        detail = f"{len(rescales)} pairs of slope and intercept in {len(slices)} slices"
        corrections.append(make_correction("per-slice-rescale", detail))
    num_padded = sum(one.num_padded for one in filled)
    if num_padded and all(correction.name != "padding-to-air" for correction in corrections):
        share = num_padded / (len(slices) * math.prod(slices[0].size))
        detail = f"{num_padded} voxels, {share:.1%}"
        corrections.append(make_correction("padding-to-air", detail))
    return corrections


def read_pixels(slices: list[Slice], kind: str, where: str) -> tuple[np.ndarray, list[Correction]]:
    """Read all slices into one array.

    Args:
        slices: In order, all of one size.
        kind: "image" or "mask".
        where: What to call the series in an error.

    Returns:
        int16 HU [N, H, W], at least -1024, or uint8 of 0 and 1; and the corrections.

    Raises:
        CtError: "truncated", "not-decodable", "bad-rescale", "too-large" or "not-hu".
    """
    shape = (len(slices), *slices[0].size)
    if math.prod(shape) > MAX_VOXELS or max(shape[1:]) > MAX_SIDE_PX:
        found = f"{' x '.join(map(str, shape))} voxels"
        raise CtError("too-large", "A series is too large", found=found)
    array = np.empty(shape, np.int16 if kind == "image" else np.uint8)
    files: dict[int, list[int]] = {}
    for index, part in enumerate(slices):
        files.setdefault(id(part.header), []).append(index)
    with lend_decoder() as decoder:

        def read_file(indices: list[int]) -> list[_Filled]:
            by_frame = sorted(indices, key=lambda index: slices[index].frame)
            places = dict(zip((slices[index].frame for index in by_frame), by_frame, strict=True))
            parts = [slices[index] for index in by_frame]
            return [
                _fill(part, data, kind, array[places[part.frame]])
                for part, data in _iterate_frames(parts, decoder)
            ]

        num_threads = min(MAX_THREADS, os.cpu_count() or 1, len(files))
        with ThreadPoolExecutor(num_threads) as pool:
            filled = [one for many in pool.map(read_file, files.values()) for one in many]
    if kind == "mask":
        return array, []
    return array, _check(slices, array, filled, where)


def are_same_slices(first: Slice, second: Slice) -> bool:
    """Return whether two slices are copies: pixels bit for bit, format and spacing.

    Args:
        first: A slice.
        second: Another at the same place.

    Raises:
        CtError: A file cannot be read.
    """
    if first.pixels != second.pixels or first.header.syntax != second.header.syntax:
        return False
    if first.num_frames > 1 and first.entry == second.entry:
        return False
    with lend_decoder() as decoder:
        pixels = [data for part in (first, second) for _, data in _iterate_frames([part], decoder)]
    return pixels[0] == pixels[1]
