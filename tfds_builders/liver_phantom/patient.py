"""Draws one phantom patient: scanner, anatomy, contrast phase, vessels and lesions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tfds_builders.liver_phantom.anatomy import (
    SCAN_Z_MM,
    Anatomy,
    Mode,
    Pose,
    compute_modes,
    make_anatomy,
    make_modes,
)
from tfds_builders.liver_phantom.lesions import Lesion, Wedge, make_lesions, make_wedges
from tfds_builders.liver_phantom.vessels import SEGMENT_FIELDS, TreeStyle, grow_tree

LIVER_HU = (90.0, 120.0)
NOISE_HU = (10.0, 18.0)
SLOW_FIELD_HU = (12.0, 20.0)  # each of three waves of fatty or perfusion change
SLOW_WAVELENGTH_MM = (70.0, 180.0)


@dataclass(frozen=True)
class Scanner:
    """What differs from one scanner and protocol to another."""

    name: str
    matrix_px: int
    slice_spacing_mm: tuple[float, ...]
    correlation_mm: float  # Gaussian sigma of the noise; a smooth kernel has a long one
    sharpness_mm: float  # Gaussian sigma of the point spread


SCANNERS = (
    Scanner("soft-256", 256, (2.5, 3.0, 5.0), 1.1, 0.8),
    Scanner("standard-256", 256, (3.0, 4.0, 5.0), 0.9, 0.7),
    Scanner("sharp-256", 256, (2.5, 3.75), 0.7, 0.6),
    Scanner("standard-320", 320, (2.5, 4.0), 0.8, 0.6),
)


@dataclass(frozen=True)
class Phase:
    """HU of the blood by the time after injection; liver vessels relative to the liver."""

    name: str
    aorta_hu: float
    cava_hu: float
    portal_delta_hu: tuple[float, float]
    hepatic_delta_hu: tuple[float, float]
    kidney_cortex_hu: float
    kidney_medulla_hu: float
    spleen_hu: float


PHASES = (
    Phase("unenhanced", 42.0, 40.0, (-62.0, -45.0), (-65.0, -45.0), 34.0, 30.0, 50.0),
    Phase("arterial", 290.0, 80.0, (10.0, 30.0), (-60.0, -40.0), 190.0, 90.0, 130.0),
    Phase("portal", 165.0, 150.0, (45.0, 80.0), (30.0, 65.0), 190.0, 170.0, 125.0),
    Phase("delayed", 125.0, 120.0, (12.0, 30.0), (12.0, 28.0), 150.0, 150.0, 105.0),
)
PHASE_SHARES = (0.15, 0.25, 0.40, 0.20)


@dataclass(frozen=True, eq=False)
class Patient:
    """One phantom patient; everything that rendering needs."""

    seed: int
    patient_idx: int
    scanner: Scanner
    spacing_mm: tuple[float, float, float]  # z, y, x
    orientation: str  # HFS, HFP (prone) or FFS (feet first), as in DICOM's Patient Position
    num_slices: int
    noise_hu: float
    phase: Phase
    liver_hu: float
    field: tuple[Mode, ...]  # slow change of the liver, HU
    wedges: tuple[Wedge, ...]
    anatomy: Anatomy
    vessels: np.ndarray  # [S, 9] segments, see vessels.py
    lesions: tuple[Lesion, ...]

    @property
    def patient_id(self) -> str:
        """The name in the data set, such as "phantom-0001"."""
        return f"phantom-{self.patient_idx:04d}"

    def compute_z_mm(self, z_idx: int) -> float:
        """Return the middle of a slice; feet-first scans run from the head to the feet."""
        along = (z_idx + 0.5) * self.spacing_mm[0]
        return SCAN_Z_MM[1] - along if self.orientation == "FFS" else SCAN_Z_MM[0] + along


def make_patient(seed: int, patient_idx: int) -> Patient:
    """Draw a patient; the same two numbers always give the same one.

    Args:
        seed: Of the whole data set.
        patient_idx: Which patient of it, from 0.

    Returns:
        The patient, not rendered yet.

    >>> make_patient(0, 3).patient_id
    'phantom-0003'
    """
    rng = np.random.default_rng([seed, patient_idx])
    scanner = SCANNERS[int(rng.choice(len(SCANNERS), p=(0.3, 0.3, 0.25, 0.15)))]
    orientation = str(rng.choice(("HFS", "HFP", "FFS"), p=(0.8, 0.1, 0.1)))
    anatomy = make_anatomy(rng, _make_pose(rng, orientation))
    in_plane_mm = _choose_spacing_mm(rng, anatomy, scanner)
    slice_mm = float(rng.choice(scanner.slice_spacing_mm))
    phase = PHASES[int(rng.choice(len(PHASES), p=PHASE_SHARES))]
    liver_hu = float(rng.uniform(*LIVER_HU))
    return Patient(
        seed=seed,
        patient_idx=patient_idx,
        scanner=scanner,
        spacing_mm=(slice_mm, in_plane_mm, in_plane_mm),
        orientation=orientation,
        num_slices=int((SCAN_Z_MM[1] - SCAN_Z_MM[0]) / slice_mm),
        noise_hu=float(rng.uniform(*NOISE_HU)),
        phase=phase,
        liver_hu=liver_hu,
        field=make_modes(rng, 3, float(rng.uniform(*SLOW_FIELD_HU)), SLOW_WAVELENGTH_MM),
        wedges=make_wedges(rng, anatomy),
        anatomy=anatomy,
        vessels=_make_vessels(rng, anatomy, phase, liver_hu),
        lesions=make_lesions(rng, anatomy),
    )


def compute_liver_hu(
    patient: Patient, x_mm: np.ndarray, y_mm: np.ndarray, z_mm: float
) -> np.ndarray:
    """Return the HU of healthy liver at places of the scan frame."""
    liver_hu = patient.liver_hu + compute_modes(patient.field, x_mm, y_mm, z_mm)
    for wedge in patient.wedges:
        liver_hu = liver_hu + wedge.delta_hu * wedge.compute_share(x_mm, y_mm, z_mm)
    return liver_hu


def _make_pose(rng: np.random.Generator, orientation: str) -> Pose:
    angle = float(rng.uniform(-0.14, 0.14)) + (math.pi if orientation == "HFP" else 0.0)
    offset_x, offset_y = rng.uniform(-5.0, 5.0, 2).tolist()
    return Pose(angle, (offset_x, offset_y), orientation == "FFS")


def _choose_spacing_mm(rng: np.random.Generator, anatomy: Anatomy, scanner: Scanner) -> float:
    field_of_view_mm = 2.0 * anatomy.body_radii_mm[0] * float(rng.uniform(1.12, 1.22))
    return float(np.clip(round(field_of_view_mm / scanner.matrix_px, 3), 1.1, 1.6))


def _make_vessels(
    rng: np.random.Generator, anatomy: Anatomy, phase: Phase, liver_hu: float
) -> np.ndarray:
    pose = anatomy.pose
    porta, cava = anatomy.organs["porta"].centre_mm, anatomy.organs["cava"].centre_mm
    portal_hu = liver_hu + float(rng.uniform(*phase.portal_delta_hu))
    hepatic_hu = liver_hu + float(rng.uniform(*phase.hepatic_delta_hu))
    bile_hu = float(rng.uniform(2.0, 18.0))
    duct_mm = float(rng.uniform(2.5, 5.0))

    def grow(start: tuple[float, ...], to: tuple[float, ...], style: TreeStyle) -> list:
        start_xy, end_xy = pose.to_scan(start[0], start[1]), pose.to_scan(to[0], to[1])
        heading = (end_xy[0] - start_xy[0], end_xy[1] - start_xy[1], to[2] - start[2])
        return grow_tree(rng, anatomy, (*start_xy, start[2]), heading, style)

    px, py, pz = porta
    right, front, left = (-110.0, 0.0, 20.0), (-60.0, -70.0, 30.0), (0.0, -70.0, 40.0)
    segments = []
    for target in (right, front, left):
        portal_mm = float(rng.uniform(6.0, 8.0))
        segments += grow((px, py, pz), target, TreeStyle(portal_mm, portal_hu))
        beside = (px + 7.0, py - 8.0, pz + 4.0)
        aim = tuple(np.add(target, rng.uniform(-25.0, 25.0, 3)).tolist())
        segments += grow(beside, aim, TreeStyle(duct_mm, bile_hu))
    top = (cava[0], cava[1] - 6.0, 58.0)
    for target in ((-125.0, 10.0, -20.0), (-75.0, -60.0, -10.0), (15.0, -60.0, 15.0)):
        hepatic_mm = float(rng.uniform(5.5, 7.0))
        segments += grow(top, target, TreeStyle(hepatic_mm, hepatic_hu))
    table = np.asarray(segments, np.float32).reshape(-1, SEGMENT_FIELDS)
    table.setflags(write=False)
    return table
