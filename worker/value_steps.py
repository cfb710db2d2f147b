"""Steps that bring values in the place of gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..protos.common_pb2 import ParameterGroup
from ..protos.errors import ExpiredError, RefusedError
from .ranks.model import RankModel
from .recorder import StepKind
from .settlement import Settlement
from .step_messages import StepRequest
from .value_pushes import ValuePush

PUSH_ATTEMPTS = 100
"""Of values, before giving up: with a quorum a round may close without them, again and again."""


@dataclass(frozen=True)
class Attempt:
    """What became of one step with values."""

    kind: StepKind
    applied: frozenset[int]
    """Shards that have applied it, the same on every rank."""


class ValueSteps:
    """Takes such steps by what a replica can do. All ranks of a worker make the same calls together."""

    def __init__(
        self,
        model: RankModel,
        settlement: Settlement,
        counts: Callable[[], bool],
        take: Callable[[StepRequest, ValuePush], StepKind],
        come_back: Callable[[ExpiredError], object],
    ) -> None:
        """`counts`: makes this worker count; `take`: one step; `come_back`: joins again after a lost lease, and lets
        `settlement` find out what became of the step that it cut off."""
        self._ranks = model.ranks
        self._every = range(model.blocks.num_shards)
        self._settlement = settlement
        self._counts = counts
        self._take = take
        self._come_back = come_back

    def push(self, pushes: Sequence[ValuePush], groups: Sequence[ParameterGroup]) -> StepKind:
        """Until every shard has applied all of it, once: EXPIRED if the lease ran out on the way, else APPLIED."""
        kinds = [self._until_applied(push, groups) for push in pushes]
        return StepKind.EXPIRED if StepKind.EXPIRED in kinds else StepKind.APPLIED

    def once(self, push: ValuePush, groups: Sequence[ParameterGroup]) -> Attempt:
        """In one attempt."""
        self._settlement.take_applied()  # of a step before, if any
        try:
            self._counts()
            kind = self._take(StepRequest(gradients={}, groups=groups, num_samples=0.0), push)
            return Attempt(kind, frozenset(self._every if kind is StepKind.APPLIED else ()))
        except ExpiredError as error:
            self._come_back(error)
        applied = self._settlement.take_applied()
        agreed = self._ranks.smallest([int(shard in applied) for shard in self._every])
        return Attempt(StepKind.EXPIRED, frozenset(shard for shard in self._every if agreed[shard]))

    def _until_applied(self, push: ValuePush, groups: Sequence[ParameterGroup]) -> StepKind:
        """A round may close without it, and a lease run out: the values are copies, so they are sent once more, but not to a
        shard that has applied them: others' steps may have been built on them."""
        worst, done = StepKind.APPLIED, frozenset[int]()
        for _ in range(PUSH_ATTEMPTS):
            attempt = self.once(push.without(done), groups)
            worst = StepKind.EXPIRED if attempt.kind is StepKind.EXPIRED else worst
            done |= attempt.applied
            if len(done) == len(self._every):
                return worst
        raise RefusedError(f"the values were not taken in {PUSH_ATTEMPTS} attempts: rounds closed before they came")
