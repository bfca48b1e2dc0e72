"""Which slices are trained on and which are tested on: the papers' protocols, and by patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lesionkeras.data.splits import hold_out_patients
from lesionkeras.errors import DataError

PROTOCOLS = ("patient", "given", "volume", "p3", "p5")
SAMPLINGS = ("all", "p3", "lesion")
P3_STUDIES = (118, 13)  # trained on, held out
P3_SLICES = 4401  # of each kind
LEAK_WARNINGS = {
    "volume": (
        "This split leaks: volumes are held out whoever's they are, so that scans of one patient "
        "are both trained and tested on; its figures say nothing about new patients."
    ),
    "p5": (
        "This split leaks: 20 % of the slices are held out at random (P5: of the data set), so "
        "that neighbouring slices of one scan are both trained and tested on; its figures say "
        "nothing about new patients."
    ),
    "leak-slices": (
        "This split leaks: the other slices of the tested scan are trained on, to show what that "
        "is worth; its figures say nothing about new patients."
    ),
    "leak-volumes": (
        "This split leaks: another scan of the tested patient is trained on, to show what that is "
        "worth; its figures say nothing about new patients."
    ),
}


def describe_leak(protocol: str, trained: Sequence[str], tested: Sequence[str]) -> str:
    """Return the warning of a protocol that leaks, or "" where no patient is on both sides.

    Args:
        protocol: One of PROTOCOLS.
        trained: The patient of each slice that is trained on.
        tested: The patient of each slice that is held out.
    """
    return LEAK_WARNINGS.get(protocol, "") if set(trained) & set(tested) else ""


def divide_slices(
    patients: Sequence[str],
    volumes: Sequence[str],
    protocol: str,
    fraction: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Divide slices into those trained on and those held out, as a protocol does.

    Args:
        patients: The patient of each slice.
        volumes: The scan of each slice.
        protocol: "patient", "volume", "p3" (13 of 131 studies, patients whole) or "p5" (slices).
        fraction: Share of the patients, volumes or slices that is held out; "p3" has its own.
        seed: Which ones.

    Returns:
        int64 indices of the slices kept and of those held out, ascending.

    Raises:
        DataError: There are fewer than two of what is divided.

    >>> kept, held = divide_slices(["a"] * 8 + ["b"] * 2, ["a"] * 8 + ["b"] * 2, "p5", 0.2, 0)
    >>> len(kept), len(held)
    (8, 2)
    """
    slices = [str(i) for i in range(len(patients))]
    divide: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
        "patient": lambda: hold_out_patients(patients, fraction, seed),
        "volume": lambda: hold_out_patients(volumes, fraction, seed),
        "p3": lambda: _hold_out_studies(patients, volumes, seed),
        "p5": lambda: hold_out_patients(slices, fraction, seed),
    }
    groups = {"volume": volumes, "p5": slices}.get(protocol, patients)
    if len(set(groups)) < 2:
        raise DataError(
            "Slices cannot be held out",
            where=f"data.protocol {protocol!r}",
            found=f"{len(set(groups))} {_name_group(protocol)}",
            wanted="two at least",
            next_step="prepare more data, or name another data.protocol",
        )
    return divide[protocol]()


def _name_group(protocol: str) -> str:
    return {"volume": "volume", "p5": "slice"}.get(protocol, "patient")


