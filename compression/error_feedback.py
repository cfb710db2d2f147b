"""Encoders: codecs with a memory of what they left out."""

import threading
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import torch

from ..protos.errors import CodecError
from .codec import Bytes, Codec, Floats, mix
from .kernels import sum_of_squares


class Encoder(Protocol):
    """Encodes the blocks of one worker. Different keys may be used by different threads at the same time."""

    codec: Codec

    def encode(self, key: int, values: Floats, out: Bytes, seed: int) -> int:
        """Encode block `key` into `out` and return the bytes written; see `Codec.encode`.

        Encoding again before `commit` replaces the first attempt: it reads the same committed residual.
        `seed` has to differ between steps and between workers; the key is mixed in here.
        """

    def commit(self, keys: Iterable[int]) -> None:
        """What these blocks last encoded was applied: their pending residual becomes the committed one."""

    def discard(self, keys: Iterable[int]) -> None:
        """What these blocks last encoded will never be applied: forget the pending residual."""

    def residual_norm(self) -> float:
        """Euclidean norm of all committed residuals, in gradient units."""

    def state_dict(self) -> dict[int, torch.Tensor]:
        """Committed residuals by key, float32 [n], copied."""

    def load_state_dict(self, state: Mapping[int, torch.Tensor]) -> None:
        """Replace the committed residuals by copies; pending ones are forgotten."""


class Memoryless:
    """For lossless and unbiased codecs: nothing is remembered."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def encode(self, key: int, values: Floats, out: Bytes, seed: int) -> int:
        return self.codec.encode(values, out, seed=_seed_of(key, seed))

    def commit(self, keys: Iterable[int]) -> None:
        pass

    def discard(self, keys: Iterable[int]) -> None:
        pass

    def residual_norm(self) -> float:
        return 0.0

    def state_dict(self) -> dict[int, torch.Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[int, torch.Tensor]) -> None:
        pass


class _Buffers:
    """The residual of one block. `encoded` says that pending belongs to a frame whose outcome is open."""

    __slots__ = ("committed", "encoded", "pending")

    def __init__(self, committed: Floats) -> None:
        self.committed = committed
        self.pending: Floats = np.empty_like(committed)
        self.encoded = False


class ErrorFeedback:
    """Adds to each block what its earlier frames left out.

    Over applied steps, sum of values = sum of decoded frames + committed residual. Holds two float32 buffers
    for each block, allocated when the block is first encoded.
    """

    def __init__(self, codec: Codec) -> None:
        if codec.contract.delta(1) is None:
            raise CodecError(
                f"codec {codec.spec!r} does not contract: around it error feedback would grow without bound; "
                "use it without error feedback, or a biased codec"
            )
        self.codec = codec
        self._blocks: dict[int, _Buffers] = {}
        self._lock = threading.Lock()

    def encode(self, key: int, values: Floats, out: Bytes, seed: int) -> int:
        buffers = self._buffers(key, values.size)
        # Until encoding succeeds the pending buffer belongs to no frame.
        buffers.encoded = False
        num_bytes = self.codec.encode(
            values, out, seed=_seed_of(key, seed), residual=(buffers.committed, buffers.pending)
        )
        buffers.encoded = True
        return num_bytes

    def commit(self, keys: Iterable[int]) -> None:
        for key in keys:
            buffers = self._blocks.get(key)
            if buffers is not None and buffers.encoded:
                buffers.committed, buffers.pending = buffers.pending, buffers.committed
                buffers.encoded = False

    def discard(self, keys: Iterable[int]) -> None:
        for key in keys:
            buffers = self._blocks.get(key)
            if buffers is not None:
                buffers.encoded = False

    def residual_norm(self) -> float:
        with self._lock:
            blocks = list(self._blocks.values())
        return float(sum(sum_of_squares(buffers.committed) for buffers in blocks) ** 0.5)

    def state_dict(self) -> dict[int, torch.Tensor]:
        with self._lock:
            blocks = dict(self._blocks)
        return {key: torch.from_numpy(buffers.committed.copy()) for key, buffers in blocks.items()}

    def load_state_dict(self, state: Mapping[int, torch.Tensor]) -> None:
        loaded = {key: _Buffers(_floats(residual)) for key, residual in state.items()}
        with self._lock:
            self._blocks = loaded

    def _buffers(self, key: int, num_elements: int) -> _Buffers:
        buffers = self._blocks.get(key)
        if buffers is None:
            with self._lock:
                buffers = self._blocks.setdefault(key, _Buffers(np.zeros(num_elements, np.float32)))
        if buffers.committed.size != num_elements:
            raise ValueError(
                f"block {key} has {num_elements} elements, its residual {buffers.committed.size}: "
                "the residual belongs to another plan"
            )
        return buffers


def _floats(residual: torch.Tensor) -> Floats:
    floats: Floats = residual.detach().to("cpu", torch.float32).flatten().numpy().copy()
    return floats


def encoder_for(codec: Codec) -> Encoder:
    """Error feedback for a codec that is lossy and contracts, else none."""
    if codec.lossless or codec.contract.delta(1) is None:
        return Memoryless(codec)
    return ErrorFeedback(codec)


def _seed_of(key: int, seed: int) -> int:
    return (seed & 0xFFFFFFFFFFFFFFFF) ^ mix(key & 0xFFFFFFFF) << 32 ^ mix(~key & 0xFFFFFFFF)
