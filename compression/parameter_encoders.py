"""Which encoder encodes which parameter of a job: the push codec, its dense form, or an override.

Workers encode by it and servers reserve memory by it, so both read it here.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..protos.errors import CodecError
from .arguments import decimal
from .encoder_spec import EncoderSpec, names_memory, parse_encoder

SMALL_TENSOR_ELEMENTS = 1024


@dataclass(frozen=True, slots=True)
class ParameterEncoders:
    """An override that matches one of a parameter's names wins, the first in order; then small and one-dimensional
    tensors take the dense form of the push codec."""

    main: EncoderSpec
    overrides: tuple[tuple[str, EncoderSpec], ...] = ()
    """(pattern of `fnmatch`, encoder)."""

    def of(self, names: Sequence[str], shape: Sequence[int]) -> EncoderSpec:
        """For a parameter; a tied one has several names."""
        for pattern, encoder in self.overrides:
            if any(fnmatchcase(name, pattern) for name in names):
                return encoder
        return self.main.dense() if is_small(shape) else self.main

    @property
    def all(self) -> list[EncoderSpec]:
        """Each encoder that a parameter may have, once."""
        return list(dict.fromkeys([self.main, self.main.dense(), *(encoder for _, encoder in self.overrides)]))

    def unmatched(self, names: Iterable[str]) -> list[str]:
        """Patterns of overrides that match none of the names."""
        known = list(names)
        return [pattern for pattern, _ in self.overrides if not any(fnmatchcase(name, pattern) for name in known)]


def parse_parameter_encoders(push_codec: str, overrides: Iterable[tuple[str, str]] = ()) -> ParameterEncoders:
    """From the job's push codec and its overrides (pattern, specification). An override without a memory has the
    momentum of the push codec, if that has one; with a memory of another momentum it is refused.

    Raises CodecError that names the setting and the pattern.
    """
    try:
        main = parse_encoder(push_codec)
    except CodecError as error:
        raise CodecError(f"`push_codec`: {error}") from None
    return ParameterEncoders(main, tuple((pattern, _override(main, pattern, spec)) for pattern, spec in overrides))


def is_small(shape: Sequence[int]) -> bool:
    """Whether a tensor is too small, or too important, to be sent sparsely."""
    return len(shape) < 2 or math.prod(shape) < SMALL_TENSOR_ELEMENTS


def _override(main: EncoderSpec, pattern: str, spec: str) -> EncoderSpec:
    try:
        encoder = parse_encoder(spec)
        if names_memory(spec):
            _check_same_momentum(main, encoder)
            return encoder
        encoder = main.alongside(encoder.codec)
        encoder.memory.codecs(encoder.codec)
    except CodecError as error:
        raise CodecError(f"`push_overrides.{pattern}`: {error}") from None
    return encoder


def _check_same_momentum(main: EncoderSpec, override: EncoderSpec) -> None:
    """Raise CodecError if the workers would give some parameters another momentum than others: the optimizer, which
    is one for all, could not make up for it."""
    momentum, other = main.memory.momentum, override.memory.momentum
    if momentum != other:
        raise CodecError(
            f"{override.spec} has momentum {decimal(other)} on the workers and the push codec {main.spec} has "
            f"{decimal(momentum)}, but all parameters train with the same: leave out the memory, {override.codec.spec!r}, "
            f"for that of the push codec, or give the push codec momentum {decimal(other)}"
        )
