"""Folders beside a prepared data set that are written once and whole, and read ever after."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lesionkeras.errors import DataError

UNFINISHED = ".unfinished"


def check_split(builder: Any, split: str, feature: str = "") -> None:
    """Raise unless a builder has examples in a split.

    Args:
        builder: A prepared TFDS builder.
        split: The split's name.
        feature: That its examples must have.

    Raises:
        DataError: The split is unknown or empty; those that are not are named.  Or examples are no
            images with boxes.
    """
    if feature and feature not in builder.info.features:
        raise DataError(
            "A data set has no images with boxes",
            where=f"{builder.info.name}/{builder.info.config_name}",
            next_step="take the config that has, such as lits/slices",
        )
    if split in builder.info.splits and builder.info.splits[split].num_examples:
        return
    known = [name for name, info in builder.info.splits.items() if info.num_examples]
    raise DataError(
        "A split has no images",
        where=f"data set {builder.info.name}",
        found=f"nothing in {split!r}",
        wanted=f"one of {', '.join(known) or 'no split, all are empty'}",
        next_step="name one with --train-split, --validation-split or --test-split",
    )


def digest_facts(builder: Any, split: str, version: int, facts: Sequence[Any]) -> str:
    """Name a cache after everything that decides what it holds.

    Args:
        builder: A prepared TFDS builder.
        split: One of its splits.
        version: Of the code that writes the cache.
        facts: What else matters; JSON values.

    Returns:
        16 hexadecimal digits.
    """
    whole: list[Any] = [version, str(builder.data_path), str(builder.info.full_name), split]
    whole += [*facts, builder.info.splits[split].num_examples]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]


@contextmanager
def _own(folder: Path) -> Iterator[bool]:
    """Say whether a folder is nobody else's, who would still write it; the lock dies with us."""
    if sys.platform == "win32":  # no flock there: what a kill leaves stays
        yield False
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def _remove_remains(parent: Path) -> None:
    """Remove what killed processes left; a folder that is being written is another's."""
    for remains in parent.glob(f"*{UNFINISHED}"):
        with _own(remains) as is_ours:
            if is_ours:
                shutil.rmtree(remains, ignore_errors=True)


def open_cache(builder: Any, name: str, write: Callable[[Path], None]) -> Path:
    """Return a cache's folder; where there is none it is written beside and then renamed.

    Args:
        builder: A prepared TFDS builder; the caches are in its folder.
        name: From `digest_facts`.
        write: Fills an empty folder; what it raises leaves nothing behind.

    Returns:
        The folder, whole.
    """
    folder = Path(builder.data_path) / "cache" / name
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        _remove_remains(folder.parent)
        beside = Path(tempfile.mkdtemp(dir=folder.parent, suffix=UNFINISHED))
        try:
            with _own(beside):
                write(beside)
                if not folder.exists():  # another process may have been faster
                    beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return folder
