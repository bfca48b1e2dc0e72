"""Memory that a large tensor leaves is kept for the next one, not handed back to the system."""

from __future__ import annotations

import ctypes
import sys

# <malloc.h> of glibc: option and value
_OPTIONS = {
    -4: 0,  # M_MMAP_MAX: no mapping of its own for a large block, which ends with it
    -1: -1,  # M_TRIM_THRESHOLD: the heap never shrinks
    -8: 1,  # M_ARENA_MAX: one heap for all threads
}
# The same for a process that is yet to start, of any language: glibc reads these.
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "MALLOC_ARENA_MAX": "1",
}


def keep_freed_memory() -> bool:
    """Makes the process keep the memory that is freed, from now on and for all of its code.

    glibc maps every tensor above 32 MiB anew, and the system clears its pages one by one when they
    are first touched: a U-Net of 64 to 1024 channels on one image of 512x512 touches 3 GB so.
    The process then stays as large as it ever was; call it where inference is all that it does.

    Returns:
        Whether it was possible: on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    return set_option is not None and all(set_option(*pair) for pair in _OPTIONS.items())
