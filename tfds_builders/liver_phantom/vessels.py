"""Trees of tapering tubes in the liver: portal and hepatic veins, bile ducts, the fissure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfds_builders.liver_phantom.anatomy import Anatomy

STEP_MM = 7.0  # length of one straight segment
MARGIN_MM = 2.0  # a vessel ends where the liver's surface is nearer than this
MIN_RADIUS_MM = 1.2
BRANCH_ANGLE_RAD = 0.7
SEGMENT_FIELDS = 9  # x, y, z of both ends, radius at both ends, HU


@dataclass(frozen=True)
class TreeStyle:
    """One kind of tree."""

    radius_mm: float  # of the trunk
    hu: float
    taper: float = 0.975  # of the radius at each step
    branch_steps: int = 5  # straight segments between two forks


def grow_tree(
    rng: np.random.Generator,
    anatomy: Anatomy,
    root_mm: tuple[float, float, float],
    heading: tuple[float, float, float],
    style: TreeStyle,
) -> list[list[float]]:
    """Grow one branching tree inside the liver.

    Args:
        rng: Source of randomness.
        anatomy: Gives the liver's surface.
        root_mm: Where the trunk begins, scan frame.
        heading: Its direction, scan frame; any length.
        style: Trunk radius, HU and taper.

    Returns:
        Segments, each x, y, z of its two ends (scan mm), radius at both ends (mm), HU.
    """
    segments: list[list[float]] = []
    first = np.asarray(heading, float) / np.linalg.norm(heading)
    queue = [(np.asarray(root_mm, float), first, style.radius_mm, 0)]
    while queue:
        point, direction, radius, depth = queue.pop()
        steps = style.branch_steps + int(rng.integers(-1, 2))
        for _ in range(steps):
            direction = direction + rng.normal(0.0, 0.16, 3)
            direction /= np.linalg.norm(direction)
            end = point + STEP_MM * direction
            if radius < MIN_RADIUS_MM or (depth > 0 and not _is_inside(anatomy, end)):
                break
            thinner = radius * style.taper
            segments.append([*point.tolist(), *end.tolist(), radius, thinner, style.hu])
            point, radius = end, thinner
        else:
            queue += _fork(rng, point, direction, radius, depth + 1)
    return segments


def _fork(
    rng: np.random.Generator, point: np.ndarray, direction: np.ndarray, radius: float, depth: int
) -> list[tuple[np.ndarray, np.ndarray, float, int]]:
    side = np.cross(direction, rng.normal(size=3))
    side /= np.linalg.norm(side)
    children = []
    for sign, shrink in ((1.0, 0.88), (-1.0, 0.74)):
        angle = sign * BRANCH_ANGLE_RAD * rng.uniform(0.6, 1.2)
        turned = np.cos(angle) * direction + np.sin(angle) * side
        children.append((point, turned, radius * shrink, depth))
    return children


def _is_inside(anatomy: Anatomy, point: np.ndarray) -> bool:
    x_bent, y_bent = anatomy.warp(point[0], point[1], point[2])
    return bool(anatomy.compute_liver_distance(x_bent, y_bent, point[2]) < -MARGIN_MM)
