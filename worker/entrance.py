"""How a model comes into a job: enrolled, the servers initialised if it falls to this worker, and whose values they hold."""

import logging
import time
from functools import partial, reduce
from operator import xor

from ..protos.common_pb2 import OptimizerSpecification
from ..protos.registrar_pb2 import EnrolResponse
from ..protos.values_digest import block_digest
from .initialise import upload_initial_values
from .membership import Membership
from .ranks.model import RankModel
from .shards import ShardGroup
from .values_origin import Comparison, said_of

logger = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 0.02


class Entrance:
    """Used by the training thread. Every rank of the worker has one and makes the same calls in the same order."""

    def __init__(
        self, membership: Membership, model: RankModel, optimizer: OptimizerSpecification, message_bytes: int
    ) -> None:
        self._membership = membership
        self._model = model
        self._optimizer = optimizer
        self._message_bytes = message_bytes
        self._own_values: list[int] | None = None
        """Digests of what the model held when it came, by plan entry."""
        self._told = False

    def enter(self, shards: ShardGroup) -> int:
        """Returns once the servers hold values, with the job's clock. The first time it tells people whose they are."""
        ranks = self._model.ranks
        if self._own_values is None:
            self._own_values = self._digests()
        started, grant = False, 0
        while True:
            answer = ranks.from_first(self._enrol)
            if not started:
                shards.start()
                started = True
            if answer.state == EnrolResponse.STATE_READY:
                break
            if answer.state == EnrolResponse.STATE_INITIALISE and answer.grant != grant:
                grant = answer.grant
                ranks.together(partial(self._upload, shards, grant))
            ranks.together(shards.check)
            time.sleep(ASK_AGAIN_SECONDS)
        self._membership.ask_whether_first()
        self._tell(answer)
        return answer.clock

    def _enrol(self) -> EnrolResponse:
        return self._membership.registrar.enrol(self._model.plan.to_message(), self._optimizer, self._own_values or ())

    def _upload(self, shards: ShardGroup, grant: int) -> None:
        upload_initial_values(self._model.blocks, self._model.memory, shards, grant, self._message_bytes)

    def _digests(self) -> list[int]:
        """Of the whole model's entries, over all ranks."""
        parts = self._model.ranks.gather(self._model.ranks.together(self._digests_of_rank))
        return [reduce(xor, entry, 0) for entry in zip(*parts, strict=True)]

    def _digests_of_rank(self) -> list[int]:
        values = self._model.memory.values
        return [
            reduce(xor, (block_digest(block.id, values(block)) for block in blocks), 0)
            for blocks in self._model.blocks.blocks_of_entry
        ]

    def _tell(self, answer: EnrolResponse) -> None:
        if self._told or self._model.ranks.rank > 0:
            return
        self._told = True
        comparison = Comparison(
            worker=self._membership.worker_id,
            incarnation=self._membership.incarnation,
            comes_back=self._membership.life > 0,
            clock=answer.clock,
            names=[entry.name for entry in self._model.plan.entries],
            values=self._own_values or [],
        )
        said = said_of(answer.origin, comparison)
        logger.log(said.level, "%s", said.text)
