"""The header of a DICOM file, read with bounds: what a CT slice needs and nothing else.

A general reader builds every element, follows sequences as deep as they claim to go, inflates what
it is told to inflate and quotes values in its warnings.  This one walks the elements in file order,
keeps those of `dicom_tags.KEPT`, jumps over the rest (a patient's name is kept only as a hash) and
stops at the pixels; depth, number of elements, value size and header size have limits.
Source: DICOM PS3.5 (7.1 data elements, 7.5 sequences, A transfer syntaxes), PS3.10 (7 file format).
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass, field
from typing import BinaryIO

from lesionkeras.ct import dicom_tags as tags
from lesionkeras.ct.findings import CtError

MAX_HEADER_BYTES = 64 << 20  # a CT slice has some 10 kB, 2,000 enhanced frames some 5 MB
MAX_VALUE_BYTES = 64 << 10  # of an element that is kept; the longest has six numbers
MAX_ELEMENTS = 200_000  # 2,000 enhanced frames have some 100,000
MAX_DEPTH = 64  # of sequences; CT has 4
MAX_INFLATED_BYTES = 256 << 20  # of a deflated file: one slice
UNDEFINED = 0xFFFFFFFF
PATIENT = (tags.PATIENT_NAME, tags.PATIENT_ID)  # kept as a hash, to tell patients apart


@dataclass(frozen=True)
class Element:
    """A kept element.

    Attributes:
        vr: Value representation as written; "" where the file writes none.
        value: Bytes, or the items of a sequence.
    """

    vr: str
    value: bytes | list[dict[int, Element]]


@dataclass
class Header:
    """What was kept of a file's header.

    Attributes:
        elements: By tag.
        syntax: Transfer syntax UID: how the pixels are written.
        encoding: How the elements are written: implicit, explicit or big endian.
        has_meta: Whether preamble and meta header are there.
        is_big_endian: Of numbers and pixels.
        num_odd: Elements written otherwise than the transfer syntax says.
        pixels_vr: "" without pixels.
        pixels_offset: Where the pixels begin: in the file, or in what it inflates to.
        pixels_length: In bytes; None where they come in items.
        has_float_pixels: Pixels are floating point numbers.
        deflated_offset: Where the deflated part begins; None for any other file.
    """

    elements: dict[int, Element] = field(default_factory=dict)
    syntax: str = tags.EXPLICIT
    encoding: str = tags.EXPLICIT
    has_meta: bool = True
    is_big_endian: bool = False
    num_odd: int = 0
    pixels_vr: str = ""
    pixels_offset: int = 0
    pixels_length: int | None = None
    has_float_pixels: bool = False
    deflated_offset: int | None = None


class _Cursor:
    """A place in a file that never passes the end and counts what it has seen."""

    def __init__(self, file: BinaryIO, size: int, where: str) -> None:
        self.file, self.size, self.where = file, size, where
        self.position = self.num_elements = self.num_odd = 0

    def refuse(self, name: str, what: str, found: str, wanted: str = "") -> CtError:
        next_step = "copy the file from its source again"
        return CtError(
            name, what, where=self.where, found=found, wanted=wanted, next_step=next_step
        )

    def _claim(self, count: int) -> None:
        if self.position + count > self.size:
            raise self.refuse(
                "truncated",
                "A DICOM file ends early",
                f"{self.size} bytes",
                f"at least {self.position + count}",
            )
        if self.position + count > MAX_HEADER_BYTES:
            found = f"more than {MAX_HEADER_BYTES >> 20} MiB before the pixels"
            raise self.refuse("too-large", "A DICOM header is too large", found)

    def take(self, count: int) -> bytes:
        self._claim(count)
        data = self.file.read(count)
        if len(data) < count:
            raise self.refuse("truncated", "A DICOM file ends early", f"{self.size} bytes")
        self.position += count
        return data

    def skip(self, count: int) -> None:
        self._claim(count)
        self.file.seek(count, io.SEEK_CUR)
        self.position += count

    def count_element(self) -> None:
        self.num_elements += 1
        if self.num_elements > MAX_ELEMENTS:
            found = f"more than {MAX_ELEMENTS} elements"
            raise self.refuse("too-large", "A DICOM header is too large", found)


def _read_head(cursor: _Cursor, encoding: str) -> tuple[int, str, int]:
    """Return (tag, value representation or "", length)."""
    cursor.count_element()
    head = cursor.take(8)
    order = ">" if encoding == tags.BIG_ENDIAN else "<"
    group, number, length = struct.unpack(order + "HHI", head)
    tag = group << 16 | number
    if group == 0xFFFE or encoding == tags.IMPLICIT:
        return tag, "", length
    vr = head[4:6].decode("latin-1")
    if vr in tags.LONG_VRS:
        return tag, vr, struct.unpack(order + "I", cursor.take(4))[0]
    if vr in tags.VRS or (vr.isascii() and vr.isalpha() and vr.isupper()):
        return tag, vr, struct.unpack(order + "H", head[6:8])[0]
    cursor.num_odd += 1  # written as implicit inside an explicit file, as some archives do
    return tag, "", length


def _parse_items(
    cursor: _Cursor, length: int, encoding: str, depth: int, keep: bool
) -> list[dict[int, Element]]:
    """Walk the items of a sequence."""
    if depth > MAX_DEPTH:
        found = f"sequences more than {MAX_DEPTH} deep"
        raise cursor.refuse("damaged", "A DICOM header is damaged", found)
    items = []
    end = None if length == UNDEFINED else cursor.position + length
    while end is None or cursor.position < end:
        tag, _, item_length = _read_head(cursor, encoding)
        if tag == tags.SEQUENCE_END:
            break
        if tag != tags.ITEM:
            raise cursor.refuse("damaged", "A DICOM header is damaged", "a sequence without items")
        item_end = None if item_length == UNDEFINED else cursor.position + item_length
        if item_end is not None and not keep:
            cursor.skip(item_length)
        else:
            items.append(_parse_elements(cursor, item_end, encoding, depth + 1, keep))
    return items if keep else []


def _skip_fragments(cursor: _Cursor, encoding: str) -> None:
    """Walk compressed pixels of an icon."""
    tag, _, length = _read_head(cursor, encoding)
    while tag == tags.ITEM and length != UNDEFINED:
        cursor.skip(length)
        tag, _, length = _read_head(cursor, encoding)
    if tag != tags.SEQUENCE_END:
        raise cursor.refuse("damaged", "A DICOM header is damaged", "fragments without an end")


def _keep_value(cursor: _Cursor, tag: int, length: int) -> bytes:
    """Return an element's bytes, or a hash in place of what names a patient."""
    if length > MAX_VALUE_BYTES:
        found = f"an element of {length} bytes"
        raise cursor.refuse(
            "too-large", "A DICOM element is too large", found, f"at most {MAX_VALUE_BYTES}"
        )
    value = cursor.take(length)
    if tag in PATIENT and value.strip(b"\0 "):
        return hashlib.sha256(value.strip(b"\0 ")).digest()
    return b"" if tag in PATIENT else value


