"""Error feedback: each frame makes up for what the frames before it left out.

Seide et al. 2014 (1-bit SGD); Karimireddy et al. 2019, "Error Feedback Fixes SignSGD", for the proof.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from ..protos.errors import CodecError
from .block_memory import BlockMemory, State
from .codec import Bytes, Codec, Floats
from .encoder import Encoder, Memory, NoMemory, block_seed

RESIDUAL = "residual"


@dataclass(frozen=True, slots=True)
class WithErrorFeedback:
    """For codecs whose residual stays bounded."""

    @property
    def spec(self) -> str:
        return "ef"

    @property
    def momentum(self) -> float:
        return 0.0

    @property
    def num_rows(self) -> int:
        return 1

    def codecs(self, codec: Codec) -> tuple[Codec, ...]:
        if not codec.contract.admits_error_feedback:
            raise CodecError(
                f"{codec.spec} does not contract: around it error feedback would grow without bound; "
                "use it without error feedback, or a biased codec"
            )
        return (codec,)

    def alongside(self, codec: Codec) -> Memory | None:
        return None

    def encoder(self, codec: Codec) -> Encoder:
        return ErrorFeedback(codec)


class ResidualEncoder:
    """What encoders share that keep a residual, and perhaps more, in a `BlockMemory`."""

    def __init__(self, memory: BlockMemory) -> None:
        self._memory = memory

    def commit(self, keys: Iterable[int]) -> None:
        self._memory.commit(keys)

    def discard(self, keys: Iterable[int]) -> None:
        self._memory.discard(keys)

    def residual_norm(self) -> float:
        return self._memory.norm(RESIDUAL)

    def state_dict(self) -> dict[int, State]:
        return self._memory.state_dict()

    def load_state_dict(self, state: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
        self._memory.load_state_dict(state)


class ErrorFeedback(ResidualEncoder):
    """Adds to each block what its earlier frames left out.

    Over applied steps, sum of values = sum of decoded frames + committed residual. Holds two float32 buffers
    for each block, allocated when the block is first encoded. Raises CodecError for a codec that does not
    contract.
    """

    def __init__(self, codec: Codec) -> None:
        super().__init__(BlockMemory(RESIDUAL))
        (self._codec,) = WithErrorFeedback().codecs(codec)

    def encode(self, key: int, values: Floats, out: Bytes, seed: int) -> int:
        state = self._memory.open(key, values.size)
        residual = (state.committed[0], state.pending[0])
        num_bytes = self._codec.encode(values, out, seed=block_seed(key, seed), residual=residual, memo=state.memo)
        state.encoded = True
        return num_bytes


def default_memory(codec: Codec) -> Memory:
    """Error feedback for a codec that loses something and admits it, else none."""
    if codec.lossless or not codec.contract.admits_error_feedback:
        return NoMemory()
    return WithErrorFeedback()
