"""Memory for compiled kernels that starts where a cache line does: vectors that cross lines cost two reads each."""

from __future__ import annotations

import numpy as np
from numba import njit

LINE = 64


@njit(cache=True, nogil=True)
def aligned(size):
    """``size`` bytes, not set to anything, at a multiple of `LINE`; take it by ``.view`` of another type."""
    room = np.empty(size + LINE, dtype=np.uint8)
    skip = (LINE - room.ctypes.data % LINE) % LINE
    return room[skip : skip + size]
