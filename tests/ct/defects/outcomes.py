"""Reads an instance with us, SimpleITK or nibabel, and says what came of it."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lesionkeras.ct.png16 import read_png16, to_hu
from lesionkeras.ct.reading import read_volume
from lesionkeras.ct.volume import check_same_place
from lesionkeras.errors import DataError
from tests.ct.defects.cases import RIGHT, Case, Defect, make_rng
from tests.ct.defects.scans import find_fault

NOBODY = 65534
MOST_SECONDS = 10  # of this process's own time, for what is read in a hundredth of one
MOST_WALL_SECONDS = 240  # waiting for a decoder's process; a busy machine stalls for a minute
MOST_MIB = 1024  # more than before; an instance holds less than one
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
PNG_OFFSET_HU = 32768


@dataclass(frozen=True)
class Outcome:
    """What came of one reading.

    Attributes:
        kind: "right", "refused", "warned" (wrong, with a warning), "silent" (wrong without),
            "crashed", "hung", or "-" where the reader does not claim to read such a file.
        detail: The error's name, or what is wrong.
        corrections: Names of what was logged.
    """

    kind: str
    detail: str = ""
    corrections: tuple[str, ...] = ()


class TooSlowError(BaseException):
    """Not an OSError as TimeoutError is: no reader may take it for a file's."""


