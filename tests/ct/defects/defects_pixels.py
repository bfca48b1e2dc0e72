"""Defects of DICOM files: pixels, rescale, encodings, elements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from tests.ct.defects import defects_elements as elements
from tests.ct.defects import dicom_files as files
from tests.ct.defects.cases import RIGHT, Case, Defect, accept
from tests.ct.defects.scans import Scan

AIR_OUTSIDE_HU = -1024


def _some(rng, datasets: list[Dataset]) -> list[Dataset]:
    """Return all, or one of the middle."""
    if rng.random() < 0.5:
        return datasets
    return [datasets[int(rng.integers(1, len(datasets) - 1))]]


def _in_syntax(rng, folder: Path, syntax: str) -> Case:
    scan, datasets = files.start(rng)
    return files.finish(rng, folder, datasets, scan, syntax)


def make_big_endian(rng, folder):
    return _in_syntax(rng, folder, ExplicitVRBigEndian)


def make_deflated(rng, folder):
    return _in_syntax(rng, folder, DeflatedExplicitVRLittleEndian)


def make_rle(rng, folder):
    return _in_syntax(rng, folder, files.COMPRESSED[0])


def make_jpeg_lossless(rng, folder):
    return _in_syntax(rng, folder, files.COMPRESSED[1])


def make_jpeg2000(rng, folder):
    return _in_syntax(rng, folder, files.COMPRESSED[2])


def make_jpeg_ls(rng, folder):
    return _in_syntax(rng, folder, files.COMPRESSED[3])


def make_lossy(rng, folder):
    """JPEG of 8 bits: what a viewer saved for the web, with CT's tags."""
    import cv2

    scan, datasets = files.start(rng, intercept=-1024)
    paths = files.write_series(rng, datasets, folder / "CT")
    for ds, plane, path in zip(datasets, scan.array, paths, strict=True):
        grey = np.clip((plane + 160) / 400 * 255, 0, 255).astype(np.uint8)
        stream = cv2.imencode(".jpg", grey)[1].tobytes()
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation = 7, 0
        ds.add_new("PixelData", "OB", encapsulate([stream]))
        ds["PixelData"].is_undefined_length = True
        files.write_encoded(ds, path, JPEGBaseline8Bit)
    return Case(folder / "CT", None)


def make_broken_stream(rng, folder):
    """Compressed pixels of one slice were cut in half before they were wrapped."""
    scan, datasets = files.start(rng)
    syntax = files.COMPRESSED[int(rng.integers(len(files.COMPRESSED)))]
    paths = files.write_series(rng, datasets, folder / "CT", syntax)
    one = int(rng.integers(len(datasets)))
    ds = files.encode(datasets[one], syntax)
    stream = files.ENCODERS[syntax](datasets[one])
    half = stream[: len(stream) // 4 * 2]
    ds.add_new("PixelData", "OB", encapsulate([half], has_bot=False))
    ds["PixelData"].is_undefined_length = True
    files.write_encoded(ds, paths[one], syntax)
    return Case(folder / "CT", scan)


def make_monochrome1(rng, folder):
    """In half of the cases the pixels are inverted, in half only the display is."""
    scan, datasets = files.start(rng, intercept=-1024)
    inverted = rng.random() < 0.5
    for ds in datasets:
        ds.PhotometricInterpretation = "MONOCHROME1"
        if inverted:
            files.set_stored(ds, 4095 - files.get_stored(ds))
            ds.PhotometricInterpretation = "MONOCHROME1"
    return files.finish(rng, folder, datasets, scan)


def make_no_rescale(rng, folder):
    scan, datasets = files.start(rng, intercept=-1024)
    keyword = ("RescaleSlope", "RescaleIntercept")[int(rng.integers(2))]
    for ds in _some(rng, datasets):
        if rng.random() < 0.7:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, None)
    return files.finish(rng, folder, datasets, scan)


def make_zero_slope(rng, folder):
    scan, datasets = files.start(rng)
    for ds in _some(rng, datasets):
        ds.RescaleSlope = ["0", "0.0"][int(rng.integers(2))]
    return files.finish(rng, folder, datasets, scan)


def make_odd_rescale(rng, folder):
    """Not finite, not a number, negative, or so large that values leave CT's range."""
    scan, datasets = files.start(rng)
    keyword, text = [
        ("RescaleSlope", "NaN"),
        ("RescaleIntercept", "inf"),
        ("RescaleSlope", "one"),
        ("RescaleSlope", "-1"),
        ("RescaleSlope", "4096"),
        ("RescaleIntercept", "1e6"),
        ("RescaleIntercept", "-1024\\0"),
    ][int(rng.integers(7))]
    for ds in _some(rng, datasets):
        elements.put_text(ds, keyword, text)
    return files.finish(rng, folder, datasets, scan, ExplicitVRLittleEndian)


