"""Bringing the servers' newest values into the model, outside a step and at its end."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from ..protos.shard_pb2 import Pull, PullDone, WorkerMessage
from .held_values import HeldValues
from .on_demand import OnDemand
from .open_exchange import OpenPull
from .ranks.model import RankModel
from .shards import ShardGroup
from .step_messages import Position

LEVELLING_PULLS = 3
"""Pulls that try to bring all shards to one round; with a quorum rounds may close faster than this worker pulls."""


class Pulls:
    """What this rank holds of the model, and where the worker stands by it. Every rank makes the same calls together.

    A pull takes the place of an open step on the streams; the step has to be begun again.
    """

    def __init__(self, model: RankModel, held: HeldValues, on_demand: OnDemand) -> None:
        self.position = Position()
        self._model = model
        self._ranks = model.ranks
        self._held = held
        self._on_demand = on_demand
        optimised = {i for i, entry in enumerate(model.plan.entries) if entry.group >= 0}
        self._followed = on_demand.others & optimised
        """Entries that change on the servers and come without being asked for."""
        self._num_pulls = 0

    def everything(self, shards: ShardGroup) -> None:
        """Of a new incarnation: all but what is on demand, whatever is held; what no optimizer touches, the first time."""
        self._held.forget(self._on_demand.blocks)
        if not self._held.complete_before:
            self._ask(shards, self._on_demand.pulls(self._on_demand.local, None))
        answers = self._ask(shards, {shard: Pull() for shard in range(len(shards.clients))})
        self._complete(self._on_demand.others)
        self._take_position(answers.values())

    def newer(self, shards: ShardGroup, asked: Iterable[int]) -> dict[int, PullDone]:
        """What is newer, but for what is on demand, from these shards, which may differ from rank to rank; their answers."""
        answers = self._ask(shards, {shard: Pull(base_versions=self._held.versions(shard)) for shard in asked})
        self._complete(self._followed)
        self._take_position(answers.values())
        return answers

    def fetch(self, shards: ShardGroup, entries: Collection[int]) -> None:
        """The newest values of entries that are on demand, the same on every rank. The position is that of all others."""
        self._ask(shards, self._on_demand.pulls(entries, self._held))
        self._model.copies.hand_on(frozenset(entries))
        self._held.complete()
        self._on_demand.fetched(entries)

    def local(self, shards: ShardGroup, entries: frozenset[int]) -> None:
        """What the servers have of these entries, which no optimizer touches; the same on every rank."""
        self._held.take_again(entries)
        self._ask(shards, self._on_demand.pulls(entries, self._held))
        self._model.copies.hand_on(entries)
        self._held.complete()

    def behind_step(self) -> None:
        """The values behind a step are all here."""
        self._complete(self._followed)

    def step_ended(self, shards: ShardGroup, answers: Sequence[PullDone], in_rounds: bool) -> None:
        """Takes the ends of the values behind a step, one for each shard.

        After a late step shards may have answered with different rounds: pulls again from those behind.
        """
        self._take_position(answers)
        if in_rounds:
            self._level(shards, [answer.round for answer in answers])

    def _ask(self, shards: ShardGroup, pulls: Mapping[int, Pull]) -> dict[int, PullDone]:
        """Sends pulls by shard and waits for their answers."""
        self._held.expect()
        self._num_pulls += 1
        exchanges: dict[int, OpenPull] = {}
        for shard, pull in pulls.items():
            pull.request = self._num_pulls
            exchanges[shard] = OpenPull(self._num_pulls, WorkerMessage(pull=pull).SerializeToString())
        shards.begin(exchanges)
        self._ranks.together(lambda: shards.wait(exchanges))
        return {shard: pull.pull_done for shard, pull in exchanges.items() if pull.pull_done is not None}

    def _complete(self, entries: frozenset[int]) -> None:
        """The owners of blocks hold the new values: so do all others, and autograd learns of it."""
        self._model.copies.hand_on(entries)
        self._held.complete()
        self._on_demand.outdated()

    def _take_position(self, answers: Iterable[PullDone]) -> None:
        """Where the worker stands is where its slowest rank does."""
        self.position.note(list(answers))
        self.position.agree(self._ranks.smallest)

    def _level(self, shards: ShardGroup, rounds: Sequence[int]) -> None:
        newest = list(rounds)
        for _ in range(LEVELLING_PULLS):
            goal = self._newest(newest)
            behind = [shard for shard, round_number in enumerate(newest) if round_number < goal]
            if self._model.gradients.agree(not behind):
                break
            for shard, answer in self.newer(shards, behind).items():
                newest[shard] = answer.round
        self.position.round = self._newest(newest)

    def _newest(self, rounds: Sequence[int]) -> int:
        """Over all ranks."""
        return -self._ranks.smallest([-max(rounds)])[0]
