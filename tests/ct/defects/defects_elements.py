"""Defects of DICOM files: bytes, elements and their types."""

from __future__ import annotations

import struct
from pathlib import Path

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.ct.defects import dicom_files as files
from tests.ct.defects.cases import RIGHT, Case, Defect, accept


def put_text(ds: Dataset, keyword: str, text: str, vr: str = "DS") -> None:
    """Set an element's bytes: pydicom would refuse to write a text that its VR does not allow."""
    tag = Tag(tag_for_keyword(keyword))
    value = text.encode() + b" " * (len(text) % 2)
    ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def _edit_one(rng, folder: Path, edit) -> Case:
    """Change the bytes of one slice of the middle."""
    scan, datasets = files.start(rng, optional=False)
    paths = files.write_series(rng, datasets, folder / "CT", ExplicitVRLittleEndian)
    path = paths[int(rng.integers(1, len(paths) - 1))]
    path.write_bytes(edit(path.read_bytes()))
    return Case(folder / "CT", scan)


def make_truncated(rng, folder):
    """The end of the pixels is missing."""
    return _edit_one(rng, folder, lambda data: data[: -int(rng.integers(1, 800))])


def make_cut_in_header(rng, folder):
    return _edit_one(rng, folder, lambda data: data[: int(rng.integers(140, 700))])


def make_huge_length(rng, folder):
    """An element claims 2 to 4 GB."""

    def edit(data: bytes) -> bytes:
        at = data.index(struct.pack("<HH", 0x7FE0, 0x0010) + b"OW") + 8
        return data[:at] + struct.pack("<I", int(rng.integers(2**31, 2**32 - 16))) + data[at + 4 :]

    return _edit_one(rng, folder, edit)


def make_huge_matrix(rng, folder):
    """Rows and columns say 65535, in all slices."""
    _scan, datasets = files.start(rng)
    for ds in datasets:
        ds.Rows = ds.Columns = 65535
    return files.finish(rng, folder, datasets, None)


def make_no_meta(rng, folder):
    """Neither preamble nor meta header, implicit or explicit."""
    scan, datasets = files.start(rng)
    syntax = str(rng.choice(files.PLAIN))
    paths = files.write_series(rng, datasets, folder / "CT", syntax)
    for path in paths:
        data = path.read_bytes()
        length = struct.unpack("<I", data[140:144])[0]  # of the meta group, which comes first
        path.write_bytes(data[144 + length :])
    return Case(folder / "CT", scan)


def make_wrong_vr(rng, folder):
    """Numbers that came through an archive as text of another kind, or as unknown."""
    scan, datasets = files.start(rng)
    keyword = ("RescaleIntercept", "PixelSpacing", "ImagePositionPatient")[int(rng.integers(3))]
    vr = ("LO", "SH", "UN")[int(rng.integers(3))]
    for ds in datasets:
        value = ds[keyword].value
        text = "\\".join(map(str, value)) if keyword != "RescaleIntercept" else str(value)
        put_text(ds, keyword, text, vr)
    return files.finish(rng, folder, datasets, scan, ExplicitVRLittleEndian)


def make_comma(rng, folder):
    """A decimal comma, from an export in another language."""
    scan, datasets = files.start(rng)
    keyword = ("PixelSpacing", "ImagePositionPatient")[int(rng.integers(2))]
    for ds in datasets:
        text = "\\".join(f"{float(v):.3f}".replace(".", ",") for v in ds[keyword].value)
        put_text(ds, keyword, text)
    return files.finish(rng, folder, datasets, scan, ExplicitVRLittleEndian)


def make_wrong_syntax(rng, folder):
    """The meta header says explicit, the elements are implicit."""
    scan, datasets = files.start(rng, optional=False)
    for path in files.write_series(rng, datasets, folder / "CT", ImplicitVRLittleEndian):
        data = path.read_bytes()
        old, new = b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2.1\0"
        meta = data.replace(b"UI\x12\0" + old, b"UI\x14\0" + new, 1)
        length = struct.unpack("<I", meta[140:144])[0] + 2
        path.write_bytes(meta[:140] + struct.pack("<I", length) + meta[144:])
    return Case(folder / "CT", scan)


def make_deep_sequence(rng, folder):
    """A sequence in a sequence, 300 deep (pydicom #2330)."""
    scan, datasets = files.start(rng)
    plain = files.write_series(rng, datasets, folder / "CT", ImplicitVRLittleEndian)
    nested = nest(300)
    for path in plain:
        data = path.read_bytes()
        at = data.index(struct.pack("<HH", 0x7FE0, 0x0010))
        path.write_bytes(data[:at] + nested + data[at:])
    return Case(folder / "CT", scan)


def nest(depth: int) -> bytes:
    """Return ConceptCodeSequence (0040,A168) nested so deep, implicit, of undefined length."""
    start = struct.pack("<HHI", 0x0040, 0xA168, 0xFFFFFFFF)
    start += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return start * depth + end * depth


CUT = ("truncated", "damaged", "no-pixels", "no-geometry")
ELEMENTS: dict[str, Defect] = {
    "truncated": accept(make_truncated, "truncated"),
    "cut in the header": accept(make_cut_in_header, *CUT),
    "an element of 4 GB": accept(make_huge_length, "truncated", "damaged", "too-large"),
    "65535 rows and columns": accept(make_huge_matrix, "truncated", "damaged", "too-large"),
    "no meta header": accept(make_no_meta, RIGHT, logged="no-meta-header"),
    "wrong VR": accept(make_wrong_vr, RIGHT),
    "decimal comma": accept(make_comma, RIGHT, "no-geometry", "damaged"),
    "wrong transfer syntax": accept(make_wrong_syntax, RIGHT, "damaged", "not-decodable"),
    "sequences 300 deep": accept(make_deep_sequence, RIGHT, "damaged"),
}