def make_float_slope(rng, folder):
    scan, datasets = files.start(rng)
    slope = float(rng.choice([0.5, 0.25, 0.1, 0.75]))
    for ds, plane in zip(datasets, scan.array, strict=True):
        files.set_pixels(ds, plane, slope, -1024.5, signed=True)
    return files.finish(rng, folder, datasets, scan)


def make_slice_rescale(rng, folder):
    """As PET does: every slice uses the whole range of its pixels."""
    scan, datasets = files.start(rng)
    for ds, plane in zip(datasets, scan.array, strict=True):
        slope = float(rng.uniform(0.1, 0.9))
        files.set_pixels(ds, plane, slope, -1024 + int(rng.integers(-500, 500)), signed=True)
    return files.finish(rng, folder, datasets, scan)


def make_no_offset(rng, folder):
    """Unsigned pixels with 1024 added, and a rescale that does not take it off."""
    scan, datasets = files.start(rng, intercept=-1024)
    for ds in datasets:
        ds.RescaleIntercept = "0"
    return files.finish(rng, folder, datasets, scan)


def _make_padded(rng, folder: Path, padding: int, signed: bool, intercept: int, tag: bool) -> Case:
    scan, datasets = files.start(rng)
    truth = scan.array.copy()
    rows, columns = truth.shape[1:]
    r, c = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    outside = r**2 + c**2 > 1.2
    truth[:, outside] = AIR_OUTSIDE_HU
    for ds, plane in zip(datasets, truth, strict=True):
        files.set_pixels(ds, plane, 1, intercept, signed)
        stored = files.get_stored(ds).copy()
        stored[outside] = padding
        files.set_stored(ds, stored)
        if tag:
            ds.add_new("PixelPaddingValue", "SS" if signed else "US", padding)
    return files.finish(rng, folder, datasets, Scan(truth, scan.affine))


def make_signed_padding(rng, folder):
    padding = int(rng.choice([-2000, -2048, -3024, -32768]))
    return _make_padded(rng, folder, padding, True, int(rng.choice([0, -1024])), True)


def make_unsigned_padding(rng, folder):
    padding, intercept = [(63536, -1024), (65535, -1024), (0, -8192), (0, -3024)][
        int(rng.integers(4))
    ]
    return _make_padded(rng, folder, padding, False, intercept, True)


def make_silent_padding(rng, folder):
    """Scanners pad with -2048 or -3024 HU and do not say so."""
    padding = int(rng.choice([-2000, -2048, -3024]))
    return _make_padded(rng, folder, padding, True, 0, False)


def make_padding_range(rng, folder):
    """PixelPaddingRangeLimit: all values between it and PixelPaddingValue are padding."""
    case_rng = np.random.default_rng(int(rng.integers(2**31)))
    scan, datasets = files.start(rng)
    truth = scan.array.copy()
    outside = np.zeros(truth.shape[1:], bool)
    outside[:3], outside[:, -3:] = True, True
    truth[:, outside] = AIR_OUTSIDE_HU
    for ds, plane in zip(datasets, truth, strict=True):
        files.set_pixels(ds, plane, 1, 0, True)
        stored = files.get_stored(ds).copy()
        stored[outside] = case_rng.integers(-2100, -1999, int(outside.sum()))
        files.set_stored(ds, stored)
        ds.add_new("PixelPaddingValue", "SS", -2100)
        ds.add_new("PixelPaddingRangeLimit", "SS", -2000)
    return files.finish(rng, folder, datasets, Scan(truth, scan.affine))


def make_rgb(rng, folder):
    _scan, datasets = files.start(rng)
    for ds in datasets:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation = 7, 0
        pixels = rng.integers(0, 256, (ds.Rows, ds.Columns, 3), np.uint8)
        ds.add_new("PixelData", "OB", pixels.tobytes() + b"\0" * (pixels.size % 2))
    return files.finish(rng, folder, datasets, None)


def make_eight_bit(rng, folder):
    scan, datasets = files.start(rng)
    for ds, plane in zip(datasets, scan.array, strict=True):
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation = 7, 0
        grey = np.clip((plane + 160) / 400 * 255, 0, 255).astype(np.uint8)
        ds.add_new("PixelData", "OB", grey.tobytes() + b"\0" * (grey.size % 2))
    return files.finish(rng, folder, datasets, None)


def make_not_ct(rng, folder):
    _scan, datasets = files.start(rng)
    modality = ["MR", "PT", "OT", "SC"][int(rng.integers(4))]
    for ds in datasets:
        ds.Modality = modality
    return files.finish(rng, folder, datasets, None)


