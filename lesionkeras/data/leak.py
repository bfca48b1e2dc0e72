"""The same slices held out in three ways, which shows what a split that leaks adds.

A fixed share of one scan's slices is tested on.  Trained is on everything but these slices, but
their scan, or but all scans of their patient; the patient must therefore have another scan.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lesionkeras.errors import DataError

# data.protocol to what is left out of training
LEAK_PROTOCOLS = {
    "leak-slices": "slices",
    "leak-volumes": "volumes",
    "leak-patients": "patients",
}


def choose_target(
    patients: Sequence[str], volumes: Sequence[str], names: Sequence[str], seed: int
) -> str:
    """Return the scan whose slices are tested on; its patient has another scan.

    Args:
        patients: The patient of each slice.
        volumes: The scan of each slice.
        names: The scan by name; none draws one.
        seed: Which one, where it is drawn.

    Raises:
        DataError: No patient has two scans, or more than one scan or another is named.

    >>> choose_target(["a", "a", "b"], ["a1", "a2", "b1"], ["a2"], seed=0)
    'a2'
    """
    pairs = sorted(set(zip(patients, volumes, strict=True)))
    owners = [patient for patient, _ in pairs]
    known = [volume for patient, volume in pairs if owners.count(patient) > 1]
    if not known:
        raise DataError(
            "No patient has two scans, so a leak cannot be measured",
            where="data.name",
            found=f"{len(pairs)} scans of {len(pairs)} patients",
            wanted="a patient with several scans, such as volumes 0 and 1 or 6 and 7 of LiTS",
            next_step="name such a data set, or pool it with --data",
        )
    if names and (len(names) > 1 or names[0] not in known):
        shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        raise DataError(
            "A leak is measured on one scan whose patient has another",
            where="data.held_out",
            found=", ".join(names),
            wanted=f"one of {shown}",
            next_step="correct --held-out, or leave it out to have one drawn",
        )
    return names[0] if names else str(np.random.default_rng(seed).choice(known))


def hold_out_target(
    patients: Sequence[str],
    volumes: Sequence[str],
    has_lesion: Sequence[bool] | np.ndarray,
    protocol: str,
    target: str,
    fraction: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Divide slices so that the same ones are held out under each of LEAK_PROTOCOLS.

    Args:
        patients: The patient of each slice.
        volumes: The scan of each slice.
        has_lesion: Whether a slice shows one; slices with and without are drawn apart.
        protocol: A key of LEAK_PROTOCOLS: what is left out of training.
        target: A scan, from `choose_target`.
        fraction: Share of its slices with lesion, and of those without, that is tested on; one of
            each at least.
        seed: Which of them.

    Returns:
        int64 indices of the slices kept and of those held out, ascending; of the target's further
        slices, and of its patient's, some are in neither.

    Raises:
        DataError: The target shows no lesion, or nothing is left to train on.

    >>> patients, volumes = ["a"] * 6 + ["b"], ["a1"] * 5 + ["a2", "b1"]
    >>> lesions = [True] * 3 + [False] * 4
    >>> for protocol in LEAK_PROTOCOLS:
    ...     kept, held = hold_out_target(patients, volumes, lesions, protocol, "a1", 0.2, seed=0)
    ...     print(len(kept), held.tolist())
    5 [2, 4]
    2 [2, 4]
    1 [2, 4]
    """
    rows = np.flatnonzero(np.asarray(volumes) == target)
    held = _draw_slices(rows, np.asarray(has_lesion, bool)[rows], target, fraction, seed)
    left_out = {
        "slices": held,
        "volumes": rows,
        "patients": np.flatnonzero(np.asarray(patients) == patients[rows[0]]),
    }[LEAK_PROTOCOLS[protocol]]
    kept = np.setdiff1d(np.arange(len(volumes)), left_out)
    if not len(kept):
        raise DataError(
            "Nobody is left to train on",
            where=f"data.protocol {protocol!r}",
            found=f"only the patient of {target}",
            wanted="another patient",
            next_step="prepare more data",
        )
    return kept, held


def _draw_slices(
    rows: np.ndarray, has_lesion: np.ndarray, target: str, fraction: float, seed: int
) -> np.ndarray:
    """Draw a share of the slices with lesion and of those without."""
    if not has_lesion.any():
        raise DataError(
            "A leak is measured on a scan with a lesion",
            where="data.held_out",
            found=f"none in {len(rows)} slices of {target}",
            wanted="a scan with one, whose patient has another scan",
            next_step="name it with --held-out",
        )
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice(part, max(round(fraction * len(part)), 1), replace=False)
        for part in (rows[has_lesion], rows[~has_lesion])
        if len(part)
    ]
    return np.sort(np.concatenate(drawn))
