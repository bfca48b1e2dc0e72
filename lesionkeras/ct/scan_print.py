"""The print of a CT scan: what is individual in a patient's anatomy, small and without a name.

A scan is brought to 4 mm and its HU to three tissues (fat, soft tissue, bone), so that contrast
agent changes little; local mean and contrast are taken out, so that size and build of a body count
little; what is left are shapes and places of bones, muscles, fat planes and organs.  Beside it
stand the histograms of the slices, hashed, which tell copies however they are flipped or cut in z.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np

from lesionkeras.ct.png16 import STORED_OFFSET_HU, to_stored
from lesionkeras.ct.volume import Volume

VOXEL_MM = 4.0
WINDOW_HU = (-160, 240)  # to which copies of data sets are clipped most often (P3)
MARGIN_MM = 40.0  # kept above and below the liver: more spine to compare
MAX_LENGTH_MM = 400.0  # of a print along z
FAT_HU, SOFT_HU = -100.0, 0.0  # below is fat or gas, above soft tissue
BONE_HU, DENSE_HU = 150.0, 240.0  # from more than most enhanced organs to the window's end
BONE_SHARE = 0.7  # of bone's step against the step from fat to soft tissue
SMOOTH_MM, LOCAL_MM = 3.0, 14.0  # Gaussian sigmas of the detail and of what counts as local
FLOOR = 0.15  # contrast below which detail is noise: .15 are 15 HU
BODY_HU = -120.0  # skin and all within
TABLE_MM = 36.0  # what is thinner (table, arms' straps) is no body
SKIN_MM = 8.0  # left out: clothes, table and breathing are there
QUANTUM = 1.0 / 32.0  # of the stored detail
OUTSIDE = -128  # stored where there is no body
MIN_SLICE_PX = 1000  # a slice with fewer pixels within the window says nothing
MIN_SLICE_VALUES = 100  # different HU in a slice, likewise


@dataclass(frozen=True, eq=False)
class ScanPrint:
    """What is compared of a scan; holds no patient's name and no picture to read.

    Attributes:
        detail: int8 [z, y, x], canonical axes, voxels of VOXEL_MM; OUTSIDE where there is no body.
        slices: Hashes of the slices' histograms.
    """

    detail: np.ndarray
    slices: frozenset[bytes]


def describe_scan(image: Volume, mask: Volume) -> ScanPrint:
    """Make the print of a scan.

    Args:
        image: HU.
        mask: Its labels; above 0 is liver.  Without any liver the middle of the scan is used.

    Returns:
        The print, about half a MB.
    """
    part, liver = _find_range(mask, image)
    volume_hu = _shrink(image.array[part], image.spacing_mm)
    body = _find_body(volume_hu)
    detail = _compute_detail(volume_hu, body)
    stored = np.clip(np.rint(detail / QUANTUM), -127, 127).astype(np.int8)
    stored[body == 0] = OUTSIDE
    hashes = (hash_slice(image.array[z_idx]) for z_idx in range(liver.start, liver.stop))
    return ScanPrint(_crop(stored), frozenset(filter(None, hashes)))


def _find_range(mask: Volume, image: Volume) -> tuple[slice, slice]:
    """Return the slices of the print, and those of the liver (or all)."""
    step_mm, num_slices = image.spacing_mm[0], len(image.array)
    rows = np.flatnonzero(mask.array.any(axis=(1, 2)))
    first, last = (int(rows[0]), int(rows[-1])) if len(rows) else (0, num_slices - 1)
    margin = int(MARGIN_MM / step_mm) if len(rows) else 0
    start, stop = max(0, first - margin), min(num_slices, last + 1 + margin)
    over = stop - start - max(1, int(MAX_LENGTH_MM / step_mm))
    if over > 0:
        start, stop = start + over // 2, stop - (over - over // 2)
    return slice(start, stop), slice(first, last + 1)


def hash_slice(slice_hu: np.ndarray) -> bytes | None:
    """Hash the histogram of a slice within WINDOW_HU.

    Flips, turns by 90 degrees, clipping and cut or padded air do not change it.

    Args:
        slice_hu: int16 [y, x].

    Returns:
        8 bytes, or None for a slice that holds too little to tell it from others.

    >>> image = np.arange(-200, 1000, dtype=np.int16).reshape(30, 40)
    >>> hash_slice(image) is None, hash_slice(np.tile(image, 4)) == hash_slice(np.tile(image.T, 4))
    (True, True)
    """
    stored = to_stored(np.ascontiguousarray(slice_hu, np.int16))
    low, high = (end + STORED_OFFSET_HU for end in WINDOW_HU)
    # What lies at the ends may have been clipped.  OpenCV counts twice as fast as NumPy.
    bins, ends = [high - low - 1], [low + 1, high]
    counts = cv2.calcHist([stored], [0], None, bins, ends).ravel()
    if counts.sum() < MIN_SLICE_PX or np.count_nonzero(counts) < MIN_SLICE_VALUES:
        return None
    return hashlib.blake2b(counts.astype("<u4").tobytes(), digest_size=8).digest()


def _shrink(array: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Average a volume of HU to float32 voxels of VOXEL_MM."""
    step_mm, *in_plane_mm = spacing_mm
    rows = np.stack([_shrink_slice(plane, in_plane_mm) for plane in array])
    length_mm = len(array) * step_mm
    num_out = max(1, int(length_mm / VOXEL_MM))
    low = (length_mm - num_out * VOXEL_MM) / 2 + np.arange(num_out)[:, None] * VOXEL_MM
    begins = np.arange(len(array))[None] * step_mm
    shared = np.minimum(low + VOXEL_MM, begins + step_mm) - np.maximum(low, begins)
    weight = np.maximum(shared, 0.0).astype(np.float32)
    weight /= weight.sum(1, keepdims=True)
    return np.tensordot(weight, rows, 1)


