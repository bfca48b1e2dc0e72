"""The analytic anatomy of one phantom patient: ellipsoids in mm, bent by a slow smooth warp.

Two frames are used.  The *patient* frame has its origin in the middle of the trunk, x to the
patient's left, y to the back, z to the head.  The *scan* frame is that of the image: x to the
right, y down, origin in the middle of the field of view.  A `Pose` maps one to the other; z is
shared.  Only ellipsoids live in the patient frame; warp, vessels and lesions are in the scan frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SCAN_Z_MM = (-92.0, 88.0)  # about the middle of the liver
WARP_AMPLITUDE_MM = 3.2  # of each of the modes that bend the organs; three modes an axis
WARP_WAVELENGTH_MM = (70.0, 160.0)
BLEND_MM = 18.0  # rounding of the crease between the liver's lobes
CARVE_GAP_MM = 1.5  # fat between the liver and the organs that dent it
DEPTH_MM = 5.0  # deeper than this the distance need not be right
CAVITY_GAP_MM = 2.0  # between the liver and the abdominal wall

Depth = float | np.ndarray  # z in mm: of one plane, or of each point


@dataclass(frozen=True)
class Mode:
    """A separable standing wave, amplitude * cos(kx+p) cos(ky+p) cos(kz+p)."""

    amplitude: float
    wave_numbers: tuple[float, float, float]  # rad/mm; x, y, z
    phases: tuple[float, float, float]  # rad


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid; `angle_rad` turns its x axis towards its y axis."""

    centre_mm: tuple[float, float, float]  # x, y, z
    radii_mm: tuple[float, float, float]
    angle_rad: float = 0.0

    def compute_distance(self, x_mm: np.ndarray, y_mm: np.ndarray, z_mm: Depth) -> np.ndarray:
        """Return the approximate signed distance in mm (negative inside, exact for a sphere).

        Args:
            x_mm: Coordinates of any shape.
            y_mm: Coordinates that broadcast with x_mm.
            z_mm: One coordinate, or coordinates that broadcast with the others.

        >>> sphere = Ellipsoid((1.0, 2.0, 3.0), (4.0, 4.0, 4.0))
        >>> float(sphere.compute_distance(np.array(1.0), np.array(10.0), 3.0))
        4.0
        """
        dx, dy = x_mm - self.centre_mm[0], y_mm - self.centre_mm[1]
        if self.angle_rad:
            cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
            dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
        rx, ry, rz = self.radii_mm
        dx, dy, along_z = dx * (1.0 / rx), dy * (1.0 / ry), (z_mm - self.centre_mm[2]) / rz
        relative = np.sqrt(dx * dx + dy * dy + along_z * along_z)
        return (relative - 1.0) * min(rx, ry)

    def is_missed(self, z_mm: float, margin_mm: float) -> bool:
        """Return whether the plane at z stays farther than a margin from the ellipsoid."""
        beyond = abs(z_mm - self.centre_mm[2]) / self.radii_mm[2] - 1.0
        return beyond * min(self.radii_mm[:2]) > margin_mm


