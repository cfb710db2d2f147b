"""Which shard has not heard of which worker, and for how long. Pure; owned by the registrar.

A worker that is cut off from one shard keeps its lease, because the others hear of it; but steps of everybody else may wait
for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..protos.registrar_pb2 import WorkersAlive


@dataclass(frozen=True)
class Silence:
    """The shard that has not heard of a rank for longest, of those of one incarnation."""

    shard: int
    rank: int
    seconds: float


class Contacts:
    """When each shard heard last of each rank of whom others wait for.

    A shard that was stopped itself, or cut off from the registrar, has not heard of anybody and must not blame the workers.
    So time passes on a clock of each shard, which moves on with what the shard reports, a third of the lease at most at once.
    """

    def __init__(self, num_shards: int, beat_seconds: float, lease_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._longest_gap_seconds = max(beat_seconds, lease_seconds / 3)
        self._clocks = [0.0] * num_shards
        self._reported_at: list[float | None] = [None] * num_shards
        self._heard: dict[int, list[list[float]]] = {}
        """By incarnation, shard and rank, on the shard's clock."""

    def as_of_now(self) -> "Contacts":
        """A copy that nothing is reported to any more."""
        still = Contacts(len(self._clocks), 0.0, self._lease_seconds)
        still._clocks = list(self._clocks)
        still._heard = {who: [list(ranks) for ranks in shards] for who, shards in self._heard.items()}
        return still

    def expect(self, incarnation: int, num_ranks: int) -> None:
        """From now on every shard should hear of every rank."""
        self._heard[incarnation] = [[clock] * num_ranks for clock in self._clocks]

    def forget(self, incarnation: int) -> None:
        """Nobody waits for it any more."""
        self._heard.pop(incarnation, None)

    def report(self, now: float, shard: int, alive: WorkersAlive) -> None:
        """A shard says of whom it has heard since it said so last."""
        before = self._reported_at[shard]
        self._reported_at[shard] = now
        self._clocks[shard] += 0.0 if before is None else min(now - before, self._longest_gap_seconds)
        ranks = alive.ranks or [0] * len(alive.incarnations)
        for incarnation, rank in zip(alive.incarnations, ranks, strict=False):
            heard = self._heard.get(incarnation)
            if heard is not None and rank < len(heard[shard]):
                heard[shard][rank] = self._clocks[shard]

    def whole_step(self, shard: int, incarnation: int) -> None:
        """A shard has the step of all ranks."""
        heard = self._heard.get(incarnation)
        if heard is not None:
            heard[shard] = [self._clocks[shard]] * len(heard[shard])

    def silences(self, incarnation: int) -> Iterator[Silence]:
        """Of each shard, the rank that it has not heard of for longest; nothing of who is not expected."""
        for shard, ranks in enumerate(self._heard.get(incarnation, [])):
            rank = min(range(len(ranks)), key=ranks.__getitem__)
            yield Silence(shard, rank, self._clocks[shard] - ranks[rank])

    def too_long_silence(self, incarnation: int) -> Silence | None:
        """The longest, if it is longer than the lease."""
        longest = max(self.silences(incarnation), key=lambda silence: silence.seconds, default=None)
        return longest if longest is not None and longest.seconds > self._lease_seconds else None
