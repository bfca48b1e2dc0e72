"""Renders slices of a phantom patient in HU, with their masks."""

from __future__ import annotations

import math

import cv2
import numpy as np

from tfds_builders.liver_phantom.anatomy import Ellipsoid
from tfds_builders.liver_phantom.lesions import Lesion
from tfds_builders.liver_phantom.patient import Patient, compute_liver_hu

SUB_SLICES = (-1.0 / 3.0, 0.0, 1.0 / 3.0)  # in slice thicknesses; their mean is partial volume
HU_RANGE = (-1024, 3071)
AIR_HU, LUNG_HU, FAT_HU, MUSCLE_HU, SKIN_HU = -1000.0, -860.0, -98.0, 58.0, 40.0
BONE_CORTEX_HU, MARROW_HU, DISC_HU, CANAL_HU, TABLE_HU = 480.0, 210.0, 85.0, 25.0, -250.0
BILE_HU, STOMACH_HU, BOWEL_HU, KIDNEY_SINUS_HU = 8.0, 35.0, 40.0, -70.0
SKIN_MM = 2.0
VERTEBRA_PITCH_MM, DISC_MM = 34.0, 8.0
RIB_PITCH_MM, RIB_DROP_MM, RIB_TOP_MM = 26.0, 95.0, 170.0  # a rib falls from back to front
AIR_NOISE_SHARE = 0.6  # the noise is lower outside the body


class Canvas:
    """The coordinates of one slice, and the image that is painted on them."""

    def __init__(self, patient: Patient, z_mm: float) -> None:
        self.patient, self.size_px = patient, patient.scanner.matrix_px
        self.pixel_mm = patient.spacing_mm[2]
        axis = (np.arange(self.size_px, dtype=np.float32) + 0.5 - self.size_px / 2) * self.pixel_mm
        self.x_mm, self.y_mm = axis[None, :], axis[:, None]
        self.x_bent, self.y_bent = patient.anatomy.warp(self.x_mm, self.y_mm, z_mm)
        self.liver_hu = compute_liver_hu(patient, self.x_mm, self.y_mm, z_mm)
        self.image_hu = np.full((self.size_px, self.size_px), AIR_HU, np.float32)

    def find_window(self, x_mm: float, y_mm: float, *half_mm: float) -> tuple[slice, slice]:
        """Return the pixels of a box in the scan frame; half_mm is one for both axes or two."""
        sides = []
        for centre, half in ((y_mm, half_mm[-1]), (x_mm, half_mm[0])):
            low = math.floor((centre - half) / self.pixel_mm + self.size_px / 2)
            high = math.ceil((centre + half) / self.pixel_mm + self.size_px / 2)
            sides.append(slice(max(low, 0), max(high, 0)))
        return sides[0], sides[1]

    def paint(
        self, window: tuple[slice, slice], distance_mm: np.ndarray, hu: np.ndarray | float
    ) -> None:
        """Cover what lies inside (negative distance) with HU; the edge is a pixel wide."""
        part = self.image_hu[window]
        share = np.clip(0.5 - distance_mm / self.pixel_mm, 0.0, 1.0)
        part += share * (hu - part)

    def paint_ellipsoid(
        self, body: Ellipsoid, z_mm: float, hu: float, grow_mm: float = 0.0
    ) -> None:
        """Paint an ellipsoid of the patient frame, or nothing where z misses it."""
        if body.is_missed(z_mm, max(grow_mm, 0.0) + self.pixel_mm):
            return
        x, y = self.patient.anatomy.pose.to_scan(*body.centre_mm[:2])
        window = self.find_window(x, y, max(body.radii_mm[:2]) + abs(grow_mm) + 12.0)
        distance = body.compute_distance(self.x_bent[window], self.y_bent[window], z_mm)
        self.paint(window, distance - grow_mm, hu)


