"""The table of memories, and specifications of encoders such as `dgc:0.9:1000+topk:0.001+fp16`.

A specification is a memory and a codec joined by `+`, or a codec alone, which has the memory that fits it. Adding
a memory is a new file and a row here.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..protos.errors import CodecError
from .arguments import no_arguments, number, whole_number
from .codec import Codec
from .encoder import Encoder, Memory, NoMemory
from .error_feedback import WithErrorFeedback, default_memory
from .kernels import sum_of_squares
from .momentum_correction import WithLocalMomentum, WithMomentumCorrection
from .spec import parse_codec
from .warm_up import one_at_a_time, warm_up

_WARM_UP_ELEMENTS = 8192


@dataclass(frozen=True, slots=True)
class MemoryFamily:
    """A way to remember what frames left out."""

    name: str
    build: Callable[[list[str]], Memory]
    example: str
    """A whole specification."""


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """A codec and what is remembered around it: everything that is said about how a block is encoded."""

    memory: Memory
    codec: Codec

    @property
    def spec(self) -> str:
        """Canonical: `parse_encoder(encoder.spec) == encoder`; without the memory that the codec has by default."""
        if self.memory == default_memory(self.codec):
            return self.codec.spec
        return f"{self.memory.spec}+{self.codec.spec}"

    def build(self) -> Encoder:
        """A new encoder, which remembers nothing yet."""
        return self.memory.encoder(self.codec)

    def frame_bound(self, num_elements: int) -> int:
        """Most bytes that a frame of `num_elements` may take, over all steps; a multiple of four."""
        return max(codec.frame_bound(num_elements) for codec in self.memory.codecs(self.codec))

    def frame_least(self, num_elements: int) -> int:
        """Fewest bytes that a frame of `num_elements` may take, over all steps."""
        return min(codec.frame_least(num_elements) for codec in self.memory.codecs(self.codec))

    def dense(self) -> "EncoderSpec":
        """The same for small and one-dimensional tensors."""
        codec = self.codec.dense()
        return self if codec == self.codec else self.alongside(codec)

    def alongside(self, codec: Codec) -> "EncoderSpec":
        """Another codec in the same job: with the same momentum, and else what it remembers by default."""
        return EncoderSpec(self.memory.alongside(codec) or default_memory(codec), codec)

    def warm_up(self) -> None:
        """Compile, or load from the disk cache, every kernel that encoding and decoding needs. Takes seconds once."""
        warm_up(self.codec)
        values = np.arange(_WARM_UP_ELEMENTS, dtype=np.float32)
        out = np.empty(self.frame_bound(values.size), np.uint8)
        with one_at_a_time():
            encoder = self.build()
            # The second step has what the first left in memory.
            for step in range(2):
                encoder.encode(0, values, out, step)
                encoder.commit([0])
            encoder.residual_norm()
            sum_of_squares(values)


def _none(arguments: list[str]) -> Memory:
    no_arguments("none", arguments)
    return NoMemory()


def _error_feedback(arguments: list[str]) -> Memory:
    no_arguments("ef", arguments)
    return WithErrorFeedback()


def _momentum_correction(arguments: list[str]) -> Memory:
    if len(arguments) not in (1, 2):
        raise CodecError("dgc takes the momentum and, if wanted, the steps of warm-up, e.g. dgc:0.9:1000")
    momentum, steps = _momentum("dgc", arguments[0]), arguments[1] if len(arguments) == 2 else "0"
    return WithMomentumCorrection(momentum, whole_number("dgc", "a whole number of steps for the warm-up", steps))


def _local_momentum(arguments: list[str]) -> Memory:
    if len(arguments) != 1:
        raise CodecError("momentum takes one argument, e.g. momentum:0.9")
    return WithLocalMomentum(_momentum("momentum", arguments[0]))


def _momentum(name: str, text: str) -> float:
    value = number(name, "the momentum", text)
    if not 0.0 <= value < 1.0:
        raise CodecError(f"{name} takes a momentum of at least 0 and less than 1, not {text}")
    return value


MEMORIES: tuple[MemoryFamily, ...] = (
    MemoryFamily("ef", _error_feedback, "ef+topk:0.01+int8"),
    MemoryFamily("none", _none, "none+topk:0.01+int8"),
    MemoryFamily("dgc", _momentum_correction, "dgc:0.9:1000+topk:0.001+fp16"),
    MemoryFamily("momentum", _local_momentum, "momentum:0.9+int8"),
)


@lru_cache(maxsize=256)
def parse_encoder(spec: str) -> EncoderSpec:
    """The encoder of a specification; raises CodecError that names the part that is wrong, or why a memory does
    not go with a codec."""
    first, _, rest = spec.partition("+")
    family = _family(first)
    if family is None:
        codec = _parse_codec(spec)
        return EncoderSpec(default_memory(codec), codec)
    try:
        memory = family.build(first.split(":")[1:])
        if names_memory(rest):
            raise CodecError("a codec has one memory, not two")
        if not rest:
            raise CodecError(f"{family.name} needs a codec behind it, e.g. {family.example}")
        codec = parse_codec(rest)
        memory.codecs(codec)
    except CodecError as error:
        raise CodecError(f"encoder {spec!r}: {error}") from None
    return EncoderSpec(memory, codec)


def names_memory(spec: str) -> bool:
    """Whether the first part of a specification is a memory."""
    return _family(spec.partition("+")[0]) is not None


def parse_pull_codec(spec: str) -> Codec:
    """The codec of a specification for parameters, which takes no memory: what a frame leaves out of a difference
    is in the next difference by itself."""
    if not names_memory(spec):
        return parse_codec(spec)
    memory, _, codec = spec.partition("+")
    remedy = f"write {parse_codec(codec).spec!r}" if codec else "write a codec, e.g. 'bf16'"
    raise CodecError(f"codec {spec!r}: {memory} is a memory, and parameters are pulled without a memory; {remedy}")


def _family(part: str) -> MemoryFamily | None:
    name = part.split(":")[0]
    return next((family for family in MEMORIES if family.name == name), None)


def _parse_codec(spec: str) -> Codec:
    """The codec of a specification without a memory; may guess that a misspelt memory was meant."""
    try:
        return parse_codec(spec)
    except CodecError:
        first = spec.partition("+")[0].split(":")[0]
        near = difflib.get_close_matches(first.strip().lower(), [family.name for family in MEMORIES], n=1)
        if not near:
            raise
        raise CodecError(f"encoder {spec!r}: unknown part {first!r}; did you mean {near[0]!r}?") from None
