"""This worker's copy of the model: enrolled, activated, and kept in step with the servers."""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

import torch

from ..compression.spec import parse_codec
from ..protos.common_pb2 import Mode, OptimizerSpecification, ParameterGroup
from ..protos.errors import ExpiredError, PushpullError
from ..protos.shard_pb2 import Outcome, WorkerMessage
from .block_encoding import encoding_of
from .buffer_mean import BufferMean
from .changed_values import ChangedValues
from .entrance import ASK_AGAIN_SECONDS, Entrance
from .followed_values import receiver_for
from .gradient_encoder import encoders_of, step_seed
from .greeting import greetings
from .held_values import HeldValues
from .local_state import LocalState
from .membership import Membership
from .on_demand import OnDemand
from .open_exchange import OpenStep
from .pulls import Pulls
from .ranks.model import RankModel
from .recorded_outcomes import RecordedOutcomes, recorded_request
from .recorder import StepKind, Timings
from .replica_settings import ReplicaSettings
from .settlement import Settlement
from .shards import ShardGroup
from .staging import Stager, StagingSettings
from .step_messages import Position, StagedFrames, StepRequest, commit_of, kind_of
from .step_staging import StepStaging
from .value_pushes import ValuePush, value_pushes
from .value_steps import ValueSteps

logger = logging.getLogger(__name__)

REJOIN_ATTEMPTS = 5
SAVING_SECONDS = 3.0
"""That saving waits for the outcome of a step that was interrupted."""
DEFAULT_MESSAGE_BYTES = 1 << 20