def render_slice(patient: Patient, z_idx: int) -> tuple[np.ndarray, np.ndarray]:
    """Render one slice.

    Args:
        patient: From `make_patient`.
        z_idx: Which slice, from 0 to num_slices - 1.

    Returns:
        int16 [H, W] in HU, and uint8 [H, W] with 0 outside, 1 liver (its vessels too), 2 lesion.

    Raises:
        IndexError: If the patient has no such slice.
    """
    if not 0 <= z_idx < patient.num_slices:
        raise IndexError(f"slice {z_idx} of {patient.num_slices}")
    z_mm = patient.compute_z_mm(z_idx)
    canvas = Canvas(patient, z_mm)
    body_distance = _paint_trunk(canvas, z_mm)
    trunk_hu = canvas.image_hu
    total = np.zeros_like(trunk_hu)
    for share in SUB_SLICES:
        canvas.image_hu = trunk_hu.copy()
        depth_mm = z_mm + share * patient.spacing_mm[0]
        liver_mm, window = _paint_organs(canvas, depth_mm)
        total += canvas.image_hu
        if share == 0.0:
            mask = _draw_mask(canvas, z_mm, liver_mm, window)
    blur_px = patient.scanner.sharpness_mm / canvas.pixel_mm
    image = cv2.GaussianBlur(total / len(SUB_SLICES), (0, 0), blur_px)
    image += _make_noise(patient, z_idx) * np.where(body_distance < 0, 1.0, AIR_NOISE_SHARE)
    return np.clip(np.rint(image), *HU_RANGE).astype(np.int16), mask


def render_volume(patient: Patient) -> tuple[np.ndarray, np.ndarray]:
    """Render all slices: int16 [Z, H, W] in HU and the uint8 mask, each as `render_slice`."""
    slices = [render_slice(patient, z_idx) for z_idx in range(patient.num_slices)]
    return np.stack([image for image, _ in slices]), np.stack([mask for _, mask in slices])


def _paint_trunk(canvas: Canvas, z_mm: float) -> np.ndarray:
    """Paint all but the liver and what touches it; return the distance to the skin."""
    anatomy, everything = canvas.patient.anatomy, (slice(None), slice(None))
    rx, ry = anatomy.body_radii_mm
    x, y = canvas.x_bent, canvas.y_bent
    skin = (np.sqrt((x / rx) ** 2 + (y / ry) ** 2) - 1.0) * ry
    _paint_table(canvas, anatomy.body_radii_mm[1])
    canvas.paint(everything, skin, SKIN_HU)
    canvas.paint(everything, skin + SKIN_MM, FAT_HU)
    cavity = anatomy.compute_cavity_distance(x, y)
    canvas.paint(everything, cavity - anatomy.wall_mm, MUSCLE_HU)
    canvas.paint(everything, cavity, FAT_HU)
    spine_y = anatomy.spine_y_mm
    for side in (-1.0, 1.0):
        back = Ellipsoid((side * 32.0, spine_y + 22.0, 0.0), (24.0, 17.0, 1e4), side * 0.25)
        canvas.paint_ellipsoid(back, z_mm, MUSCLE_HU)
        psoas = Ellipsoid((side * 32.0, spine_y - 2.0, -90.0), (15.0, 14.0, 70.0))
        canvas.paint_ellipsoid(psoas, z_mm, MUSCLE_HU)
        process = Ellipsoid((side * 22.0, spine_y + 20.0, 0.0), (16.0, 4.5, 1e4), side * 0.35)
        canvas.paint_ellipsoid(process, z_mm, MARROW_HU + 90.0)
        _paint_ribs(canvas, side, z_mm)
    _paint_spine(canvas, z_mm)
    _paint_far_organs(canvas, z_mm)
    return skin


def _paint_far_organs(canvas: Canvas, z_mm: float) -> None:
    patient, organs = canvas.patient, canvas.patient.anatomy.organs
    for name in ("lung_right", "lung_left"):
        canvas.paint_ellipsoid(organs[name], z_mm, LUNG_HU)
    canvas.paint_ellipsoid(organs["heart"], z_mm, FAT_HU, 5.0)
    canvas.paint_ellipsoid(organs["heart"], z_mm, 0.6 * patient.phase.aorta_hu + 30.0)
    _paint_gut(canvas, z_mm)
    canvas.paint_ellipsoid(organs["spleen"], z_mm, patient.phase.spleen_hu)


def _paint_table(canvas: Canvas, body_half_mm: float) -> None:
    below = canvas.patient.anatomy.pose.offset_mm[1] + body_half_mm + 11.0
    radius_mm = 420.0  # of the curved table top
    distance = np.hypot(canvas.x_mm, canvas.y_mm - below + radius_mm) - radius_mm
    canvas.paint((slice(None), slice(None)), np.abs(distance) - 1.5, TABLE_HU)