@contextmanager
def limited(seconds: float = MOST_SECONDS, mib: int = MOST_MIB) -> Iterator[None]:
    """Raise TooSlowError or MemoryError in what takes too long or too much."""

    alarms = []

    def stop(number: int, *_: object) -> None:
        alarms.append(number)
        # One alarm by the clock may have waited while this process was suspended.
        if number == signal.SIGPROF or len(alarms) > 1:
            raise TooSlowError

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    before = resource.getrlimit(resource.RLIMIT_AS)
    handlers = {number: signal.signal(number, stop) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.setitimer(signal.ITIMER_REAL, MOST_WALL_SECONDS / 2, MOST_WALL_SECONDS / 2)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    if pages:
        limit = pages * resource.getpagesize() + (mib << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        for timer in (signal.ITIMER_REAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def without_rights(paths: Sequence[Path]) -> Iterator[None]:
    """Take away the rights to open paths; root, whom rights do not bind, becomes nobody."""
    modes = [path.stat().st_mode for path in paths]
    as_root = bool(paths) and os.geteuid() == 0
    # Nobody may not enter root's home, where Python may lie: what is imported late comes now.
    importlib.import_module("concurrent.futures.thread")
    for path in paths:
        path.chmod(0)
    if as_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if as_root:
            os.seteuid(0)
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


@contextmanager
def made(defect: Defect, name: str, seed: int) -> Iterator[Case]:
    """Yield an instance in a folder of its own that anybody may enter."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        root.chmod(0o755)
        yield defect.make(make_rng(name, seed), root)


def read_ours(case: Case) -> Outcome:
    """Read with `read_volume` (`read_png16` where it is a PNG)."""
    try:
        with without_rights(case.locked), limited():
            if case.path.suffix == ".png":
                array, affine, names = to_hu(read_png16(case.path))[None], case.truth, ()
                affine = case.truth.affine if case.truth else np.eye(4)
            else:
                volume = read_volume(case.path, **case.options)
                array, affine = volume.array, volume.affine
                names = tuple(correction.name for correction in volume.corrections)
            if case.mask is not None:
                check_same_place(volume, read_volume(case.mask, kind="mask"), "mask.nii.gz")
    except DataError as error:
        return Outcome("refused", getattr(error, "name", error.what))
    except TooSlowError:
        return Outcome("hung")
    except Exception as error:
        return Outcome("crashed", f"{type(error).__name__}: {error}")
    wanted = np.uint8 if case.options.get("kind") == "mask" else np.int16
    if array.dtype != wanted or not array.flags.c_contiguous:
        return Outcome("silent", f"{array.dtype}, contiguous {array.flags.c_contiguous}", names)
    if case.path.suffix != ".png" and not _is_canonical(affine):
        return Outcome("silent", "not in canonical orientation", names)
    return _compare(case, array, affine, names=names)


def _is_canonical(affine: np.ndarray) -> bool:
    """Axes z, y, x grow along +S, +P, +L more than along any other direction."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    along = axes[[2, 1, 0], [0, 1, 2]]
    return bool((np.argmax(abs(axes), 0) == [2, 1, 0]).all() and (along > 0).all())


def _compare(case: Case, array, affine, warned: bool = False, names=()) -> Outcome:
    fault = (
        "nothing of it is right" if case.truth is None else find_fault(array, affine, case.truth)
    )
    if not fault:
        return Outcome("right", "", names)
    return Outcome("warned" if warned else "silent", fault, names)


def read_simpleitk(case: Case) -> Outcome:
    """Read as SimpleITK's documentation does: the first series of a folder, or the file."""
    import SimpleITK as sitk

    with tempfile.TemporaryFile() as said, _to_file(said):
        try:
            with without_rights(case.locked):
                if case.path.is_dir():
                    reader = sitk.ImageSeriesReader()
                    uid = case.options.get("series_uid", "")
                    names = reader.GetGDCMSeriesFileNames(str(case.path), uid, False, True)
                    if not names:
                        return Outcome("refused", "no series")
                    reader.SetFileNames(names)
                    image = reader.Execute()
                else:
                    image = sitk.ReadImage(str(case.path))
                if case.mask is not None:  # a filter of two images compares their places
                    sitk.Mask(sitk.Cast(image, sitk.sitkFloat32), sitk.ReadImage(str(case.mask)))
        except (RuntimeError, UnicodeError) as error:
            return Outcome("refused", str(error).splitlines()[-1] if str(error) else "")
        said.seek(0)
        warned = b"WARNING" in said.read().upper()
    array = sitk.GetArrayFromImage(image)
    num = image.GetDimension()
    affine = np.eye(4)
    if num >= 3:
        turn = np.reshape(image.GetDirection(), (num, num))[:3, :3] * image.GetSpacing()[:3]
        affine[:3, :3], affine[:3, 3] = turn[:, ::-1], image.GetOrigin()[:3]
    if num > 3 and len(array) == 1:
        array = array[0]
    if case.path.suffix == ".png":
        array, affine = array[None].astype(np.int64) - PNG_OFFSET_HU, case.truth.affine
    return _compare(case, array, affine, warned)


@contextmanager
def _to_file(file) -> Iterator[None]:
    """Send what C++ writes to stderr and stdout into a file."""
    kept = [os.dup(number) for number in (1, 2)]
    sys.stdout.flush()
    try:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        yield
    finally:
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def read_nibabel(case: Case) -> Outcome:
    """Read a NIfTI file as nibabel's documentation does; it has no reader of a CT series."""
    if not case.path.name.endswith((".nii", ".nii.gz", ".hdr")):
        return Outcome("-")
    import nibabel

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with without_rights(case.locked):
                image = nibabel.load(case.path)
                array, affine = image.get_fdata(), TO_LPS @ image.affine
                if case.mask is not None:
                    nibabel.load(case.mask).get_fdata()
        except Exception as error:  # it has no error of its own for most of what can be wrong
            return Outcome("refused", f"{type(error).__name__}: {error}")
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return _compare(case, array, affine, bool(said))


READERS: dict[str, Callable[[Case], Outcome]] = {
    "ours": read_ours,
    "SimpleITK": read_simpleitk,
    "nibabel": read_nibabel,
}


def read(reader: str, defect: Defect, name: str, seed: int) -> Outcome:
    """Make an instance and read it."""
    with made(defect, name, seed) as case:
        return Outcome("-") if reader in case.not_for else READERS[reader](case)


def judge(defect: Defect, outcome: Outcome) -> str:
    """Return why one of our outcomes is not accepted, or ""."""
    if outcome.kind == "refused":
        return "" if outcome.detail in defect.accepted else f"refused as {outcome.detail}"
    if outcome.kind != "right":
        return f"{outcome.kind}: {outcome.detail}"
    if RIGHT not in defect.accepted:
        return "read, though it must be refused"
    if defect.logged and defect.logged not in outcome.corrections:
        return f"{defect.logged} is not among the corrections {outcome.corrections}"
    return ""
