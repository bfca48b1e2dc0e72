"""Defects of folders, archives and links, and PNG slices."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from tests.ct.defects import dicom_files as files
from tests.ct.defects.cases import RIGHT, Case, Defect, accept
from tests.ct.defects.defects_nifti import start as start_nifti
from tests.ct.defects.scans import Scan

NO_ZIP = ("SimpleITK", "nibabel")  # neither claims to read archives


def _start(rng, folder: Path) -> tuple[Scan, list[Path]]:
    scan, datasets = files.start(rng)
    return scan, files.write_series(rng, datasets, folder / "CT")


def make_absent(rng, folder):
    return Case(folder / str(rng.choice(["CT", "scan.nii.gz", "scan.nii", "CT.zip"])), None)


def make_empty(rng, folder):
    """A folder without any file, with empty folders, or with files of other kinds only."""
    (folder / "CT" / "inner").mkdir(parents=True)
    if rng.random() < 0.5:
        (folder / "CT" / "inner" / "readme.txt").write_text("nothing here")
    return Case(folder / "CT", None)


def make_others(rng, folder):
    scan, _ = _start(rng, folder)
    others = {
        "readme.txt": b"a text",
        ".DS_Store": b"\0\0\0\1Bud1" + rng.bytes(300),
        "photo.jpg": b"\xff\xd8\xff\xe0" + rng.bytes(500),
        "noise": rng.bytes(int(rng.integers(1, 3000))),
        "Thumbs.db": rng.bytes(200),
        "list.csv": b"file,age\n1,2\n",
    }
    for name in rng.choice(list(others), int(rng.integers(1, 5)), replace=False):
        (folder / "CT" / str(name)).write_bytes(others[name])
    return Case(folder / "CT", scan)


def make_empty_file(rng, folder):
    """A file without bytes: what is left of a slice, or of nothing."""
    scan, _ = _start(rng, folder)
    (folder / "CT" / str(rng.choice(["empty.dcm", "IM9999", ".nomedia"]))).touch()
    return Case(folder / "CT", scan)


def make_report_among(rng, folder):
    """A structured report of the same study, without pixels."""
    scan, _paths = _start(rng, folder)
    report = Dataset()
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    report.SOPInstanceUID, report.SeriesInstanceUID = files.make_uid(rng), files.make_uid(rng)
    report.Modality, report.ContentDate = "SR", "20200101"
    files.write_file(report, folder / "CT" / "report.dcm")
    return Case(folder / "CT", scan)


def make_dicomdir(rng, folder):
    """The index names files of another series, outside the folder."""
    scan, _ = _start(rng, folder)
    _, others = files.start(rng)
    for i, ds in enumerate(others):
        files.write_file(ds, folder / "OUTSIDE" / f"IM{i}")
    records = []
    for i in range(len(others)):
        record = Dataset()
        record.OffsetOfTheNextDirectoryRecord = record.RecordInUseFlag = 0
        record.OffsetOfReferencedLowerLevelDirectoryEntity = 0
        record.DirectoryRecordType = "IMAGE"
        record.ReferencedFileID = ["..", "OUTSIDE", f"IM{i}"]
        records.append(record)
    ds = Dataset()
    ds.FileSetID, ds.DirectoryRecordSequence = "MADE", Sequence(records)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    ds.file_meta.MediaStorageSOPInstanceUID = files.make_uid(rng)
    dcmwrite(folder / "CT" / "DICOMDIR", ds, enforce_file_format=True)
    return Case(folder / "CT", scan)


def make_odd_names(rng, folder):
    """Unicode, spaces, quotes, line ends and bytes that are no UTF-8."""
    scan, paths = _start(rng, folder)
    styles = [
        "Müller Ä {}.dcm",
        "断层 {}",
        " {} ",
        "a'b\"c;$(x) {}",
        "line\nend {}",
        "-r{}",
        "%s {}",
    ]
    style = str(rng.choice(styles))
    target = folder / "CT Ünï — 断层"
    target.mkdir()
    for i, path in enumerate(paths):
        name = os.fsencode(style.format(i)) + (b"\xff\xfe" if i % 3 == 0 else b"")
        path.rename(target / os.fsdecode(name))
    return Case(target, scan)


def _zip(entries: dict[str, bytes], path: Path, **options) -> Path:
    with zipfile.ZipFile(path, "w", options.pop("compression", zipfile.ZIP_DEFLATED)) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def _make_entries(rng, folder: Path) -> tuple[Scan, dict[str, bytes]]:
    scan, paths = _start(rng, folder)
    root = folder / "CT"
    return scan, {str(path.relative_to(root)): path.read_bytes() for path in paths}


def make_zip(rng, folder):
    scan, entries = _make_entries(rng, folder)
    return Case(_zip(entries, folder / "CT.zip"), scan, not_for=NO_ZIP)


def make_zip_climbing(rng, folder):
    scan, entries = _make_entries(rng, folder)
    first = next(iter(entries))
    climbing = str(rng.choice(["../../evil.dcm", "/tmp/evil.dcm", "a/../../evil.dcm"]))
    entries[climbing] = entries.pop(first)
    return Case(_zip(entries, folder / "CT.zip"), scan, not_for=NO_ZIP)


def make_zip_link(rng, folder):
    _, entries = _make_entries(rng, folder)
    path = _zip(entries, folder / "CT.zip")
    link = zipfile.ZipInfo("link.dcm")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    return Case(path, None, not_for=NO_ZIP)


def make_zip_cut(rng, folder):
    _, entries = _make_entries(rng, folder)
    path = _zip(entries, folder / "CT.zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(len(data) // 3, len(data) - 30))])
    return Case(path, None, not_for=NO_ZIP)


def make_zip_bad_checksum(rng, folder):
    scan, entries = _make_entries(rng, folder)
    path = _zip(entries, folder / "CT.zip", compression=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    at = data.find(b"\xe0\x7f\x10\x00") + 500  # within pixels of the first file
    data[at] ^= 0x40
    path.write_bytes(data)
    return Case(path, scan, not_for=NO_ZIP)


def make_zip_nested(rng, folder):
    scan, entries = _make_entries(rng, folder)
    inner = _zip(entries, folder / "inner.zip").read_bytes()
    return Case(_zip({"inner.zip": inner}, folder / "CT.zip"), scan, not_for=NO_ZIP)


def make_zip_bomb(rng, folder):
    """A slice beside a file that unpacks to 2 GB: its compressed megabytes are repeated."""
    _, entries = _make_entries(rng, folder)
    path = _zip(entries, folder / "CT.zip")
    packed, size = _repeat_deflated(64)
    _append_raw(path, "bomb.dcm", packed, size)
    return Case(path, None, not_for=NO_ZIP)


def _repeat_deflated(times: int, head: bytes = b"") -> tuple[bytes, int]:
    """Return raw deflate data of a head and 32 MiB of zeros so many times, and its size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 25)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * times + b"\x03\0", len(head) + (times << 25)


