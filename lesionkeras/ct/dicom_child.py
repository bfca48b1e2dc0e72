"""Decodes compressed frames in a process of its own: `python dicom_child.py MAX_MIB`.

The decoders are native code fed with bytes from anywhere: one that crashes, runs on or takes all
memory ends this process, not the caller's.  Started as a file so that it imports nothing but
pydicom and its decoders.

A request on stdin is a length and JSON (`syntax` and pydicom's image options), a length and a
frame; the answer on stdout is one byte (0 decoded, 1 refused, 2 no decoder), a length and pixels.
"""

from __future__ import annotations

import contextlib
import json
import logging
import struct
import sys
import warnings
from typing import Any, BinaryIO

with contextlib.suppress(ImportError):  # not on Windows, where only the caller's clock limits
    import resource

CPU_S = 2.0  # a frame, and as much again for each million pixels; a slice takes some .03 s
READY = b"R"


def _limit_memory(max_mib: int) -> None:
    """Allow so much more address space than the imported libraries already take."""
    with contextlib.suppress(NameError, OSError, ValueError):
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            taken = int(file.read().split()[0]) * resource.getpagesize()
        limit = taken + (max_mib << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_time(num_pixels: int) -> None:
    """Let the system end this process if a frame takes too much processor time."""
    with contextlib.suppress(NameError, OSError, ValueError):
        usage = resource.getrusage(resource.RUSAGE_SELF)
        used = usage.ru_utime + usage.ru_stime
        limit = int(used + CPU_S * (1 + num_pixels / 1e6)) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def _read_block(file: BinaryIO) -> bytes | None:
    head = file.read(8)
    return file.read(struct.unpack("<Q", head)[0]) if len(head) == 8 else None


def decode(options: dict[str, Any], frame: bytes) -> tuple[int, bytes]:
    """Decode one frame.

    Args:
        options: `syntax`, and what pydicom's decoder wants to know about the image.
        frame: The compressed frame.

    Returns:
        Status, and the pixels as little endian words.
    """
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(options.pop("syntax"))
        if not decoder.is_available:
            return 2, b""
        image, _ = decoder.as_array(encapsulate([frame]), index=0, raw=True, **options)
        size = (options["rows"], options["columns"])
        bits = options["bits_allocated"]
        if image.shape != size or image.dtype.itemsize * 8 != bits or image.dtype.kind not in "iu":
            return 1, b""
        return 0, image.astype(image.dtype.newbyteorder("<")).tobytes()
    except NotImplementedError:
        return 2, b""
    except Exception:  # whatever a decoder raises means the same: it could not
        return 1, b""


def main() -> None:
    """Answer requests until stdin ends."""
    import pydicom.pixels  # noqa: F401

    logging.disable(logging.CRITICAL)  # pydicom's messages quote values
    warnings.simplefilter("ignore")
    _limit_memory(int(sys.argv[1]))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(READY)
    answers.flush()
    while (block := _read_block(requests)) is not None:
        options = json.loads(block)
        frame = _read_block(requests) or b""
        _limit_time(options["rows"] * options["columns"])
        status, pixels = decode(options, frame)
        answers.write(bytes([status]) + struct.pack("<Q", len(pixels)) + pixels)
        answers.flush()


if __name__ == "__main__":
    main()
