"""Masks as people hand them over: NIfTI files in a folder or a zip, paired by name or by number.

for pair in pair_files(list_masks("truth/"), list_masks("submission.zip")):
    truth, prediction = mask_pairs.read_pair(pair, mask_pairs.find_grid(pair))
"""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lesionkeras.ct.findings import CtError
from lesionkeras.ct.nifti_stream import COPY_AGAIN, GZIP_MAGIC, open_file

ENDING = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
NUMBER = re.compile(r"\d+")
NO_NUMBER = -1
MOST_NAMES = 10  # of cases in an error's text
MOST_ZIPPED_BYTES = 2**30  # of a .nii.gz in a zip, which is unzipped once to be read
_GZIP_HEAD = GZIP_MAGIC + b"\x08" + bytes(6) + b"\xff"  # deflate, no name, no time, unknown system
_ZIP_DAMAGE = (OSError, KeyError, ValueError, struct.error, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class MaskFile:
    """One NIfTI file, by itself or in a zip.

    Attributes:
        name: Its name without folder and ending.
        path: Of the file, or of the zip.
        member: Its name in the zip; "" is none.
    """

    name: str
    path: Path
    member: str = ""

    @property
    def where(self) -> str:
        """What to call it in an error."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def open(self) -> BinaryIO:
        """Opens it for reading and seeking.

        Raises:
            CtError: not-found, unreadable-file, damaged.
        """
        if not self.member:
            return open_file(self.path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                return _open_member(archive, archive.getinfo(self.member))
        except CtError:
            raise
        except _ZIP_DAMAGE as error:
            raise CtError(
                "damaged", "A zip cannot be read", where=self.where, next_step=COPY_AGAIN
            ) from error


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    """Return a member as a file in memory that seeks without inflating anything twice.

    A deflated member becomes a gzip file with the zip's own checksum: the NIfTI reader inflates it
    part by part, at isal's speed, no further than its header says, and checks it.  A .nii.gz that
    is deflated once more, as zip programs do, is unzipped once here.
    """
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CtError(
            "damaged",
            "A zip cannot be unpacked",
            where=f"{archive.filename}/{info.filename}",
            found="it encrypted" if info.flag_bits & 1 else f"method {info.compress_type}",
            wanted="members stored or deflated",
            next_step="unpack it and give the folder",
        )
    file = archive.fp
    assert file is not None
    file.seek(info.header_offset)
    name_bytes, extra_bytes = struct.unpack("<26x2H", file.read(30))
    file.seek(name_bytes + extra_bytes, io.SEEK_CUR)
    packed = file.read(info.compress_size)
    if info.compress_type == zipfile.ZIP_STORED:
        if zlib.crc32(packed) != info.CRC:
            raise ValueError("checksum")
        return io.BytesIO(packed)
    if zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, len(GZIP_MAGIC)) == GZIP_MAGIC:
        return io.BytesIO(_inflate(packed, info))
    end = struct.pack("<2I", info.CRC, info.file_size % 2**32)
    return io.BytesIO(_GZIP_HEAD + packed + end)


def _inflate(packed: bytes, info: zipfile.ZipInfo) -> bytes:
    """Return a member's bytes, no more than the zip says there are."""
    if info.file_size > MOST_ZIPPED_BYTES:
        raise ValueError("too large")
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, info.file_size + 1)
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise ValueError("checksum")
    return content


def list_masks(path: str | os.PathLike[str]) -> list[MaskFile]:
    """Lists the masks of a folder, at any depth, or of a zip, or a file alone.

    Args:
        path: The folder, the zip, or one .nii or .nii.gz.

    Returns:
        The masks; where some are called segmentation-N, as LiTS calls them, those called volume-N
        are scans and left out.

    Raises:
        CtError: not-found, empty-folder, damaged; several-cases: two files of one name.
    """
    path = Path(path)
    if path.is_dir():
        found = [MaskFile(_strip(p.name), p) for p in _list_files(path)]
    elif path.suffix.lower() == ".zip" and path.is_file():
        found = _list_members(path)
    else:
        open_file(path).close()
        found = [MaskFile(_strip(path.name), path)]
    if any(file.name.startswith("segmentation") for file in found):
        found = [file for file in found if not file.name.startswith("volume")]
    if not found:
        raise CtError(
            "empty-folder",
            "There is no mask",
            where=str(path),
            wanted="files that end in .nii or .nii.gz",
            next_step="name the folder or zip that holds them",
        )
    _check_unique([file.name for file in found], str(path), "name")
    _check_letters(found)
    return found


def _check_letters(files: Sequence[MaskFile]) -> None:
    """Raise where a name is no UTF-8, such as one from an old share: no table can hold it."""
    for file in files:
        try:
            file.name.encode()
        except UnicodeEncodeError as error:
            raise CtError(
                "unreadable-file",
                "A file's name is not UTF-8",
                where=str(file.path.parent),
                found=ascii(file.name),
                next_step="rename the file",
            ) from error


def _list_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if _is_mask(path.name) and path.is_file()]


