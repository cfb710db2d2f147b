"""What encoders do: codecs for the blocks of one worker, with or without a memory of earlier frames."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from .block_memory import State
from .codec import Bytes, Codec, Floats, Memo, mix


class Encoder(Protocol):
    """Encodes the blocks of one worker. Different keys may be used by different threads at the same time."""

    def encode(self, key: int, values: Floats, out: Bytes, seed: int) -> int:
        """Encode block `key` into `out` and return the bytes written; see `Codec.encode`.

        Encoding again before `commit` replaces the first attempt: it reads the same committed memory.
        `seed` has to differ between steps and between workers; the key is mixed in here.
        """

    def commit(self, keys: Iterable[int]) -> None:
        """What these blocks last encoded was applied: their pending memory becomes the committed one."""

    def discard(self, keys: Iterable[int]) -> None:
        """What these blocks last encoded will never be applied: forget the pending memory."""

    def residual_norm(self) -> float:
        """Euclidean norm of everything that frames left out so far, in gradient units."""

    def state_dict(self) -> dict[int, State]:
        """Committed memory by key: named tensors, copied."""

    def load_state_dict(self, state: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
        """Replace the committed memory by copies; what is pending is forgotten."""


class Memory(Protocol):
    """What an encoder remembers: a hashable value, one part of a specification."""

    @property
    def spec(self) -> str:
        """Canonical first part of a specification, e.g. `ef`."""

    @property
    def momentum(self) -> float:
        """Momentum that this memory applies on the worker, so that the servers must not; 0 for none."""

    @property
    def num_rows(self) -> int:
        """float32 numbers remembered of each element; encoders keep two copies (see `BlockMemory`)."""

    def codecs(self, codec: Codec) -> tuple[Codec, ...]:
        """Every codec that frames may be written with over all steps; the last is `codec`.

        Raises CodecError if this memory does not go with the codec, with the reason.
        """

    def alongside(self, codec: Codec) -> "Memory | None":
        """For other parameters of a job that has this memory; None for what their codec has by default."""

    def encoder(self, codec: Codec) -> Encoder:
        """A new encoder."""


@dataclass(frozen=True, slots=True)
class NoMemory:
    """What a frame leaves out is lost."""

    @property
    def spec(self) -> str:
        return "none"

    @property
    def momentum(self) -> float:
        return 0.0

    @property
    def num_rows(self) -> int:
        return 0

    def codecs(self, codec: Codec) -> tuple[Codec, ...]:
        return (codec,)

    def alongside(self, codec: Codec) -> Memory | None:
        return self

    def encoder(self, codec: Codec) -> Encoder:
        return Memoryless(codec)


class Memoryless:
    """For lossless and unbiased codecs: nothing is remembered."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._memos: dict[int, Memo] = {}

    def encode(self, key: int, values: Floats, out: Bytes, seed: int) -> int:
        memo = self._memos.setdefault(key, Memo())
        return self._codec.encode(values, out, seed=block_seed(key, seed), memo=memo)

    def commit(self, keys: Iterable[int]) -> None:
        pass

    def discard(self, keys: Iterable[int]) -> None:
        pass

    def residual_norm(self) -> float:
        return 0.0

    def state_dict(self) -> dict[int, State]:
        return {}

    def load_state_dict(self, state: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
        pass


def block_seed(key: int, seed: int) -> int:
    """The 64-bit seed of one block, from that of a worker's step."""
    return (seed & 0xFFFFFFFFFFFFFFFF) ^ mix(key & 0xFFFFFFFF) << 32 ^ mix(~key & 0xFFFFFFFF)
