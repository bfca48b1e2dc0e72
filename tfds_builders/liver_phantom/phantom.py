"""The liver phantom: patients, slices, boxes and key slices from two numbers.

Pure and seeded: NumPy and OpenCV only.

>>> patient = make_patient(seed=0, patient_idx=1)
>>> image_hu, mask = render_slice(patient, key_slices(patient)[0])
>>> image_hu.dtype, mask.dtype
(dtype('int16'), dtype('uint8'))
"""

from __future__ import annotations

import numpy as np

from tfds_builders.liver_phantom.lesions import Lesion
from tfds_builders.liver_phantom.patient import Patient, Scanner, make_patient
from tfds_builders.liver_phantom.render import render_slice, render_volume

__all__ = [
    "Lesion",
    "Patient",
    "Scanner",
    "boxes_of_slice",
    "key_slices",
    "lesions_of_slice",
    "make_patient",
    "render_slice",
    "render_volume",
]

Box = tuple[float, float, float, float]

MIN_BOX_SIDE_MM = 5.0  # a smaller footprint is not boxed: partial volume hides it
SHOWN_SCALE = 0.85  # a lesion counts as shown where its cross-section has this relative size
GRAZED_SCALE = 0.6  # below this a lesion in a slice is ambiguous
SEARCH_SLICES = 2  # a key slice may lie this far from the lesion's middle
FREE_SHARE = 0.5  # of the patients with lesions have one key slice without a lesion
NUM_ALL_FREE = 2  # key slices of a patient without lesions
FREE_Z_MM = (-60.0, 60.0)  # where the liver is large


def lesions_of_slice(patient: Patient, z_idx: int) -> list[Lesion]:
    """Return the lesions that are boxed in a slice, in the order of `boxes_of_slice`."""
    z_mm = patient.compute_z_mm(z_idx)
    return [
        lesion
        for lesion in patient.lesions
        if 2.0 * min(lesion.compute_half_size_mm(z_mm)) >= MIN_BOX_SIDE_MM
    ]


def boxes_of_slice(patient: Patient, z_idx: int) -> list[Box]:
    """Return the boxes of the lesions in a slice.

    A box bounds the cross-section of the lesion's half-contrast surface with the middle of the
    slice; a lesion is boxed where both sides have at least MIN_BOX_SIDE_MM.

    Args:
        patient: From `make_patient`.
        z_idx: Which slice.

    Returns:
        x1, y1, x2, y2 in px, continuous and half-open (pixel i covers i to i + 1).
    """
    z_mm, size_px = patient.compute_z_mm(z_idx), patient.scanner.matrix_px
    _, y_spacing, x_spacing = patient.spacing_mm
    boxes = []
    for lesion in lesions_of_slice(patient, z_idx):
        half_x, half_y = lesion.compute_half_size_mm(z_mm)
        x, y, _ = lesion.centre_mm
        boxes.append(
            (
                (x - half_x) / x_spacing + size_px / 2,
                (y - half_y) / y_spacing + size_px / 2,
                (x + half_x) / x_spacing + size_px / 2,
                (y + half_y) / y_spacing + size_px / 2,
            )
        )
    return boxes


def key_slices(patient: Patient) -> list[int]:
    """Choose the slices that become examples, ascending.

    Every lesion has one near its largest cross-section, which lesions may share; of the slices
    there the one with the fewest grazed lesions is taken.  Slices without lesions are added.
    """
    chosen: list[int] = []
    for lesion in patient.lesions:
        if not any(_compute_scale(patient, lesion, z_idx) >= SHOWN_SCALE for z_idx in chosen):
            chosen.append(_choose_slice(patient, lesion))
    free = _find_free_slices(patient)
    rng = np.random.default_rng([patient.seed, patient.patient_idx, 2])
    wanted = int(rng.random() < FREE_SHARE) if patient.lesions else NUM_ALL_FREE
    if wanted and free:
        parts = np.array_split(free, min(wanted, len(free)))
        chosen += [int(rng.choice(part)) for part in parts]
    return sorted(set(chosen))


def _compute_scale(patient: Patient, lesion: Lesion, z_idx: int) -> float:
    return lesion.compute_scale(patient.compute_z_mm(z_idx))


def _choose_slice(patient: Patient, lesion: Lesion) -> int:
    by_depth = sorted(
        range(patient.num_slices),
        key=lambda z_idx: abs(patient.compute_z_mm(z_idx) - lesion.centre_mm[2]),
    )
    near = [
        z_idx
        for z_idx in by_depth[: 2 * SEARCH_SLICES + 1]
        if z_idx == by_depth[0] or _compute_scale(patient, lesion, z_idx) >= SHOWN_SCALE
    ]

    def count_grazed(z_idx: int) -> int:
        return sum(_is_grazed(patient, other, z_idx) for other in patient.lesions)

    return min(near, key=count_grazed)  # the nearest of the best: min keeps the first


def _is_grazed(patient: Patient, lesion: Lesion, z_idx: int) -> bool:
    """Return whether a lesion shows so little in a slice, or so near it, that a box is arguable."""
    away_mm = abs(patient.compute_z_mm(z_idx) - lesion.centre_mm[2])
    touches = away_mm < lesion.radii_mm[2] + 0.5 * patient.spacing_mm[0]
    return touches and _compute_scale(patient, lesion, z_idx) < GRAZED_SCALE


def _find_free_slices(patient: Patient) -> list[int]:
    """List slices through the liver that no lesion comes near."""
    free = []
    for z_idx in range(patient.num_slices):
        z_mm = patient.compute_z_mm(z_idx)
        clear = all(
            abs(z_mm - lesion.centre_mm[2]) > lesion.radii_mm[2] + patient.spacing_mm[0]
            for lesion in patient.lesions
        )
        if clear and FREE_Z_MM[0] <= z_mm <= FREE_Z_MM[1]:
            free.append(z_idx)
    return free
