"""What a user's folder holds: scans with masks, or images with boxes in COCO's or VOC's form."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lesionkeras.ct.png16 import STORED_OFFSET_HU, check_png16_ends
from lesionkeras.errors import DataError
from tfds_builders.folder.box_image import BoxImage, check_spacing, make_error
from tfds_builders.folder.coco import read_coco, read_json
from tfds_builders.folder.voc import read_image_sets, read_voc
from tfds_builders.segmentation import SPLIT_FRACTIONS, assign_splits

TREE = """\
Scans with masks, as nnU-Net lays them:
DATA_DIR/
    dataset.json                      its labels name the liver and the lesions
    imagesTr/CASE_0000.nii.gz
    labelsTr/CASE.nii.gz
Images with boxes, COCO:
DATA_DIR/
    annotations.json                  or annotations/{train,validation,test}.json
    images/...png                     16-bit grey, stored = HU + 32768
Images with boxes, Pascal VOC:
DATA_DIR/
    Annotations/NAME.xml
    ImageSets/Main/{train,val,test}.txt   may be left out
    images/...png                     or JPEGImages
dataset.json beside COCO or VOC may hold {"spacing_mm": [z, y, x], "stored_offset_hu": 32768} for
all images that do not say so themselves.
"""
TREE_WORDS = (
    "{root}/imagesTr with {root}/labelsTr and {root}/dataset.json, or {root}/annotations.json "
    "(COCO), or {root}/Annotations/NAME.xml (Pascal VOC), each with its images"
)
COCO_SPLITS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
COCO_NAME = re.compile(r"(?:instances_)?([a-z]+?)(?:20\d\d)?\.json")  # COCO's own: _val2017
IMAGE_FOLDERS = ("images", "JPEGImages", "")


@dataclass(frozen=True)
class RawBoxes:
    """The images of a folder; satisfies `tfds_builders.prepare.RawIndex`."""

    root: Path
    images: tuple[BoxImage, ...]  # split, patient and spacing filled in
    tables: tuple[Path, ...]
    notes: tuple[str, ...]
    stored_offset_hu: int

    @property
    def num_images(self) -> int:
        """How many examples will be written."""
        return len(self.images)

    @property
    def files(self) -> list[Path]:
        """Files below the root that are prepared."""
        return sorted({self.root / name for image in self.images for name in image.files})

    def check(self) -> None:
        """Check that every file is a whole 16-bit grey PNG of the size that its annotation says.

        Raises:
            DataError: The first that is not.
        """
        for image in self.images:
            for name in image.files:
                check_image(self.root / name, image)


def check_image(path: Path, image: BoxImage) -> None:
    """Check header, end and size of one PNG.

    Raises:
        DataError: It is unreadable, no whole 16-bit grey PNG, or of another size.
    """
    try:
        with path.open("rb") as file:
            size = check_png16_ends(file, str(path))
    except OSError as error:
        raise make_error("An image cannot be read", str(path), error.strerror or "") from error
    if size != image.size_px:
        found, wanted = "{}x{}".format(*size), "{}x{}".format(*image.size_px)
        raise make_error("An image has another size", str(path), found, f"{wanted}, {image.where}")


def find_kind(root: Path | None) -> str:
    """Tell what a folder holds.

    Args:
        root: The folder, or None where none was given.

    Returns:
        "scans", "coco" or "voc".

    Raises:
        DataError: It holds none of these (the tree is named), or boxes in two forms.
    """
    if root is None or not root.is_dir():
        raise DataError(
            "A folder data set needs its raw data",
            where=str(root or ""),
            found="no data folder" if root is None else "no such folder",
            wanted=TREE_WORDS.format(root=root or "DATA_DIR"),
            next_step="give --data-dir DATA_DIR (tfds build: --manual_dir DATA_DIR)",
        )
    kinds = []
    if (root / "imagesTr").is_dir():
        kinds.append("scans")
    if list_coco(root):
        kinds.append("coco")
    if (root / "Annotations").is_dir():
        kinds.append("voc")
    if len(kinds) == 1:
        return kinds[0]
    raise DataError(
        "A folder is no data set" if not kinds else "A folder holds more than one data set",
        where=str(root),
        found=" and ".join(kinds) or "none of the three",
        wanted=TREE_WORDS.format(root=root),
        next_step="give the folder of one",
    )


def list_coco(root: Path) -> list[tuple[Path, str]]:
    """Return COCO's files with the split that each name says.

    Raises:
        DataError: A file among them says none.
    """
    single = root / "annotations.json"
    if single.is_file():
        return [(single, "")]
    folder = root / "annotations"
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    matches = [COCO_NAME.fullmatch(path.name) for path in files]
    splits = [COCO_SPLITS.get(match[1]) if match else None for match in matches]
    if any(splits) and not all(splits):
        other = files[splits.index(None)].name
        wanted = ", ".join(f"{name}.json" for name in COCO_SPLITS)
        raise make_error("A file of annotations says no split", str(folder), other, wanted)
    return [(path, split) for path, split in zip(files, splits, strict=True) if split]


def index_boxes(root: Path, kind: str, refused: list[DataError] | None = None) -> RawBoxes:
    """Read all annotations of a folder.

    Args:
        root: The folder.
        kind: "coco" or "voc".
        refused: Where what is wrong with single annotation files is collected; None raises the
            first.

    Returns:
        The images with patient, split and spacing.

    Raises:
        DataError: An annotation cannot be used; an image is there twice or absent; spacing is not
            known; a patient is in two splits.
    """
    tables, images, absent = _read_annotations(root, kind, refused)
    settings = _read_settings(root)
    if (root / "dataset.json").is_file():
        tables.append(root / "dataset.json")
    if not images:
        raise make_error("A folder has no annotated image", str(root), "none")
    _check_unique(images)
    spacing_mm = check_spacing(settings.get("spacing_mm"), "dataset.json")
    images = [_complete(root, image, spacing_mm) for image in images]
    images, merged = _merge_boxes(images)
    notes = _describe(images)
    images = _fill_patients(images)
    images, foreign = _leave_out_foreign(images)
    images = _fill_splits(images)
    notes += [text for text in (absent, merged, foreign) if text]
    offset = settings.get("stored_offset_hu", STORED_OFFSET_HU)
    if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset < 2**16:
        wanted = "a whole number of HU: stored = HU + it"
        raise make_error("stored_offset_hu cannot be used", "dataset.json", repr(offset), wanted)
    return RawBoxes(root, tuple(images), tuple(tables), tuple(notes), offset)


def _read_annotations(
    root: Path, kind: str, refused: list[DataError] | None
) -> tuple[list[Path], list[BoxImage], str]:
    """Return the tables, the images, and what was left out."""
    images: list[BoxImage] = []
    if kind == "coco":
        tables = list_coco(root)
        for path, split in tables:
            images += read_coco(path, split)
        return [path for path, _ in tables], [_place(root, image) for image in images], ""
    paths = sorted(p for p in (root / "Annotations").iterdir() if p.suffix.lower() == ".xml")
    stems = {path.stem for path in paths}
    splits = read_image_sets(root, stems)
    absent = len(splits.keys() - stems)
    for path in paths:
        try:
            image = read_voc(path)
        except DataError as error:
            if refused is None:
                raise
            refused.append(error)
            continue
        images.append(_place(root, replace(image, split=splits.get(path.stem, ""))))
    note = f"{absent} listed images have no annotation: left out" if absent else ""
    return [*paths, *sorted((root / "ImageSets" / "Main").glob("*.txt"))], images, note


def _place(root: Path, image: BoxImage) -> BoxImage:
    """Find the folder that an annotation's file names are relative to."""
    for folder in IMAGE_FOLDERS:
        if (root / folder / image.file).is_file():
            file, previous, following = (
                f"{folder}/{name}" if folder and name else name
                for name in (image.file, image.previous, image.next)
            )
            return replace(image, file=file, previous=previous, next=following)
    wanted = f"the file in {root}, or below images or JPEGImages"
    raise make_error("An image is missing", image.where, image.file, wanted)


