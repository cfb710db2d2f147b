"""Encoders of blocks that lie on a device, with their memory beside them: the twins of `Memoryless` and `ErrorFeedback`."""

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..codec import Codec
from ..encoder import NoMemory, block_seed
from ..encoder_spec import EncoderSpec
from ..error_feedback import RESIDUAL, WithErrorFeedback
from .device_codec import DeviceCodec, device_codec

State = dict[str, Tensor]
CodecOf = Callable[[Codec, torch.device], DeviceCodec]

_NUM_APPLIED = "num_applied"


@runtime_checkable
class DeviceEncoder(Protocol):
    """`Encoder` for tensors: encodes the blocks of one worker where they lie. Different keys may be used by different
    threads at the same time."""

    def encode_on_device(self, key: int, values: Tensor, seed: int) -> Tensor:
        """The frame of block `key`, uint8 [num_bytes] on the device of `values`, float32 [n], contiguous.

        Work is queued on the caller's current stream, and has ended when this returns but for the last copy of a
        frame. Encoding again before `commit` replaces the first attempt. Raises NonFiniteError.
        """

    def commit(self, keys: Iterable[int]) -> None:
        """What these blocks last encoded was applied: their pending memory becomes the committed one."""

    def discard(self, keys: Iterable[int]) -> None:
        """What these blocks last encoded will never be applied: forget the pending memory."""

    def residual_norm(self) -> float:
        """Euclidean norm of everything that frames left out so far, in gradient units."""

    def state_dict(self) -> dict[int, State]:
        """Committed memory by key, copied to the CPU: what `Encoder.state_dict` gives, so that either loads it."""

    def load_state_dict(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Replace the committed memory by copies; what is pending is forgotten."""


def device_encoder(spec: EncoderSpec, codec_of: CodecOf = device_codec) -> DeviceEncoder | None:
    """The encoder of a specification for tensors on devices; None if its memory has no such form, and blocks have to be
    copied to the host first."""
    match spec.memory:
        case NoMemory():
            return DeviceMemoryless(spec.codec, codec_of)
        case WithErrorFeedback():
            return DeviceErrorFeedback(spec.codec, codec_of)
    return None


class DeviceMemoryless:
    """Nothing is remembered."""

    def __init__(self, codec: Codec, codec_of: CodecOf = device_codec) -> None:
        self._codec = codec
        self._codec_of = codec_of

    def encode_on_device(self, key: int, values: Tensor, seed: int) -> Tensor:
        return self._codec_of(self._codec, values.device).encode(values, seed=block_seed(key, seed))

    def commit(self, keys: Iterable[int]) -> None:
        pass

    def discard(self, keys: Iterable[int]) -> None:
        pass

    def residual_norm(self) -> float:
        return 0.0

    def state_dict(self) -> dict[int, State]:
        return {}

    def load_state_dict(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        pass


class _Block:
    """Two copies of a residual, float32 [n]. `encoded` says that pending belongs to a frame whose outcome is open."""

    __slots__ = ("committed", "encoded", "num_applied", "pending")

    def __init__(self, committed: Tensor, num_applied: int = 0) -> None:
        self.committed = committed
        self.pending = torch.empty_like(committed)
        self.encoded = False
        self.num_applied = num_applied


class DeviceErrorFeedback:
    """Adds to each block what its earlier frames left out. Holds two float32 tensors for each block, on its device; they
    follow a block that moves to another. Raises CodecError for a codec that does not contract."""

    def __init__(self, codec: Codec, codec_of: CodecOf = device_codec) -> None:
        (self._codec,) = WithErrorFeedback().codecs(codec)
        self._codec_of = codec_of
        self._blocks: dict[int, _Block] = {}
        self._lock = threading.Lock()

    def encode_on_device(self, key: int, values: Tensor, seed: int) -> Tensor:
        block = self._open(key, values)
        frame = self._codec_of(self._codec, values.device).encode(
            values, seed=block_seed(key, seed), residual=(block.committed, block.pending)
        )
        block.encoded = True
        return frame

    def commit(self, keys: Iterable[int]) -> None:
        for key in keys:
            block = self._blocks.get(key)
            if block is not None and block.encoded:
                block.committed, block.pending = block.pending, block.committed
                block.num_applied += 1
                block.encoded = False

    def discard(self, keys: Iterable[int]) -> None:
        for key in keys:
            block = self._blocks.get(key)
            if block is not None:
                block.encoded = False

    def residual_norm(self) -> float:
        squares = [float(block.committed.double().square().sum()) for block in self._snapshot().values()]
        return math.sqrt(sum(squares))

    def state_dict(self) -> dict[int, State]:
        return {
            key: {
                RESIDUAL: block.committed.to("cpu", copy=True),
                _NUM_APPLIED: torch.tensor(block.num_applied),
            }
            for key, block in self._snapshot().items()
        }

    def load_state_dict(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        loaded = {
            key: _Block(
                saved[RESIDUAL].detach().to(torch.float32, copy=True).reshape(-1), int(saved.get(_NUM_APPLIED, 0))
            )
            for key, saved in state.items()
            if RESIDUAL in saved
        }
        with self._lock:
            self._blocks = loaded

    def _open(self, key: int, values: Tensor) -> _Block:
        block = self._blocks.get(key)
        if block is None:
            with self._lock:
                block = self._blocks.setdefault(key, _Block(torch.zeros_like(values)))
        if block.committed.numel() != values.numel():
            raise ValueError(
                f"block {key} has {values.numel()} elements, its residual {block.committed.numel()}: the residual "
                "belongs to another plan"
            )
        if block.committed.device != values.device:
            block.committed = block.committed.to(values.device)
            block.pending = torch.empty_like(block.committed)
        block.encoded = False
        return block

    def _snapshot(self) -> dict[int, _Block]:
        with self._lock:
            return dict(self._blocks)