class Replica:
    """Steps of one worker over all shards. Used by the training thread; only `on_gradient` comes from others.

    Every rank of the worker has one and makes the same calls in the same order: they agree on what becomes of a step, and
    each sends and receives its own blocks.
    """

    def __init__(
        self,
        membership: Membership,
        model: RankModel,
        optimizer: OptimizerSpecification,
        settings: ReplicaSettings,
    ) -> None:
        self.plan = plan = model.plan
        self._model = model
        self.optimizer_name = optimizer.name
        self._own = model.blocks
        self._ranks = model.ranks
        self.gradients = model.gradients
        self._on_demand = OnDemand(model, settings.on_demand)
        self.encoder, encoding = encoding_of(plan, encoders_of(membership.job), settings.encode_on_device)
        self.clock = 0
        """The job's clock when this worker enrolled: rounds, or steps of the slowest member."""
        self.timings = Timings()
        self._membership = membership
        self.job = membership.job
        self._settings = settings
        self._memory = model.memory
        receiver = receiver_for(parse_codec(self.job.pull_codec), model.memory, len(plan.blocks))
        self._held = HeldValues(model.blocks, model.memory, receiver)
        self._pulls = Pulls(model, self._held, self._on_demand)
        self._message_bytes = self.job.message_bytes or DEFAULT_MESSAGE_BYTES
        self._entrance = Entrance(membership, model, optimizer, self._message_bytes)
        staging = StagingSettings.of(settings, self._message_bytes, model.gradients.whole_after_backward)
        self._stager = Stager(model.blocks, model.gradients, encoding, self, staging)
        self._staging = StepStaging(model, self._on_demand, self._stager, settings.clip_norm)
        self._bounds = encoding.bounds
        self.changes = ChangedValues(model)
        self._local_state = LocalState(model, encoding.bounds, lambda: membership.is_first)
        self._settlement = Settlement(self.encoder, model.blocks)
        self._values = ValueSteps(model, self._settlement, self._counts, self._take_values, self._come_back)
        self.buffer_mean = BufferMean(model, encoding.bounds, self.job, self._values, self._pull_local)
        self._shards = self._new_shards()
        self._active = False
        self._interrupted = False
        self._recorded = RecordedOutcomes(self.job, membership.check)
        self.num_rejoins = 0
        self._step = 0
        self._round_due = 0
        membership.on_end = lambda error: self._shards.fail(error)

    @property
    def own_blocks(self) -> Collection[int]:
        """Ids of the blocks that this rank pushes and pulls."""
        return self._own.blocks.keys()

    @property
    def position(self) -> Position:
        """Where this worker stands in the job."""
        return self._pulls.position

    @property
    def gradient_norm(self) -> float | None:
        """Of the newest step, over all ranks, before clipping; None if nothing clips."""
        return self._staging.gradient_norm

    @property
    def num_restaged(self) -> int:
        """Steps whose early frames were wrong and were sent again."""
        return self._stager.num_restaged

    def traffic(self) -> tuple[int, int, int]:
        """Bytes sent, received and sent again so far, over all incarnations."""
        return self._shards.traffic()

    def stream_failures(self) -> list[int]:
        """By shard, of this incarnation."""
        return self._shards.failures()

    def on_gradient(self, entry: int, gradient: torch.Tensor | None) -> None:
        """A gradient is ready; may send it early. Never blocks."""
        if self._on_demand.may_push(entry):
            self._stager.on_gradient(entry, gradient)

    def scale_early_by(self, factor: Callable[[], float]) -> None:
        """See `Stager.scale_early_by`."""
        self._stager.scale_early_by(factor)

    def start(self) -> None:
        """Enrols, initialises the servers if it falls to this worker, and pulls everything."""
        try:
            self._ranks.together(self._membership.check)
            self._ranks.together(self.buffer_mean.check_at_start)
            self._enrol_and_pull()
        except ExpiredError:
            self.rejoin()

    def step(self, request: StepRequest) -> StepKind:
        """One step on all shards; the newest values are in the model when it returns.

        Raises:
            RefusedError and others of protos/errors.py: a server refused the step; nothing of it counts there.
            NonFiniteError: a gradient is not finite; the step was skipped.
            ReplacedError, ServerLostError, ServerUnreachableError, RankError: this worker cannot go on.
        """
        stale = self.activate()
        if stale is not None:
            return stale
        try:
            if request.void:
                self._stager.abandon()
                return StepKind.TOO_OLD
            return self._take_step(request)
        except ExpiredError as error:
            outcomes = self._come_back(error)
            return kind_of(outcomes) if outcomes else StepKind.EXPIRED

    def push_values(self, groups: Sequence[ParameterGroup]) -> StepKind:
        """Makes what the script has put into optimised parameters the servers' values; the newest are in the model on return.

        All ranks call it together. Takes as many steps as the shards' room for one asks for, none if nothing was changed.

        Raises: what `step` raises. NonFiniteError names the parameter.
        """
        return self._values.push(value_pushes(self._model, self.changes.blocks_to_push(), self._bounds), groups)

    def activate(self) -> StepKind | None:
        """Counts from now on, and not from the next step only; others wait for this worker then.

        None if the values in the model still hold. Else they were replaced, and the kind says why what was computed from
        the old ones is void.
        """
        try:
            return None if self._counts() else StepKind.TOO_OLD
        except ExpiredError as error:
            self._come_back(error)
            return StepKind.EXPIRED

    def fetch(self, entries: Collection[int]) -> None:
        """Pulls what of these entries is on demand, on any rank. Every rank calls it together, possibly with nothing.

        A step that is open goes on: gradients that are there already are sent, or sent again, in `step`.
        """
        wanted = self._on_demand.wanted_by_any(entries)
        if not wanted:
            return
        started = time.perf_counter()
        try:
            self._ranks.together(self._check)
            self._stager.suspend()
            self._pulls.fetch(self._shards, wanted)
        except ExpiredError as error:
            # Not the moment to put other values into the whole model. The next step joins again and drops what comes of this.
            logger.warning("worker %d fetched nothing: %s", self._membership.worker_id, error)
            self._interrupted = True
            return
        except BaseException as error:
            self._interrupted = not isinstance(error, PushpullError)
            raise
        if self._active:
            self._begin_step()
            self._stager.resume()
        self._count_time(0.0, time.perf_counter() - started)

    def _check(self) -> None:
        self._membership.check()
        if self._interrupted:
            raise ExpiredError("the exchange before was interrupted")

    def rejoin(self) -> list[Outcome]:
        """A new incarnation: everything is pulled. Returns what each shard says of the step that was cut off, if all took it.

        The residual follows these answers; of a step that does not count the gradient is dropped.
        """
        self._interrupted = False
        self._stager.suspend()
        self.num_rejoins += 1
        outcomes, attempts_left = list[Outcome](), REJOIN_ATTEMPTS
        while True:
            attempts_left -= 1
            self._shards.close()
            self._active, self._step = False, 0
            try:
                self._membership.rejoin()
                self._shards = self._new_shards(self.traffic())
                # Every shard has the view without the earlier incarnation by now: what it says of its step is final.
                outcomes = self._ranks.together(lambda: self._settlement.recover(self._recorded.ask)) or outcomes
                self._enrol_and_pull()
                return outcomes
            except ExpiredError:
                if not attempts_left:
                    raise

    def suspend(self) -> None:
        """Does not count until the next step; the caller tells the registrar."""
        self._stager.suspend()
        self._active = False

    def close(self) -> None:
        """Ends streams and threads."""
        self._active = False
        self._stager.close()
        self._shards.close()

    # ---- where the stager's messages go (see staging.FrameSink) ----

    def send(self, shard: int, message: bytes) -> None:
        self._shards.send(shard, message)

    def restart(self) -> None:
        self._shards.restart()

    # ---- life ----

    def _new_shards(self, traffic_before: tuple[int, int, int] = (0, 0, 0)) -> ShardGroup:
        hellos = greetings(self._membership, self._model, self._on_demand.named)
        return ShardGroup(self.job, hellos, self._held.take, self._membership.job_is_over, traffic_before)

    def _enrol_and_pull(self) -> None:
        self.clock = self._entrance.enter(self._shards)
        self._pulls.everything(self._shards)

    def _counts(self) -> bool:
        """Sees to it that this worker counts. False if it did not, and the newest values were pulled."""
        self._ranks.together(self._check)
        return self._active or self._activate()

    def settle_interrupted(self) -> None:
        """Before what encoders remember is saved: finds out what became of a step that was interrupted, if shards know soon.

        Raises:
            NotReadyError: it is not decided; ServerUnreachableError and others as of `RecordedOutcomes.ask`.
        """
        if self._interrupted:
            self._settlement.recover(partial(self._recorded.ask, open_seconds=SAVING_SECONDS))

    def _come_back(self, error: ExpiredError) -> list[Outcome]:
        logger.warning("worker %d joins again: %s", self._membership.worker_id, error)
        return self.rejoin()

    def _activate(self) -> bool:
        """Counts from now on. False if the gradient at hand is too old: the newest values are pulled instead."""
        ask = partial(self._membership.registrar.activate, self.position.own_clock)
        while not (answer := self._ranks.from_first(ask)).open:
            pass  # ranks meet now and then while the first one waits for other workers
        self._active = True
        fresh = True
        if self.job.mode == Mode.MODE_SYNC:
            fresh = self.position.round >= answer.first_round - 1
            while self.position.round < answer.first_round - 1:
                self._pull()
                if self.position.round < answer.first_round - 1:
                    time.sleep(ASK_AGAIN_SECONDS)
            self._round_due = max(answer.first_round, self.position.round + 1)
        elif self.job.mode == Mode.MODE_BOUNDED:
            pulled_at = max(self.position.own_clock, self.position.smallest_clock)
            fresh = answer.clock - pulled_at <= self.job.staleness_bound
            if not fresh:
                self._pull()
        self._open_step()
        return fresh

    def _pull(self) -> None:
        self._stager.suspend()
        self._pulls.newer(self._shards, range(self.plan.num_shards))

    def _pull_local(self, entries: frozenset[int]) -> None:
        try:
            self._stager.suspend()
            self._pulls.local(self._shards, entries)
            self._begin_step()
            self._stager.resume()
        except ExpiredError as error:
            self._come_back(error)

    # ---- steps ----

    def _begin_step(self) -> None:
        self._shards.begin({shard: OpenStep(self._step + 1) for shard in range(self.plan.num_shards)})

    def _open_step(self) -> None:
        self._begin_step()
        step = self._step + 1
        life = self._membership.worker_id, self._membership.life
        self._stager.open(step, step_seed(self.job.seed, life, step))

    def _with_values(self, frames: StagedFrames, push: ValuePush) -> StagedFrames:
        """Sends values behind the gradients of a step, or in the place of any."""
        if not frames.apply:
            return frames
        step, size = self._step + 1, self._message_bytes
        for shard, message in self._ranks.together(lambda: push.messages(step, frames.attempt, size)):
            self._shards.send(shard, message)
        return replace(frames, num_values=push.num_blocks(), average=push.average)

    def _take_values(self, request: StepRequest, push: ValuePush) -> StepKind:
        return self._exchange(request, lambda: self._with_values(self._staging.without_gradients(), push))

    def _take_step(self, request: StepRequest) -> StepKind:
        self.buffer_mean.step_taken(skipped=request.skip)
        local = self._local_state.due()
        kind = self._exchange(request, lambda: self._with_values(self._staging.stage(request), local))
        if kind is StepKind.APPLIED:
            self._local_state.sent(local)
        return kind

    def _exchange(self, request: StepRequest, stage: Callable[[], StagedFrames]) -> StepKind:
        started = time.perf_counter()
        frames = stage()
        staged_at = time.perf_counter()
        self._held.expect()
        self._settlement.begin(recorded_request(self._membership, self._step + 1), frames)
        try:
            self._ranks.together(lambda: self._commit(request, frames))
        except BaseException as error:
            self._stager.settled()
            self._settlement.take(self._shards.outcomes())
            # Ctrl-C, say: some shards may have applied the step. Its outcome must not be taken for the next one's.
            self._interrupted = not isinstance(error, PushpullError)
            raise
        self._pulls.behind_step()
        self._membership.agree_on_first()
        self._count_time(staged_at - started, time.perf_counter() - staged_at)
        return self._end_step(frames)

    def _commit(self, request: StepRequest, frames: StagedFrames) -> None:
        """Sends the commits and waits for outcomes and values."""
        for shard in range(self.plan.num_shards):
            key = self._step + 1, self._round_due
            commit = commit_of(shard, request, frames, self._held.versions(shard), key)
            self._shards.commit(shard, WorkerMessage(commit=commit).SerializeToString())
        with self._membership.ending_all_ranks():
            self._shards.wait(range(self.plan.num_shards))

    def _end_step(self, frames: StagedFrames) -> StepKind:
        self._stager.settled()
        self._settlement.take(self._shards.outcomes())
        outcomes = self._settlement.end()
        answers = self._shards.answers()
        self._step += 1
        in_rounds = self.job.mode == Mode.MODE_SYNC
        self._pulls.step_ended(self._shards, answers, in_rounds)
        if in_rounds:
            self._round_due = self.position.round + 1
        self._open_step()
        if frames.failure is not None:
            raise frames.failure
        return kind_of(outcomes)

    def _count_time(self, encode_seconds: float, exchange_seconds: float) -> None:
        self.timings.add(encode_seconds, exchange_seconds, self._held.take_decode_seconds() / self.plan.num_shards)