def _complete(root: Path, image: BoxImage, spacing_mm: Any) -> BoxImage:
    """Fill in the spacing, and drop neighbours that are not on disk."""
    if image.spacing_mm is None and spacing_mm is None:
        raise DataError(
            "The spacing of an image is not known",
            where=image.where,
            wanted="spacing_mm in the annotation or in dataset.json",
            next_step='write {"spacing_mm": [z, y, x]} in mm to dataset.json',
        )
    previous, following = (
        name if name and (root / name).is_file() else "" for name in (image.previous, image.next)
    )
    spacing_mm = image.spacing_mm or spacing_mm
    return replace(image, spacing_mm=spacing_mm, previous=previous, next=following)


def _read_settings(root: Path) -> Mapping[str, Any]:
    path = root / "dataset.json"
    settings = read_json(path) if path.is_file() else {}
    if not isinstance(settings, dict):
        raise make_error("A file is no table of settings", "dataset.json", type(settings).__name__)
    return settings


def _check_unique(images: Iterable[BoxImage]) -> None:
    first: dict[str, BoxImage] = {}
    for image in images:
        other = first.setdefault(image.file, image)
        if other is not image:
            raise make_error(
                "An image is annotated twice",
                image.where,
                f"{image.file}, also in {other.where}",
                "one annotation with all its boxes",
            )


