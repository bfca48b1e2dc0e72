"""What is fuzzed: whole inputs of each format, how one is read, what must hold of the result."""

from __future__ import annotations

import gzip
import json
import math
import random
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from lesionkeras.ct.png16 import encode_png16, read_png16
from lesionkeras.ct.reading import read_volume
from lesionkeras.ct.volume import Volume
from tests.ct.defects import dicom_files, nifti_files, scans
from tests.ct.defects.defects_png import make_chunk
from tests.ct.fuzz.mutate import mutate
from tfds_builders.deeplesion.parse import read_dl_info
from tfds_builders.folder.coco import read_coco
from tfds_builders.folder.voc import read_voc

MOST_RATIO = 1100  # deflate packs 1032 to 1 at best
SYNTAXES = (*dicom_files.PLAIN, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
PNG_HEAD = 8


class WrongResultError(AssertionError):
    """What was returned cannot be right."""


@dataclass(frozen=True)
class Target:
    """A format.

    Attributes:
        seeds: Whole inputs.
        tokens: Words that mean something in it.
        read: (folder, index of the seed, input) -> None; raises what the reader raises, and
            `WrongResultError`.
        prepare: Writes once what does not change from input to input.
        text: Whether it is a text, see `mutate`.
        finish: What is done to an input after the damage, such as making its checksums right.
    """

    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    read: Callable[[Path, int, bytes], None]
    prepare: Callable[[Path], None] = lambda folder: None
    text: bool = False
    finish: Callable[[random.Random, bytes], bytes] = lambda rng, data: data

    def make(self, name: str, index: int) -> tuple[int, bytes]:
        """Return the seed that an input was made from, and the input."""
        rng = random.Random(f"{name}/{index}")
        seed = rng.randrange(len(self.seeds))
        damaged = mutate(rng, self.seeds[seed], self.seeds, self.tokens, self.text)
        return seed, self.finish(rng, damaged)


def _want(holds: bool, text: str) -> None:
    if not holds:
        raise WrongResultError(text)


def check_volume(volume: Volume, most_voxels: int) -> None:
    """Check that a volume is one, and that its file can have held it."""
    array, affine = volume.array, volume.affine
    _want(array.dtype in (np.int16, np.uint8) and array.ndim == 3, f"{array.dtype} {array.shape}")
    _want(0 < array.size <= most_voxels, f"{array.size} voxels of at most {most_voxels}")
    _want(affine.shape == (4, 4) and bool(np.isfinite(affine).all()), "an affine not finite")
    _want(abs(np.linalg.det(affine[:3, :3])) > 1e-12, "a singular affine")
    _want(all(math.isfinite(mm) and mm > 0 for mm in volume.spacing_mm), "no spacing")


def _make_scan(seed: int) -> scans.Scan:
    return scans.make_scan(np.random.default_rng(seed))


# NIfTI


def _list_nifti() -> list[bytes]:
    import nibabel

    folder = Path(nibabel.__file__).parent / "tests" / "data"
    bundled = [path for path in sorted(folder.rglob("*.nii*")) if path.stat().st_size < 100_000]
    made = []
    for version, dtype, order in [(1, "int16", "<"), (1, "float32", ">"), (2, "int16", "<")]:
        scan = _make_scan(version)
        file = nifti_files.make_nifti(scan, dtype, version=version)
        file.order = order
        made.append(file.to_bytes())
        mask = scans.make_mask(np.random.default_rng(1), scan)
    made.append(nifti_files.make_nifti(mask, "uint8").to_bytes())
    packed = [gzip.compress(data, 6, mtime=0) for data in made[:1]]
    return made * 3 + packed + [path.read_bytes() for path in bundled]


def _finish_nifti(rng: random.Random, data: bytes) -> bytes:
    """Compress some, so that damage lies within what gzip vouches for."""
    plain = not data.startswith(b"\x1f\x8b")
    return gzip.compress(data, 1, mtime=0) if plain and rng.random() < 0.15 else data


def _read_nifti(folder: Path, seed: int, data: bytes) -> None:
    packed = data.startswith(b"\x1f\x8b")
    path = folder / ("scan.nii.gz" if packed else "scan.nii")
    path.write_bytes(data)
    held = len(data) * (MOST_RATIO if packed else 1)
    check_volume(read_volume(path, kind="mask" if zlib.crc32(data) % 4 == 0 else "image"), held)


# DICOM: one of three slices, or a bundled file that stands alone


def _list_bundled() -> list[bytes]:
    import pydicom.data

    folder = Path(pydicom.data.__file__).parent / "test_files"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.read_bytes() for path in files if path.stat().st_size < 60_000]


def _make_series(folder: Path, syntax: str) -> list[Path]:
    rng = np.random.default_rng(zlib.crc32(syntax.encode()))
    scan = scans.make_scan(rng).keep(0, 3)
    datasets = dicom_files.make_series(rng, scan)
    paths = [folder / f"{name}.dcm" for name in "abc"]
    for ds, path in zip(datasets, paths, strict=True):
        dicom_files.write_file(ds, path, syntax)
    return paths


