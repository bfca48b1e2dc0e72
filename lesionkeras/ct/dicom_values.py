"""Values of kept DICOM elements: numbers and words, with what was wrong about their types."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field

from lesionkeras.ct.dicom_parse import Element
from lesionkeras.ct.dicom_tags import BINARY, KEPT, TEXT_VRS
from lesionkeras.ct.findings import CtError

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# 1,024 may be a thousand or one and a bit; 0,703 and -12,5 can only be decimals.
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")


def _to_number(text: str) -> float | None:
    """Return a finite number, or None."""
    if "," in text and text.count(",") == 1 and not THOUSANDS.fullmatch(text):
        text = text.replace(",", ".")
    if not NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


@dataclass
class DataSet:
    """The kept elements of a file or of an item of a sequence.

    Attributes:
        elements: By tag.
        where: The file's name, for errors.
        is_big_endian: Of binary numbers.
        num_odd: A list of one count, shared by all items: elements whose type was wrong.
    """

    elements: dict[int, Element]
    where: str
    is_big_endian: bool = False
    num_odd: list[int] = field(default_factory=lambda: [0])

    def read_bytes(self, tag: int) -> bytes:
        """Return an element's bytes, b"" if it is absent or a sequence."""
        element = self.elements.get(tag)
        return element.value if element and isinstance(element.value, bytes) else b""

    def read_text(self, tag: int) -> str:
        """Return text without padding, "" if the element is absent."""
        return self.read_bytes(tag).decode("latin-1").strip("\0 \t\r\n")

    def read_words(self, tag: int) -> list[str]:
        r"""Return the parts of text between backslashes; none if the element is absent.

        >>> DataSet({8: Element("CS", b"ORIGINAL\\PRIMARY ")}, "a.dcm").read_words(8)
        ['ORIGINAL', 'PRIMARY']
        """
        text = self.read_text(tag)
        return [word.strip("\0 \t\r\n") for word in text.split("\\")] if text else []

    def read_items(self, tag: int) -> list[DataSet]:
        """Return the items of a sequence; none if it is absent."""
        element = self.elements.get(tag)
        items = element.value if element and isinstance(element.value, list) else []
        return [DataSet(item, self.where, self.is_big_endian, self.num_odd) for item in items]

    def _read_binary(self, data: bytes, vr: str) -> list[float] | None:
        code = BINARY[vr]
        count, rest = divmod(len(data), struct.calcsize("=" + code))
        if rest:
            return None
        order = ">" if self.is_big_endian else "<"
        values = [float(value) for value in struct.unpack(f"{order}{count}{code}", data)]
        return values if all(map(math.isfinite, values)) else None

    def _read_numbers(self, tag: int) -> list[float] | None:
        """Return numbers of any type, or None if they are none."""
        element = self.elements[tag]
        data, kind = self.read_bytes(tag), KEPT[tag][1]
        vr = element.vr if element.vr not in ("", "UN") else kind
        is_text = vr in TEXT_VRS
        if not is_text and vr not in BINARY:
            return None
        if not is_text:
            self.num_odd[0] += vr != kind
            return self._read_binary(data, vr)
        words = self.read_words(tag)
        self.num_odd[0] += vr != kind or any("," in word for word in words)
        values = [_to_number(word) for word in words]
        numbers = [value for value in values if value is not None]
        return numbers if len(numbers) == len(values) else None

    def read_numbers(self, tag: int, count: int, error: str) -> list[float] | None:
        r"""Return numbers, whichever of the standard's types they are written in.

        Args:
            tag: One of `KEPT`.
            count: How many there must be.
            error: Name of the error to raise for what is no number.

        Returns:
            Finite numbers, or None if the element is absent or empty.

        Raises:
            CtError: The value is not `count` finite numbers.

        >>> spacing = Element("DS", b"0,7\\0.8 ")
        >>> DataSet({0x00280030: spacing}, "a.dcm").read_numbers(0x00280030, 2, "no-geometry")
        [0.7, 0.8]
        """
        is_binary = tag in self.elements and self.elements[tag].vr in BINARY
        data = self.read_bytes(tag)
        if not data or not (is_binary or KEPT[tag][1] in BINARY or data.strip(b"\0 ")):
            return None
        numbers = self._read_numbers(tag)
        if numbers is None or len(numbers) != count:
            raise CtError(
                error,
                f"{KEPT[tag][0]} cannot be understood",
                where=self.where,
                found="text that is no number" if numbers is None else f"{len(numbers)} numbers",
                wanted=f"{count} finite number{'s' * (count > 1)}",
                next_step="export the series again from its source",
            )
        return numbers

    def read_integer(self, tag: int, error: str) -> int | None:
        r"""Return one whole number, also from "1.0".

        Raises:
            CtError: The value is not one whole number.

        >>> DataSet({0x00280008: Element("IS", b"1.0 ")}, "a").read_integer(0x00280008, "damaged")
        1
        """
        numbers = self.read_numbers(tag, 1, error)
        if numbers is None:
            return None
        if not numbers[0].is_integer():
            raise CtError(
                error,
                f"{KEPT[tag][0]} is not a whole number",
                where=self.where,
                found=f"{numbers[0]:g}",
            )
        if KEPT[tag][1] == "IS" and "." in self.read_text(tag):
            self.num_odd[0] += 1
        return int(numbers[0])

    def read_pattern(self, tag: int, num_bytes: int) -> int | None:
        """Return a padding value's bits: whether it is signed depends on the pixels, not on it.

        Args:
            tag: PixelPaddingValue or PixelPaddingRangeLimit.
            num_bytes: Of a pixel.

        Returns:
            The bits as an unsigned number, or None if the element is absent or empty.

        Raises:
            CtError: "damaged".
        """
        data = self.read_bytes(tag)
        if not data:
            return None
        vr = self.elements[tag].vr
        if vr in TEXT_VRS or (len(data) != 2 and vr in BINARY):
            number = self.read_integer(tag, "damaged")
            return None if number is None else number % (1 << 8 * num_bytes)
        if len(data) != 2:
            raise CtError("damaged", f"{KEPT[tag][0]} has {len(data)} bytes", where=self.where)
        return int.from_bytes(data, "big" if self.is_big_endian else "little") % (
            1 << 8 * num_bytes
        )
