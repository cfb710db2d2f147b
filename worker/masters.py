"""Fetches what the shards hold in full precision: FP32 values and the optimizer's state of the whole model."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import numpy as np
import torch

from ..protos.common_pb2 import JobSpecification, Mode
from ..protos.errors import BadRequestError, RetryableError, ServerUnreachableError, error_of_call
from ..protos.shard_pb2 import MasterNumbers, MastersRequest
from ..protos.shard_pb2_grpc import ShardStub
from ..protos.transport import dial
from .plan import PlanBlock, ShardingPlan
from .retry import Patience
from .tensor_memory import block_of

logger = logging.getLogger(__name__)

VALUES = ""
"""In place of the name of a slot."""
READINGS = 5
"""That try to find all shards at one round; other workers may go on meanwhile."""
BETWEEN_READINGS_SECONDS = 0.1


@dataclass
class MasterState:
    """Of the whole model, undivided, on the CPU; by plan entry."""

    values: dict[int, torch.Tensor] = field(default_factory=dict)
    """Float32, in the shape of the parameter or buffer."""
    slots: dict[str, dict[int, torch.Tensor]] = field(default_factory=dict)
    """Of the optimizer's state, by torch's names; for entries that are optimised."""
    updates: dict[int, int] = field(default_factory=dict)
    """How often the optimizer ran."""
    round: int = 0
    """Of which these are; 0 without rounds."""


class MasterFetcher:
    """Asks all shards of a job, one after the other, so that one message at a time is in memory."""

    def __init__(self, job: JobSpecification, plan: ShardingPlan, check: Callable[[], None]) -> None:
        """`check` raises why it is no use to go on asking."""
        self._job = job
        self._plan = plan
        self._check = check

    def fetch(self) -> MasterState:
        """Everything, of one round if the job has rounds and they do not go on faster than this reads.

        Raises:
            ServerUnreachableError: a shard gave no answer for as long as patience lasts.
            WrongJobError and others of protos/errors.py: it serves another job.
        """
        state = MasterState()
        for reading in range(READINGS):
            ends = [self._read(shard, state) for shard in range(self._plan.num_shards)]
            rounds = {end.round for end in ends}
            state.round = max(rounds)
            if self._job.mode != Mode.MODE_SYNC or (len(rounds) == 1 and all(end.of_one_moment for end in ends)):
                return state
            if reading + 1 < READINGS:
                time.sleep(BETWEEN_READINGS_SECONDS)
        logger.warning(
            "full_state_dict(): rounds went on while the servers were read, so values are of rounds up to %d, not of one; call "
            "it while this worker takes part, not inside worker.pause()",
            state.round,
        )
        return state

    def _read(self, shard: int, state: MasterState) -> MasterNumbers:
        """One shard, from the beginning again whenever the connection breaks. Returns the last message."""
        address, seconds = self._job.shard_addresses[shard], self._job.server_patience_seconds or 600.0
        patience = Patience(seconds)
        with dial(address) as channel:
            while True:
                self._check()
                try:
                    for message in ShardStub(channel).Masters(MastersRequest(job_id=self._job.job_id)):
                        patience.succeeded()
                        if message.end:
                            return message  # type: ignore[no-any-return]
                        self._take(shard, message, state)
                    failure: grpc.RpcError | None = None
                except grpc.RpcError as error:
                    refusal = error_of_call(error)
                    if refusal is not None and not isinstance(refusal, RetryableError):
                        raise refusal from None
                    failure = error
                delay = patience.delay_after_failure(time.monotonic())
                if delay is None:
                    raise ServerUnreachableError(
                        f"shard {shard} at {address} gave no whole answer for {seconds:g} s, so its part cannot be saved; "
                        "see whether that server runs and can be reached from here"
                    ) from failure
                time.sleep(delay)

    def _take(self, shard: int, message: MasterNumbers, state: MasterState) -> None:
        numbers = np.frombuffer(message.payload, np.float32)
        start = 0
        for number, updates in zip(message.blocks, message.updates, strict=True):
            block = self._plan.blocks[number]
            part = numbers[start : start + block.num_elements]
            if block.shard != shard or part.size != block.num_elements:
                raise BadRequestError(
                    f"shard {shard} sent {part.size} numbers of block {number}, which are not its own"
                )
            start += block.num_elements
            state.updates[block.entry] = max(updates, state.updates.get(block.entry, 0))
            whole = state.values if message.slot == VALUES else state.slots.setdefault(message.slot, {})
            self._put(block, part, whole)

    def _put(self, block: PlanBlock, part: np.ndarray, whole: dict[int, torch.Tensor]) -> None:
        tensor = whole.get(block.entry)
        if tensor is None:
            tensor = whole[block.entry] = torch.zeros(self._plan.entries[block.entry].shape)
        block_of(tensor, block).copy_(torch.from_numpy(part.copy()).view(block.sizes))
