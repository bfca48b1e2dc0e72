"""People of random tissue: two of different seeds have nothing in common but their outline."""

import cv2
import numpy as np

from lesionkeras.ct.rigid import sample
from lesionkeras.ct.volume import Volume

GRID_MM = 5.0
BODY_MM = (190.0, 230.0, 300.0)  # of the tissue that is made
FIELD_MM = (150.0, 220.0, 280.0)  # of a scan
RADII_MM = (90.0, 125.0)  # of the trunk along y and x


def make_tissue(seed, symmetric=False):
    """Fat, soft tissue and bone in smooth shapes about 20 mm wide: HU [z, y, x] every 5 mm."""
    rng = np.random.default_rng(seed)
    hu = rng.standard_normal([int(side / GRID_MM) for side in BODY_MM]).astype(np.float32)
    for axis in range(3):
        moved = np.moveaxis(hu, axis, 0)
        kernel = cv2.getGaussianKernel(11, 1.6)
        flat = cv2.sepFilter2D(moved.reshape(len(moved), -1), -1, np.ones((1, 1)), kernel)
        hu = np.moveaxis(flat.reshape(moved.shape), 0, axis)
    if symmetric:
        hu = hu + hu[:, :, ::-1]
    return np.ascontiguousarray(np.clip(hu / hu.std() * 120.0, -110.0, 400.0))


def make_scan(
    seed,
    spacing_mm=(4.0, 2.2, 2.2),
    turn_deg=0.0,
    shift_mm=(0, 0, 0),
    noise_hu=15.0,
    noise_seed=0,
    symmetric=False,
):
    """Image and liver mask of a person, turned about the long axis and moved."""
    shape = [int(side / mm) for side, mm in zip(FIELD_MM, spacing_mm, strict=True)]
    middle = (np.array(shape)[:, None] - 1) / 2
    places = (np.indices(shape).reshape(3, -1) - middle) * np.array(spacing_mm)[:, None]
    rotation = cv2.Rodrigues(np.deg2rad([turn_deg, 0.0, 0.0]))[0]
    places = rotation @ places + np.array(shift_mm, float)[:, None]
    tissue = make_tissue(seed, symmetric)
    centre = (np.array(tissue.shape)[:, None] - 1) / 2
    (hu,) = sample((tissue,), places / GRID_MM + centre)
    radius = np.hypot(places[1] / RADII_MM[0], places[2] / RADII_MM[1])
    noise = np.random.default_rng([seed, noise_seed]).normal(0.0, noise_hu, hu.shape)
    hu = np.where(radius < 1.0, hu, -1000.0) + noise
    mask = (radius < 0.3) & (abs(places[0]) < 45.0)
    affine = np.diag([*spacing_mm, 1.0])[[2, 1, 0, 3]]
    image = np.rint(hu).clip(-1024, 3071).astype(np.int16).reshape(shape)
    return Volume(image, affine), Volume(mask.astype(np.uint8).reshape(shape), affine)
