"""Whole values of blocks on their way to the shards: initial ones, and those that replace the servers' own."""

from collections.abc import Iterable, Iterator

from ..compression.any_bits import ANY_BITS
from ..compression.spec import parse_codec
from ..protos.errors import NonFiniteError
from .bundle import Bundle, Gathered
from .plan import PlanBlock, TableEntry
from .tensor_memory import Floats

VALUES_CODEC = "fp32"
"""Exact, whatever gradients travel as."""


def frame_bytes(block: PlanBlock) -> int:
    """Most bytes of a frame of values."""
    return parse_codec(VALUES_CODEC).frame_bound(block.num_elements)


def gathered(
    blocks: Iterable[tuple[PlanBlock, Floats]], entries: tuple[TableEntry, ...], message_bytes: int
) -> Iterator[Gathered]:
    """Frames of these blocks' values, of about `message_bytes` together; each is valid until the next.

    What no optimizer touches (buffers, parameters in no group) may hold anything; parameters must be finite.

    Raises:
        NonFiniteError: names the parameter or buffer.
    """
    finite, bundle = parse_codec(VALUES_CODEC), Bundle(message_bytes)
    for block, values in blocks:
        codec = finite if entries[block.entry].group >= 0 else ANY_BITS
        bound = codec.frame_bound(block.num_elements)
        if not bundle.fits(bound):
            if not bundle.empty:
                yield bundle.take()
            bundle = Bundle(max(message_bytes, bound))
        try:
            bundle.add(block.id, codec.encode(values, bundle.room()[:bound]))
        except NonFiniteError as error:
            raise NonFiniteError(f"{entries[block.entry].name} is not finite: {error}") from error
    if not bundle.empty:
        yield bundle.take()
