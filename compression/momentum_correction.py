"""Momentum kept by the worker: for sparse frames with momentum correction, for dense ones as it is.

A server that applies momentum to sparse gradients treats an element that waited for many steps as one that
came at once. So here the worker accumulates velocities instead of gradients and sends the largest sums, and
stops the velocity of an element that was sent: Lin et al. 2018, "Deep Gradient Compression", sections 3.1
(momentum correction), 3.2 (momentum factor masking) and 3.3 (warm-up of the density).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ..protos.errors import CodecError
from .arguments import decimal
from .block_memory import BlockMemory, State
from .codec import Bytes, Codec, Floats, frozen
from .encoder import Encoder, Memory, block_seed
from .error_feedback import RESIDUAL, ResidualEncoder, default_memory
from .frame import parse_frame
from .header import MAX_ELEMENTS
from .momentum_kernels import advance_velocity, stop

VELOCITY = "velocity"

_WARM_UP_FACTOR = 0.25


@dataclass(frozen=True, slots=True)
class WithMomentumCorrection:
    """For codecs that leave elements out. Over its first `num_warm_up_steps` frames that count, a block's density
    falls to the codec's: 0.25, 0.0625, ..., each for an equal part of the steps."""

    momentum: float
    num_warm_up_steps: int = 0

    @property
    def spec(self) -> str:
        steps = f":{self.num_warm_up_steps}" if self.num_warm_up_steps else ""
        return f"dgc:{decimal(self.momentum)}{steps}"

    @property
    def num_rows(self) -> int:
        return 2

    def codecs(self, codec: Codec) -> tuple[Codec, ...]:
        if not is_sparse(codec):
            raise CodecError(
                f"dgc is for codecs that leave elements out, e.g. topk:0.01+fp16; {codec.spec} sends every element: "
                f"let the optimizer have the momentum, or write {WithLocalMomentum(self.momentum).spec}+{codec.spec}"
            )
        if not codec.contract.admits_error_feedback:
            raise CodecError(
                f"dgc sends later what a frame leaves out; {codec.spec} does not contract, so that would grow "
                "without bound; use topk or threshold"
            )
        return (*self._warm_up_codecs(codec), codec)

    def alongside(self, codec: Codec) -> Memory | None:
        return _with_momentum(self.momentum, self.num_warm_up_steps, codec)

    def encoder(self, codec: Codec) -> Encoder:
        return MomentumCorrection(self, codec)

    def _warm_up_codecs(self, codec: Codec) -> list[Codec]:
        if not self.num_warm_up_steps:
            return []
        if not _has_density(codec):
            raise CodecError(
                f"dgc with warm-up lowers the density of topk or unscaled randk; {codec.spec} has none, so leave out "
                f"the number of steps: {WithMomentumCorrection(self.momentum).spec}+{codec.spec}"
            )
        return list(_denser(codec))


@dataclass(frozen=True, slots=True)
class WithLocalMomentum:
    """For codecs that send every element, so that all parameters of a job with momentum correction have the same
    momentum. Around others what was sent would go on moving and be sent again: they need momentum correction."""

    momentum: float

    @property
    def spec(self) -> str:
        return f"momentum:{decimal(self.momentum)}"

    @property
    def num_rows(self) -> int:
        return 1

    def codecs(self, codec: Codec) -> tuple[Codec, ...]:
        if is_sparse(codec):
            other = codec.spec if codec.contract.admits_error_feedback else "topk:0.01+fp16"
            raise CodecError(
                f"momentum is for codecs that send every element, and {codec.spec} leaves some out: "
                f"write {WithMomentumCorrection(self.momentum).spec}+{other}"
            )
        return (codec,)

    def alongside(self, codec: Codec) -> Memory | None:
        return _with_momentum(self.momentum, 0, codec)

    def encoder(self, codec: Codec) -> Encoder:
        return LocalMomentum(self.momentum, default_memory(codec).encoder(codec))


