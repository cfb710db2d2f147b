"""Buffers that each thread has for itself."""

import threading

import numpy as np
from numpy.typing import NDArray


class ThreadScratch:
    """One FP32 buffer per thread, which grows and is used again. What is in it holds until the thread asks again."""

    def __init__(self) -> None:
        self._local = threading.local()

    def take(self, num_elements: int) -> NDArray[np.float32]:
        """The thread's buffer; float32 [num_elements], with anything in it."""
        buffer: NDArray[np.float32] | None = getattr(self._local, "buffer", None)
        if buffer is None or buffer.size < num_elements:
            buffer = self._local.buffer = np.empty(num_elements, dtype=np.float32)
        return buffer[:num_elements]
