"""Memory with an unreadable page behind it, so that one byte too far ends the process instead of going unseen."""

import ctypes
import mmap
import sys

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

_NO_ACCESS = 0


class GuardedMemory:
    """Room for `num_bytes`. Where the system has no `mprotect`, nothing guards its end."""

    def __init__(self, num_bytes: int) -> None:
        pages = -(-num_bytes // mmap.PAGESIZE) + 1
        self._usable = np.frombuffer(mmap.mmap(-1, pages * mmap.PAGESIZE), np.uint8)[: -mmap.PAGESIZE]
        if sys.platform != "win32":
            end = self._usable.ctypes.data + self._usable.size
            protect = ctypes.CDLL(None, use_errno=True).mprotect
            if protect(ctypes.c_void_p(end), ctypes.c_size_t(mmap.PAGESIZE), _NO_ACCESS):
                raise OSError(ctypes.get_errno(), "cannot protect the page behind the memory")

    def tail(self, num_bytes: int) -> Bytes:
        """The last `num_bytes`, which end at the guard."""
        if num_bytes > self._usable.size:
            raise ValueError(f"{num_bytes} bytes do not fit the {self._usable.size} of this memory")
        return self._usable[self._usable.size - num_bytes :]
