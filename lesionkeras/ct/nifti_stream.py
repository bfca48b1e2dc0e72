"""Bytes of a .nii or .nii.gz, told apart by content, read in order and no further than asked.

A stream fills the caller's own memory, so that a volume is inflated part by part into a buffer that
stays in the cache; checksums are checked where a file ends.
"""

from __future__ import annotations

import io
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lesionkeras.ct.findings import CtError

GZIP_MAGIC = b"\x1f\x8b"
MOST_RATIO = 1032  # DEFLATE's best: 258 bytes from two bits (RFC 1951, 3.2.5)
COPY_AGAIN = "copy the file from its source again"
BUFFER_BYTES = 2**17
THREAD_BYTES = 2**22  # a smaller file is read before a thread pays


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; a pipe or a device is refused and never waited for.

    Args:
        path: The file.

    Raises:
        CtError: not-found, unreadable-file.
    """
    where = str(path)
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISREG(mode):
            return Path(path).open("rb")
        found = "a folder" if stat.S_ISDIR(mode) else "neither a file nor a folder"
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CtError(
            "not-found",
            "A file is not there",
            where=where,
            next_step="check its path",
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        found = getattr(error, "strerror", None) or "a name that no file can have"
    raise CtError(
        "unreadable-file",
        "A file cannot be read",
        where=where,
        found=found,
        next_step="name a file that you may read",
    )


@dataclass(frozen=True)
class _Gzip:
    """The fastest gzip that is installed.

    isal's (Intel ISA-L) inflates CT three times as fast as zlib; both check CRC-32 and length.
    """

    file: Any  # class of a gzip file
    threaded: Any  # module whose `open` inflates ahead in a thread, or None
    damage: tuple[type[Exception], ...]  # what it raises on damaged data


def _load_gzip() -> _Gzip:
    damage = (OSError, OverflowError, ValueError, zlib.error)
    try:
        igzip, threaded = import_module("isal.igzip"), import_module("isal.igzip_threaded")
        return _Gzip(igzip.IGzipFile, threaded, (*damage, import_module("isal.isal_zlib").error))
    except ImportError:
        return _Gzip(import_module("gzip").GzipFile, None, damage)


class NiftiStream:
    """A file's bytes in order, unzipped if need be.

    Args:
        file: Opened for reading, seekable.
        where: What to call the file in an error.
        ahead: Whether a thread may inflate ahead; it pays where the whole file is read.

    Attributes:
        most_bytes: More than this the file cannot hold, unzipped.
    """

    def __init__(self, file: BinaryIO, where: str, ahead: bool = False) -> None:
        self._where, self._file = where, file
        num_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        zipped = file.read(2) == GZIP_MAGIC
        file.seek(0)
        self.most_bytes = num_bytes * MOST_RATIO if zipped else num_bytes
        gzip = _load_gzip()
        self._damage = gzip.damage
        self._stream: Any = file
        if zipped and ahead and gzip.threaded is not None and num_bytes > THREAD_BYTES:
            self._stream = gzip.threaded.open(file, "rb", threads=1)
        elif zipped:
            self._stream = gzip.file("", "rb", fileobj=file)

    def close(self) -> None:
        """End the thread that inflates; the file stays open."""
        if self._stream is not self._file:
            self._stream.close()

    def read_up_to(self, num_bytes: int) -> bytes:
        """Return so many bytes, or fewer where the data end.

        Raises:
            CtError: truncated, damaged.
        """
        buffer = np.empty(num_bytes, np.uint8)
        return buffer[: self.fill(buffer)].tobytes()

    def skip(self, num_bytes: int) -> None:
        """Pass over bytes, or to where the data end.

        Raises:
            CtError: truncated, damaged.
        """
        while num_bytes > 0 and self.read_up_to(min(num_bytes, BUFFER_BYTES)):
            num_bytes -= BUFFER_BYTES

    def fill(self, buffer: np.ndarray) -> int:
        """Fill memory with the next bytes.

        Args:
            buffer: Contiguous, of any type.

        Returns:
            Bytes filled: fewer than there is room for only where the data end.

        Raises:
            CtError: truncated, damaged.
        """
        memory = buffer.reshape(-1).view(np.uint8).data
        done = 0
        try:
            while done < len(memory):
                count = self._stream.readinto(memory[done:])
                if not count:
                    break
                done += count
        except EOFError as error:
            raise CtError(
                "truncated", "A gzip file ends early", where=self._where, next_step=COPY_AGAIN
            ) from error
        except self._damage as error:
            raise CtError(
                "damaged", "A gzip file does not unpack", where=self._where, next_step=COPY_AGAIN
            ) from error
        return done


@contextmanager
def open_stream(
    source: str | os.PathLike[str] | BinaryIO, where: str, ahead: bool = False
) -> Iterator[NiftiStream]:
    """Open a file by its path, or take one that is open.

    Args:
        source: A path, or an open and seekable file, which stays open.
        where: What to call the file in an error.
        ahead: See `NiftiStream`.

    Raises:
        CtError: not-found, unreadable-file.
    """
    if not isinstance(source, (str, os.PathLike)):
        with closing(NiftiStream(source, where, ahead)) as stream:
            yield stream
        return
    with open_file(source) as file, closing(NiftiStream(file, where, ahead)) as stream:
        yield stream


def write_bytes(file: BinaryIO, parts: Iterable[bytes | memoryview], zipped: bool) -> None:
    """Write bytes one after the other, zipped at the fastest level: CT noise packs no better.

    Args:
        file: Opened for writing.
        parts: What to write.
        zipped: Whether as gzip.
    """
    if not zipped:
        file.writelines(parts)
        return
    # No name and no time inside: the same volume gives the same bytes.
    with _load_gzip().file("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream:
        for part in parts:
            stream.write(part)
