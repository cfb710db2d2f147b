"""Sending this worker's own values to the shards, for the worker that holds the grant."""

from collections.abc import Iterator

from ..compression.spec import parse_codec
from .bundle import Bundle
from .open_exchange import OpenUpload
from .ranks.rank_blocks import RankBlocks
from .shards import ShardGroup
from .tensor_memory import TensorMemory
from .wire import initial_values_message

INITIAL_CODEC = "fp32"


def upload_initial_values(
    own: RankBlocks, memory: TensorMemory, shards: ShardGroup, grant: int, message_bytes: int
) -> None:
    """Hands the values of this rank's blocks to their shards' streams. Whether they arrived is for the registrar to say.

    Raises:
        NonFiniteError: a parameter or buffer holds a NaN or an infinity.
    """
    shards.begin({shard: OpenUpload() for shard in range(own.num_shards)})
    for shard in range(own.num_shards):
        for message in _messages(own, memory, shard, grant, message_bytes):
            shards.send(shard, message)


def _messages(own: RankBlocks, memory: TensorMemory, shard: int, grant: int, message_bytes: int) -> Iterator[bytes]:
    codec = parse_codec(INITIAL_CODEC)
    blocks = [own.blocks[number] for number in own.blocks_of_shard[shard]]
    largest = max((codec.frame_bound(block.num_elements) for block in blocks), default=0)
    bundle = Bundle(max(message_bytes, largest))
    for block in blocks:
        bound = codec.frame_bound(block.num_elements)
        if not bundle.fits(bound):
            got = bundle.take()
            yield initial_values_message(grant, got.blocks, got.lengths, got.payload)
        bundle.add(block.id, codec.encode(memory.values(block), bundle.room()[:bound]))
    if not bundle.empty:
        got = bundle.take()
        yield initial_values_message(grant, got.blocks, got.lengths, got.payload)
