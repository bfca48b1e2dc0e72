"""Raw files as the system shows them, with an error of ours where it cannot."""

from __future__ import annotations

import os
from pathlib import Path

from lesionkeras.errors import DataError


def read_status(path: Path) -> os.stat_result:
    """Return a raw file's size and time.

    Raises:
        DataError: It cannot be found, as behind a link of git-annex that was not fetched.
    """
    try:
        return path.stat()
    except OSError as error:
        raise DataError(
            "A raw file cannot be read",
            where=str(path),
            found="a link to nothing" if path.is_symlink() else error.strerror or "",
            next_step="copy or fetch the file, or take it away with its partner",
        ) from error
