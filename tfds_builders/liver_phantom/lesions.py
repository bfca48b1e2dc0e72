"""Lesions, which are round, and wedges of altered perfusion, which are not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tfds_builders.liver_phantom.anatomy import SCAN_Z_MM, Anatomy

LESION_RADIUS_MM = (4.0, 25.0)
HYPODENSE_HU = (25.0, 70.0)  # below the liver around the lesion
HYPERDENSE_HU = (30.0, 60.0)  # above it
HYPERDENSE_SHARE = 0.3
EDGE_SOFTNESS_MM = (0.4, 1.0)  # scale of the logistic edge
NUM_LESIONS_SHARES = (0.17, 0.23, 0.22, 0.16, 0.12, 0.10)  # of patients with 0, 1 .. 5 lesions
LESION_GAP_MM = 5.0  # between two lesions
NUM_WEDGES = (1, 3)
WEDGE_HALF_ANGLE_RAD = (0.25, 0.5)
WEDGE_HU = (18.0, 40.0)  # either sign
WEDGE_EDGE_MM = 2.5
PLACEMENT_TRIES = 400
INSIDE_SHARE = 0.93  # of a lesion's surface that has to lie in the liver


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid in the scan frame; half of its contrast is reached on its surface."""

    lesion_id: int
    centre_mm: tuple[float, float, float]  # x, y, z
    radii_mm: tuple[float, float, float]
    angle_rad: float  # turns the x axis towards the y axis
    contrast_hu: float  # against the liver around it
    softness_mm: float

    def compute_scale(self, z_mm: float) -> float:
        """Return the size of the cross-section at z relative to the largest one, 0 if none.

        >>> Lesion(0, (0.0, 0.0, 10.0), (8.0, 8.0, 5.0), 0.0, -40.0, 0.5).compute_scale(14.0)
        0.6
        """
        relative = (z_mm - self.centre_mm[2]) / self.radii_mm[2]
        return round(math.sqrt(max(0.0, 1.0 - relative * relative)), 12)

    def compute_half_size_mm(self, z_mm: float) -> tuple[float, float]:
        """Return half the width and height of the cross-section at z, 0 if there is none."""
        scale = self.compute_scale(z_mm)
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        rx, ry, _ = self.radii_mm
        return scale * math.hypot(rx * cos, ry * sin), scale * math.hypot(rx * sin, ry * cos)


@dataclass(frozen=True)
class Wedge:
    """A cone of altered perfusion or of fat, from its tip to the liver's surface; scan frame."""

    tip_mm: tuple[float, float, float]
    axis: tuple[float, float, float]  # unit vector
    half_angle_rad: float
    delta_hu: float

    def compute_share(self, x_mm: np.ndarray, y_mm: np.ndarray, z_mm: float) -> np.ndarray:
        """Return 1 inside, 0 outside and a ramp of WEDGE_EDGE_MM between."""
        dx, dy, dz = x_mm - self.tip_mm[0], y_mm - self.tip_mm[1], z_mm - self.tip_mm[2]
        along = dx * self.axis[0] + dy * self.axis[1] + dz * self.axis[2]
        across = np.sqrt(np.maximum(dx * dx + dy * dy + dz * dz - along * along, 0.0))
        depth = along * math.sin(self.half_angle_rad) - across * math.cos(self.half_angle_rad)
        return np.clip(0.5 + depth / WEDGE_EDGE_MM, 0.0, 1.0)


def make_lesions(rng: np.random.Generator, anatomy: Anatomy) -> tuple[Lesion, ...]:
    """Draw lesions inside the liver, none touching another; one that finds no place is left out."""
    count = int(rng.choice(len(NUM_LESIONS_SHARES), p=NUM_LESIONS_SHARES))
    mean_radii = np.sort(rng.uniform(*LESION_RADIUS_MM, size=count))[::-1]
    lesions: list[Lesion] = []
    for mean_radius in mean_radii:  # the largest first: it finds a place most rarely
        radii = np.clip(mean_radius * rng.uniform(0.86, 1.14, 3), *LESION_RADIUS_MM).tolist()
        centre = _place(rng, anatomy, tuple(radii), lesions)
        if centre is None:
            continue
        bright = rng.random() < HYPERDENSE_SHARE
        contrast = rng.uniform(*HYPERDENSE_HU) if bright else -rng.uniform(*HYPODENSE_HU)
        lesions.append(
            Lesion(
                lesion_id=len(lesions),
                centre_mm=centre,
                radii_mm=tuple(radii),
                angle_rad=float(rng.uniform(0.0, math.pi)),
                contrast_hu=float(contrast),
                softness_mm=float(rng.uniform(*EDGE_SOFTNESS_MM)),
            )
        )
    return tuple(lesions)


def _place(
    rng: np.random.Generator, anatomy: Anatomy, radii_mm: tuple[float, ...], others: list[Lesion]
) -> tuple[float, float, float] | None:
    radius = max(radii_mm)
    shell = rng.normal(size=(60, 3))
    shell *= radius / np.linalg.norm(shell, axis=1, keepdims=True)
    for _ in range(PLACEMENT_TRIES):
        lobe = anatomy.lobes[int(rng.choice(3, p=(0.7, 0.1, 0.2)))]
        raw = np.add(lobe.centre_mm, rng.uniform(-1.0, 1.0, 3) * lobe.radii_mm)
        z = float(np.clip(raw[2], SCAN_Z_MM[0] + 15.0, SCAN_Z_MM[1] - 15.0))
        x, y = anatomy.pose.to_scan(raw[0], raw[1])
        if any(
            math.dist((x, y, z), other.centre_mm) < radius + max(other.radii_mm) + LESION_GAP_MM
            for other in others
        ):
            continue
        points = shell + np.array((x, y, z))
        x_bent, y_bent = anatomy.warp(points[:, 0], points[:, 1], points[:, 2])
        inside = anatomy.compute_liver_distance(x_bent, y_bent, points[:, 2]) < 0.0
        if inside.mean() >= INSIDE_SHARE:
            return x, y, z
    return None


def make_wedges(rng: np.random.Generator, anatomy: Anatomy) -> tuple[Wedge, ...]:
    """Draw wedges with their tips deep in the right lobe, opening outwards."""
    wedges = []
    bx, by = anatomy.body_radii_mm
    for _ in range(int(rng.integers(NUM_WEDGES[0], NUM_WEDGES[1] + 1))):
        angle = float(rng.uniform(-0.75, 1.25) * math.pi / 2 + math.pi)  # front over right to back
        tip = (rng.uniform(-0.5, -0.15) * bx, rng.uniform(-0.2, 0.1) * by)
        x, y = anatomy.pose.to_scan(*tip)
        end_x, end_y = anatomy.pose.to_scan(tip[0] + math.cos(angle), tip[1] + math.sin(angle))
        axis = np.array((end_x - x, end_y - y, rng.uniform(-0.3, 0.3)))
        axis /= np.linalg.norm(axis)
        wedges.append(
            Wedge(
                tip_mm=(x, y, float(rng.uniform(-50.0, 50.0))),
                axis=tuple(axis.tolist()),
                half_angle_rad=float(rng.uniform(*WEDGE_HALF_ANGLE_RAD)),
                delta_hu=float(rng.choice((-1.0, 1.0)) * rng.uniform(*WEDGE_HU)),
            )
        )
    return tuple(wedges)