def make_no_pixels(rng, folder):
    scan, datasets = files.start(rng)
    for ds in _some(rng, datasets):
        del ds.PixelData
    return files.finish(rng, folder, datasets, scan)


def make_short_pixels(rng, folder):
    """A whole file whose pixels are fewer than rows times columns."""
    scan, datasets = files.start(rng)
    for ds in _some(rng, datasets):
        ds.add_new("PixelData", "OW", ds.PixelData[: -2 * int(rng.integers(1, 200))])
    return files.finish(rng, folder, datasets, scan)


def make_long_pixels(rng, folder):
    """Two or more bytes of padding after the last pixel."""
    scan, datasets = files.start(rng)
    for ds in datasets:
        ds.add_new("PixelData", "OW", ds.PixelData + b"\0" * (2 * int(rng.integers(1, 8))))
    return files.finish(rng, folder, datasets, scan)


def make_overlay_bits(rng, folder):
    """12 bits stored; the other four hold an overlay, as scanners did until 2008."""
    scan, datasets = files.start(rng, intercept=-1024)
    for ds in datasets:
        stored = files.get_stored(ds)
        overlay = rng.integers(0, 2, stored.shape).astype(np.uint16) << 12
        files.set_stored(ds, stored.astype(np.uint16) | overlay)
        ds.BitsStored, ds.HighBit = 12, 11
    return files.finish(rng, folder, datasets, scan)


def make_twelve_bit_signed(rng, folder):
    """12 bits in two's complement whose sign was not carried into the other four."""
    scan, datasets = files.start(rng)
    for ds, plane in zip(datasets, scan.array, strict=True):
        files.set_pixels(ds, plane, 1, 0, True)
        files.set_stored(ds, files.get_stored(ds) & 0xFFF)
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 12, 11, 1
    return files.finish(rng, folder, datasets, scan)


def make_left_justified(rng, folder):
    """12 bits in the upper part of a word: HighBit 15, allowed until 2014."""
    scan, datasets = files.start(rng, intercept=-1024)
    for ds in datasets:
        files.set_stored(ds, files.get_stored(ds).astype(np.uint16) << 4)
        ds.BitsStored, ds.HighBit = 12, 15
    return files.finish(rng, folder, datasets, scan)


PIXELS: dict[str, Defect] = {
    "big endian": accept(make_big_endian, RIGHT),
    "deflated": accept(make_deflated, RIGHT),
    "RLE": accept(make_rle, RIGHT),
    "JPEG lossless": accept(make_jpeg_lossless, RIGHT),
    "JPEG 2000 lossless": accept(make_jpeg2000, RIGHT),
    "JPEG-LS": accept(make_jpeg_ls, RIGHT),
    "lossy JPEG": accept(make_lossy, "not-decodable", "not-16-bit"),
    "compressed stream cut": accept(make_broken_stream, "not-decodable", "truncated", "damaged"),
    "MONOCHROME1": accept(make_monochrome1, "monochrome1"),
    "no rescale": accept(make_no_rescale, "no-rescale"),
    "rescale slope zero": accept(make_zero_slope, "bad-rescale"),
    "odd rescale": accept(make_odd_rescale, "bad-rescale", "damaged"),
    "float slope": accept(make_float_slope, RIGHT, logged="rounded-to-hu"),
    "rescale per slice": accept(make_slice_rescale, RIGHT, logged="per-slice-rescale"),
    "1024 not taken off": accept(make_no_offset, "not-hu", "bad-rescale"),
    "signed padding": accept(make_signed_padding, RIGHT, logged="padding-to-air"),
    "unsigned padding": accept(make_unsigned_padding, RIGHT, logged="padding-to-air"),
    "padding without its tag": accept(make_silent_padding, RIGHT, "not-hu"),
    "range of padding": accept(make_padding_range, RIGHT, logged="padding-to-air"),
    "RGB": accept(make_rgb, "not-16-bit"),
    "8 bit": accept(make_eight_bit, "not-16-bit"),
    "not CT": accept(make_not_ct, "not-ct"),
    "no pixels": accept(make_no_pixels, "no-pixels"),
    "too few pixels": accept(make_short_pixels, "truncated", "damaged"),
    "bytes after the pixels": accept(make_long_pixels, RIGHT, "damaged"),
    "overlay in the upper bits": accept(make_overlay_bits, RIGHT, "damaged", "not-hu"),
    "12 bits signed": accept(make_twelve_bit_signed, RIGHT, "damaged", "not-hu"),
    "12 bits, left-justified": accept(make_left_justified, RIGHT, "damaged", "not-hu"),
}
