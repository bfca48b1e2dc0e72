"""LiTS 28 to 47 are 3D-IRCADb-01 cases 1 to 20: their published voxels and slices.

LiTS gives these volumes an identity affine, so their millimetres are false.  That they are the same
scans, in this order, is said in threads (issue 27 of JunMa11/AbdomenCT-1K, issue 14 of
PatrickChrist/LITS-CHALLENGE) and shown by the numbers of slices, which are equal for all twenty.
(Issue 33 of assassint2017/MICCAI-LITS2017 leaves 45 out and takes 48 in; the slices speak against
it: 45 has 74 as case 18 has, 48 has 244, which no case has.)
Source: the table at https://www.ircad.fr/research/data-sets/liver-segmentation-3d-ircadb-01/, which
rounds to .01 mm: at most .9 % of an in-plane side.
"""

from __future__ import annotations

FIRST_VOLUME = 28  # LiTS' number of case 1
# Voxel size along x and y, along z, in mm; number of slices.
PUBLISHED: dict[int, tuple[float, float, int]] = {
    1: (0.57, 1.6, 129),
    2: (0.78, 1.6, 172),
    3: (0.62, 1.25, 200),
    4: (0.74, 2.0, 91),
    5: (0.78, 1.6, 139),
    6: (0.78, 1.6, 135),
    7: (0.78, 1.6, 151),
    8: (0.56, 1.6, 124),
    9: (0.87, 2.0, 111),
    10: (0.73, 1.6, 122),
    11: (0.72, 1.6, 132),
    12: (0.68, 1.0, 260),
    13: (0.67, 1.6, 122),
    14: (0.72, 1.6, 113),
    15: (0.78, 1.6, 125),
    16: (0.70, 1.6, 155),
    17: (0.74, 1.6, 119),
    18: (0.74, 2.5, 74),
    19: (0.70, 4.0, 124),
    20: (0.81, 2.0, 225),
}


def find_case(volume_number: int) -> int | None:
    """Return the 3D-IRCADb-01 case that a LiTS training volume is, if it is one.

    >>> find_case(28), find_case(47), find_case(48)
    (1, 20, None)
    """
    case = volume_number - FIRST_VOLUME + 1
    return case if case in PUBLISHED else None


def find_spacing_mm(volume_number: int, num_slices: int) -> tuple[float, float, float] | None:
    """Return the published voxel size of a LiTS volume that is a 3D-IRCADb-01 case.

    Args:
        volume_number: LiTS' number.
        num_slices: How many slices the file has; another number than the published one is no such
            case, or part of it, of which the distance of slices is unknown.

    Returns:
        z, y, x in mm, or None.

    >>> find_spacing_mm(28, 129), find_spacing_mm(28, 43), find_spacing_mm(4, 129)
    ((1.6, 0.57, 0.57), None, None)
    """
    case = find_case(volume_number)
    if case is None or PUBLISHED[case][2] != num_slices:
        return None
    in_plane_mm, z_mm, _ = PUBLISHED[case]
    return z_mm, in_plane_mm, in_plane_mm
