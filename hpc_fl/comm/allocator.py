"""Freed memory stays with the process, so that the next round need not ask the system for it again.

glibc gives the end of its heap back as soon as twice the largest block is free there, and takes blocks of up
to 32 MB from the system one by one. Every round then touches new pages: 200 faults and a third of its time
where a round takes a millisecond, in one process of three (it depends on what lies behind). Imports the
standard library only.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

KEPT_BYTES: Final = 128 << 20
"""So much may lie free at the end of the heap before the system gets it back."""

SINGLE_BYTES: Final = 32 << 20
"""Blocks from this size on are the system's, as they may be in glibc."""

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
"""Names of mallopt(3)."""

_USERS_OWN: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Tells glibc, and says whether it was told: not where the user has set an option of malloc by the
    environment, nor where the C library has no mallopt. Another allocator in its place is not touched.
    """
    if any(name in os.environ for name in _USERS_OWN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    return bool(mallopt(_MMAP_THRESHOLD, SINGLE_BYTES) and mallopt(_TRIM_THRESHOLD, KEPT_BYTES))
