"""Pascal VOC's XML of boxes, read and written: P1 trained from it.

VOC counts pixels from 1 and includes both ends, so pixels xmin to xmax are xmin - 1 to xmax in
half-open px; DESIGN's convention is converted here and nowhere else.  `patient`, `spacing_mm`
(z y x), `previous`, `next` and `slice` stand beside VOC's own elements where CT needs them.
Source: Everingham et al. 2010, VOC development kit, 4.1.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from xml.etree import ElementTree

from lesionkeras.errors import DataError
from tfds_builders.folder.box_image import (
    Box,
    BoxImage,
    check_box,
    check_file,
    check_size,
    check_spacing,
    find_neighbour,
    find_slice,
    make_error,
    read_limited,
)

MAX_BYTES = 2**24  # a box takes 300 bytes
NAME = "lesion"


def read_voc(path: Path, image_folder: str = "") -> BoxImage:
    """Read the XML of one image.

    Args:
        path: The XML file.
        image_folder: Where `filename` is looked for, relative to the data set's folder.

    Returns:
        The image; its split is "", which `ImageSets` says.

    Raises:
        DataError: It is no VOC file, declares entities, or an element cannot be used.
    """
    data, where = read_limited(path, MAX_BYTES), path.name
    # A DOCTYPE can declare entities that grow; NUL is in UTF-16, which could hide one.
    if b"<!" in data.replace(b"<!--", b"") or b"\0" in data:
        raise make_error("An XML file declares more than boxes", where, "a DOCTYPE or CDATA")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise make_error("A file is not XML", where, str(error)[:80]) from error
    if root.tag != "annotation":
        raise make_error("A file is not Pascal VOC", where, f"<{root.tag[:40]}>", "<annotation>")
    size_px = check_size(_get_int(root, "size/height"), _get_int(root, "size/width"), where)
    name = check_file(_get(root, "filename"), where)
    file = f"{image_folder}/{name}" if image_folder else name
    neighbours = [
        check_file(_get(root, key), where) if _get(root, key) else find_neighbour(file, step)
        for key, step in (("previous", -1), ("next", 1))
    ]
    objects = root.findall("object")
    number = _get_int(root, "slice")
    return BoxImage(
        file=file,
        size_px=size_px,
        boxes=tuple(
            _read_box(entry, size_px, f"{where} object {i}") for i, entry in enumerate(objects)
        ),
        categories=tuple(_get(entry, "name") or NAME for entry in objects),
        spacing_mm=check_spacing(_get(root, "spacing_mm").split(), where),
        patient=_get(root, "patient"),
        previous=neighbours[0],
        next=neighbours[1],
        slice=number if number is not None and 0 <= number < 2**31 else find_slice(file),
        split="",
        where=where,
    )


def _get(root: ElementTree.Element, path: str) -> str:
    return (root.findtext(path) or "").strip()


def _get_int(root: ElementTree.Element, path: str) -> int | None:
    text = _get(root, path)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _read_box(entry: ElementTree.Element, size_px: tuple[int, int], where: str) -> Box:
    texts = [_get(entry, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    try:
        xmin, ymin, xmax, ymax = (float(text) for text in texts)
    except ValueError as error:
        wanted = "xmin, ymin, xmax, ymax"
        raise make_error("A bndbox cannot be read", where, repr(texts)[:80], wanted) from error
    return check_box((xmin - 1, ymin - 1, xmax, ymax), size_px, where)


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text


def _format(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def write_voc(path: Path, image: BoxImage, image_folder: str = "") -> None:
    """Write an XML file that `read_voc` reads to the same image.

    Args:
        path: The XML file.
        image: One image.
        image_folder: As in `read_voc`.

    Raises:
        DataError: The file cannot be written.
    """
    root = ElementTree.Element("annotation")
    _add(root, "folder", image_folder)
    _add(root, "filename", image.file.removeprefix(f"{image_folder}/"))
    size = ElementTree.SubElement(root, "size")
    for tag, number in zip(("height", "width", "depth"), (*image.size_px, 1), strict=True):
        _add(size, tag, str(number))
    extra = {
        "patient": image.patient,
        "spacing_mm": " ".join(map(repr, image.spacing_mm or ())),
        "previous": image.previous,
        "next": image.next,
        "slice": str(image.slice),
    }
    for tag, text in extra.items():
        if text:
            _add(root, tag, text)
    for box, name in zip(image.boxes, image.categories, strict=True):
        entry = ElementTree.SubElement(root, "object")
        _add(entry, "name", name)
        corners = ElementTree.SubElement(entry, "bndbox")
        x1, y1, x2, y2 = box
        values = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        for tag, value in values.items():
            _add(corners, tag, _format(value))
    ElementTree.indent(root)
    try:
        path.write_bytes(ElementTree.tostring(root, encoding="utf-8"))
    except OSError as error:
        raise DataError("A file cannot be written", where=str(path), found=str(error)) from error


def read_image_sets(folder: Path, stems: Container[str]) -> dict[str, str]:
    """Read which split each image belongs to from `ImageSets/Main/NAME.txt`.

    Args:
        folder: The data set's folder.
        stems: Of the XML files.

    Returns:
        Stem of the XML to split, also of those that are not there; `val` is validation, `trainval`
        and others are not read.

    Raises:
        DataError: A stem is in two splits.
    """
    names = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
    splits: dict[str, str] = {}
    for name, split in names.items():
        path = folder / "ImageSets" / "Main" / f"{name}.txt"
        if not path.is_file():
            continue
        lines = read_limited(path, MAX_BYTES).decode("utf-8-sig", "replace").splitlines()
        for i, line in enumerate(map(str.strip, lines), 1):
            if not line:
                continue
            first = line.split()[0]  # a class's lists have 1 or -1 behind
            stem = first if line not in stems and first in stems else line
            if splits.setdefault(stem, split) != split:
                where, found = f"{path.name} line {i}", f"{stem} in {splits[stem]} and {split}"
                raise make_error("An image is in two splits", where, found, "every image in one")
    return splits


def write_image_sets(folder: Path, splits: Sequence[tuple[str, str]]) -> None:
    """Write `ImageSets/Main/NAME.txt`; `splits` are pairs of XML stem and split."""
    main = folder / "ImageSets" / "Main"
    main.mkdir(parents=True, exist_ok=True)
    for split in sorted({split for _, split in splits}):
        stems = [stem for stem, each in splits if each == split]
        name = "val" if split == "validation" else split
        (main / f"{name}.txt").write_text("\n".join(stems) + "\n", encoding="utf-8")
