"""Writes `dummy_data/`: small made-up slices in DeepLesion's own layout and units, for the tests.

`python -m tfds_builders.deeplesion.make_dummy_data` writes it again.  It holds what real data are
hard on: two lesions on one slice, a 768x768 image, missing neighbours, an empty age, padding below
-1024 HU, an image that is not square, a box over the edge, a row without its PNG, all three splits.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lesionkeras.ct.png16 import STORED_OFFSET_HU
from tfds_builders.deeplesion.parse import COLUMNS

TISSUE_HU, LESION_HU, PADDING_HU, WALL_HU = 100, 40, -2048, -3024
BOX_PADDING_PX = 5  # DeepLesion's, between the diameters' ends and the box


@dataclass(frozen=True)
class DummyLesion:
    """One row: xyxy box px (half-open), coarse type, Possibly_noisy."""

    box: tuple[int, int, int, int]
    coarse_type: int
    noisy: int = 0


@dataclass(frozen=True)
class DummySlice:
    """One key slice with its rows; `neighbours` are the steps along z that exist on disk."""

    name: str
    split: int
    size_px: tuple[int, int]  # height, width
    spacing_xyz_mm: tuple[float, float, float]
    age: str
    lesions: tuple[DummyLesion, ...]
    neighbours: tuple[int, ...] = ()
    on_disk: bool = True
    padded: bool = False  # scanner padding in the corner, below -1024 HU


SLICES = (
    DummySlice(
        name="009001_01_01_010",
        split=1,
        size_px=(64, 64),
        spacing_xyz_mm=(0.703125, 0.703125, 5.0),
        age="61",
        lesions=(DummyLesion((10, 20, 26, 32), 4), DummyLesion((40, 5, 55, 18), 2)),
        neighbours=(-1, 1),
    ),
    DummySlice(
        name="009002_02_01_020",
        split=2,
        size_px=(768, 768),
        spacing_xyz_mm=(0.46875, 0.46875, 1.0),
        age="",
        lesions=(DummyLesion((300, 420, 360, 470), 4),),
        neighbours=(-1,),
    ),
    DummySlice(
        name="009003_01_02_005",
        split=3,
        size_px=(48, 80),
        spacing_xyz_mm=(0.8, 0.8, 2.5),
        age="70",
        lesions=(DummyLesion((60, 30, 83, 45), 4, noisy=1),),
        neighbours=(1,),
        padded=True,
    ),
    DummySlice(
        name="009003_01_02_033",
        split=3,
        size_px=(48, 80),
        spacing_xyz_mm=(0.8, 0.8, 2.5),
        age="70",
        lesions=(DummyLesion((20, 10, 40, 30), 4),),
        on_disk=False,
    ),
    DummySlice(
        name="009004_01_01_1001",
        split=3,
        size_px=(64, 64),
        spacing_xyz_mm=(0.9, 0.9, 1.25),
        age="NaN",
        lesions=(DummyLesion((8, 8, 24, 30), 5),),
    ),
)


def _make_image(dummy: DummySlice, step: int) -> np.ndarray:
    """Return stored uint16 [H, W]; each step along z shifts the background by 10 HU."""
    image_hu = np.full(dummy.size_px, TISSUE_HU + 10 * step, np.int32)
    for lesion in dummy.lesions:
        x1, y1, x2, y2 = lesion.box
        image_hu[y1:y2, x1:x2] = LESION_HU
    if dummy.padded:
        image_hu[:8, :8], image_hu[8:10, :8] = PADDING_HU, WALL_HU
    return (image_hu + STORED_OFFSET_HU).astype(np.uint16)


def _join(*numbers: float) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _make_row(dummy: DummySlice, lesion: DummyLesion) -> list[str]:
    patient, study, series, number = (int(part) for part in dummy.name.split("_"))
    x1, y1, x2, y2 = lesion.box
    left, top, pad = x1 + BOX_PADDING_PX, y1 + BOX_PADDING_PX, BOX_PADDING_PX
    right, bottom = x2 - pad, y2 - pad
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    ends = (left, centre_y, right, centre_y, centre_x, top, centre_x, bottom)
    height, width = dummy.size_px
    return [
        f"{dummy.name}.png",
        *(str(index) for index in (patient, study, series, number)),
        _join(*ends),
        _join(*lesion.box),
        _join(*sorted((right - left, bottom - top), reverse=True)),
        _join(centre_x / width, centre_y / height, 0.5),
        str(lesion.coarse_type),
        str(lesion.noisy),
        _join(max(1, number - 6), number + 6),
        _join(*dummy.spacing_xyz_mm),
        _join(height, width),
        "-175, 275",
        "F",
        dummy.age,
        str(dummy.split),
    ]


def write_dummy_data(folder: Path) -> None:
    """Write `DL_info.csv` and `Images_png/` into a folder.

    Args:
        folder: Made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "DL_info.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for dummy in SLICES:
            writer.writerows(_make_row(dummy, lesion) for lesion in dummy.lesions)
    for dummy in SLICES:
        series, number = dummy.name.rsplit("_", 1)
        steps = (0, *dummy.neighbours) if dummy.on_disk else ()
        for step in steps:
            path = folder / "Images_png" / series / f"{int(number) + step:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = [cv2.IMWRITE_PNG_COMPRESSION, 9]
            path.write_bytes(cv2.imencode(".png", _make_image(dummy, step), flags)[1].tobytes())


if __name__ == "__main__":
    write_dummy_data(Path(__file__).parent / "dummy_data")
