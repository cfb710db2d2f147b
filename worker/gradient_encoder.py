"""Which codec encodes which block of a worker's gradients, and what the codecs left out so far."""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from ..compression.codec import Codec
from ..compression.error_feedback import Encoder, encoder_for
from ..compression.spec import parse_codec
from .plan import ShardingPlan, TableEntry

SMALL_TENSOR_ELEMENTS = 1024

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class GradientEncoder:
    """The job's push codec, with its dense form for small and one-dimensional tensors.

    Different blocks may be encoded by different threads at once. A frame's residual stays pending until `commit`.
    """

    def __init__(self, plan: ShardingPlan, push_codec: str) -> None:
        codec = parse_codec(push_codec)
        dense = codec.dense()
        main = encoder_for(codec)
        small = main if dense == codec else encoder_for(dense)
        choice = [small if is_small(entry) else main for entry in plan.entries]
        self._encoders = [main] if small is main else [main, small]
        self._of_block: list[Encoder] = [choice[block.entry] for block in plan.blocks]
        self.bounds = [self._of_block[block.id].codec.frame_bound(block.num_elements) for block in plan.blocks]
        """Most bytes of each block's frame."""

    def codec(self, block: int) -> Codec:
        """The codec of a block."""
        return self._of_block[block].codec

    def encode(self, block: int, values: Floats, out: Bytes, seed: int) -> int:
        """Encodes values plus residual into `out`; returns the bytes written. Raises NonFiniteError."""
        return self._of_block[block].encode(block, values, out, seed)

    def commit(self, blocks: Iterable[int]) -> None:
        """These frames count."""
        for encoder, keys in self._by_encoder(blocks):
            encoder.commit(keys)

    def discard(self, blocks: Iterable[int]) -> None:
        """These frames do not count: their gradient is dropped, the residual is as before."""
        for encoder, keys in self._by_encoder(blocks):
            encoder.discard(keys)

    def residual_norm(self) -> float:
        """Euclidean norm of everything left out so far, in gradient units."""
        return float(sum(encoder.residual_norm() ** 2 for encoder in self._encoders) ** 0.5)

    def state_dict(self) -> dict[int, torch.Tensor]:
        """Committed residuals by block id."""
        return {key: value for encoder in self._encoders for key, value in encoder.state_dict().items()}

    def load_state_dict(self, state: Mapping[int, torch.Tensor]) -> None:
        """Replaces the residuals."""
        for encoder in self._encoders:
            own = {key: value for key, value in state.items() if self._of_block[key] is encoder}
            encoder.load_state_dict(own)

    def _by_encoder(self, blocks: Iterable[int]) -> list[tuple[Encoder, list[int]]]:
        keys = list(blocks)
        return [(encoder, [key for key in keys if self._of_block[key] is encoder]) for encoder in self._encoders]


def is_small(entry: TableEntry) -> bool:
    """Whether a tensor is too small, or too important, to be sent sparsely."""
    return len(entry.shape) < 2 or entry.num_elements < SMALL_TENSOR_ELEMENTS


def step_seed(job_seed: int, worker_id: int, step: int) -> int:
    """64-bit seed of stochastic rounding; the encoder mixes in the block."""
    text = f"{job_seed}/{worker_id}/{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
