"""Whether an image and its liver mask fit each other and the patient, by what every abdomen shows.

Where a file's axes were flipped, headers cannot tell; anatomy can.  A liver is soft tissue of one
kind, so a mask in the wrong place holds fat, air and bone.  And the liver lies right of the middle,
the spine dorsal, the lungs cranial.  Everything is measured on a few slices and pixels of the scan,
with HU cut at soft tissue, so that volumes clipped to a liver window give the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np

CLIP_HU = (-160, 240)  # P3's window, which copies of LiTS are clipped to
BODY_HU = -140  # fat is -120 to -80, air -1000 or what it was clipped to
BONE_HU = 150  # spongy bone of the spine has 150 to 300
# Of the seven shared scans in all eight flips: spread 14 to 33 where the mask fits, 43 and more
# where not; sides .264 to .343, .143 to .27, .149 to .244.
CLEARLY_BETTER = 0.75
MOST_SPREAD_HU = 45.0
LIVER_MEDIAN_HU = (20.0, 220.0)  # fatty without contrast, to enhanced
LEAST_SIDES = (0.05, 0.08, 0.05)
# Few slices show little: up to 24 mm of liver of those scans gave flips where there was none, of
# spreads down to .586 and sides up to .114; 40 mm and more did not.
LEAST_EXTENT_MM = 50.0
MUCH_BETTER = 0.5
FEW_SLICES_SIDES = (0.1, 0.16, 0.1)
# Of a slice's body: the seven scans have up to .07 of gas in the bowel below the lungs, and .31 to
# .49 of lung around the dome.  A scan that ends below the dome shows bowel alone, which is caudal.
LEAST_LUNG_SHARE = 0.15
NUM_SAMPLES = 32  # positions along an axis, and as many mirrored ones
FLIPS = tuple(axes for count in range(4) for axes in combinations(range(3), count))
AXIS_NAMES = ("cranial and caudal", "dorsal and ventral", "left and right")  # canonical z, y, x


@dataclass(frozen=True)
class Fit:
    """How well a mask fits an image.

    Attributes:
        median_hu: Of what the mask holds.
        spread_hu: Mean absolute distance from the median, of HU clipped to `CLIP_HU`.
    """

    median_hu: float
    spread_hu: float


def _list_positions(size: int) -> np.ndarray:
    """Return positions along an axis that are the same counted from either end."""
    first = np.linspace(0, size - 1, min(NUM_SAMPLES, size)).astype(int)
    return np.unique(np.concatenate([first, size - 1 - first]))


def take_samples(array: np.ndarray) -> np.ndarray:
    """Return an even selection of voxels, of which the flip is the selection of the flip.

    Args:
        array: [z, y, x].

    Returns:
        At most 64 positions along each axis.

    >>> array = np.arange(1000).reshape(10, 10, 10)
    >>> bool((take_samples(array[::-1]) == take_samples(array)[::-1]).all())
    True
    """
    return array[np.ix_(*(_list_positions(size) for size in array.shape))]


def measure_fit(image_hu: np.ndarray, inside: np.ndarray) -> Fit:
    """Measure what a liver mask holds.

    Args:
        image_hu: [z, y, x].
        inside: bool of the same shape, some of it True.

    >>> measure_fit(np.array([[[60, 61, 800]]]), np.array([[[True, True, False]]]))
    Fit(median_hu=60.5, spread_hu=0.5)
    """
    values = np.clip(image_hu[inside].astype(np.float32), *CLIP_HU)
    median = float(np.median(values))
    return Fit(median, float(np.abs(values - median).mean()))


def shows_enough(mask: np.ndarray, slice_mm: float) -> bool:
    """Return whether a mask has liver in enough slices for the limits of whole scans.

    Args:
        mask: [z, y, x]; all that is not 0 is liver.
        slice_mm: Between two slices.

    >>> shows_enough(np.ones((9, 2, 2)), 5.0), shows_enough(np.ones((10, 2, 2)), 5.0)
    (False, True)
    """
    return int(mask.any(axis=(1, 2)).sum()) * slice_mm >= LEAST_EXTENT_MM


def find_mask_flips(
    image_hu: np.ndarray, mask: np.ndarray, is_enough: bool = True
) -> tuple[tuple[int, ...], Fit]:
    """Find along which axes a mask must be flipped to fit its image.

    Args:
        image_hu: [z, y, x], samples.
        mask: The same shape; all that is not 0 is liver.
        is_enough: Whether there is liver in enough slices; see `shows_enough`.

    Returns:
        Axes, mostly none, and how well the mask fits then.  A flip must fit clearly better than
        none: by the seven scans that the limits are from, the right one's spread is at most .58 of
        any other's.
    """
    fits = {axes: measure_fit(image_hu, np.flip(mask, axes) != 0) for axes in FLIPS}
    best = min(fits, key=lambda axes: fits[axes].spread_hu)
    better = CLEARLY_BETTER if is_enough else MUCH_BETTER
    if fits[best].spread_hu > better * fits[()].spread_hu:
        best = ()
    return best, fits[best]


def is_liver(fit: Fit) -> bool:
    """Return whether what a mask holds can be a liver with its lesions.

    >>> is_liver(Fit(64.0, 33.3)), is_liver(Fit(-60.0, 20.0)), is_liver(Fit(80.0, 60.0))
    (True, False, False)
    """
    low, high = LIVER_MEDIAN_HU
    return low <= fit.median_hu <= high and fit.spread_hu <= MOST_SPREAD_HU


def measure_sides(image_hu: np.ndarray, mask: np.ndarray) -> tuple[float, float, float]:
    """Measure on which side of the body landmarks lie, along each canonical axis.

    Only slices with liver are looked at: there, air is lung around the dome, rarely bowel.

    Args:
        image_hu: [z, y, x], samples.
        mask: The same shape; all that is not 0 is liver.

    Returns:
        Along z: the lungs, which are air that fills much of a slice, against the liver, positive
        cranial; y: bone that goes through most slices, which is the spine, against the body's
        middle, positive dorsal; x: the body's middle against the liver, positive left.  As shares
        of the body's extent, all positive in a patient as most are; 0 where there is no such
        landmark.
    """
    is_here = (mask != 0).any(axis=(1, 2))
    image_hu, liver = image_hu[is_here], mask[is_here] != 0
    body = image_hu > BODY_HU
    filled = np.stack([_fill_outline(plane) for plane in body])
    bone = filled & ~liver & (image_hu > BONE_HU)
    spine = np.broadcast_to(bone.mean(axis=0) > 0.5, bone.shape)
    return (
        _compare(_find_lungs(filled, body), liver, filled, 0),
        _compare(spine, filled, filled, 1),
        _compare(filled, liver, filled, 2),
    )


def find_flips(sides: tuple[float, float, float], is_enough: bool = True) -> tuple[int, ...]:
    """Return the axes along which landmarks lie on the wrong side.

    Args:
        sides: From `measure_sides`.
        is_enough: Whether there is liver in enough slices; see `shows_enough`.

    >>> find_flips((0.15, -0.12, 0.02)), find_flips((0.15, -0.12, 0.02), is_enough=False)
    ((1,), ())
    """
    least = LEAST_SIDES if is_enough else FEW_SLICES_SIDES
    return tuple(axis for axis in range(3) if sides[axis] < -least[axis])


def list_unclear(sides: tuple[float, float, float]) -> list[str]:
    """Return the names of the axes of which landmarks do not show the direction.

    >>> list_unclear((0.15, -0.2, 0.02))
    ['left and right']
    """
    return [AXIS_NAMES[axis] for axis in range(3) if abs(sides[axis]) < LEAST_SIDES[axis]]


def _fill_outline(plane: np.ndarray) -> np.ndarray:
    """Return what the outline of a slice's largest piece encloses: the body, not the table."""
    contours, _ = cv2.findContours(plane.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(plane.shape, np.uint8)
    if contours:
        cv2.drawContours(filled, [max(contours, key=cv2.contourArea)], 0, 1, cv2.FILLED)
    return filled.astype(bool)


def _find_lungs(filled: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Return the air inside the body, in slices where it is too much for the bowel's."""
    air = filled & ~body
    is_much = air.sum(axis=(1, 2)) >= LEAST_LUNG_SHARE * np.maximum(filled.sum(axis=(1, 2)), 1)
    return air & is_much[:, None, None]


def _compare(part: np.ndarray, other: np.ndarray, body: np.ndarray, axis: int) -> float:
    """Return how far the middle of one thing lies from another's, as a share of the body."""
    across = tuple(a for a in range(3) if a != axis)
    extent = np.flatnonzero(body.any(axis=across))
    if not part.any() or not other.any() or len(extent) < 2:
        return 0.0
    places = np.arange(part.shape[axis])
    middles = [np.average(places, weights=thing.sum(axis=across)) for thing in (part, other)]
    return float((middles[0] - middles[1]) / (extent[-1] - extent[0]))