def _append_raw(path: Path, name: str, packed: bytes, size: int) -> None:
    """Add an entry whose deflated bytes are given; its checksum stays 0."""
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.file_size, info.compress_size, info.CRC = size, len(packed), 0
        info.header_offset = archive.start_dir
        archive.fp.seek(archive.start_dir)
        archive.fp.write(info.FileHeader(zip64=False) + packed)
        archive.start_dir = archive.fp.tell()
        archive._didModify = True
        archive.filelist.append(info)
        archive.NameToInfo[name] = info


def make_gzip_bomb(rng, folder):
    """Kilobytes that unpack to much more: the header claims it, or it comes after the data.

    One in 32 unpacks to 4 GB; other readers unpack all of it, for 20 seconds.
    """
    _, file = start_nifti(rng, qform=0)
    if rng.random() < 0.5:
        file.header["dim"][1:4] = 600  # .4 GB of int16
    head = file.to_bytes()
    packed, size = _repeat_deflated(128 if rng.random() < 1 / 32 else 4, head)
    footer = struct.pack("<II", 0, size & 0xFFFFFFFF)
    path = folder / "scan.nii.gz"
    path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + packed + footer)
    return Case(path, None)


def make_loop(rng, folder):
    """A folder that links to itself and to its parent."""
    scan, _ = _start(rng, folder)
    (folder / "CT" / "self").symlink_to(folder / "CT", target_is_directory=True)
    (folder / "CT" / "up").symlink_to("..", target_is_directory=True)
    return Case(folder / "CT", scan)


def make_loop_of_links(rng, folder):
    """Two links that name each other."""
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    return Case(folder / "a", None)


def make_dangling(rng, folder):
    """A slice's file is a link to a file that is gone."""
    scan, paths = _start(rng, folder)
    path = paths[int(rng.integers(1, len(paths) - 1))]
    path.unlink()
    path.symlink_to(folder / "gone")
    return Case(folder / "CT", scan)


