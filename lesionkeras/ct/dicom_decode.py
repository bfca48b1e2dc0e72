"""Compressed frames: finding them in a file, refusing lossy ones, decoding in a child process.

Decoders are pydicom's plugins: python-gdcm (BSD), pylibjpeg-openjpeg (MIT) and pydicom's own RLE.
Source: DICOM PS3.5, A.4 (encapsulation); JPEG 2000 (T.800, A.6.1) and JPEG-LS (T.87, C.2.3) for the
marks of loss.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from lesionkeras.ct.dicom_slices import LOSSY_NEXT_STEP, Slice
from lesionkeras.ct.dicom_tags import (
    HTJ2K,
    ITEM,
    JPEG_2000,
    JPEG_LS_NEAR,
    JPEGS,
    LOSSLESS,
    SEQUENCE_END,
)
from lesionkeras.ct.findings import CtError

CHILD = Path(__file__).with_name("dicom_child.py")
MAX_MIB = 1024  # beyond what the child's libraries take; a 512 x 512 frame needs some 10
START_S, FRAME_S = 120.0, 60.0  # by the clock of a busy machine; the child limits its own CPU time
MAX_IDLE = 2  # children that wait for another series, some 60 MB each
MAX_FRAMES = 5_000  # of a child: what a decoder leaks must not reach its limit of memory


def _refuse(what: str, where: str, found: str = "", next_step: str = "") -> CtError:
    return CtError("not-decodable", what, where=where, found=found, next_step=next_step)


def split_fragments(data: bytes, where: str) -> list[bytes]:
    """Return the fragments of encapsulated pixels after the offset table.

    Args:
        data: From the first item to the end of the file.
        where: The file's name, for an error.

    Raises:
        CtError: "truncated" or "damaged".
    """
    fragments: list[bytes] = []
    position = 0
    while position + 8 <= len(data):
        group, number, length = struct.unpack_from("<HHI", data, position)
        tag = group << 16 | number
        if tag == SEQUENCE_END:
            return fragments[1:]
        if tag != ITEM:
            raise CtError("damaged", "Compressed pixels are not in items", where=where)
        fragments.append(data[position + 8 : position + 8 + length])
        position += 8 + length
    raise CtError(
        "truncated",
        "A DICOM file ends early",
        where=where,
        found="compressed pixels without an end",
        next_step="copy the file from its source again",
    )


def join_frames(fragments: list[bytes], num_frames: int, where: str) -> list[bytes]:
    """Return one byte string a frame.

    Args:
        fragments: Of all frames.
        num_frames: In the file.
        where: The file's name, for an error.

    Raises:
        CtError: "not-decodable" if fragments cannot be told apart.
    """
    if num_frames == 1 and fragments:
        return [b"".join(fragments)]
    if len(fragments) != num_frames:
        found = f"{len(fragments)} fragments for {num_frames} frames"
        raise _refuse("Compressed frames cannot be told apart", where, found)
    return fragments


def _find_near(frame: bytes) -> int:
    """Return the loss that a JPEG-LS scan allows, -1 if there is no scan."""
    start = frame.find(b"\xff\xda")
    if start < 0 or start + 5 > len(frame):
        return -1
    place = start + 5 + 2 * frame[start + 4]
    return frame[place] if place < len(frame) else -1


def _is_reversible(frame: bytes) -> bool:
    """Return whether a JPEG 2000 codestream uses the reversible wavelet, 5-3."""
    start = frame.find(b"\xff\x52")
    return 0 <= start < len(frame) - 13 and frame[start + 13] == 1


def check_end(frame: bytes, syntax: str, where: str) -> None:
    """Refuse a JPEG stream without its end mark: decoders fill up what is missing, silently.

    Args:
        frame: A compressed frame.
        syntax: Transfer syntax UID.
        where: The file's name, for an error.

    Raises:
        CtError: "truncated".
    """
    if syntax.startswith(JPEGS) and not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise CtError(
            "truncated",
            "Compressed pixels end early",
            where=where,
            found="a stream without its end mark",
            next_step="copy the file from its source again",
        )


def check_lossless(frame: bytes, syntax: str, where: str) -> None:
    """Refuse what was compressed with loss, by the syntax or by the stream itself.

    Args:
        frame: A compressed frame.
        syntax: Transfer syntax UID.
        where: The file's name, for an error.

    Raises:
        CtError: "not-decodable".
    """
    is_lossless = (
        syntax in LOSSLESS
        or (syntax == JPEG_LS_NEAR and _find_near(frame) == 0)
        or (syntax in (JPEG_2000, HTJ2K) and _is_reversible(frame))
    )
    if not is_lossless:
        if not syntax.startswith("1.2.840.10008.1.2."):
            next_step = "export the series uncompressed"
            raise _refuse("A compression is unknown", where, next_step=next_step)
        found = f"transfer syntax {syntax[:64]}"
        raise _refuse("Pixels were compressed with loss", where, found, LOSSY_NEXT_STEP)


class FrameDecoder:
    """A child process that decodes frames, one after the other; started on first use.

    A frame that ends the child is refused, and the next frame gets a new child.

    Args:
        script: The child; tests give one that misbehaves.
        frame_s: Longest wait for a frame, by the clock.
    """

    def __init__(self, script: Path = CHILD, frame_s: float = FRAME_S) -> None:
        self._script, self._frame_s = script, frame_s
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._num_frames = 0
        self._is_whole = True

    @property
    def is_whole(self) -> bool:
        """Whether a child lives that answered every frame with pixels and has not had too many.

        One that refused a frame, or was left in the middle of one, may hold what that frame did.
        """
        is_alive = self._child is not None and self._child.poll() is None
        return is_alive and self._is_whole and self._num_frames < MAX_FRAMES

    def __enter__(self) -> FrameDecoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self.leave()

    def leave(self) -> None:
        """Let go of the child; it ends when nobody holds its pipes."""
        child, self._child = self._child, None
        if child is not None:
            child.returncode = child.returncode or 0  # nobody waits for it any more
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _read(self, child: subprocess.Popen[bytes], count: int, limit_s: float) -> bytes:
        """Read from the child; it is killed when time is up, and then gives less."""
        assert child.stdout
        timer = threading.Timer(limit_s, child.kill)
        timer.start()
        try:
            return child.stdout.read(count)
        finally:
            timer.cancel()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            self._num_frames, self._is_whole = 0, True
            quiet = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            self._child = subprocess.Popen(
                [sys.executable, "-P", str(self._script), str(MAX_MIB)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=quiet,
            )
            if self._read(self._child, 1, START_S) != b"R":
                self.close()
                next_step = "install pydicom"
                raise _refuse("The decoder does not start", str(self._script.name), "", next_step)
        return self._child

    def _ask(self, options: bytes, frame: bytes, num_bytes: int) -> tuple[int, bytes]:
        """Return status and pixels; status -1 if the child ended."""
        child = self._start()
        self._num_frames += 1
        self._is_whole = False  # until it has answered
        try:
            assert child.stdin
            for block in (options, frame):
                child.stdin.write(struct.pack("<Q", len(block)) + block)
            child.stdin.flush()
            head = self._read(child, 9, self._frame_s)
            length = struct.unpack("<Q", head[1:])[0] if len(head) == 9 else -1
            if length in (0, num_bytes):
                pixels = self._read(child, length, self._frame_s)
                if len(pixels) == length:
                    self._is_whole = head[0] == 0
                    return head[0], pixels
        except OSError:  # a broken pipe
            pass
        self.close()
        return -1, b""

    def decode(self, part: Slice, frame: bytes) -> bytes:
        """Decode a frame.

        Args:
            part: Gives size, pixel format, syntax and the file's name.
            frame: Compressed.

        Returns:
            Little endian words of `bits_allocated`.

        Raises:
            CtError: "not-decodable".
        """
        pixels, where = part.pixels, part.entry.name
        check_lossless(frame, part.header.syntax, where)
        check_end(frame, part.header.syntax, where)
        if pixels.high_bit != pixels.bits_stored - 1:
            found = f"{pixels.bits_stored} bits up to bit {pixels.high_bit}"
            raise _refuse("Compressed pixels with an odd high bit cannot be decoded", where, found)
        options = {
            "syntax": part.header.syntax,
            "rows": part.size[0],
            "columns": part.size[1],
            "number_of_frames": 1,
            "samples_per_pixel": 1,
            "photometric_interpretation": "MONOCHROME2",
            "bits_allocated": pixels.bits_allocated,
            "bits_stored": pixels.bits_stored,
            "pixel_representation": int(pixels.is_signed),
            "pixel_keyword": "PixelData",
        }
        num_bytes = part.size[0] * part.size[1] * pixels.bits_allocated // 8
        with self._lock:
            status, data = self._ask(json.dumps(options).encode(), frame, num_bytes)
        if status == 2:
            next_step = "pip install python-gdcm pylibjpeg pylibjpeg-openjpeg"
            raise _refuse("There is no decoder", where, part.header.syntax[:64], next_step)
        if status or len(data) != num_bytes:
            raise _refuse(
                "Compressed pixels cannot be decoded",
                where,
                "a decoder that ended" if status < 0 else "a stream that does not decode",
                "copy the file from its source again",
            )
        return data


_IDLE: list[FrameDecoder] = []


@contextlib.contextmanager
def lend_decoder() -> Iterator[FrameDecoder]:
    """Lend a decoder, to one series at a time; its child, half a second to start, is kept after it.

    A child that is not whole (`FrameDecoder.is_whole`) ends with its series.
    """
    try:
        decoder = _IDLE.pop()  # one operation: two threads never get the same
    except IndexError:
        decoder = FrameDecoder()
    if not decoder.is_whole:  # ended by somebody else while it was idle
        decoder.close()
    try:
        yield decoder
    finally:
        if decoder.is_whole and len(_IDLE) < MAX_IDLE:
            _IDLE.append(decoder)
        else:
            decoder.close()


def _close_idle() -> None:
    while _IDLE:
        _IDLE.pop().close()


def _leave_idle() -> None:
    """Forget the parent's children in a process that was forked: two must not talk to one."""
    while _IDLE:
        _IDLE.pop().leave()


atexit.register(_close_idle)
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_leave_idle)
