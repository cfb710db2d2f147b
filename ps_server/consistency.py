"""When a step is applied and when a pull is answered: three policies, decided from counts and clocks only.

A shard holds one policy and never asks which one it is. `Synchronous` alone closes rounds: the registrar asks it when.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from ..protos.errors import SettingError
from .config import JobSettings

Damping = Callable[[int], float]

DAMPING: dict[str, Damping] = {
    "none": lambda excess: 1.0,
    "inverse": lambda excess: 1.0 / (1.0 + excess),
    "sqrt": lambda excess: 1.0 / math.sqrt(1.0 + excess),
}


class Policy(Protocol):
    """What a shard asks."""

    @property
    def waits_for_round(self) -> bool:
        """True: a complete step waits for the registrar to close its round; False: it is applied at once."""

    @property
    def waits_for_the_slowest(self) -> bool:
        """Whether pulls may have to wait for the member with the smallest clock."""

    def may_answer(self, clock_lag: int) -> bool:
        """Whether a pull may be answered; `clock_lag` in clocks, puller's minus the smallest member's."""

    def learning_rate_factor(self, version_staleness: int, num_members: int) -> float:
        """Factor in (0, 1] on the learning rate of one block; `version_staleness` in updates."""


@dataclass(frozen=True)
class Synchronous:
    """Rounds. A round closes when every member's step is complete, or `quorum` members' steps."""

    quorum: int | None = None
    waits_for_round: bool = field(default=True, init=False)
    waits_for_the_slowest: bool = field(default=False, init=False)

    def may_answer(self, clock_lag: int) -> bool:
        return True

    def learning_rate_factor(self, version_staleness: int, num_members: int) -> float:
        return 1.0

    def round_closes(self, members: Collection[int], complete: Collection[int]) -> bool:
        """Whether a round with these members (worker ids) closes now that these are complete."""
        if not self.may_close(len(members), len(complete)):
            return False
        return self.may_close(len(members), sum(worker in complete for worker in members))

    def may_close(self, num_members: int, num_complete: int) -> bool:
        """Whether so many complete steps are enough, if they are all of members."""
        needed = num_members if self.quorum is None else min(self.quorum, num_members)
        return num_members > 0 and num_complete >= needed


@dataclass(frozen=True)
class BoundedStaleness:
    """Applied on arrival; no pull is answered while clock lag exceeds `bound` (stale synchronous parallel)."""

    bound: int
    waits_for_round: bool = field(default=False, init=False)
    waits_for_the_slowest: bool = field(default=True, init=False)

    def may_answer(self, clock_lag: int) -> bool:
        return clock_lag <= self.bound

    def learning_rate_factor(self, version_staleness: int, num_members: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Asynchronous:
    """Applied on arrival; the learning rate falls with staleness beyond the members - 1 that is normal."""

    damping: str = "inverse"
    waits_for_round: bool = field(default=False, init=False)
    waits_for_the_slowest: bool = field(default=False, init=False)

    def may_answer(self, clock_lag: int) -> bool:
        return True

    def learning_rate_factor(self, version_staleness: int, num_members: int) -> float:
        return DAMPING[self.damping](max(0, version_staleness - max(0, num_members - 1)))


def policy_for(settings: JobSettings) -> Synchronous | BoundedStaleness | Asynchronous:
    """The policy that job settings name."""
    match settings.mode:
        case "sync":
            return Synchronous(settings.quorum)
        case "bounded":
            return BoundedStaleness(settings.staleness_bound)
        case "async":
            return Asynchronous(settings.damping)
        case other:
            raise SettingError(f"mode={other} is not one of sync, bounded, async")
