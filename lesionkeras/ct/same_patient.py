"""Which CT scans are of one patient: exact copies by content, others by anatomy.

Two scans of one patient agree after rigid alignment in details (edges of vertebrae and ribs, fat
planes, muscles) that differ between any two people; `scan_print.py` keeps those, `rigid.py` aligns.
People of one build agree a little too, and as much with the other's mirror image, which is nobody:
a pair counts only if it agrees clearly better than with the mirrored scan.  An error joins two
patients in one split, which costs little; a scan that is missed leaks, so the threshold is low.
Not seen unless it is a copy: a scan with false millimetres or turned by more than 15 degrees.

>>> {"a", "b"} in join_groups(["a", "b", "c"], [{"a", "b"}])
True
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lesionkeras.ct.rigid import (
    POINTS,
    Fixed,
    Level,
    Moved,
    align,
    find_shape,
    halve,
    refine,
    refine_starts,
    search,
    transform_fixed,
    transform_turned,
)
from lesionkeras.ct.scan_print import OUTSIDE, QUANTUM, VOXEL_MM, ScanPrint, describe_scan

__all__ = ["Pair", "ScanPrint", "compare_scans", "describe_scan", "find_pairs", "group_scans"]

LOG = logging.getLogger("lesionkeras.ct")

# NCC after alignment of real scans (LiTS 0, 1, 2, 4, 6, 7, 3D-IRCADb 1, a DeepLesion series): .82
# and .79 of one patient, .15 to .40 of two (26 pairs, mean .25, deviation .07).  LiTS 2 and 6 and
# 3D-IRCADb 1 with themselves turned by 8 to 12 degrees, moved, cut in z, at 5 mm, with noise or
# another contrast: .96 and more; with breathing of 15 to 30 mm .73 and more; bent by waves of 8 mm,
# more than a body does, .62 and more.
SAME_PATIENT = 0.55
# How much better a scan itself must fit than its mirror image: .32 and .39 of one patient, .26 and
# more in the trials above, .10 at most of two patients.
MIRROR_MARGIN = 0.15
# NCC after the quick alignment at 16 or 8 mm below which a pair is given up.  Of 57 pairs of one
# patient (the two and 55 trials, each with the other scan of the patient too) .63 and more, of 209
# pairs of two (trials against the seven scans) .57 and .48 at most, .47 and .40 in 19 of 20.
SCREEN = 0.45
SCREEN_POINTS, SCREEN_STARTS = 2_000, 2
MIN_ROUGH, MIN_ROUGH_SIDE = 500, 4  # voxels of 16 mm: 2 l of body; less is aligned at once
COPIED_SLICES = 3  # equal histograms that prove a copy; one by chance is unheard of
MIN_VOXELS = 4_000  # 256 ml of body: less is no anatomy
MIN_SIDE = 6  # voxels

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pair:
    """How alike two scans are.

    Attributes:
        names: Of the scans, in the order given.
        similarity: NCC of their details after alignment; 1 for copies; 0 if not to be compared.
        mirrored: The same with one scan mirrored; None where similarity decided alone.
        copied_slices: Number of slices of equal content.
    """

    names: tuple[str, str]
    similarity: float
    mirrored: float | None
    copied_slices: int

    @property
    def is_same(self) -> bool:
        """Whether both scans are of one patient."""
        if self.similarity < SAME_PATIENT or self.mirrored is None:
            return self.copied_slices >= COPIED_SLICES
        return self.similarity - self.mirrored >= MIRROR_MARGIN

    def __str__(self) -> str:
        found = f"{self.names[0]} and {self.names[1]}: similarity {self.similarity:.2f}"
        if self.mirrored is not None:
            found += f", with the mirrored scan {self.mirrored:.2f}"
        return found + (f", {self.copied_slices} equal slices" if self.copied_slices else "")


class _Scan:
    """A print made ready for comparing; only the small levels of 8 and 16 mm are kept."""

    def __init__(self, scan: ScanPrint) -> None:
        self.slices, self._stored = scan.slices, scan.detail
        inside = scan.detail != OUTSIDE
        self.is_enough = bool(inside.sum() >= MIN_VOXELS and min(inside.shape) >= MIN_SIDE)
        self._fixed: Fixed | None = None

    def make_levels(self, mirrored: bool = False) -> tuple[Level, Level]:
        """Return the coarse and the fine level, of the mirrored scan if wanted."""
        stored = self._stored[:, :, ::-1] if mirrored else self._stored
        inside = (stored != OUTSIDE).astype(np.float32)
        detail = stored * np.float32(QUANTUM) * inside
        fine = Level(detail, inside, VOXEL_MM, POINTS[1])
        return halve(fine, POINTS[0]), fine

    @cached_property
    def coarse(self) -> Level:
        return self.make_levels()[0]

    @cached_property
    def sparse(self) -> Level:
        """The coarse level, of which fewer voxels are compared."""
        return replace(self.coarse, num_points=SCREEN_POINTS)

    @cached_property
    def rough(self) -> Level:
        return halve(self.coarse, SCREEN_POINTS)

    @property
    def is_screened(self) -> bool:
        """Whether enough is left of the scan at 16 mm to align it there."""
        return min(self.rough.detail.shape) >= MIN_ROUGH_SIDE and len(self.rough.index) >= MIN_ROUGH

    def fix_rough(self, shape: tuple[int, ...]) -> Fixed:
        """Return the transforms of the rough level, the same ones every time."""
        self._fixed = self._fixed or transform_fixed(self.rough, shape)
        return self._fixed


class _Moving:
    """One scan and what comparing it with others takes, made once and only if need be."""

    def __init__(self, scan: _Scan, scans: Iterable[_Scan]) -> None:
        self.scan, self._scans = scan, [each for each in scans if each.is_enough]

    @cached_property
    def rough(self) -> Moved:
        shape = find_shape([each.rough.detail.shape for each in self._scans])
        return transform_turned(self.scan.rough, shape)

    @cached_property
    def coarse(self) -> Moved:
        shape = find_shape([each.coarse.detail.shape for each in self._scans])
        return transform_turned(self.scan.coarse, shape)

    @cached_property
    def fine(self) -> Level:
        return self.scan.make_levels()[1]


def _screen(a: _Moving, b: _Scan) -> float:
    """Return the NCC after aligning at 16 mm, and from there at 8 mm if that promises anything."""
    starts = search(a.rough, a.scan.rough, b.rough, b.fix_rough(a.rough.shape))
    refined = refine_starts(a.scan.rough, b.rough, starts[:SCREEN_STARTS])
    if not refined or refined[0][0] < SCREEN:
        return refined[0][0] if refined else 0.0
    return max(refine(a.scan.sparse, b.coarse, refined[0][1])[0], 0.0)


def _measure(a: _Moving, b: _Scan, mirrored: bool = False) -> float:
    """Return the NCC after alignment, with the other scan mirrored (which is nobody) if wanted."""
    coarse, fine = b.make_levels(mirrored)
    starts = search(a.coarse, a.scan.coarse, coarse)
    return align((a.scan.coarse, coarse), (a.fine, fine), starts)[0]


def _compare(names: tuple[str, str], a: _Moving, b: _Scan, screened: bool = True) -> Pair:
    copied = len(a.scan.slices & b.slices)
    if copied >= COPIED_SLICES:
        return Pair(names, 1.0, None, copied)
    if not (a.scan.is_enough and b.is_enough):
        return Pair(names, 0.0, None, copied)
    if screened and a.scan.is_screened and b.is_screened:
        similarity = _screen(a, b)
        if similarity < SCREEN:
            return Pair(names, similarity, None, copied)
    similarity = _measure(a, b)
    if similarity < SAME_PATIENT:
        return Pair(names, similarity, None, copied)
    return Pair(names, similarity, _measure(a, b, mirrored=True), copied)


def compare_scans(a: ScanPrint, b: ScanPrint) -> float:
    """Return how alike two scans are, see `Pair.similarity`; half a second.

    Args:
        a: From `describe_scan`.
        b: Likewise; swapping the two changes the result by about .01.
    """
    scans = _Scan(a), _Scan(b)
    return _compare(("", ""), _Moving(scans[0], scans), scans[1], screened=False).similarity


def find_pairs(prints: Mapping[str, ScanPrint], progress: Progress | None = None) -> list[Pair]:
    """Compare every scan with every other.

    131 scans are 8,515 pairs, so a pair that is clearly not alike after a quick alignment
    (`SCREEN`) is given up there, and has that alignment's NCC for its similarity.

    Args:
        prints: By name.
        progress: Is called with the number of pairs done and of all.

    Returns:
        All pairs, the most alike first.
    """
    scans = {name: _Scan(scan) for name, scan in prints.items()}
    names, pairs = list(scans), []
    num_all = len(names) * (len(names) - 1) // 2
    for i, name in enumerate(names[:-1]):
        a = _Moving(scans[name], scans.values())
        for other in names[i + 1 :]:
            pairs.append(_compare((name, other), a, scans[other]))
            if progress:
                progress(len(pairs), num_all)
    return sorted(pairs, key=lambda pair: -pair.similarity)


def join_groups(names: Iterable[str], links: Iterable[Iterable[str]]) -> list[set[str]]:
    """Split names into groups, so that what is linked, directly or not, is together.

    Args:
        names: All of them.
        links: Names that belong together; those that are not among `names` still link others.

    Returns:
        Every name in one set, in the order of each set's first name.

    >>> [sorted(group) for group in join_groups("abcd", ["ca", "cx", "xd"])]
    [['a', 'c', 'd'], ['b']]
    """
    groups = [{name} for name in dict.fromkeys(names)]
    wanted = set().union(*groups) if groups else set()
    for link in map(set, links):
        touched = [group for group in groups if group & link]
        merged = link.union(*touched)
        groups = [group for group in groups if not group & link]
        groups.append(merged)
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    kept = [group & wanted for group in groups if group & wanted]
    return sorted(kept, key=lambda group: min(order[name] for name in group))


def group_scans(
    prints: Mapping[str, ScanPrint],
    known: Iterable[Iterable[str]] = (),
    *,
    pairs: list[Pair] | None = None,
    progress: Progress | None = None,
) -> list[set[str]]:
    """Group scans by patient.

    Args:
        prints: By name, from `describe_scan`.
        known: Groups that are known; a name without a print still links others.
        pairs: From `find_pairs`, if that was called already.
        progress: See `find_pairs`.

    Returns:
        Every name in one set, scans without a second one too.
    """
    if pairs is None:
        pairs = find_pairs(prints, progress)
    same = [pair for pair in pairs if pair.is_same]
    LOG.info(
        "%d of %d pairs of scans are of one patient: similarity %s; the most alike other pair %.2f",
        len(same),
        len(pairs),
        ", ".join(f"{pair.similarity:.2f}" for pair in same) or "-",
        max((pair.similarity for pair in pairs if not pair.is_same), default=0.0),
    )
    return join_groups(prints, [*known, *(pair.names for pair in same)])
