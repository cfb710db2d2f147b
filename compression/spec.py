"""The table of codecs, and specifications such as `topk:0.01+int8`.

A specification is a selection and a value format joined by `+`, or a value format alone; each may have
arguments behind colons. Adding a codec is a new file and a row here.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from ..protos.errors import CodecError
from .cast import Bf16, Fp16, Fp32
from .codec import Body, Bytes, Codec, DenseCodec
from .dense import read_dense
from .header import DENSE, Header
from .int8 import Int8
from .sparse import SPARSE, read_sparse
from .topk import TopK


@dataclass(frozen=True, slots=True)
class ValueFamily:
    """A way to write values. `decoder` reads the sections of all its members."""

    name: str
    build: Callable[[list[str]], DenseCodec]
    decoder: DenseCodec
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SelectionFamily:
    """A way to choose the elements that are sent. `read` checks the sections of frames with its number."""

    name: str
    build: Callable[[list[str], DenseCodec], Codec]
    selection_id: int
    read: Callable[[Header, DenseCodec, Bytes], Body]
    examples: tuple[str, ...]


def _without_arguments(codec: DenseCodec) -> Callable[[list[str]], DenseCodec]:
    def build(arguments: list[str]) -> DenseCodec:
        if arguments:
            raise CodecError(f"{codec.spec} takes no argument, got {':'.join(arguments)!r}")
        return codec

    return build


def _int8(arguments: list[str]) -> DenseCodec:
    if not arguments:
        return Int8()
    if arguments == ["stochastic"]:
        return Int8(stochastic=True)
    raise CodecError(f"int8 takes no argument but 'stochastic', got {':'.join(arguments)!r}")


def _topk(arguments: list[str], values: DenseCodec) -> Codec:
    if len(arguments) != 1:
        raise CodecError("topk takes one argument, the share of elements to send, e.g. topk:0.01+fp16")
    try:
        density = float(arguments[0])
    except ValueError:
        raise CodecError(f"topk takes the share of elements to send, not {arguments[0]!r}") from None
    if not 0.0 < density <= 1.0:
        raise CodecError(f"topk sends a share of the elements above 0 and at most 1, not {arguments[0]}")
    return TopK(density, values)


FAMILIES: tuple[ValueFamily | SelectionFamily, ...] = (
    ValueFamily("fp32", _without_arguments(Fp32()), Fp32(), ("fp32",)),
    ValueFamily("fp16", _without_arguments(Fp16()), Fp16(), ("fp16",)),
    ValueFamily("bf16", _without_arguments(Bf16()), Bf16(), ("bf16",)),
    ValueFamily("int8", _int8, Int8(), ("int8", "int8:stochastic")),
    SelectionFamily("topk", _topk, SPARSE, read_sparse, ("topk:0.01+fp16", "topk:0.01+int8")),
)
DECODERS: dict[int, DenseCodec] = {
    family.decoder.value_id: family.decoder for family in FAMILIES if isinstance(family, ValueFamily)
}
"""The value formats by their number in a header."""
SELECTIONS: dict[int, Callable[[Header, DenseCodec, Bytes], Body]] = {DENSE: read_dense} | {
    family.selection_id: family.read for family in FAMILIES if isinstance(family, SelectionFamily)
}
"""How to read a frame, by the number of the selection in its header."""


WHOLE_VALUE_CODECS = ("fp32", "fp16", "bf16")
"""Pull codecs whose frames are values; with every other, frames are differences to the version before."""


@lru_cache(maxsize=256)
def parse_codec(spec: str) -> Codec:
    """The codec of a specification; raises CodecError that names the part that is wrong."""
    try:
        return _parse(spec)
    except CodecError as error:
        raise CodecError(f"codec {spec!r}: {error}") from None


def example_specs() -> list[str]:
    """Specifications that between them use every member of the table."""
    return [example for family in FAMILIES for example in family.examples]


def _parse(spec: str) -> Codec:
    families = [(_family(part.split(":")[0]), part.split(":")[1:]) for part in spec.split("+")]
    match families:
        case [(ValueFamily() as values, arguments)]:
            return values.build(arguments)
        case [(SelectionFamily() as selection, arguments), (ValueFamily() as values, value_arguments)]:
            return selection.build(arguments, values.build(value_arguments))
        case [(SelectionFamily() as selection, _)]:
            raise CodecError(f"{selection.name} needs a value format, e.g. {selection.examples[0]!r}")
    raise CodecError("expected a value format (fp16), or a selection and a value format (topk:0.01+fp16)")


def _family(name: str) -> ValueFamily | SelectionFamily:
    names = [family.name for family in FAMILIES]
    if name in names:
        return FAMILIES[names.index(name)]
    near = difflib.get_close_matches(name.strip().lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
    raise CodecError(f"unknown part {name!r}; {hint}")
