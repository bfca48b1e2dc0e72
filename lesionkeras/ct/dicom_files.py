"""Files below a folder, in a zip or in a folder of a zip, to be read in place and with bounds.

Nothing is extracted to disk.  Names in an archive are checked as if it were: one that climbs out or
is a link refuses the whole archive, because no scanner and no archive of a hospital writes it.
"""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lesionkeras.ct.findings import CtError

MAX_FILES = 100_000  # of a folder or an archive
MAX_FILE_BYTES = 4 << 30  # of one file: 8,000 frames of 512 x 512
MAX_ARCHIVE_BYTES = 16 << 30  # unpacked
BOMB_BYTES, BOMB_RATIO = 256 << 20, 200  # a member that is larger and packs better is no CT
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class FileEntry:
    """A file that can be opened.

    Attributes:
        name: Relative to the folder or archive, "/"-separated.
        size: In bytes, unpacked.
        path: Of the file, or of the archive.
        archive: The open archive, or None.
        member: Its member, or None.
    """

    name: str
    size: int
    path: Path
    archive: zipfile.ZipFile | None = None
    member: zipfile.ZipInfo | None = None

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open for reading bytes; whatever fails inside is told as this file's fault.

        Raises:
            CtError: "unreadable-file", or "damaged" for what an archive cannot unpack.
        """
        try:
            if self.archive is not None and self.member is not None:
                with self.archive.open(self.member) as packed:
                    yield packed  # type: ignore[misc]
            else:
                with self.path.open("rb") as file:
                    yield file
        except CtError:
            raise
        except OSError as error:
            raise make_unreadable(self.name, error) from error
        except Exception as error:
            if self.archive is None:
                raise
            # zipfile raises BadZipFile, RuntimeError (encrypted), NotImplementedError (method),
            # EOFError and the errors of four decompressors.
            raise CtError(
                "damaged",
                "A member of an archive cannot be unpacked",
                where=self.name,
                found=type(error).__name__,
                next_step="unpack the archive to see whether it is whole and not encrypted",
            ) from error


def make_unreadable(name: str, error: OSError) -> CtError:
    """Return the error for a file that the system does not let be read."""
    return CtError(
        "unreadable-file",
        "A file cannot be read",
        where=name,
        found=error.strerror or type(error).__name__,
        next_step="make it readable or take it away",
    )


def _make_name(name: str) -> str:
    """Return a name fit for one line of text: bytes that are no text and line ends are replaced."""
    text = name.encode("utf-8", "replace").decode("utf-8")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _refuse_many(where: str) -> CtError:
    found = f"more than {MAX_FILES} files"
    return CtError("too-large", "There are too many files", where=where, found=found)


def _scan(folder: Path, name: str) -> list[tuple[Path, str]]:
    """Return what lies in a folder as (path, name), by name."""
    try:
        return [(path, name + _make_name(path.name)) for path in sorted(folder.iterdir())]
    except OSError as error:
        raise make_unreadable(name or str(folder), error) from error


def walk_folder(folder: Path) -> list[FileEntry]:
    """Return the regular files below a folder; links are followed, loops of links are not.

    Args:
        folder: Searched with its sub-folders.

    Raises:
        CtError: "unreadable-file" (a link to nothing is one), "too-large" for too many files.
    """
    entries: list[FileEntry] = []
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, "")]
    while waiting:
        path, name = waiting.pop()
        try:
            status = path.stat()
        except OSError as error:
            raise make_unreadable(name, error) from error
        if stat.S_ISDIR(status.st_mode):
            place = (status.st_dev, status.st_ino)
            if place not in seen:
                seen.add(place)
                waiting += reversed(_scan(path, f"{name}/" if name else ""))
        elif stat.S_ISREG(status.st_mode):  # a pipe or a device would block
            entries.append(FileEntry(name, status.st_size, path))
        if len(entries) + len(waiting) > MAX_FILES:
            raise _refuse_many(str(folder))
    return entries


def _check_member(member: zipfile.ZipInfo, where: str) -> None:
    """Refuse names that climb, links, and members that unpack to far more than they are."""
    name = member.filename.replace("\\", "/")
    climbs = name.startswith("/") or DRIVE.match(name) or ".." in name.split("/")
    if climbs or stat.S_ISLNK(member.external_attr >> 16):
        raise CtError(
            "unsafe-archive",
            "An archive holds a path that leaves it" if climbs else "An archive holds a link",
            where=where,
            found=repr(member.filename[:80]),
            next_step="pack the folder again with plain files only",
        )
    ratio = member.file_size / max(1, member.compress_size)
    is_bomb = member.file_size > BOMB_BYTES and ratio > BOMB_RATIO
    if is_bomb or member.file_size > MAX_FILE_BYTES:
        raise CtError(
            "too-large",
            "A member of an archive unpacks to too much",
            where=_make_name(member.filename),
            found=f"{member.file_size} bytes from {member.compress_size}",
        )


def walk_zip(archive: zipfile.ZipFile, path: Path, below: str = "") -> list[FileEntry]:
    """Return the files of an archive after checking all of its names and sizes.

    Args:
        archive: Open for reading.
        path: Of the archive.
        below: A folder of the archive, "/"-separated; "" for all.

    Raises:
        CtError: "unsafe-archive" or "too-large".
    """
    members = archive.infolist()
    if len(members) > MAX_FILES:
        raise _refuse_many(str(path))
    for member in members:
        _check_member(member, path.name)
    total = sum(member.file_size for member in members)
    if total > MAX_ARCHIVE_BYTES:
        found = f"{total} bytes"
        raise CtError("too-large", "An archive unpacks to too much", where=path.name, found=found)
    entries = []
    for member in sorted(members, key=lambda member: member.filename):
        name = member.filename.replace("\\", "/")
        if not name.endswith("/") and name.startswith(f"{below}/" if below else ""):
            short = _make_name(name[len(below) + 1 :] if below else name)
            entries.append(FileEntry(short, member.file_size, path, archive, member))
    return entries


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) in ZIP_STARTS
    except OSError as error:
        raise make_unreadable(path.name, error) from error


def split_path(path: Path) -> tuple[Path, str]:
    """Split a path into what is on disk and a folder inside of it, should that be a zip.

    Args:
        path: Folder, file, zip, or zip and a folder in it ("a.zip/PATIENT/CT").

    Raises:
        CtError: "not-found".
    """
    for parent in (path, *path.parents):
        try:
            is_there = parent.exists()
        except OSError:  # a name that is too long
            is_there = False
        if is_there:
            inside = path.relative_to(parent).as_posix() if parent != path else ""
            if inside and not (parent.is_file() and _is_zip(parent)):
                break
            return parent, inside
    raise CtError("not-found", "There is no such file or folder", where=str(path))


@contextmanager
def open_entries(path: Path) -> Iterator[tuple[list[FileEntry], str]]:
    """Find the files at a path, and keep an archive open while they are read.

    Args:
        path: See `split_path`.

    Yields:
        The files, and the name of the one that was named; "" if a folder or an archive was.

    Raises:
        CtError: What `walk_folder` and `walk_zip` raise; "not-found"; "damaged" for a zip without
            a directory.
    """
    place, inside = split_path(path)
    if place.is_dir():
        yield walk_folder(place), ""
    elif place.is_file() and _is_zip(place):
        try:
            archive = zipfile.ZipFile(place)
        except Exception as error:  # BadZipFile, struct.error, UnicodeDecodeError, ValueError, ...
            raise CtError(
                "damaged",
                "An archive has no readable directory",
                where=place.name,
                next_step="copy it from its source again",
            ) from error
        with archive:
            entries = walk_zip(archive, place, inside)
            if inside and not entries:
                raise CtError("not-found", "There is no such folder in an archive", where=str(path))
            yield entries, ""
    elif place.is_file():
        siblings = [
            FileEntry(name, file.stat().st_size, file)
            for file, name in _scan(place.parent, "")
            if file.is_file()
        ]
        yield siblings, _make_name(place.name)
    else:  # a pipe or a device, which would block
        what = "A path is neither a folder nor a plain file"
        raise CtError("unreadable-file", what, where=str(path))


def list_folders(path: str | Path) -> list[str]:
    """List the folders below a folder, in a zip or in a folder of a zip that hold files.

    Args:
        path: See `read_dicom`.

    Returns:
        "/"-separated, relative to the folder or the archive, sorted.

    Raises:
        CtError: What `open_entries` raises.
    """
    with open_entries(Path(path)) as (entries, _):
        return sorted({entry.name.rpartition("/")[0] for entry in entries} - {""})
