"""What a rank says of itself when it opens a stream to a shard."""

from collections.abc import Collection

from ..protos.shard_pb2 import Hello
from .membership import Membership
from .ranks.model import RankModel


def greetings(membership: Membership, model: RankModel, on_demand: Collection[int]) -> list[Hello]:
    """One for each shard, of the present incarnation; `on_demand`: plan entries that are sent only when they are named."""
    return [_greeting(membership, model, on_demand, shard) for shard in range(model.plan.num_shards)]


def _greeting(membership: Membership, model: RankModel, on_demand: Collection[int], shard: int) -> Hello:
    own = model.blocks.blocks_of_shard[shard]
    return Hello(
        job_id=membership.job.job_id,
        shard=shard,
        worker_id=membership.worker_id,
        incarnation=membership.incarnation,
        plan_fingerprint=model.plan.fingerprint,
        rank=model.ranks.rank,
        num_ranks=model.ranks.num_ranks,
        blocks=own if model.ranks.num_ranks > 1 else (),
        on_demand=[number for number in own if model.plan.blocks[number].entry in on_demand],
    )