def _hold_out_studies(
    patients: Sequence[str], volumes: Sequence[str], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """P3's share of the studies, of patients who are held out whole.

    Patients are drawn until the studies are reached; one whose studies are too many is passed over.
    """
    studies: dict[str, set[str]] = {}
    for patient, volume in zip(patients, volumes, strict=True):
        studies.setdefault(patient, set()).add(volume)
    total = sum(map(len, studies.values()))
    wanted = max(1, round(total * P3_STUDIES[1] / sum(P3_STUDIES)))
    names = np.random.default_rng(seed).permutation(sorted(studies)).tolist()
    held: set[str] = set()
    for name in names:
        if len(studies[name]) <= wanted:
            held.add(name)
            wanted -= len(studies[name])
    if not held:  # every patient has more studies than are wanted
        held = {min(names, key=lambda name: len(studies[name]))}
    is_held = np.isin(np.asarray(patients), sorted(held))
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def hold_out_named(
    patients: Sequence[str], volumes: Sequence[str], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Divide slices by the names of patients or volumes; their patients are held out whole.

    Args:
        patients: The patient of each slice.
        volumes: The scan of each slice.
        names: Patients or volumes.

    Returns:
        int64 indices of the slices kept and of those held out, ascending.

    Raises:
        DataError: A name is neither a patient nor a volume, or nobody is left to train on.

    >>> hold_out_named(["a", "a", "b"], ["a1", "a2", "b1"], ["a2"])[1].tolist()
    [0, 1]
    """
    known = sorted({*patients, *volumes})
    unknown = [name for name in names if name not in known]
    if unknown:
        shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        raise DataError(
            "Who is held out is not there",
            where="data.held_out",
            found=repr(unknown[0]),
            wanted=f"patients or volumes of the data set: {shown}",
            next_step="correct the name",
        )
    pairs = list(zip(patients, volumes, strict=True))
    held = sorted({patient for patient, volume in pairs if patient in names or volume in names})
    is_held = np.isin(np.asarray(patients), held)
    if is_held.all():
        raise DataError(
            "Nobody is left to train on",
            where="data.held_out",
            found=f"all {len(held)} patients",
            wanted="one patient less at least",
            next_step="name fewer",
        )
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def sample_as_p3(
    has_liver: np.ndarray, has_lesion: np.ndarray, seed: int, most: int = P3_SLICES
) -> np.ndarray:
    """Draw as many slices with liver and lesion as slices with neither.

    Args:
        has_liver: bool [N].
        has_lesion: bool [N].
        seed: Which ones.
        most: Of each kind; never more than there are of the rarer.

    Returns:
        int64 indices, ascending, without repetition.

    Raises:
        DataError: One of the two kinds is absent.

    Source: P3, 2.5: 4,401 slices with liver and lesion, 4,401 with neither.

    >>> sample_as_p3(np.bool_([1, 1, 0, 0, 0]), np.bool_([1, 0, 0, 0, 0]), seed=0).size
    2
    """
    both = np.flatnonzero(has_liver & has_lesion)
    neither = np.flatnonzero(~has_liver & ~has_lesion)
    count = min(len(both), len(neither), most)
    if not count:
        raise DataError(
            "P3's sampling needs slices of two kinds",
            where="data.sampling 'p3'",
            found=f"{len(both)} with liver and lesion, {len(neither)} with neither",
            wanted="one of each at least",
            next_step="set data.sampling=all",
        )
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(kind, count, replace=False) for kind in (both, neither)]
    return np.sort(np.concatenate(drawn))


def repeat_lesions(has_lesion: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Repeat slices with a lesion until they are a share of all.

    Args:
        has_lesion: bool [N].
        share: Of the slices that are returned, 0 up to but not 1; never fewer than there are.
        seed: Which ones are repeated once more than the others.

    Returns:
        int64 indices, ascending, with repetitions; all of them where no slice or each has a lesion.

    >>> repeat_lesions(np.bool_([0, 0, 0, 1, 0]), 0.5, seed=0).tolist()
    [0, 1, 2, 3, 3, 3, 3, 4]
    """
    lesion, other = np.flatnonzero(has_lesion), np.flatnonzero(~has_lesion)
    if not len(lesion):
        return other
    wanted = max(round(share / (1 - share) * len(other)), len(lesion))
    order = np.random.default_rng(seed).permutation(lesion)
    return np.sort(np.concatenate([other, np.resize(order, wanted)]))
