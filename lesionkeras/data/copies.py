"""Slices that are in two splits under two names: one scan in two data sets, or a file copied."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from lesionkeras.errors import DataError


def check_copies(splits: Mapping[str, Iterable[tuple[str, np.ndarray]]]) -> None:
    """Raise where two splits hold slices of equal pixels.

    Three rows stand for a slice: noise makes those of any two scans differ.

    Args:
        splits: Name of each split to its slices: a name and HU [H, W] each; a slice whose three
            rows are even says nothing.

    Raises:
        DataError: The first slice that another split has, too.
    """
    home: dict[bytes, tuple[str, str]] = {}
    for split, slices in splits.items():
        for name, plane in slices:
            height = len(plane)
            rows = np.asarray(plane[[height // 3, height // 2, 2 * height // 3]])
            if (rows == rows[0, 0]).all():
                continue
            key = hashlib.blake2b(rows.tobytes(), digest_size=16).digest()
            first_split, first = home.setdefault(key, (split, name))
            if first_split != split:
                raise DataError(
                    "One slice is in two splits",
                    where=f"{name} in {split}",
                    found=f"the pixels of {first} in {first_split}",
                    wanted="every scan in one",
                    next_step="leave one of the two out, or hold both out",
                )