def _list_members(path: Path) -> list[MaskFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
    except (OSError, zipfile.BadZipFile) as error:
        raise CtError(
            "damaged", "A zip cannot be read", where=str(path), next_step=COPY_AGAIN
        ) from error
    return [
        MaskFile(_strip(name.rsplit("/", 1)[-1]), path, name)
        for name in names
        if _is_mask(name.rsplit("/", 1)[-1])
    ]


def _is_mask(name: str) -> bool:
    return bool(ENDING.search(name)) and not name.startswith(".")  # macOS leaves ._ files


def _strip(name: str) -> str:
    return ENDING.sub("", name)


def _check_unique(keys: Sequence[str], where: str, what: str) -> None:
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise CtError(
            "several-cases",
            f"Two masks have one {what}",
            where=where,
            found=_join(twice),
            next_step="leave one file a case there",
        )


def _join(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


@dataclass(frozen=True)
class FilePair:
    """Truth and prediction of one case.

    Attributes:
        case: The truth's name.
        truth: Its file.
        prediction: The other.
    """

    case: str
    truth: MaskFile
    prediction: MaskFile


def pair_files(
    truths: Sequence[MaskFile], predictions: Sequence[MaskFile], cases: Sequence[str] = ()
) -> list[FilePair]:
    """Pairs masks by their whole names or, if none is on both sides, by the last number in each.

    One truth and one prediction are a pair unless their numbers differ.

    Args:
        truths: Of `list_masks`.
        predictions: The same; exactly those of the truths.
        cases: Names or numbers of truths: of them alone; () is all.

    Returns:
        The pairs, by number where names hold one, then by name.

    Raises:
        CtError: not-found: a case without a partner, or none of that name; several-cases: one
            number twice, or names that hold several numbers.

    >>> files = [[MaskFile(name, Path(name)) for name in names]
    ...          for names in (["segmentation-10", "segmentation-9"], ["liver_9", "liver_10"])]
    >>> [(pair.case, pair.prediction.name) for pair in pair_files(*files)]
    [('segmentation-9', 'liver_9'), ('segmentation-10', 'liver_10')]
    """
    if cases:
        if not {file.name for file in truths} & {file.name for file in predictions}:
            _check_numbers(truths)  # of all: among few chosen ones, nothing might show it
            _check_numbers(predictions)
        truths, predictions = _choose(truths, cases), _choose(predictions, cases, partly=True)
    if len(truths) == len(predictions) == 1:
        numbers = {find_number(file.name) for file in (*truths, *predictions)}
        if len(numbers) == 1 or NO_NUMBER in numbers:
            return [FilePair(truths[0].name, truths[0], predictions[0])]
    sides = [{file.name: file for file in files} for files in (truths, predictions)]
    if not sides[0].keys() & sides[1].keys():
        sides = [_number(files) for files in (truths, predictions)]
        _check_numbers(truths)
        _check_numbers(predictions)
    _check_partners(sides[0], sides[1], "truth", "prediction")
    _check_partners(sides[1], sides[0], "prediction", "truth")
    pairs = [FilePair(sides[0][key].name, sides[0][key], sides[1][key]) for key in sides[0]]
    return sorted(pairs, key=lambda pair: (find_number(pair.case), pair.case))


def _choose(
    files: Sequence[MaskFile], cases: Sequence[str], partly: bool = False
) -> list[MaskFile]:
    """Return the files of cases by name or number; `partly`: those that there are."""
    chosen, unknown = [], []
    for case in dict.fromkeys(cases):
        named = [file for file in files if file.name == case]
        number = find_number(case)
        if not named and number != NO_NUMBER:
            named = [file for file in files if find_number(file.name) == number]
        chosen += [file for file in named if file not in chosen]
        unknown += [] if named else [case]
    if unknown and not partly:
        raise CtError(
            "not-found",
            "A case has no truth",
            where="--cases",
            found=_join(unknown),
            wanted=f"names or numbers of {_join([file.name for file in files])}",
        )
    return chosen


def _check_numbers(files: Sequence[MaskFile]) -> None:
    """Raise where more than one number tells the names of a side apart: which one pairs them?"""
    rows = [NUMBER.findall(file.name) for file in files]
    longest = max(map(len, rows), default=0)
    padded = [[""] * (longest - len(row)) + row for row in rows if row]
    if sum(len(set(column)) > 1 for column in zip(*padded, strict=True)) > 1:
        raise CtError(
            "several-cases",
            "Names hold several numbers, so that none pairs them for sure",
            where=str(files[0].path if files[0].member else files[0].path.parent),
            found=_join([file.name for file in files]),
            wanted="one number that tells cases apart, or the same names on both sides",
            next_step="rename the predictions as the truths are named",
        )


def _check_partners(
    files: dict[str, MaskFile], others: dict[str, MaskFile], what: str, partner: str
) -> None:
    alone = [file for key, file in files.items() if key not in others]
    if alone:
        raise CtError(
            "not-found",
            f"A {what} has no {partner}",
            where=str(alone[0].path if alone[0].member else alone[0].path.parent),
            found=_join([file.name for file in alone]),
            wanted=f"one {partner} each, by the same name or number",
            next_step=f"add the {partner}, or name the cases to score with --cases",
        )


def find_number(name: str) -> int:
    """Returns the last number in a case's name, or NO_NUMBER.

    >>> find_number("test-segmentation-12"), find_number("liver")
    (12, -1)
    """
    numbers = NUMBER.findall(name)
    return int(numbers[-1]) if numbers else NO_NUMBER


def _number(files: Sequence[MaskFile]) -> dict[str, MaskFile]:
    numbered = [file for file in files if find_number(file.name) != NO_NUMBER]
    keys = [str(find_number(file.name)) for file in numbered]
    if numbered:
        _check_unique(keys, str(numbered[0].path.parent), "number")
    return {file.name: file for file in files if file not in numbered} | dict(
        zip(keys, numbered, strict=True)
    )
