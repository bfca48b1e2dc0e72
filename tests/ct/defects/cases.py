"""What a class of defect is: how it is made and what may come of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.ct.defects.scans import Ramp, Scan

RIGHT = "right"  # the true values in the true place


@dataclass(frozen=True)
class Case:
    """One made instance.

    Attributes:
        path: What is read.
        truth: What is right; None where nothing that could be returned would be.
        options: Of `read_volume`.
        mask: A second file, which must lie where the first lies.
        locked: Paths that the reader may not open, see `outcomes.without_rights`.
        not_for: Peers that do not claim to read this.
    """

    path: Path
    truth: Scan | Ramp | None
    options: Mapping[str, Any] = field(default_factory=dict)
    mask: Path | None = None
    locked: tuple[Path, ...] = ()
    not_for: tuple[str, ...] = ()


@dataclass(frozen=True)
class Defect:
    """A class of defect.

    Attributes:
        make: (rng, empty folder) -> Case.
        accepted: `RIGHT`, names of `CtError`s, or both.
        logged: The correction that must be among those of a volume that is returned, if any.
    """

    make: Callable[[np.random.Generator, Path], Case]
    accepted: frozenset[str]
    logged: str = ""


def accept(
    make: Callable[[np.random.Generator, Path], Case], *outcomes: str, logged: str = ""
) -> Defect:
    """Return a class of defect, one line of a table."""
    return Defect(make, frozenset(outcomes), logged)


def make_rng(name: str, seed: int) -> np.random.Generator:
    """Return the generator of one instance of one class: no instance depends on another."""
    return np.random.default_rng([zlib.crc32(name.encode()), seed])