@dataclass(frozen=True)
class Pose:
    """How the patient lies in the field of view."""

    angle_rad: float  # turn about the long axis; near pi when prone
    offset_mm: tuple[float, float]
    mirrored: bool  # feet first: left and right change sides

    def to_patient(self, x_mm: np.ndarray, y_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map scan coordinates to patient coordinates, both in mm.

        >>> Pose(0.0, (2.0, 3.0), True).to_patient(np.array(7.0), np.array(4.0))
        (np.float64(-5.0), np.float64(1.0))
        """
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        dx, dy = x_mm - self.offset_mm[0], y_mm - self.offset_mm[1]
        turned = cos * dx + sin * dy
        return (-turned if self.mirrored else turned), cos * dy - sin * dx

    def to_scan(self, x_mm: float, y_mm: float) -> tuple[float, float]:
        """Map patient coordinates to scan coordinates, both in mm; undoes `to_patient`."""
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        x_mm = -x_mm if self.mirrored else x_mm
        return (
            cos * x_mm - sin * y_mm + self.offset_mm[0],
            sin * x_mm + cos * y_mm + self.offset_mm[1],
        )


@dataclass(frozen=True)
class Anatomy:
    """Everything of a patient that is no vessel and no lesion."""

    pose: Pose
    body_radii_mm: tuple[float, float]
    fat_mm: float  # under the skin, at the side
    wall_mm: float  # muscle
    organs: dict[str, Ellipsoid]
    lobes: tuple[Ellipsoid, ...]  # of the liver
    bowel: tuple[Ellipsoid, ...]
    warp_x: tuple[Mode, ...]
    warp_y: tuple[Mode, ...]

    @property
    def spine_y_mm(self) -> float:
        """Middle of the vertebral bodies, patient frame."""
        return 0.44 * self.body_radii_mm[1]

    def warp(
        self, x_mm: np.ndarray, y_mm: np.ndarray, z_mm: Depth
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map scan coordinates to bent patient coordinates, in which organs are ellipsoids."""
        x_bent = x_mm + compute_modes(self.warp_x, x_mm, y_mm, z_mm)
        y_bent = y_mm + compute_modes(self.warp_y, x_mm, y_mm, z_mm)
        return self.pose.to_patient(x_bent, y_bent)

    def compute_cavity_distance(self, x_bent: np.ndarray, y_bent: np.ndarray) -> np.ndarray:
        """Return the distance to the inner side of the abdominal wall, negative inside."""
        rx, ry = (radius - self.fat_mm - self.wall_mm for radius in self.body_radii_mm)
        return (np.sqrt((x_bent / rx) ** 2 + (y_bent / ry) ** 2) - 1.0) * ry

    def compute_liver_distance(
        self, x_bent: np.ndarray, y_bent: np.ndarray, z_mm: Depth
    ) -> np.ndarray:
        """Return the approximate signed distance to the liver's surface in mm, negative inside."""
        distance = self.lobes[0].compute_distance(x_bent, y_bent, z_mm)
        for lobe in self.lobes[1:]:
            distance = smooth_union(distance, lobe.compute_distance(x_bent, y_bent, z_mm))
        wall = self.compute_cavity_distance(x_bent, y_bent) + CAVITY_GAP_MM
        distance = np.maximum(distance, wall)
        for name in ("gallbladder", "cava", "kidney_right", "vertebra", "porta"):
            organ = self.organs[name]
            if isinstance(z_mm, float) and organ.is_missed(z_mm, CARVE_GAP_MM + DEPTH_MM):
                continue  # only speed: the dent would not reach the surface
            dent = CARVE_GAP_MM - organ.compute_distance(x_bent, y_bent, z_mm)
            distance = np.maximum(distance, dent)
        return distance


def smooth_union(a_mm: np.ndarray, b_mm: np.ndarray) -> np.ndarray:
    """Join two signed distances with a rounded crease.

    Source: Quilez, "Smooth minimum", polynomial form.

    >>> float(smooth_union(np.array(4.0), np.array(40.0)))
    4.0
    >>> float(smooth_union(np.array(0.0), np.array(0.0)))
    -4.5
    """
    share = np.clip(0.5 + 0.5 * (b_mm - a_mm) / BLEND_MM, 0.0, 1.0)
    return b_mm + share * (a_mm - b_mm) - BLEND_MM * share * (1.0 - share)


def compute_modes(
    modes: tuple[Mode, ...], x_mm: np.ndarray, y_mm: np.ndarray, z_mm: Depth
) -> np.ndarray:
    """Sum standing waves; with x a row and y a column each wave is a cheap outer product."""
    total: np.ndarray = np.zeros((), np.float32)
    for mode in modes:
        (kx, ky, kz), (px, py, pz) = mode.wave_numbers, mode.phases
        along_z = (mode.amplitude * np.cos(kz * z_mm + pz)).astype(np.float32)
        total = total + (along_z * np.cos(kx * x_mm + px)) * np.cos(ky * y_mm + py)
    return total


def make_modes(
    rng: np.random.Generator, count: int, amplitude: float, wavelength_mm: tuple[float, float]
) -> tuple[Mode, ...]:
    """Draw standing waves of one amplitude with random wavelengths and phases."""
    modes = []
    for _ in range(count):
        numbers = (2.0 * math.pi / rng.uniform(*wavelength_mm, size=3)).tolist()
        phases = rng.uniform(0.0, 2.0 * math.pi, size=3).tolist()
        modes.append(Mode(amplitude, tuple(numbers), tuple(phases)))
    return tuple(modes)


def make_anatomy(rng: np.random.Generator, pose: Pose) -> Anatomy:
    """Draw a patient's build and organs."""
    bx = float(rng.uniform(132.0, 165.0))
    by = bx * float(rng.uniform(0.66, 0.76))
    fat_mm = float(rng.uniform(8.0, 20.0))
    return Anatomy(
        pose=pose,
        body_radii_mm=(bx, by),
        fat_mm=fat_mm,
        wall_mm=float(rng.uniform(9.0, 13.0)),
        organs=_make_organs(rng, bx, by),
        lobes=_make_lobes(rng, bx, by),
        bowel=_make_bowel(rng, bx, by),
        warp_x=make_modes(rng, 3, WARP_AMPLITUDE_MM, WARP_WAVELENGTH_MM),
        warp_y=make_modes(rng, 3, WARP_AMPLITUDE_MM, WARP_WAVELENGTH_MM),
    )


def _make_lobes(rng: np.random.Generator, bx: float, by: float) -> tuple[Ellipsoid, ...]:
    size = float(rng.uniform(0.94, 1.06))
    tilt = float(rng.uniform(-0.15, 0.15))
    right = Ellipsoid(
        (-0.42 * bx, -0.02 * by, 0.0),
        (0.46 * bx * size, 0.68 * by * size, float(rng.uniform(78.0, 92.0))),
        tilt,
    )
    left = Ellipsoid(
        (0.08 * bx, -0.42 * by, float(rng.uniform(15.0, 30.0))),
        (float(rng.uniform(0.36, 0.48)) * bx, 0.27 * by, float(rng.uniform(42.0, 55.0))),
        float(rng.uniform(-0.1, 0.25)),
    )
    middle = Ellipsoid((-0.14 * bx, -0.18 * by, 20.0), (0.24 * bx, 0.36 * by, 55.0))
    return right, middle, left


def _make_organs(rng: np.random.Generator, bx: float, by: float) -> dict[str, Ellipsoid]:
    def jitter(*centre_mm: float) -> tuple[float, float, float]:
        x, y, z = (np.array(centre_mm) + rng.uniform(-6.0, 6.0, 3)).tolist()
        return x, y, z

    spine_y = 0.44 * by
    size = float(rng.uniform(0.9, 1.1))
    return {
        "vertebra": Ellipsoid((0.0, spine_y, 0.0), (21.0 * size, 17.0 * size, 1e4)),
        "aorta": Ellipsoid((14.0, spine_y - 27.0, 0.0), (10.0 * size, 10.0 * size, 1e4)),
        "cava": Ellipsoid((-22.0, spine_y - 27.0, 0.0), (12.0 * size, 9.0 * size, 1e4), 0.2),
        "kidney_left": Ellipsoid(jitter(0.44 * bx, 0.42 * by, -45.0), (26.0, 29.0, 52.0), 0.5),
        "kidney_right": Ellipsoid(jitter(-0.42 * bx, 0.44 * by, -62.0), (26.0, 29.0, 52.0), -0.5),
        "spleen": Ellipsoid(
            jitter(0.62 * bx, 0.2 * by, 25.0), (24.0 * size, 44.0 * size, 48.0 * size), -0.35
        ),
        "stomach": Ellipsoid(
            jitter(0.42 * bx, -0.25 * by, 20.0), (46.0 * size, 34.0 * size, 55.0), 0.3
        ),
        "gallbladder": Ellipsoid(
            jitter(-0.25 * bx, -0.36 * by, -42.0), (13.0 * size, 19.0 * size, 24.0), 0.4
        ),
        "porta": Ellipsoid((-0.1 * bx, 0.12 * by, -22.0), (20.0, 11.0, 20.0), 0.1),
        "fissure": Ellipsoid(
            jitter(-0.12 * bx, -0.42 * by, -5.0), (2.6 * size, 0.3 * by, 46.0), 0.25
        ),
        "venosum": Ellipsoid(jitter(-0.08 * bx, -0.06 * by, 24.0), (30.0, 2.4, 34.0), 0.5),
        "heart": Ellipsoid(jitter(0.14 * bx, -0.38 * by, 125.0), (58.0, 42.0, 52.0), 0.4),
        "lung_right": Ellipsoid((-0.44 * bx, 0.12 * by, 165.0), (0.42 * bx, 0.68 * by, 130.0)),
        "lung_left": Ellipsoid((0.44 * bx, 0.12 * by, 160.0), (0.42 * bx, 0.68 * by, 115.0)),
    }


def _make_bowel(rng: np.random.Generator, bx: float, by: float) -> tuple[Ellipsoid, ...]:
    loops = []
    for _ in range(14):
        along, across = rng.uniform(-0.15, 0.62), rng.uniform(-0.55, 0.15)
        z_mm = float(rng.uniform(-110.0, -25.0))
        radii = rng.uniform(11.0, 22.0, 3).tolist()
        angle = float(rng.uniform(0.0, 3.0))
        loops.append(Ellipsoid((along * bx, across * by, z_mm), tuple(radii), angle))
    return tuple(loops)