def _describe(images: list[BoxImage]) -> list[str]:
    num_boxes = sum(len(image.boxes) for image in images)
    clauses = [f"{len(images)} images, {num_boxes} boxes"]
    names = Counter(name for image in images for name in image.categories)
    if len(names) > 1:
        listed = ", ".join(f"{count} {name!r}" for name, count in sorted(names.items()))
        clauses.append(f"categories {listed}: all are lesions")
    unknown = [image for image in images if not image.patient]
    if unknown:
        clauses.append(
            f"{len(unknown)} images do not say whose they are: their folder, or else the image "
            "itself counts as a patient, so scans of one patient may be in two splits"
        )
    return clauses


def _merge_boxes(images: list[BoxImage]) -> tuple[list[BoxImage], str]:
    """Let a box that stands several times in an image count once; it would weigh as often."""
    merged = []
    for image in images:
        once = dict(zip(reversed(image.boxes), reversed(image.categories), strict=True))
        boxes = tuple(dict.fromkeys(image.boxes))
        merged.append(replace(image, boxes=boxes, categories=tuple(once[box] for box in boxes)))
    count = sum(len(image.boxes) for image in images) - sum(len(image.boxes) for image in merged)
    return merged, f"{count} boxes stood twice: they count once" if count else ""


def _leave_out_foreign(images: list[BoxImage]) -> tuple[list[BoxImage], str]:
    """Leave neighbours out that are another patient's: numbers run through patients, too."""
    owners = {image.file: image.patient for image in images}

    def keep(name: str, patient: str) -> str:
        return name if owners.get(name, patient) == patient else ""

    own = [
        replace(
            image,
            previous=keep(image.previous, image.patient),
            next=keep(image.next, image.patient),
        )
        for image in images
    ]
    count = sum(len(a.files) - len(b.files) for a, b in zip(images, own, strict=True))
    return own, f"{count} neighbouring slices are other patients': left out" if count else ""


def _fill_patients(images: list[BoxImage]) -> list[BoxImage]:
    """Where nothing says who it is: the innermost folder if images lie in several, or the file."""
    folders = {image.file.rpartition("/")[0] for image in images}
    several = len(folders) > 1
    return [
        image
        if image.patient
        else replace(image, patient=image.file.rpartition("/")[0] if several else image.file)
        for image in images
    ]


def _fill_splits(images: list[BoxImage]) -> list[BoxImage]:
    known = {image.split for image in images} - {""}
    if known - set(SPLIT_FRACTIONS):
        found, wanted = str(sorted(known)), ", ".join(SPLIT_FRACTIONS)
        raise make_error("A split is unknown", "the annotations", found, wanted)
    if known and any(not image.split for image in images):
        where = next(image.where for image in images if not image.split)
        raise make_error("An image is in no split", where, "others are", "all in one, or none")
    if not known:
        splits = assign_splits(image.patient for image in images)
        return [replace(image, split=splits[image.patient]) for image in images]
    first: dict[str, BoxImage] = {}
    for image in images:
        other = first.setdefault(image.patient, image)
        if other.split != image.split:
            found = f"{other.split} in {other.where} and {image.split} in {image.where}"
            wanted = "every patient in one split"
            raise make_error("A patient is in two splits", "the annotations", found, wanted)
    return images
