"""Whose scan a LiTS volume is: LiTS holds several scans of one patient and does not say so."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lesionkeras.ct.mask_files import NO_NUMBER, find_number
from tfds_builders.lits.ircadb import find_case

# Volumes that show one patient, seen side by side and found by `lesionkeras.ct.same_patient`.
GROUPS: tuple[tuple[int, ...], ...] = ((0, 1), (6, 7))


def find_patient(volume_number: int) -> str:
    """Return the patient of a training volume, as far as it is known beforehand.

    A volume that is a 3D-IRCADb-01 case has that data set's patient, so that one who trains on one
    data set and tests on the other is told.

    Args:
        volume_number: LiTS' number.

    Returns:
        "lits_" and the lowest volume number of the patient, or "ircadb01_" and the case.

    >>> find_patient(1), find_patient(4), find_patient(28)
    ('lits_000', 'lits_004', 'ircadb01_01')
    """
    case = find_case(volume_number)
    if case is not None:
        return f"ircadb01_{case:02d}"
    return f"lits_{min(next((g for g in GROUPS if volume_number in g), (volume_number,))):03d}"


def find_patient_of_case(case: str) -> str:
    """Return the patient of a case by the number in its name, or the name where it has none.

    Args:
        case: For example "segmentation-7".

    >>> find_patient_of_case("segmentation-7"), find_patient_of_case("mine")
    ('lits_006', 'mine')
    """
    number = find_number(case)
    return case if number == NO_NUMBER else find_patient(number)


def name_patients(groups: Iterable[Collection[int]]) -> dict[int, str]:
    """Return the patient of each volume.

    Args:
        groups: Volumes of one patient together, every volume in one of them.

    Returns:
        Volume number to patient: that of the lowest volume number of its group.

    >>> name_patients([{4, 2}, {1}, {40, 28}])
    {2: 'lits_002', 4: 'lits_002', 1: 'lits_000', 28: 'ircadb01_01', 40: 'ircadb01_01'}
    """
    return {number: find_patient(min(group)) for group in groups for number in sorted(group)}
