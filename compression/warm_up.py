"""Compiling ahead of the first step."""

from collections.abc import Iterator
from contextlib import contextmanager

import filelock
import numpy as np

from .checksum import checksum
from .codec import Codec, Floats
from .frame import parse_frame
from .kernels import CACHE_FOLDER

_SMALL, _LARGE = 32, 8192
"""Elements: a block whose sparse frame has a bitmap, and one that is sampled and has packed gaps."""


_LOCK_PATIENCE_SECONDS = 300.0


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Only one process of this user compiles; the others wait and then find its kernels in the cache.

    All processes of a job start together and need the same kernels: on few cores each would take as many times
    longer as there are processes. A process that waits too long, or may not lock, compiles for itself.
    """
    lock = filelock.FileLock(CACHE_FOLDER / "compiling.lock")
    try:
        lock.acquire(timeout=_LOCK_PATIENCE_SECONDS)
    except (OSError, filelock.Timeout):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def warm_up(codec: Codec) -> None:
    """Compile, or load from the disk cache, every kernel of the codec and its frames. Takes seconds once."""
    with one_at_a_time():
        checksum(np.zeros(_SMALL, np.float32))
        _exercise_all(codec)


def _exercise_all(codec: Codec) -> None:
    for member in {codec, codec.dense()}:
        for num_elements in (_SMALL, _LARGE):
            # With a zero and without: some codecs make another kind of frame then.
            for first in (0, 1):
                _exercise(member, np.arange(first, first + num_elements, dtype=np.float32))


def _exercise(codec: Codec, values: Floats) -> None:
    out = np.empty(codec.frame_bound(values.size), np.uint8)
    codec.encode(values, out)
    num_bytes = codec.encode(values, out, residual=(np.zeros_like(values), np.empty_like(values)))
    frame = parse_frame(out[:num_bytes].tobytes(), values.size)
    total = np.empty_like(values)
    frame.decode_into(total)
    frame.add_to(total)
    frame.sent_positions()
