"""What raw files hold, as digests: each file is read once while its size and time stay the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lesionkeras.errors import DataError
from tfds_builders.progress import make_progress
from tfds_builders.raw_files import read_status

NOTEBOOK = ".digests.json"


class Digests:
    """SHA-256 of files, with a notebook of those that were read before in each prepared folder.

    Args:
        folders: The prepared folders of a data set.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self.known: dict[str, str] = {}
        self.is_new = False
        for folder in folders:
            with contextlib.suppress(OSError, ValueError, TypeError):  # damaged: read again
                self.known |= json.loads((folder / NOTEBOOK).read_text(encoding="utf-8"))

    def digest(self, files: Sequence[Path]) -> list[str]:
        """Return what each file holds, as hexadecimal digits.

        Args:
            files: The files; those that are not in the notebook are read.

        Raises:
            DataError: One cannot be read.
        """
        keys = [_make_key(path) for path in files]
        left = [(key, path) for key, path in zip(keys, files, strict=True) if key not in self.known]
        progress = make_progress("read", "raw files")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                results = pool.map(_digest, [path for _, path in left])
                for i, ((key, _), result) in enumerate(zip(left, results, strict=True), 1):
                    self.known[key] = result
                    progress(i, len(left))
            finally:
                pool.shutdown(cancel_futures=True)
        self.is_new = self.is_new or bool(left)
        return [self.known[key] for key in keys]

    def save(self, folder: Path) -> None:
        """Write the notebook where there is something new; without it files are read again."""
        if self.is_new:
            partial = folder / f"{NOTEBOOK}.partial"
            with contextlib.suppress(OSError):
                partial.write_text(json.dumps(self.known), encoding="utf-8")
                partial.replace(folder / NOTEBOOK)


def _make_key(path: Path) -> str:
    """Return what names a state of a file, but not the file: names may say whose it is."""
    status = read_status(path)
    facts = f"{path.absolute()}\n{status.st_size} {status.st_mtime_ns}"
    return hashlib.sha256(facts.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            "A raw file cannot be read",
            where=str(path),
            found=error.strerror or "",
            next_step="copy the file from its source again",
        ) from error
