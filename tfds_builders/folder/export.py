"""A prepared detection data set to a folder of images with COCO or Pascal VOC boxes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lesionkeras.errors import DataError
from tfds_builders.folder.box_image import BoxImage
from tfds_builders.folder.coco import CATEGORY, write_coco
from tfds_builders.folder.voc import write_image_sets, write_voc

IMAGES = "images"
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")  # in a folder's name
NAMES = {"previous": "0.png", "key": "1.png", "next": "2.png"}  # so that numbers say neighbours


def export_boxes(builder: Any, form: str, out: Path) -> int:
    """Write every image of a data set with its boxes; `folder/boxes` reads it back the same.

    Args:
        builder: A prepared TFDS builder with the shared detection schema.
        form: "coco" or "voc".
        out: Must not exist, or be empty; written beside and renamed.

    Returns:
        How many images there are.

    Raises:
        DataError: The data set has no boxes; `out` is not empty or cannot be written.
    """
    if "png_key" not in builder.info.features:
        raise DataError(
            "A data set has no images with boxes",
            where=f"{builder.info.name}/{builder.info.config_name}",
            next_step="take the config that has, such as lits/slices",
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            "There is something already", where=str(out), next_step="give a new folder with --out"
        )
    out = out.absolute()  # "." has no name
    beside = out.with_name(out.name + ".unfinished")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        images = list(_write_images(builder, beside))
        write = _write_coco_files if form == "coco" else _write_voc_files
        write(beside, images)
        if out.exists():
            out.rmdir()
        beside.rename(out)
    except OSError as error:
        raise DataError("A folder cannot be written", where=str(out), found=str(error)) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return len(images)


def _write_images(builder: Any, folder: Path) -> Iterator[BoxImage]:
    import tensorflow_datasets as tfds

    options = tfds.ReadConfig(interleave_cycle_length=1)  # in the order of the shards
    names: set[str] = set()
    for split in builder.info.splits:
        for example in builder.as_dataset(split=split, read_config=options).as_numpy_iterator():
            yield _write_image(example, split, folder, names)


def _choose_name(file: str, names: set[str]) -> str:
    """Return a safe folder name that none of `names` is, on any disk, and add it to them."""
    safe = name = UNSAFE.sub("_", file.removesuffix(".png"))
    number = 2
    while name.lower() in names:
        name, number = f"{safe}-{number}", number + 1
    names.add(name.lower())
    return name


def _write_image(example: dict[str, Any], split: str, folder: Path, names: set[str]) -> BoxImage:
    file = example["file"].decode()
    name = _choose_name(file, names)
    place = folder / IMAGES / name
    place.mkdir(parents=True)
    files = {}
    for which, file_name in NAMES.items():
        data = example[f"png_{which}"]
        files[which] = f"{IMAGES}/{name}/{file_name}" if data else ""
        if data:
            (place / file_name).write_bytes(data)
    height, width = (int(side) for side in example["size_px"])
    lesions = example["lesions"]
    labels = lesions.get("category", [CATEGORY.encode()] * len(lesions["label"]))
    return BoxImage(
        file=files["key"],
        size_px=(height, width),
        boxes=tuple(
            (float(x1) * width, float(y1) * height, float(x2) * width, float(y2) * height)
            for y1, x1, y2, x2 in lesions["bbox"]
        ),
        categories=tuple(label.decode() for label in labels),
        spacing_mm=tuple(float(mm) for mm in example["spacing_mm"]),  # type: ignore[arg-type]
        patient=example["patient"].decode(),
        previous=files["previous"],
        next=files["next"],
        slice=int(example["slice"]),
        split=split,
        where=file,
    )


def _write_coco_files(folder: Path, images: list[BoxImage]) -> None:
    (folder / "annotations").mkdir()
    for split in {image.split: None for image in images}:
        chosen = [image for image in images if image.split == split]
        write_coco(folder / "annotations" / f"{split}.json", chosen)


def _write_voc_files(folder: Path, images: list[BoxImage]) -> None:
    (folder / "Annotations").mkdir()
    stems = [image.file.split("/")[1] for image in images]
    for stem, image in zip(stems, images, strict=True):
        write_voc(folder / "Annotations" / f"{stem}.xml", image)
    pairs = [(stem, image.split) for stem, image in zip(stems, images, strict=True)]
    write_image_sets(folder, pairs)