def _parse_element(
    cursor: _Cursor, head: tuple[int, str, int], encoding: str, depth: int, keep: bool
) -> Element | None:
    """Keep, walk through or jump over one element."""
    tag, vr, length = head
    kind = tags.KEPT[tag][1] if keep and tag in tags.KEPT else None
    if length == UNDEFINED and vr in tags.BYTES_VRS:
        _skip_fragments(cursor, encoding)
    elif length == UNDEFINED or (kind == "SQ" and vr in ("SQ", "UN", "")):
        # An element of unknown type is written as implicit little endian (PS3.5, 6.2.2).
        inner = tags.IMPLICIT if vr == "UN" else encoding
        items = _parse_items(cursor, length, inner, depth + 1, kind == "SQ")
        return Element(vr, items) if kind == "SQ" else None
    elif kind:
        return Element(vr, _keep_value(cursor, tag, length))
    else:
        cursor.skip(length)
    return None


def _parse_elements(
    cursor: _Cursor, end: int | None, encoding: str, depth: int, keep: bool
) -> dict[int, Element]:
    """Walk the elements of an item."""
    elements: dict[int, Element] = {}
    while end is None or cursor.position < end:
        head = _read_head(cursor, encoding)
        if head[0] == tags.ITEM_END:
            break
        element = _parse_element(cursor, head, encoding, depth, keep)
        if element is not None:
            elements.setdefault(head[0], element)
    return elements


def _parse_data_set(cursor: _Cursor, header: Header) -> None:
    """Walk the elements of a file up to its pixels, or to where an image would have had rows."""
    while cursor.position < cursor.size:
        tag, vr, length = head = _read_head(cursor, header.encoding)
        if tag == tags.PIXELS:
            header.pixels_vr = vr or "OW"
            header.pixels_offset = cursor.position
            header.pixels_length = None if length == UNDEFINED else length
            return
        if tag in tags.FLOAT_PIXELS:
            header.has_float_pixels = True
            return
        if tag > 0x0028FFFF and tags.ROWS not in header.elements:
            return  # a report, a plan, a directory: no image, and it may be long
        element = _parse_element(cursor, head, header.encoding, 0, True)
        if element is not None:
            header.elements.setdefault(tag, element)


