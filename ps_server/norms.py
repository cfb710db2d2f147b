"""Norms of whole parameters whose blocks lie on several shards, as one shard knows them. Pure.

Each shard measures its own blocks and reports them; the registrar passes every report on to all shards, which add them up in
the order of the plan. So all shards find the same bits, whatever order reports arrive in and however often.

A block counts in the norms of the step in which it is updated: one without gradient, or whose sum is not finite, counts in
neither norm. So does a block of another shard that was never measured.
"""

from collections import defaultdict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from ..protos.common_pb2 import Plan
from ..protos.registrar_pb2 import BlockNorms, SettledStep, ShardReport
from .consistency import Policy
from .effects import Job
from .keys import Key
from .optimizers import BlockOptimizer, LayerwiseOptimizer


@dataclass(frozen=True)
class Squares:
    """Sums of squares, in float64."""

    weight: float
    """Of values before the update."""
    update: float
    """Of the update before the trust ratio."""

    def __add__(self, other: "Squares") -> "Squares":
        return Squares(self.weight + other.weight, self.update + other.update)


NOTHING = Squares(0.0, 0.0)
BlockSquares = Mapping[int, Squares]
"""By block id."""


class StepNorms:
    """Knows and tells nothing: for optimizers that need no norms."""

    def measured(self, job: Job, squares: BlockSquares) -> list[ShardReport]:
        """This shard has measured the blocks that a job updates; what the registrar must be told."""
        return []

    def settled(self, worker_id: int, incarnation: int, step: int) -> list[ShardReport]:
        """A step is settled on this shard, applied or not; what the registrar must be told."""
        return []

    def take(self, norms: BlockNorms) -> None:
        """Takes what a shard measured; repeating it changes nothing."""

    def keep(self, live: AbstractSet[Key]) -> None:
        """Others than these workers send no more steps: nobody has to know how far they came."""

    def ready(self, job: Job) -> bool:
        """Whether the norms that a measured job needs from other shards are here."""
        return True

    def whole(self, job: Job) -> dict[int, Squares]:
        """Of every parameter that a measured and ready job updates, by position in the plan."""
        return {}

    def reports_again(self) -> list[ShardReport]:
        """What the registrar may have missed while the link was down."""
        return []


class _SharedNorms(StepNorms):
    """What rounds and steps without rounds have in common."""

    def __init__(self, plan: Plan, shard: int) -> None:
        self._shard = shard
        self._parameter_of = [block.parameter for block in plan.blocks]
        shards_of: dict[int, set[int]] = defaultdict(set)
        for block in plan.blocks:
            shards_of[block.parameter].add(block.shard)
        self._spread = {parameter for parameter, shards in shards_of.items() if len(shards) > 1}
        """Parameters on several shards: nobody needs to be told of the others."""
        self._others = {block.shard for block in plan.blocks if block.parameter in self._spread} - {shard}
        self._measured: BlockSquares = {}

    def _message(self, squares: BlockSquares) -> BlockNorms:
        blocks = [block for block in sorted(squares) if self._parameter_of[block] in self._spread]
        return BlockNorms(
            blocks=blocks,
            weight_squares=[squares[block].weight for block in blocks],
            update_squares=[squares[block].update for block in blocks],
        )

    def _sums(self, *known: BlockSquares) -> dict[int, Squares]:
        squares = {block: pair for part in known for block, pair in part.items()}
        sums: dict[int, Squares] = {}
        for block in sorted(squares):
            parameter = self._parameter_of[block]
            sums[parameter] = sums.get(parameter, NOTHING) + squares[block]
        return sums


