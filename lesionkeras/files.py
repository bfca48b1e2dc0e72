"""Files that are never half-written.

Every file is written beside its place and then renamed, so a process that is killed leaves the
old file or the new one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def beside(path: Path) -> Path:
    """Names the file that is written before it takes the place of `path`; the suffix stays.

    >>> beside(Path("runs/a/model.keras")).as_posix()
    'runs/a/.model.partial.keras'
    """
    return path.with_name(f".{path.stem}.partial{path.suffix}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a name to write to, and renames it to `path` once the block ends without an error.

    Args:
        path: Where the file shall stand; an old one is replaced at once or stays as it is.

    Yields:
        The name beside it.
    """
    partial = beside(path)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    with replacing(Path(path)) as partial:
        partial.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all; NaN and infinity, which JSON lacks, become null.

    Args:
        path: The file.
        value: Dicts, lists, numbers, strings, paths, NumPy scalars and arrays.
    """
    text = json.dumps(_to_plain(value), indent=2, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def _to_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.as_posix() if isinstance(value, Path) else value