def _paint_spine(canvas: Canvas, z_mm: float) -> None:
    vertebra = canvas.patient.anatomy.organs["vertebra"]
    spine_y = vertebra.centre_mm[1]
    if z_mm % VERTEBRA_PITCH_MM < DISC_MM:
        canvas.paint_ellipsoid(vertebra, z_mm, DISC_HU)
    else:
        canvas.paint_ellipsoid(vertebra, z_mm, BONE_CORTEX_HU)
        canvas.paint_ellipsoid(vertebra, z_mm, MARROW_HU, -2.5)
    arch = Ellipsoid((0.0, spine_y + 24.0, 0.0), (13.0, 12.0, 1e4))
    spinous = Ellipsoid((0.0, spine_y + 37.0, 0.0), (4.0, 10.0, 1e4))
    canvas.paint_ellipsoid(spinous, z_mm, BONE_CORTEX_HU - 100.0)
    canvas.paint_ellipsoid(arch, z_mm, BONE_CORTEX_HU)
    canvas.paint_ellipsoid(arch, z_mm, CANAL_HU, -4.0)


def _paint_ribs(canvas: Canvas, side: float, z_mm: float) -> None:
    """Cut the ribs, which run round the wall and fall from the back to the front."""
    anatomy = canvas.patient.anatomy
    rx, ry = (r - anatomy.fat_mm - 0.5 * anatomy.wall_mm for r in anatomy.body_radii_mm)
    top = RIB_TOP_MM
    while top > z_mm:
        fallen = (top - z_mm) / RIB_DROP_MM
        top -= RIB_PITCH_MM
        if fallen >= 0.95:
            continue
        angle = 2.0 * math.asin(math.sqrt(fallen)) * 0.8 + 0.3  # from the back, 0 at the spine
        x, y = side * rx * math.sin(angle), ry * math.cos(angle)
        tangent = math.atan2(-ry * math.sin(angle), side * rx * math.cos(angle))
        rib = Ellipsoid((x, y, 0.0), (8.5, 4.2, 1e4), tangent)
        canvas.paint_ellipsoid(rib, z_mm, BONE_CORTEX_HU)
        canvas.paint_ellipsoid(rib, z_mm, MARROW_HU, -1.8)


