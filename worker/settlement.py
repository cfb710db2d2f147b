"""What becomes of what encoders remember of a step: each shard's own answer decides, also one that came too late."""

import logging
from collections.abc import Callable, Sequence

from ..protos.shard_pb2 import Outcome, RecordedRequest, RecordedResponse
from .gradient_encoder import GradientEncoder
from .ranks.rank_blocks import RankBlocks
from .step_messages import StagedFrames

logger = logging.getLogger(__name__)

AskShard = Callable[[int, RecordedRequest], RecordedResponse]
"""What a shard has on record of a step; waits while that is not decided yet."""


def what_became(known: Sequence[Outcome], never: Sequence[int]) -> str:
    """In words: the answers of the shards that have one on record, and the shards that never took the step."""
    if not known:
        return "no shard took it"
    kinds = sorted({Outcome.Kind.Name(outcome.kind).removeprefix("KIND_").lower() for outcome in known})
    return ", ".join(kinds) + (f", but never on shards {list(never)}" if never else "")


class Settlement:
    """The step whose commits are out. Used by the training thread.

    Invariant: what encoders hold pending of a block is committed if its shard applied the step, and dropped if it did not;
    nothing is dropped before that is known. (Inv. 7: sum of gradients = sum of decoded frames + committed residual.)
    """

    def __init__(self, encoder: GradientEncoder, own: RankBlocks) -> None:
        self._encoder = encoder
        self._own = own
        self._request = RecordedRequest()
        self._frames: StagedFrames | None = None
        self._outcomes: list[Outcome | None] = []
        self._applied: frozenset[int] = frozenset()

    def begin(self, request: RecordedRequest, frames: StagedFrames) -> None:
        """Commits are going out. `request` names the step for shards that have to be asked later what became of it."""
        self._request, self._frames = request, frames
        self._outcomes = [None] * self._own.num_shards

    def take(self, outcomes: Sequence[Outcome | None]) -> None:
        """The answers that are here, by shard; what the others hold stays open."""
        for shard, outcome in enumerate(outcomes):
            if outcome is not None and self._outcomes[shard] is None:
                self._settle(shard, outcome)

    def end(self) -> list[Outcome]:
        """Every shard has answered: how."""
        self._frames = None
        return self._known

    def recover(self, ask: AskShard) -> list[Outcome]:
        """Asks every shard whose answer is not here. The answers of all; none if no step is open, or a shard never took it.

        Raises:
            PushpullError: a shard cannot be asked; its part stays open.
        """
        if self._frames is None:
            self._encoder.discard(self._own.blocks)  # of a step that was never committed
            return []
        never = [shard for shard in self._open_shards if not self._recover(shard, ask(shard, self._request))]
        self._frames = None
        self._applied = frozenset(
            shard for shard, outcome in enumerate(self._outcomes) if outcome and outcome.kind == Outcome.KIND_APPLIED
        )
        logger.warning(
            "step %d was cut off before its outcome came: %s", self._request.step, what_became(self._known, never)
        )
        return [] if never else self._known

    def take_applied(self) -> frozenset[int]:
        """Shards that had applied the step that was cut off last, as `recover` found out; told once."""
        applied, self._applied = self._applied, frozenset()
        return applied

    @property
    def _known(self) -> list[Outcome]:
        return [outcome for outcome in self._outcomes if outcome is not None]

    @property
    def _open_shards(self) -> list[int]:
        return [shard for shard, outcome in enumerate(self._outcomes) if outcome is None]

    def _recover(self, shard: int, answer: RecordedResponse) -> bool:
        if answer.state == RecordedResponse.STATE_RECORDED:
            self._settle(shard, answer.outcome)
            return True
        if answer.state == RecordedResponse.STATE_FORGOTTEN:
            logger.warning("shard %d does not know any more what became of step %d", shard, self._request.step)
        self._encoder.discard(self._own.blocks_of_shard[shard])
        return False

    def _settle(self, shard: int, outcome: Outcome) -> None:
        assert self._frames is not None
        self._outcomes[shard] = outcome
        if outcome.kind == Outcome.KIND_APPLIED:
            self._encoder.commit(self._frames.blocks[shard])
        else:
            self._encoder.discard(self._own.blocks_of_shard[shard])
