"""Buffers that differ from worker to worker (running statistics) become the mean over all of them."""

import logging
from collections.abc import Callable, Iterator, Sequence

from ..protos.common_pb2 import JobSpecification, Mode, ParameterGroup
from ..protos.errors import SettingError
from ..protos.status_terms import NAME_OF_MODE
from .plan import PlanBlock
from .ranks.model import RankModel
from .recorder import StepKind
from .value_messages import frame_bytes
from .value_pushes import LEAST_ROOM_BYTES, ValuePush
from .value_steps import ValueSteps

logger = logging.getLogger(__name__)


class BufferMean:
    """Takes the mean in rounds of their own, in which every worker sends what it has. All ranks of a worker call together.

    The mean of a round is over the workers that ask for it there, and they alone take it: who trains in that round keeps
    its own. So nobody waits longer than for a step, and a mean that one worker takes alone changes nothing.
    """

    def __init__(
        self,
        model: RankModel,
        bounds: Sequence[int],
        job: JobSpecification,
        steps: ValueSteps,
        pull: Callable[[frozenset[int]], None],
    ) -> None:
        """`bounds`: most bytes of each block's gradient; `pull`: what the servers have of these entries, into the model."""
        self._model = model
        self._memory = model.memory
        self._bounds = bounds
        self._job = job
        self._steps = steps
        self._pull = pull
        self._took_part = False
        self._computed = False
        self._averaged: frozenset[int] | None = None

    def check_at_start(self) -> None:
        """Raises SettingError if the job wants what cannot be."""
        if self._job.average_buffers:
            self._check()

    def step_taken(self, skipped: bool) -> None:
        """In a round of other things; `skipped`: without data."""
        self._took_part = True
        self._computed = self._computed or not skipped

    def take(self, groups: Sequence[ParameterGroup], always: bool) -> StepKind:
        """`always`: although this worker has taken no step since the mean before.

        Else it does nothing then; and who has only taken part in rounds, without data, takes the mean of the others.

        Raises:
            SettingError: the job has no rounds, or a buffer cannot be averaged.
        """
        self._model.ranks.together(self._check)
        if not (always or self._took_part):
            return StepKind.APPLIED
        sends = always or self._computed
        entries = self._entries()
        attempts = [self._steps.once(self._push(blocks, entries, sends), groups) for blocks in self._portions()]
        self._took_part = self._computed = False
        if any(len(attempt.applied) < self._model.blocks.num_shards for attempt in attempts):
            logger.warning("the buffers are not the mean over the workers: rounds closed without this one")
        elif attempts:
            self._pull(entries)
        return StepKind.EXPIRED if any(attempt.kind is StepKind.EXPIRED for attempt in attempts) else StepKind.APPLIED

    def _check(self) -> None:
        if self._job.mode != Mode.MODE_SYNC:
            raise SettingError(
                f"optimizer.average_buffers() takes the mean in a round and needs mode=sync; this job has "
                f"mode={NAME_OF_MODE[self._job.mode]}"
            )
        for entry in self._buffers():
            if self._memory.is_floating(entry) and self._memory.is_words(entry):
                raise SettingError(
                    f"the buffer {self._model.plan.entries[entry].name} is of a type of more than 32 bits, and cannot be "
                    "averaged: make it float32, register it with persistent=False, or train without average_buffers"
                )

    def _buffers(self) -> range:
        return range(self._model.num_parameters, len(self._model.plan.entries))

    def _entries(self) -> frozenset[int]:
        """Buffers of floating point, the same on every rank."""
        if self._averaged is None:
            lacking = self._model.ranks.smallest(
                [int(not self._memory.is_floating(entry)) for entry in self._buffers()]
            )
            self._averaged = frozenset(entry for entry, no in zip(self._buffers(), lacking, strict=True) if not no)
        return self._averaged

    def _portions(self) -> Iterator[list[PlanBlock]]:
        """Blocks of buffers, step by step: the same ones on every worker, whatever its layout, or there would be no mean.

        A shard has room for values of as many bytes as were reserved for a worker's gradients, or LEAST_ROOM_BYTES.
        """
        plan = self._model.plan
        room = [0] * plan.num_shards
        for block in plan.blocks:
            room[block.shard] += self._bounds[block.id] if plan.entries[block.entry].group >= 0 else 0
        room = [max(num_bytes, LEAST_ROOM_BYTES) for num_bytes in room]
        left, portion = list(room), list[PlanBlock]()
        for block in plan.blocks:
            if block.entry < self._model.num_parameters:
                continue
            size = frame_bytes(block)
            if portion and size > left[block.shard]:
                yield portion
                left, portion = list(room), []
            left[block.shard] -= size
            portion.append(block)
        if portion:
            yield portion

    def _push(self, blocks: Sequence[PlanBlock], entries: frozenset[int], sends: bool) -> ValuePush:
        own = self._model.blocks
        sent = [own.blocks[block.id] for block in blocks if block.id in own.blocks and block.entry in entries and sends]
        return ValuePush(own, tuple((block, self._memory.values(block).copy()) for block in sent), average=True)