class RoundNorms(_SharedNorms):
    """Rounds: a shard waits for what every other one measured in the same round."""

    def __init__(self, plan: Plan, shard: int) -> None:
        super().__init__(plan, shard)
        self._arrived: dict[int, dict[int, BlockSquares]] = defaultdict(dict)
        """By round and shard; only rounds that are not applied yet."""
        self._newest_used = 0
        self._reported: list[ShardReport] = []

    def measured(self, job: Job, squares: BlockSquares) -> list[ShardReport]:
        self._measured = squares
        if self._spread:
            message = self._message(squares)
            message.round = job.round
            self._reported = [ShardReport(norms=message)]
        return self._reported

    def take(self, norms: BlockNorms) -> None:
        if norms.shard in self._others and norms.round > self._newest_used:
            self._arrived[norms.round][norms.shard] = _squares(norms)

    def ready(self, job: Job) -> bool:
        return self._others <= self._arrived.get(job.round, {}).keys()

    def whole(self, job: Job) -> dict[int, Squares]:
        others = self._arrived.get(job.round, {})
        self._newest_used = job.round
        for old in [number for number in self._arrived if number <= job.round]:
            del self._arrived[old]
        return self._sums(self._measured, *others.values())

    def reports_again(self) -> list[ShardReport]:
        return self._reported


class NewestNorms(_SharedNorms):
    """Steps without rounds: the newest that others published, in which at most the newest step of each worker is missing.

    A worker sends step t when every shard has settled its step t - 1, and a shard publishes its norms with every step that it
    settles. So what a shard waits for before it applies step t is always under way: the norms that every other shard
    published when it had settled step t - 1.
    """

    def __init__(self, plan: Plan, shard: int) -> None:
        super().__init__(plan, shard)
        self._published: dict[int, BlockSquares] = {}
        """By shard, this one too: all blocks measured so far."""
        self._settled: dict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
        """By shard, this one too, and worker id: incarnation and step; a later incarnation is later."""

    def measured(self, job: Job, squares: BlockSquares) -> list[ShardReport]:
        self._measured = squares
        self._published[self._shard] = {**self._published.get(self._shard, {}), **squares}
        return []

    def settled(self, worker_id: int, incarnation: int, step: int) -> list[ShardReport]:
        self._note(self._shard, worker_id, (incarnation, step))
        return self.reports_again()

    def take(self, norms: BlockNorms) -> None:
        if norms.shard not in self._others:
            return
        self._published[norms.shard] = _squares(norms)
        for step in norms.settled:
            self._note(norms.shard, step.worker_id, (step.incarnation, step.step))

    def keep(self, live: AbstractSet[Key]) -> None:
        for settled in self._settled.values():
            for worker_id in [who for who, (incarnation, _) in settled.items() if (who, incarnation) not in live]:
                del settled[worker_id]

    def ready(self, job: Job) -> bool:
        own = self._settled[self._shard]
        for worker_id, incarnation in job.settles:
            last = own.get(worker_id, (0, 0))
            if last[0] != incarnation:
                continue
            if any(self._settled[shard].get(worker_id, (0, 0)) < last for shard in self._others):
                return False
        return True

    def whole(self, job: Job) -> dict[int, Squares]:
        return self._sums(self._measured, *(self._published.get(shard, {}) for shard in self._others))

    def reports_again(self) -> list[ShardReport]:
        if not self._spread:
            return []
        message = self._message(self._published.get(self._shard, {}))
        for worker_id, (incarnation, step) in sorted(self._settled[self._shard].items()):
            message.settled.append(SettledStep(worker_id=worker_id, incarnation=incarnation, step=step))
        return [ShardReport(norms=message)]

    def _note(self, shard: int, worker_id: int, step: tuple[int, int]) -> None:
        settled = self._settled[shard]
        settled[worker_id] = max(settled.get(worker_id, (0, 0)), step)


def norms_for(optimizer: BlockOptimizer, policy: Policy, plan: Plan, shard: int) -> StepNorms:
    """What an optimizer needs under a policy."""
    if not isinstance(optimizer, LayerwiseOptimizer):
        return StepNorms()
    return RoundNorms(plan, shard) if policy.waits_for_round else NewestNorms(plan, shard)


def _squares(norms: BlockNorms) -> BlockSquares:
    columns = zip(norms.blocks, norms.weight_squares, norms.update_squares, strict=True)
    return {block: Squares(weight, update) for block, weight, update in columns}
