"""Steps of a replica as every optimizer here takes them: timed, counted, and with their data settled."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..protos.common_pb2 import ParameterGroup
from ..protos.errors import SettingError
from .data_ledger import DataLedger, DataTaken
from .kept_moments import KeptMoments, calling_place
from .model_table import ModelTable
from .open_workers import HERE
from .recorder import Recorder, StepKind, StepSummary, StepTimes
from .replica import Replica
from .step_messages import StepRequest
from .thread_turn import ThreadTurn
from .user_numbers import number_of

DEFAULT_NUM_SAMPLES = 1.0
NO_DATA = DataTaken()


@dataclass(frozen=True)
class OptimizerParts:
    """What an optimizer of this package works with; made by `Worker`."""

    table: ModelTable
    replica: Replica
    ledger: DataLedger
    recorder: Recorder
    num_workers: Callable[[], int]
    """In the job at this moment, the same on every rank."""


class RecordedSteps:
    """Takes steps one after the other. Used by the training thread."""

    def __init__(self, parts: OptimizerParts) -> None:
        self.turn = ThreadTurn()
        """Of the optimizer, which takes it for the whole of a step."""
        self._replica = parts.replica
        self._ledger = parts.ledger
        self._recorder = parts.recorder
        self._kept_moments = KeptMoments(parts.replica.optimizer_name)
        self._has_trained = parts.replica.clock > 0
        """The servers have applied gradients."""
        self._step_ended_at: float | None = None
        self._traffic = parts.replica.traffic()
        self._timings = replace(parts.replica.timings)
        """At the end of the step before: what is fetched between steps counts with the next one."""

    @property
    def bytes_received(self) -> int:
        """Bytes of values so far."""
        return self._replica.traffic()[1]

    def take(self, request: StepRequest, data: DataTaken = NO_DATA) -> StepKind:
        """One step of the replica; `data` is what it was computed from. Raises what `Replica.step` raises."""
        if self._step_ended_at is None:
            HERE.first_step()
        num_rejoins = self._replica.num_rejoins
        kind = self._timed(request)
        self._has_trained |= kind is StepKind.APPLIED and bool(request.gradients)
        # What was dealt to the incarnation before is somebody else's, whatever became of its last step.
        self.settle(kind if self._replica.num_rejoins == num_rejoins else StepKind.EXPIRED, data)
        return kind

    def skip(self, groups: Sequence[ParameterGroup]) -> bool:
        """Takes part in the next round, or clock, without data, and pulls; False if there was nothing new."""
        received = self.bytes_received
        self.take(StepRequest(gradients={}, groups=groups, num_samples=0.0, skip=True, idle=True))
        return self.bytes_received > received

    def push_values(self, groups: Sequence[ParameterGroup]) -> None:
        """See `Replica.push_values`. No step of the user's: its traffic and time count with the next one."""
        place = calling_place()
        is_news = self._has_trained and self._kept_moments.is_news(place, groups)
        names = self._replica.changes.names() if is_news else []
        self.settle(self._replica.push_values(groups), NO_DATA)
        self._kept_moments.tell(place, names)

    def average_buffers(self, groups: Sequence[ParameterGroup], always: bool) -> None:
        """See `BufferMean.take`; no step of the user's, as above."""
        self.settle(self._replica.buffer_mean.take(groups, always), NO_DATA)

    def settle(self, kind: StepKind, data: DataTaken) -> None:
        """What becomes of data whose step never reached the servers, or reached them too late."""
        if kind is StepKind.TOO_OLD:
            self._ledger.use_again(data)
        elif kind is StepKind.EXPIRED:
            self._ledger.forget_dealt()
        elif kind is StepKind.LATE:
            self._ledger.doubtful = True

    def _timed(self, request: StepRequest) -> StepKind:
        replica, started = self._replica, time.perf_counter()
        before, now = self._timings, replica.timings
        fetching = now.wait + now.decode - before.wait - before.decode
        num_restaged = replica.num_restaged
        traceparent = self._recorder.step_begins()
        if traceparent:
            request = replace(request, traceparent=traceparent)
        kind = StepKind.REFUSED
        try:
            kind = replica.step(request)
        finally:
            self._timings = replace(now)
            traffic = replica.traffic()
            pushed, pulled, resent = (b - a for a, b in zip(self._traffic, traffic, strict=True))
            self._traffic = traffic
            compute = 0.0 if self._step_ended_at is None else started - self._step_ended_at - fetching
            self._step_ended_at = time.perf_counter()
            self._recorder.step_ended(
                StepSummary(
                    kind=kind,
                    num_samples=request.num_samples if kind is StepKind.APPLIED else 0.0,
                    restaged=replica.num_restaged > num_restaged,
                    times=StepTimes(
                        compute=compute,
                        encode=now.encode - before.encode,
                        wait=now.wait - before.wait,
                        decode=now.decode - before.decode,
                    ),
                    bytes_pushed=pushed,
                    bytes_pulled=pulled,
                    bytes_resent=resent,
                    clock_lag=max(0, replica.position.own_clock - replica.position.smallest_clock),
                )
            )
        return kind


class StepWeights:
    """The weights of a worker's steps, one after the other."""

    def __init__(self) -> None:
        self._before = DEFAULT_NUM_SAMPLES

    def next(self, num_samples: float | None, given_out: float) -> float:
        """What user code says, else the samples that `worker.share()` gave since the step before, else that step's weight.

        A step without new data works on the same batch as the one before it: the other network of a pair, say. A step of
        weight 0 is a skip, and not what the next one is like.

        Raises:
            SettingError: not a finite number of at least 0.
        """
        weight = (given_out or self._before) if num_samples is None else number_of("num_samples", num_samples)
        if not 0 <= weight < float("inf"):
            raise SettingError(f"num_samples={num_samples} must be a finite number of at least 0")
        self._before = weight or self._before
        return weight