def _paint_organs(canvas: Canvas, z_mm: float) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Paint the liver and what touches it; return the distance and its window."""
    patient, organs = canvas.patient, canvas.patient.anatomy.organs
    phase = patient.phase
    liver_mm, window = _paint_liver(canvas, z_mm)
    for name in ("kidney_left", "kidney_right"):
        canvas.paint_ellipsoid(organs[name], z_mm, phase.kidney_cortex_hu)
        canvas.paint_ellipsoid(organs[name], z_mm, phase.kidney_medulla_hu, -8.0)
        canvas.paint_ellipsoid(organs[name], z_mm, KIDNEY_SINUS_HU, -18.0)
    canvas.paint_ellipsoid(organs["gallbladder"], z_mm, MUSCLE_HU)
    canvas.paint_ellipsoid(organs["gallbladder"], z_mm, BILE_HU, -1.5)
    canvas.paint_ellipsoid(organs["aorta"], z_mm, phase.aorta_hu)
    canvas.paint_ellipsoid(organs["cava"], z_mm, phase.cava_hu)
    for segment in _find_segments(patient.vessels, z_mm):
        _paint_segment(canvas, segment, z_mm)
    for lesion in patient.lesions:
        _paint_lesion(canvas, lesion, z_mm)
    return liver_mm, window


def _paint_gut(canvas: Canvas, z_mm: float) -> None:
    anatomy = canvas.patient.anatomy
    for number, loop in enumerate(anatomy.bowel):
        canvas.paint_ellipsoid(loop, z_mm, MUSCLE_HU)
        canvas.paint_ellipsoid(loop, z_mm, AIR_HU if number % 4 == 0 else BOWEL_HU - 15.0, -2.5)
    stomach = anatomy.organs["stomach"]
    canvas.paint_ellipsoid(stomach, z_mm, MUSCLE_HU + 20.0)
    canvas.paint_ellipsoid(stomach, z_mm, STOMACH_HU, -4.0)
    x, y = anatomy.pose.to_scan(*stomach.centre_mm[:2])
    window = canvas.find_window(x, y, max(stomach.radii_mm) + 12.0)
    inside = stomach.compute_distance(canvas.x_bent[window], canvas.y_bent[window], z_mm) + 4.0
    level = canvas.y_mm[window[0]] - (y - 10.0)  # gas rises: up in the image, however one lies
    canvas.paint(window, np.maximum(inside, level), AIR_HU)


def _paint_liver(canvas: Canvas, z_mm: float) -> tuple[np.ndarray, tuple[slice, slice]]:
    anatomy = canvas.patient.anatomy
    bx, by = anatomy.body_radii_mm
    x, y = anatomy.pose.to_scan(-0.2 * bx, -0.06 * by)
    window = canvas.find_window(x, y, 0.78 * bx + 12.0, 0.82 * by + 12.0)
    x_bent, y_bent = canvas.x_bent[window], canvas.y_bent[window]
    distance = anatomy.compute_liver_distance(x_bent, y_bent, z_mm)
    canvas.paint(window, distance, canvas.liver_hu[window])
    for name in ("fissure", "venosum"):
        canvas.paint_ellipsoid(anatomy.organs[name], z_mm, FAT_HU)
    return distance, window


def _find_segments(vessels: np.ndarray, z_mm: float) -> list[list[float]]:
    low, high = np.minimum(vessels[:, 2], vessels[:, 5]), np.maximum(vessels[:, 2], vessels[:, 5])
    reach = vessels[:, 6] + 1.0
    return vessels[(low - reach < z_mm) & (z_mm < high + reach)].tolist()


def _paint_segment(canvas: Canvas, segment: list[float], z_mm: float) -> None:
    ax, ay, az, bx, by, bz, radius_a, radius_b, hu = segment
    dx, dy, dz = bx - ax, by - ay, bz - az
    half_mm = 0.5 * max(abs(dx), abs(dy)) + radius_a + canvas.pixel_mm
    window = canvas.find_window((ax + bx) / 2, (ay + by) / 2, half_mm)
    x, y, z = canvas.x_mm[:, window[1]] - ax, canvas.y_mm[window[0]] - ay, z_mm - az
    along = np.clip((x * dx + y * dy + z * dz) / (dx * dx + dy * dy + dz * dz), 0.0, 1.0)
    off_x, off_y, off_z = x - along * dx, y - along * dy, z - along * dz
    distance = np.sqrt(off_x * off_x + off_y * off_y + off_z * off_z)
    canvas.paint(window, distance - radius_a + along * (radius_a - radius_b), hu)


def _compute_lesion_distance(
    canvas: Canvas, lesion: Lesion, z_mm: float
) -> tuple[np.ndarray, tuple[slice, slice]]:
    x, y, _ = lesion.centre_mm
    half_mm = max(lesion.radii_mm[:2]) + 6.0 * lesion.softness_mm
    window = canvas.find_window(x, y, half_mm)
    shape = Ellipsoid(lesion.centre_mm, lesion.radii_mm, lesion.angle_rad)
    return shape.compute_distance(canvas.x_mm[:, window[1]], canvas.y_mm[window[0]], z_mm), window


def _paint_lesion(canvas: Canvas, lesion: Lesion, z_mm: float) -> None:
    if abs(z_mm - lesion.centre_mm[2]) > lesion.radii_mm[2] + 6.0 * lesion.softness_mm:
        return
    distance, window = _compute_lesion_distance(canvas, lesion, z_mm)
    share = 1.0 / (1.0 + np.exp(np.minimum(distance / lesion.softness_mm, 30.0)))
    part = canvas.image_hu[window]
    part += share * (canvas.liver_hu[window] + lesion.contrast_hu - part)


def _draw_mask(
    canvas: Canvas, z_mm: float, liver_mm: np.ndarray, window: tuple[slice, slice]
) -> np.ndarray:
    mask = np.zeros(canvas.image_hu.shape, np.uint8)
    mask[window][liver_mm < 0.0] = 1
    for lesion in canvas.patient.lesions:
        if lesion.compute_scale(z_mm) > 0.0:
            distance, window = _compute_lesion_distance(canvas, lesion, z_mm)
            mask[window][distance < 0.0] = 2
    return mask


def _make_noise(patient: Patient, z_idx: int) -> np.ndarray:
    """Blur white noise to the scanner's correlation length and rescale it to its deviation."""
    size_px = patient.scanner.matrix_px
    rng = np.random.default_rng([patient.seed, patient.patient_idx, z_idx, 1])
    white = rng.standard_normal((size_px, size_px), dtype=np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), patient.scanner.correlation_mm / patient.spacing_mm[2])
    return smooth * (patient.noise_hu / float(smooth.std()))