def _make_dicom(syntaxes: Sequence[str]) -> Target:
    """Return series of three slices in some transfer syntaxes, whose second is damaged."""

    def prepare(folder: Path) -> None:
        for number, syntax in enumerate(syntaxes):
            _make_series(folder / str(number), syntax)

    def read(folder: Path, seed: int, data: bytes) -> None:
        series = folder / str(seed)
        (series / "b.dcm").write_bytes(data)
        held = sum(path.stat().st_size for path in series.iterdir())
        packed = syntaxes[seed] in (*dicom_files.COMPRESSED, DeflatedExplicitVRLittleEndian)
        check_volume(read_volume(series), held * (MOST_RATIO if packed else 1))

    with tempfile.TemporaryDirectory() as name:
        made = [_make_series(Path(name), syntax)[1].read_bytes() for syntax in syntaxes]
    return Target(made, DICOM_TOKENS, read, prepare)


def _read_bundled(folder: Path, seed: int, data: bytes) -> None:
    path = folder / ("file.dcm" if seed % 2 else "alone/file")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    check_volume(read_volume(path if seed % 2 else path.parent), len(data) * MOST_RATIO)


def _list_zip() -> list[bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archives = []
        for number, method in enumerate((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)):
            path = folder / f"{number}.zip"
            with zipfile.ZipFile(path, "w", method) as archive:
                for file in _make_series(folder / str(number), SYNTAXES[number]):
                    archive.write(file, f"CT/{file.name}")
            archives.append(path.read_bytes())
    return archives


def _read_zip(folder: Path, seed: int, data: bytes) -> None:
    (folder / "CT.zip").write_bytes(data)
    check_volume(read_volume(folder / "CT.zip"), len(data) * MOST_RATIO)


# PNG


def _list_png() -> list[bytes]:
    rng = np.random.default_rng(5)
    images = [rng.integers(0, 65536, (9, 7)), np.full((64, 48), 32768), rng.integers(31000, 33000)]
    return [encode_png16(np.atleast_2d(image).astype(np.uint16)) for image in images]


def _finish_png(rng: random.Random, data: bytes) -> bytes:
    """Make the checksums right in every second case: damage behind them is reached."""
    if rng.random() < 0.5:
        return data
    out, at = data[:PNG_HEAD], PNG_HEAD
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            break
        out += make_chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return out + data[at:]


def _read_png(folder: Path, seed: int, data: bytes) -> None:
    path = folder / "1.png"
    path.write_bytes(data)
    stored = read_png16(path)
    _want(stored.dtype == np.uint16 and stored.ndim == 2, f"{stored.dtype} {stored.shape}")
    _want(0 < stored.size <= len(data) * MOST_RATIO, f"{stored.size} pixels")


# Tables and annotations


def _list_csv() -> list[bytes]:
    head = (
        "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,"
        "Bounding_boxes,Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,"
        "Possibly_noisy,Slice_range,Spacing_mm_px_,Image_size,DICOM_windows,Patient_gender,"
        "Patient_age,Train_Val_Test\n"
    )
    row = (
        '{0:06d}_01_01_109.png,{0},1,1,109,"233.5, 95.0, 234.4, 106.9, 231.1, 101.4, 238.1, 100.3"'
        ',"226.1, 90.0, 243.2, 111.9","11.9, 7.0","0.44, 0.28, 0.37",3,0,"103, 115","0.48, 0.48, 5"'
        ',"512, 512","-175, 275",F,62,3\n'
    )
    return [(head + "".join(row.format(i) for i in range(1, num))).encode() for num in (2, 5)]


def _read_csv(folder: Path, seed: int, data: bytes) -> None:
    path = folder / "DL_info.csv"
    path.write_bytes(data)
    for row in read_dl_info(path):
        _check_boxes([row.box], row.image_size)
        _want(all(math.isfinite(mm) and mm > 0 for mm in row.spacing_mm_px), "spacing")


def _check_boxes(boxes, size_px) -> None:
    height, width = size_px
    for x1, y1, x2, y2 in boxes:
        inside = 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        _want(inside, f"box {x1, y1, x2, y2} of {size_px}")


VOC = b"""<annotation><folder>JPEGImages</folder><filename>a_001.png</filename>
<size><width>512</width><height>512</height><depth>1</depth></size>
<object><name>lesion</name><difficult>0</difficult>
<bndbox><xmin>11</xmin><ymin>21.5</ymin><xmax>40</xmax><ymax>60</ymax></bndbox></object>
<object><name>cyst</name><bndbox><xmin>100</xmin><ymin>100</ymin><xmax>512</xmax><ymax>110</ymax>
</bndbox></object></annotation>
"""
XML_TOKENS = [
    b"<!DOCTYPE a [<!ENTITY b 'bb'><!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'>]>",
    b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>",
    b"&x;",
    b"&c;",
    b"<?xml version='1.0' encoding='utf-16'?>",
    b"<object>" * 3000,
    b"<bndbox>",
    b"</bndbox>",
    b"<![CDATA[",
    b"<xmin>",
    b"../../etc/passwd",
]
NUMBER_TOKENS = [b"NaN", b"inf", b"-1", b"0", b"1e999", b"-1e-999", b"9" * 400, b"1_0", b"", b" "]
COCO = {
    "images": [{"id": 1, "file_name": "a_001.png", "height": 512, "width": 512, "patient": "p"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [10, 20, 30.5, 40], "iscrowd": 0}
    ],
    "categories": [{"id": 2, "name": "lesion"}],
}
DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "tumour": [2, 3]},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
JSON_TOKENS = [b"[" * 3000, b'{"a":' * 2000, b"null", b"true", b'"id"', b'"bbox"', b'"\\ud800"']
JSON_TOKENS += [
    b"[]",
    b"{}",
    b'"../x.png"',
    b'"/etc/passwd"',
    b"\xff",
    b"\xef\xbb\xbf",
    b'"\\u0000"',
]


