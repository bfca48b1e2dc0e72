"""Arrays and masks that lie on disk in parts, read row by row."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


class Stacked:
    """Arrays of equal row shape that are read as if they were one; may lie on disk (memmap)."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = list(parts)
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int) -> np.ndarray:
        """Return one row."""
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return np.asarray(self.parts[part][row - self.starts[part]])

    @property
    def shape(self) -> tuple[int, ...]:
        """As if it were one array."""
        return (len(self), *self.row_shape)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of a row."""
        return tuple(self.parts[0].shape[1:])


class PackedMasks:
    """Masks of the slices' own size, each the PNG of its record; may lie on disk (memmap).

    Args:
        parts: Bytes of the PNGs one behind the other, and where each begins, with the end.
    """

    def __init__(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        self.parts = list(parts)
        self.firsts = np.cumsum([0, *(len(starts) - 1 for _, starts in self.parts)])

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def __getitem__(self, row: int) -> np.ndarray:
        """Return one mask, uint8 [H, W]."""
        part = int(np.searchsorted(self.firsts, row, side="right")) - 1
        pngs, starts = self.parts[part]
        begin, end = starts[row - self.firsts[part] :][:2]
        mask = cv2.imdecode(np.asarray(pngs[begin:end]), cv2.IMREAD_UNCHANGED)
        return np.asarray(mask, np.uint8)