def _shrink_slice(slice_hu: np.ndarray, spacing_mm: list[float]) -> np.ndarray:
    """Average whole pixels first, which is fast, then interpolate to VOXEL_MM exactly."""
    whole = [max(1, int(VOXEL_MM / mm)) for mm in spacing_mm]
    size = [max(1, n // k) for n, k in zip(slice_hu.shape, whole, strict=True)]
    part = np.clip(slice_hu[: size[0] * whole[0], : size[1] * whole[1]], *WINDOW_HU)
    small = cv2.resize(part.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    scale = [VOXEL_MM / (mm * k) for mm, k in zip(spacing_mm, whole, strict=True)]
    out = [max(1, int(n / by)) for n, by in zip(size, scale, strict=True)]
    matrix = np.array(
        [[scale[1], 0, scale[1] / 2 - 0.5], [0, scale[0], scale[0] / 2 - 0.5]], np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(small, matrix, out[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _find_body(volume_hu: np.ndarray) -> np.ndarray:
    """Return uint8, 1 in the trunk without its skin, lungs and bowel gas included."""
    return np.stack([_find_body_in_slice(plane) for plane in volume_hu])


def _make_disc(diameter_mm: float) -> np.ndarray:
    side = round(diameter_mm / VOXEL_MM) // 2 * 2 + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def _find_body_in_slice(slice_hu: np.ndarray) -> np.ndarray:
    body: np.ndarray = np.zeros(slice_hu.shape, np.uint8)
    over = (slice_hu > BODY_HU).astype(np.uint8)
    outlines, _ = cv2.findContours(over, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return body
    cv2.drawContours(body, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    body = cv2.morphologyEx(body, cv2.MORPH_OPEN, _make_disc(TABLE_MM))
    num_parts, labels, facts, _ = cv2.connectedComponentsWithStats(body)
    if num_parts < 2:
        return body
    largest = 1 + int(np.argmax(facts[1:, cv2.CC_STAT_AREA]))
    trunk = (labels == largest).astype(np.uint8)
    return np.asarray(cv2.erode(trunk, _make_disc(2 * SKIN_MM)))


def _blur(volume: np.ndarray, sigma_mm: float) -> np.ndarray:
    """Blur along all three axes; 0 is beyond the border."""
    sigma, border = sigma_mm / VOXEL_MM, cv2.BORDER_CONSTANT
    planes = np.stack([cv2.GaussianBlur(p, (0, 0), sigma, borderType=border) for p in volume])
    kernel = cv2.getGaussianKernel(2 * int(np.ceil(3 * sigma)) + 1, sigma, cv2.CV_32F)
    one = np.ones((1, 1), np.float32)
    columns = planes.reshape(len(planes), -1)
    return cv2.sepFilter2D(columns, -1, one, kernel, borderType=border).reshape(volume.shape)


def _compute_detail(volume_hu: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Return tissue less its local mean over its local deviation, 0 outside the body."""
    soft = np.clip((volume_hu - FAT_HU) / (SOFT_HU - FAT_HU), 0.0, 1.0)
    bone = np.clip((volume_hu - BONE_HU) / (DENSE_HU - BONE_HU), 0.0, 1.0)
    inside = body.astype(np.float32)
    tissue = (soft + BONE_SHARE * bone).astype(np.float32) * inside
    smooth = _blur(tissue, SMOOTH_MM) / np.maximum(_blur(inside, SMOOTH_MM), 1e-3) * inside
    share = np.maximum(_blur(inside, LOCAL_MM), 1e-3)
    mean = _blur(smooth, LOCAL_MM) / share
    variance = np.maximum(_blur(smooth * smooth, LOCAL_MM) / share - mean * mean, 0.0)
    return (smooth - mean) / np.sqrt(variance + FLOOR**2) * inside


def _crop(stored: np.ndarray) -> np.ndarray:
    """Cut to the body; a scan without one leaves a single voxel outside."""
    inside = stored != OUTSIDE
    if not inside.any():
        return np.full((1, 1, 1), OUTSIDE, np.int8)
    sides = []
    for axis in range(3):
        places = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        sides.append(slice(int(places[0]), int(places[-1]) + 1))
    return np.ascontiguousarray(stored[tuple(sides)])
