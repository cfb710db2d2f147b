"""The table of codecs, and specifications such as `topk:0.01+int8+zstd`.

A specification is a value format, perhaps behind a selection and before a last stage, joined by `+`; each may
have arguments behind colons. Adding a codec is a new file and a row here (docs/codecs.md).
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from ..protos.errors import CodecError
from . import entropy
from .codec import Body, Bytes, Codec, DenseCodec
from .header import DENSE, Header
from .selections import randk, threshold, topk
from .selections.dense import read_dense
from .selections.nonzero import NONZERO, read_nonzero
from .selections.sparse import SPARSE, read_sparse, reference_sparse
from .values import cast, int2, integers, sign, vq


@dataclass(frozen=True, slots=True)
class ValueFamily:
    """A way to write values. `read` gives the member that reads a header's parameter, or raises FrameError."""

    name: str
    build: Callable[[list[str]], DenseCodec]
    value_id: int
    read: Callable[[int], DenseCodec]
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SelectionFamily:
    """A way to choose the elements that are sent. `read` checks the sections of frames with its number, `reference`
    gives their positions and the bytes of the index section."""

    name: str
    build: Callable[[list[str], DenseCodec], Codec]
    selection_id: int
    read: Callable[[Header, DenseCodec, Bytes], Body]
    reference: Callable[[Header, torch.Tensor], tuple[torch.Tensor, int]]
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StageFamily:
    """Something done to the frame of any other codec."""

    name: str
    build: Callable[[list[str], Codec], Codec]
    examples: tuple[str, ...]


Family = ValueFamily | SelectionFamily | StageFamily

FAMILIES: tuple[Family, ...] = (
    ValueFamily("fp32", cast.build_fp32, 0, cast.read_fp32, ("fp32",)),
    ValueFamily("fp16", cast.build_fp16, 1, cast.read_fp16, ("fp16", "fp16:stochastic")),
    ValueFamily("bf16", cast.build_bf16, 2, cast.read_bf16, ("bf16", "bf16:stochastic")),
    ValueFamily("int8", integers.build_int8, 3, integers.read_int8, ("int8", "int8:stochastic", "int8:64")),
    ValueFamily("int4", integers.build_int4, 4, integers.read_int4, ("int4", "int4:stochastic", "int4:64")),
    ValueFamily("int2", int2.build, 5, int2.read, ("int2", "int2:stochastic", "int2:64")),
    ValueFamily("sign", sign.build, sign.VALUE_ID, sign.read, ("sign", "sign:stochastic", "sign:1024")),
    ValueFamily("vq", vq.build, vq.VALUE_ID, vq.read, ("vq:4x256", "vq:2x16")),
    SelectionFamily("topk", topk.build, SPARSE, read_sparse, reference_sparse, ("topk:0.01+fp16", "topk:0.01+int8")),
    SelectionFamily("threshold", threshold.build, SPARSE, read_sparse, reference_sparse, ("threshold:2+fp16",)),
    SelectionFamily(
        "randk",
        randk.build,
        randk.DRAWN,
        randk.read_drawn,
        randk.reference_drawn,
        ("randk:0.01+fp16:stochastic", "randk:0.01:unscaled+fp16"),
    ),
    StageFamily("zstd", entropy.build, ("int4+zstd", "topk:0.01+int8+zstd")),
)
VALUE_READERS = {family.value_id: family.read for family in FAMILIES if isinstance(family, ValueFamily)}
"""How to read values, by the number of the format in a header."""
SELECTION_READERS: dict[int, Callable[[Header, DenseCodec, Bytes], Body]] = {
    DENSE: read_dense,
    NONZERO: read_nonzero,
    **{family.selection_id: family.read for family in FAMILIES if isinstance(family, SelectionFamily)},
}
"""How to read a frame, by the number of the selection in its header."""
REFERENCE_POSITIONS = {
    NONZERO: reference_sparse,
    **{family.selection_id: family.reference for family in FAMILIES if isinstance(family, SelectionFamily)},
}
"""Where the elements of a frame are in plain torch operations, by the number of the selection in its header."""


WHOLE_VALUE_CODECS = ("fp32", "fp16", "bf16")
"""Pull codecs whose frames are values; with every other, frames are differences to the version before."""

_JOINT = re.compile(r"(?<![0-9.][eE])\+|\+(?![0-9])")
"""Between two parts: not the plus in the exponent of a number, as in `threshold:1e+20+fp16`."""


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
    families = [(_family(part), part.split(":")[1:]) for part in _JOINT.split(spec)]
    match families:
        case [(ValueFamily() as values, arguments), *stages]:
            codec: Codec = values.build(arguments)
        case [(SelectionFamily() as selection, arguments), (ValueFamily() as values, value_arguments), *stages]:
            codec = selection.build(arguments, values.build(value_arguments))
        case [(SelectionFamily() as selection, _), *_]:
            raise CodecError(f"{selection.name} needs a value format behind it, e.g. {selection.examples[0]!r}")
        case _:
            raise CodecError("expected a value format (fp16), or a selection and a value format (topk:0.01+fp16)")
    for stage, arguments in stages:
        if not isinstance(stage, StageFamily):
            raise CodecError(_misplaced(stage, codec))
        codec = stage.build(arguments, codec)
    return codec


def _misplaced(family: ValueFamily | SelectionFamily, codec: Codec) -> str:
    if isinstance(family, ValueFamily):
        return f"{codec.spec!r} is complete, one value format is enough: leave out {family.name}"
    return f"{family.name} stands first and once, in front of the values, e.g. {family.examples[0]!r}"


def _family(part: str) -> Family:
    names = [family.name for family in FAMILIES]
    if not part:
        raise CodecError(f"a part is empty; known are {', '.join(names)}")
    name = part.split(":")[0]
    if name in names:
        return FAMILIES[names.index(name)]
    near = difflib.get_close_matches(name.strip().lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}"
    raise CodecError(f"unknown part {name!r}; {hint}")