def _parse_meta(cursor: _Cursor) -> dict[int, Element]:
    """Read the meta header, group 0002, which is explicit little endian in every file."""
    elements: dict[int, Element] = {}
    while cursor.size - cursor.position >= 8:
        group = cursor.take(2)
        cursor.file.seek(-2, io.SEEK_CUR)
        cursor.position -= 2
        if group != b"\x02\x00":
            break
        head = _read_head(cursor, tags.EXPLICIT)
        element = _parse_element(cursor, head, tags.EXPLICIT, 0, True)
        if element is not None:
            elements[head[0]] = element
    return elements


def _peek(cursor: _Cursor) -> bytes:
    """Return the first bytes of the data set without moving."""
    head = cursor.file.read(8)
    cursor.file.seek(cursor.position)
    return head


def _guess_encoding(head: bytes) -> str | None:
    """Tell from the first eight bytes of a data set how it is written, if it is one."""
    if len(head) < 8:
        return None
    is_explicit = head[4:6].decode("latin-1") in tags.VRS
    group, number, length = struct.unpack("<HHI", head)
    if group in (0x0002, 0x0008) and number <= 0x2FFF and (is_explicit or length < 1 << 16):
        return tags.EXPLICIT if is_explicit else tags.IMPLICIT
    group, number = struct.unpack(">HH", head[:4])
    return tags.BIG_ENDIAN if is_explicit and group == 0x0008 and number <= 0x2FFF else None


def inflate(data: bytes, where: str) -> bytes:
    """Inflate a deflated data set, to a limit.

    Args:
        data: A raw deflate stream (PS3.5, A.5).
        where: The file's name, for an error.

    Raises:
        CtError: The stream is damaged, truncated or inflates beyond the limit.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(data, MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise CtError("damaged", "A deflated DICOM file is damaged", where=where) from error
    if stream.unconsumed_tail or len(inflated) == MAX_INFLATED_BYTES:
        found = f"more than {MAX_INFLATED_BYTES >> 20} MiB"
        raise CtError("too-large", "A DICOM file inflates to too much", where=where, found=found)
    if not stream.eof:
        raise CtError("truncated", "A deflated DICOM file ends early", where=where)
    return inflated


def _to_data_set(cursor: _Cursor, header: Header) -> _Cursor | None:
    """Set the header's syntax and return where the data set begins; None for no image."""
    meta = _parse_meta(cursor)
    named = {
        tag: bytes(element.value).decode("latin-1").strip("\0 ")
        for tag, element in meta.items()
        if isinstance(element.value, bytes)
    }
    header.has_meta = header.has_meta and tags.META_SYNTAX in named
    if tags.META_SOP_CLASS in meta:
        header.elements[tags.META_SOP_CLASS] = meta[tags.META_SOP_CLASS]
    if named.get(tags.META_SOP_CLASS) == tags.DICOMDIR:
        return None
    syntax = named.get(tags.META_SYNTAX, "")
    if syntax == tags.DEFLATED:
        header.deflated_offset = cursor.position
        if cursor.size > MAX_INFLATED_BYTES:
            raise cursor.refuse("too-large", "A deflated file is too large", f"{cursor.size} bytes")
        data = inflate(cursor.file.read(cursor.size - cursor.position), cursor.where)
        cursor = _Cursor(io.BytesIO(data), len(data), cursor.where)
    guess = _guess_encoding(_peek(cursor))
    # What stands in the file decides; deflated and compressed ones should be explicit.
    claim = syntax if syntax in (tags.IMPLICIT, tags.BIG_ENDIAN) else tags.EXPLICIT
    header.encoding = guess or claim
    is_odd = bool(syntax) and header.encoding != claim
    cursor.num_odd += is_odd
    header.syntax = header.encoding if not syntax or (is_odd and claim == syntax) else syntax
    return cursor


def parse_header(file: BinaryIO, size: int, where: str) -> Header | None:
    """Read what a CT slice needs from a DICOM file's header.

    Args:
        file: Opened for reading bytes, seekable, at its begin.
        size: Of the file, in bytes.
        where: The file's name, for an error.

    Returns:
        The header, or None if the file is not DICOM or is a DICOMDIR.

    Raises:
        CtError: "truncated", "damaged" or "too-large".
    """
    cursor = _Cursor(file, size, where)
    start = file.read(132)
    has_preamble = start[128:] == b"DICM"
    if not has_preamble and _guess_encoding(start[:8]) is None:
        return None
    cursor.position = 132 if has_preamble else 0
    file.seek(cursor.position)
    header = Header(has_meta=has_preamble)
    try:
        data = _to_data_set(cursor, header)
        if data is None:
            return None
        _parse_data_set(data, header)
    except CtError:
        # Without a preamble only what parses as far as an image is a damaged DICOM file.
        if not has_preamble and tags.ROWS not in header.elements:
            return None
        raise
    if not has_preamble and not header.elements:
        return None
    header.num_odd = data.num_odd
    header.is_big_endian = header.encoding == tags.BIG_ENDIAN
    return header
