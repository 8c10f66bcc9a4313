"""Memory of large temporaries, kept instead of given back to the system after every operation."""

from __future__ import annotations

import ctypes
import functools

# malloc.h of glibc
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


@functools.cache
def keep_heap() -> bool:
    """Tell glibc to keep freed memory for the next tensor: its pages are otherwise zeroed by the kernel again and again,
    which took a tenth to a third of a small model's pass on CPU. The process keeps the memory of its largest moment.

    False where there is no glibc to be told.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    done = [mallopt(M_MMAP_THRESHOLD, 2**30), mallopt(M_TRIM_THRESHOLD, 2**31 - 1), mallopt(M_TOP_PAD, 2**26)]
    return all(done)