class MomentumCorrection(ResidualEncoder):
    """Deep gradient compression of each block: u' = m u + x, C(v + u') is sent, v' = v + u' - D is left, and u' stops
    where something was sent.

    Over applied steps, sum of the velocities u' = sum of decoded frames + committed residual v. Holds four
    float32 buffers for each block, allocated when the block is first encoded.
    """

    def __init__(self, memory: WithMomentumCorrection, codec: Codec) -> None:
        super().__init__(BlockMemory(VELOCITY, RESIDUAL))
        self._codecs = memory.codecs(codec)
        self._momentum = np.float32(memory.momentum)
        self._num_warm_up_steps = memory.num_warm_up_steps

    def encode(self, key: int, values: Floats, out: Bytes, seed: int) -> int:
        state = self._memory.open(key, values.size)
        velocity, residual = frozen(state.committed)
        next_velocity, left = state.pending
        advance_velocity(frozen(values), velocity, self._momentum, next_velocity)
        num_bytes = self._codec_after(state.num_applied).encode(
            next_velocity, out, seed=block_seed(key, seed), residual=(residual, left), memo=state.memo
        )
        stop(parse_frame(out[:num_bytes].data, values.size).sent_positions(), next_velocity)
        state.encoded = True
        return num_bytes

    def _codec_after(self, num_applied: int) -> Codec:
        if num_applied >= self._num_warm_up_steps:
            return self._codecs[-1]
        return self._codecs[num_applied * (len(self._codecs) - 1) // self._num_warm_up_steps]


class LocalMomentum:
    """Gives another encoder u' = m u + x instead of x. Holds two float32 buffers for each block."""

    def __init__(self, momentum: float, encoder: Encoder) -> None:
        self._momentum = np.float32(momentum)
        self._encoder = encoder
        self._memory = BlockMemory(VELOCITY)

    def encode(self, key: int, values: Floats, out: Bytes, seed: int) -> int:
        state = self._memory.open(key, values.size)
        (next_velocity,) = state.pending
        advance_velocity(frozen(values), frozen(state.committed[0]), self._momentum, next_velocity)
        num_bytes = self._encoder.encode(key, next_velocity, out, seed)
        state.encoded = True
        return num_bytes

    def commit(self, keys: Iterable[int]) -> None:
        once = list(keys)
        self._memory.commit(once)
        self._encoder.commit(once)

    def discard(self, keys: Iterable[int]) -> None:
        once = list(keys)
        self._memory.discard(once)
        self._encoder.discard(once)

    def residual_norm(self) -> float:
        return self._encoder.residual_norm()

    def state_dict(self) -> dict[int, State]:
        inner = self._encoder.state_dict()
        return {key: {**state, **inner.get(key, {})} for key, state in self._memory.state_dict().items()}

    def load_state_dict(self, state: Mapping[int, Mapping[str, torch.Tensor]]) -> None:
        self._memory.load_state_dict(state)
        self._encoder.load_state_dict(state)


def is_sparse(codec: Codec) -> bool:
    """Whether frames may leave elements out, of the largest block at least."""
    fewest, _ = codec.contract.band(MAX_ELEMENTS)
    return fewest < MAX_ELEMENTS


def _with_momentum(momentum: float, num_warm_up_steps: int, codec: Codec) -> Memory | None:
    """The memory that gives a codec this momentum; None, for what it has by default, if that is 0."""
    if not momentum:
        return None
    if not is_sparse(codec):
        return WithLocalMomentum(momentum)
    return WithMomentumCorrection(momentum, num_warm_up_steps if _has_density(codec) else 0)


def _has_density(codec: Codec) -> bool:
    return codec.with_density(_WARM_UP_FACTOR) is not None


def _denser(codec: Codec) -> Iterator[Codec]:
    """The codecs of the warm-up, which send more than `codec`, the densest first."""
    _, target = codec.contract.band(MAX_ELEMENTS)
    share = _WARM_UP_FACTOR
    while (denser := codec.with_density(share)) and denser.contract.band(MAX_ELEMENTS)[1] > target:
        yield denser
        share *= _WARM_UP_FACTOR