def make_pipe(rng, folder):
    """Who opens a named pipe waits for ever."""
    scan, _ = _start(rng, folder)
    os.mkfifo(folder / "CT" / "pipe.dcm")
    return Case(folder / "CT", scan)


def make_pipe_alone(rng, folder):
    path = folder / str(rng.choice(["scan.nii.gz", "scan.nii", "CT.zip", "CT.dcm"]))
    os.mkfifo(path)
    return Case(path, None, not_for=NO_ZIP)


def make_unreadable(rng, folder):
    """Rights of one slice, of the folder or of a NIfTI file are taken away."""
    if rng.random() < 0.3:
        _, file = start_nifti(rng)
        path = file.write(folder / "scan.nii.gz")
        return Case(path, None, locked=(path,))
    scan, paths = _start(rng, folder)
    locked = folder / "CT" if rng.random() < 0.3 else paths[int(rng.integers(len(paths)))]
    return Case(folder / "CT", scan, locked=(locked,))


def make_folder_for_file(rng, folder):
    """A folder that is named like a file, empty."""
    path = folder / str(rng.choice(["scan.nii.gz", "IM01.dcm", "CT.zip"]))
    path.mkdir()
    return Case(path, None)


def make_text_for_file(rng, folder):
    path = folder / str(rng.choice(["scan.nii.gz", "scan.nii", "CT.zip", "CT.dcm", "scan"]))
    path.write_bytes(rng.bytes(2000) if rng.random() < 0.5 else b"<html>not found</html>\n" * 30)
    return Case(path, None)


def make_several_cases(rng, folder):
    return _make_cases(rng, folder, chosen=False)


def make_chosen_case(rng, folder):
    return _make_cases(rng, folder, chosen=True)


def _make_cases(rng, folder: Path, chosen: bool) -> Case:
    """Write nnU-Net's layout, with one, two or three cases."""
    truth = None
    for name in ("liver_001", "liver_002", "liver_017"):
        scan, file = start_nifti(rng)
        file.write(folder / "D" / "imagesTr" / f"{name}_0000.nii.gz")
        truth = truth or scan
    path = folder / "D" / ("imagesTr" if rng.random() < 0.5 else "")
    options = {"case": "liver_001"} if chosen else {}
    return Case(path, truth if chosen else None, options, not_for=NO_ZIP)


DAMAGED_ZIP = ("damaged", "truncated", "unknown-format")
FILES: dict[str, Defect] = {
    "no such path": accept(make_absent, "not-found"),
    "empty folder": accept(make_empty, "empty-folder"),
    "other files among DICOM": accept(make_others, RIGHT, logged="other-files-left-out"),
    "empty file among DICOM": accept(make_empty_file, RIGHT, "truncated", "damaged"),
    "report among DICOM": accept(make_report_among, RIGHT, logged="other-files-left-out"),
    "DICOMDIR that climbs": accept(make_dicomdir, RIGHT),
    "odd names": accept(make_odd_names, RIGHT),
    "zip": accept(make_zip, RIGHT),
    "zip that climbs": accept(make_zip_climbing, "unsafe-archive"),
    "zip with a link": accept(make_zip_link, "unsafe-archive"),
    "zip cut": accept(make_zip_cut, *DAMAGED_ZIP),
    "zip with a wrong bit": accept(make_zip_bad_checksum, "damaged"),
    "zip in a zip": accept(make_zip_nested, RIGHT, "empty-folder"),
    "zip bomb": accept(make_zip_bomb, "too-large"),
    "gzip bomb": accept(make_gzip_bomb, "too-large", "damaged", "truncated"),
    "symlink loop": accept(make_loop, RIGHT),
    "links that name each other": accept(make_loop_of_links, "not-found", "unreadable-file"),
    "link to nothing": accept(make_dangling, "unreadable-file", "not-found", "missing-slice"),
    "named pipe among DICOM": accept(make_pipe, RIGHT, "unreadable-file"),
    "named pipe": accept(make_pipe_alone, "unreadable-file", "not-found", "unknown-format"),
    "unreadable file": accept(make_unreadable, "unreadable-file"),
    "folder named as a file": accept(make_folder_for_file, "empty-folder", "unknown-format"),
    "text named as a scan": accept(make_text_for_file, "unknown-format", *DAMAGED_ZIP),
    "several cases": accept(make_several_cases, "several-cases"),
    "several cases, one chosen": accept(make_chosen_case, RIGHT),
}