def _read_voc(folder: Path, seed: int, data: bytes) -> None:
    path = folder / "a_001.xml"
    path.write_bytes(data)
    image = read_voc(path)
    _check_boxes(image.boxes, image.size_px)
    _want(len(image.boxes) == len(image.categories), "categories")


def _read_json(folder: Path, seed: int, data: bytes) -> None:
    if seed:
        from tfds_builders.folder.scans import index_scans  # imports TensorFlow Datasets

        (folder / "dataset.json").write_bytes(data)
        for case in index_scans(folder)[0]:
            _want(all(0 <= label < 2**31 for label, _ in case.labels), f"labels {case.labels}")
        return
    (folder / "coco.json").write_bytes(data)
    for image in read_coco(folder / "coco.json"):
        _check_boxes(image.boxes, image.size_px)


def _prepare_json(folder: Path) -> None:
    import tfds_builders.folder.scans  # noqa: F401  here, not under an alarm

    for name in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"):
        path = folder / name
        path.parent.mkdir()
        path.write_bytes(b"")


DICOM_TOKENS = [
    *(
        vr.encode()
        for vr in [
            "OB",
            "OW",
            "UN",
            "SQ",
            "DS",
            "IS",
            "US",
            "SS",
            "FD",
            "LO",
            "UI",
            "UT",
            "AT",
            "PN",
        ]
    ),
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\x0d\xe0\0\0\0\0",
    b"\xfe\xff\xdd\xe0\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x28\x00\x10\x00US\x02\x00\xff\xff",
    b"\x28\x00\x08\x00IS\x0a\x002147483647",
    b"1.2.840.10008.1.2.1",
    b"1.2.840.10008.1.2.4.90",
    b"1.2.840.10008.1.2.5\0",
    b"\xe0\x7f\x10\x00",
    b"DICM",
    b"NaN ",
    b"1e400",
]
ZIP_TOKENS = [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"../", b"\x08\0", b"\0\0\xff\xa1"]
NIFTI_TOKENS = [
    b"n+1\0",
    b"ni1\0",
    b"\x00\x00\xc0\x7f",
    b"\x00\x00\x80\x7f",
    b"\xff\x7f\xff\x7f",
    b"\x04\x00\x10\x00",
    b"\x80\x00\x18\x00",
    b"\x5c\x01\x00\x00",
]
PNG_TOKENS = [b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"acTL", b"\x10\x00\0\0\0", b"\x10\x06"]
CSV_TOKENS = [*NUMBER_TOKENS, b'"', b",", b"\n", b"\r", b"\0", b"000001_01_01_109.png", b"," * 2000]


BUILDERS: dict[str, Callable[[], Target]] = {
    "nifti": lambda: Target(_list_nifti(), NIFTI_TOKENS, _read_nifti, finish=_finish_nifti),
    "dicom": lambda: _make_dicom(SYNTAXES),
    "dicom packed": lambda: _make_dicom(dicom_files.COMPRESSED),
    "dicom file": lambda: Target(_list_bundled(), DICOM_TOKENS, _read_bundled),
    "zip": lambda: Target(_list_zip(), ZIP_TOKENS, _read_zip),
    "png": lambda: Target(_list_png(), PNG_TOKENS, _read_png, finish=_finish_png),
    "csv": lambda: Target(_list_csv(), CSV_TOKENS, _read_csv, text=True),
    "xml": lambda: Target([VOC], [*XML_TOKENS, *NUMBER_TOKENS], _read_voc, text=True),
    "json": lambda: Target(
        [json.dumps(tree, indent=1).encode() for tree in (COCO, DATASET)],
        [*JSON_TOKENS, *NUMBER_TOKENS],
        _read_json,
        _prepare_json,
        text=True,
    ),
}
