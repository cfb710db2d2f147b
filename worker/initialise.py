"""Sending this worker's own values to the shards, for the worker that holds the grant."""

from collections.abc import Iterator

from .open_exchange import OpenUpload
from .ranks.rank_blocks import RankBlocks
from .shards import ShardGroup
from .tensor_memory import TensorMemory
from .value_messages import gathered
from .wire import initial_values_message


def upload_initial_values(
    own: RankBlocks, memory: TensorMemory, shards: ShardGroup, grant: int, message_bytes: int
) -> None:
    """Hands the values of this rank's blocks to their shards' streams. Whether they arrived is for the registrar to say.

    Raises:
        NonFiniteError: names a parameter that holds a NaN or an infinity. Buffers may.
    """
    shards.begin({shard: OpenUpload() for shard in range(own.num_shards)})
    for shard in range(own.num_shards):
        for message in _messages(own, memory, shard, grant, message_bytes):
            shards.send(shard, message)


def _messages(own: RankBlocks, memory: TensorMemory, shard: int, grant: int, message_bytes: int) -> Iterator[bytes]:
    blocks = ((own.blocks[number], memory.values(own.blocks[number])) for number in own.blocks_of_shard[shard])
    for got in gathered(blocks, own.entries, message_bytes):
        yield initial_values_message(grant, got.blocks, got.lengths, got.payload)
