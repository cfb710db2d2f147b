"""This worker's copy of the model: enrolled, activated, and kept in step with the servers."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch

from ..compression.spec import parse_codec
from ..protos.common_pb2 import Mode, OptimizerSpecification
from ..protos.errors import ExpiredError, FencedError, NonFiniteError, PushpullError
from ..protos.registrar_pb2 import EnrolResponse
from ..protos.shard_pb2 import Hello, Outcome, Pull, PullDone, WorkerMessage
from .block_encoding import encoding_of
from .followed_values import receiver_for
from .gradient_encoder import encoders_of, step_seed
from .held_values import HeldValues
from .initialise import upload_initial_values
from .membership import Membership
from .open_exchange import OpenPull, OpenStep
from .ranks.model import RankModel
from .recorder import StepKind, Timings
from .replica_settings import ReplicaSettings
from .shards import ShardGroup
from .staging import StagedStep, Stager, StagingSettings
from .step_messages import Position, StagedFrames, StepRequest, clipping_factor, commit_of, kind_of

logger = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 0.02
LEVELLING_PULLS = 3
"""Pulls that try to bring all shards to one round; with a quorum rounds may close faster than this worker pulls."""
REJOIN_ATTEMPTS = 5
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
        self._own = model.blocks
        self._ranks = model.ranks
        self._copies = model.copies
        self._gradients = model.gradients
        self._optimised = frozenset(i for i, entry in enumerate(plan.entries) if entry.group >= 0)
        self.encoder, encoding = encoding_of(plan, encoders_of(membership.job), settings.encode_on_device)
        self.clock = 0
        """The job's clock when this worker enrolled: rounds, or steps of the slowest member."""
        self.timings = Timings()
        self.position = Position()
        self._membership = membership
        self.job = membership.job
        self._optimizer = optimizer
        self._settings = settings
        self._memory = model.memory
        receiver = receiver_for(parse_codec(self.job.pull_codec), model.memory, len(plan.blocks))
        self._held = HeldValues(model.blocks, model.memory, receiver, model.num_parameters)
        self._message_bytes = self.job.message_bytes or DEFAULT_MESSAGE_BYTES
        self._stager = Stager(
            model.blocks,
            model.gradients,
            encoding,
            self,
            StagingSettings(
                message_bytes=self._message_bytes,
                num_threads=settings.num_encoder_threads,
                early=settings.early and model.gradients.whole_after_backward,
                accumulate=settings.accumulate,
                measure_norm=settings.clip_norm is not None,
            ),
        )
        self._shards = self._new_shards()
        self._retired_bytes = (0, 0, 0)
        self._active = False
        self._interrupted = False
        self._step = 0
        self._round_due = 0
        self._num_pulls = 0
        membership.on_fenced = self._fail

    @property
    def num_restaged(self) -> int:
        """Steps whose early frames were wrong and were sent again."""
        return self._stager.num_restaged

    def traffic(self) -> tuple[int, int, int]:
        """Bytes sent, received and sent again so far, over all incarnations."""
        sent, received, resent = self._retired_bytes
        shards = self._shards
        return sent + shards.bytes_sent(), received + shards.bytes_received(), resent + shards.bytes_resent()

    def on_gradient(self, entry: int, gradient: torch.Tensor | None) -> None:
        """A gradient is ready; may send it early. Never blocks."""
        self._stager.on_gradient(entry, gradient)

    def scale_early_by(self, factor: Callable[[], float]) -> None:
        """See `Stager.scale_early_by`."""
        self._stager.scale_early_by(factor)

    def reduce_in_place(self, parameters: Mapping[int, torch.Tensor]) -> None:
        """Makes this rank's gradients the worker's, for an optimizer that runs here; see `RankGradients.reduced`."""
        self._gradients.reduce_in_place(parameters)

    def start(self) -> None:
        """Enrols, initialises the servers if it falls to this worker, and pulls everything."""
        try:
            self._ranks.together(self._membership.check)
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
        try:
            return self._take_step(request) if self._counts() else StepKind.TOO_OLD
        except ExpiredError as error:
            return self._come_back(error)

    def activate(self) -> StepKind | None:
        """Counts from now on, and not from the next step only; others wait for this worker then.

        None if the values in the model still hold. Else they were replaced, and the kind says why what was computed from
        the old ones is void.
        """
        try:
            return None if self._counts() else StepKind.TOO_OLD
        except ExpiredError as error:
            return self._come_back(error)

    def _check(self) -> None:
        self._membership.check()
        if self._interrupted:
            raise ExpiredError("the step before was interrupted")

    def rejoin(self) -> None:
        """A new incarnation: everything is pulled, the open step's gradient is dropped, the residual stays."""
        self._stager.suspend()
        self.encoder.discard(self._own.blocks)
        for attempts_left in reversed(range(REJOIN_ATTEMPTS)):
            self._shards.close()
            self._retired_bytes = self.traffic()
            self._active, self._step = False, 0
            try:
                self._membership.rejoin()
                self._shards = self._new_shards()
                return self._enrol_and_pull()
            except ExpiredError:
                if not attempts_left:
                    raise

    def pause(self) -> None:
        """Stops counting until the next step."""
        self._stager.suspend()
        if self._active:
            self._active = False
            try:
                self._ranks.from_first(self._membership.registrar.pause)
            except ExpiredError:
                logger.info("paused after the lease ran out")

    def close(self) -> None:
        """Ends streams and threads."""
        self._stager.close()
        self._shards.close()

    # ---- where the stager's messages go (see staging.FrameSink) ----

    def send(self, shard: int, message: bytes) -> None:
        self._shards.send(shard, message)

    def restart(self) -> None:
        self._shards.restart()

    # ---- life ----

    def _new_shards(self) -> ShardGroup:
        several = self._ranks.num_ranks > 1
        hello = Hello(
            job_id=self.job.job_id,
            worker_id=self._membership.worker_id,
            incarnation=self._membership.incarnation,
            plan_fingerprint=self.plan.fingerprint,
            rank=self._ranks.rank,
            num_ranks=self._ranks.num_ranks,
        )
        return ShardGroup(self.job, hello, self._own.blocks_of_shard if several else None, self._held.take)

    def _fail(self, error: FencedError) -> None:
        self._shards.fail(error)

    def _enrol_and_pull(self) -> None:
        started, grant = False, 0
        while True:
            answer = self._ranks.from_first(self._enrol)
            if not started:
                self._shards.start()
                started = True
            if answer.state == EnrolResponse.STATE_READY:
                break
            if answer.grant != grant:
                grant = answer.grant
                self._ranks.together(partial(self._upload, grant))
            self._ranks.together(self._shards.check)
            time.sleep(ASK_AGAIN_SECONDS)
        self.clock = answer.clock
        self._pull(range(self.plan.num_shards), everything=True)

    def _enrol(self) -> EnrolResponse:
        return self._membership.registrar.enrol(self.plan.to_message(), self._optimizer)

    def _upload(self, grant: int) -> None:
        upload_initial_values(self._own, self._memory, self._shards, grant, self._message_bytes)

    def _counts(self) -> bool:
        """Sees to it that this worker counts. False if it did not, and the newest values were pulled."""
        self._ranks.together(self._check)
        return self._active or self._activate()

    def _come_back(self, error: ExpiredError) -> StepKind:
        logger.warning("worker %d joins again: %s", self._membership.worker_id, error)
        self._interrupted = False
        self.rejoin()
        return StepKind.EXPIRED

    def _activate(self) -> bool:
        """Counts from now on. False if the gradient at hand is too old: the newest values are pulled instead."""
        answer = self._ranks.from_first(lambda: self._membership.registrar.activate(self.position.own_clock))
        self._active = True
        fresh = True
        if self.job.mode == Mode.MODE_SYNC:
            fresh = self.position.round >= answer.first_round - 1
            while self.position.round < answer.first_round - 1:
                self._pull(range(self.plan.num_shards))
                if self.position.round < answer.first_round - 1:
                    time.sleep(ASK_AGAIN_SECONDS)
            self._round_due = max(answer.first_round, self.position.round + 1)
        elif self.job.mode == Mode.MODE_BOUNDED:
            pulled_at = max(self.position.own_clock, self.position.smallest_clock)
            fresh = answer.clock - pulled_at <= self.job.staleness_bound
            if not fresh:
                self._pull(range(self.plan.num_shards))
        self._open_step()
        return fresh

    # ---- pulls ----

    def _pull(self, shards: Sequence[int], everything: bool = False) -> dict[int, PullDone]:
        """Pulls from these shards, which may differ from rank to rank; their answers."""
        self._stager.suspend()
        self._held.expect()
        self._num_pulls += 1
        pulls = {}
        for shard in shards:
            base = [] if everything else self._held.versions(shard)
            message = WorkerMessage(pull=Pull(request=self._num_pulls, base_versions=base))
            pulls[shard] = OpenPull(self._num_pulls, message.SerializeToString())
        self._shards.begin(pulls)
        self._ranks.together(self._shards.wait)
        self._complete(None if everything else self._optimised)
        answers = {shard: pull.pull_done for shard, pull in pulls.items() if pull.pull_done is not None}
        self._note(answers.values())
        return answers

    def _complete(self, entries: frozenset[int] | None) -> None:
        """The owners of blocks hold the new values: so do all others, and autograd learns of it."""
        self._copies.hand_on(entries)
        self._held.complete()

    def _note(self, answers: Iterable[PullDone]) -> None:
        """Where the worker stands is where its slowest rank does."""
        self.position.note(list(answers))
        self.position.agree(self._ranks.smallest)

    def _level(self, rounds: Sequence[int]) -> None:
        """After a late step shards may have answered with different rounds: pulls again from those behind."""
        newest = list(rounds)
        for _ in range(LEVELLING_PULLS):
            goal = self._newest(newest)
            behind = [shard for shard, round_number in enumerate(newest) if round_number < goal]
            if self._gradients.agree(not behind):
                break
            for shard, answer in self._pull(behind).items():
                newest[shard] = answer.round
        self.position.round = self._newest(newest)

    def _newest(self, rounds: Sequence[int]) -> int:
        """Over all ranks."""
        return -self._ranks.smallest([-max(rounds)])[0]

    # ---- steps ----

    def _open_step(self) -> None:
        step = self._step + 1
        self._shards.begin({shard: OpenStep(step) for shard in range(self.plan.num_shards)})
        life = self._membership.worker_id, self._membership.life
        self._stager.open(step, step_seed(self.job.seed, life, step))

    def _take_step(self, request: StepRequest) -> StepKind:
        started = time.perf_counter()
        frames = self._stage(request)
        staged_at = time.perf_counter()
        self._held.expect()
        try:
            self._ranks.together(lambda: self._commit(request, frames))
        except BaseException as error:
            self._settle(frames)
            # Ctrl-C, say: some shards may have applied the step. Its outcome must not be taken for the next one's.
            self._interrupted = not isinstance(error, PushpullError)
            raise
        self._complete(self._optimised)
        self._count_time(staged_at - started, time.perf_counter() - staged_at)
        return self._end_step(frames)

    def _commit(self, request: StepRequest, frames: StagedFrames) -> None:
        """Sends the commits and waits for outcomes and values."""
        for shard in range(self.plan.num_shards):
            key = self._step + 1, self._round_due
            commit = commit_of(shard, request, frames, self._held.versions(shard), key)
            self._shards.commit(shard, WorkerMessage(commit=commit).SerializeToString())
        with self._membership.ending_all_ranks():
            self._shards.wait()

    def _stage(self, request: StepRequest) -> StagedFrames:
        """Sends the gradients, unless some rank skips the step: then all do.

        A gradient that is not finite makes the step a skip too, because others may wait for it; then the caller learns.
        """
        skips = self._ranks.sums([float(request.skip)])[0]
        if skips:
            return StagedFrames.of_skip(self._own, self._stager.abandon())
        gradients = request.gradients if request.reduced else self._gradients.reduced(request.gradients)
        staged, failure = self._ranks.together(lambda: self._finish(gradients, request))
        failures, squares = self._ranks.sums([float(failure is not None), staged.squares])
        if failures:
            failure = failure or NonFiniteError("the gradient of another rank of this worker is not finite")
            return StagedFrames.of_skip(self._own, self._stager.abandon(), failure)
        return StagedFrames.of_gradients(self._own, staged, clipping_factor(self._settings.clip_norm, squares))

    def _finish(
        self, gradients: Mapping[int, torch.Tensor], request: StepRequest
    ) -> tuple[StagedStep, NonFiniteError | None]:
        try:
            return self._stager.finish(gradients, request.factor, request.unchanged), None
        except NonFiniteError as error:
            return StagedStep(0, frozenset(), 0.0), error

    def _settle(self, frames: StagedFrames) -> list[Outcome]:
        """The residual follows each shard's own answer; without one the gradient is dropped."""
        self._stager.settled()
        outcomes = []
        for shard, client in enumerate(self._shards.clients):
            exchange = client.exchange
            outcome = exchange.outcome if isinstance(exchange, OpenStep) else None
            if outcome is not None and outcome.kind == Outcome.KIND_APPLIED:
                self.encoder.commit(frames.blocks[shard])
            else:
                self.encoder.discard(self._own.blocks_of_shard[shard])
            if outcome is not None:
                outcomes.append(outcome)
        return outcomes

    def _end_step(self, frames: StagedFrames) -> StepKind:
        outcomes = self._settle(frames)
        exchanges = [client.exchange for client in self._shards.clients]
        answers = [e.pull_done for e in exchanges if isinstance(e, OpenStep) and e.pull_done is not None]
        self._step += 1
        self._note(answers)
        if self.job.mode == Mode.MODE_SYNC:
            self._level([answer.round for answer in answers])
            self._round_due = self.position.round + 1
        self._open_step()
        if frames.failure is not None:
            raise frames.failure
        return kind_of(outcomes)

    def _count_time(self, encode_seconds: float, exchange_seconds: float) -> None:
        """Decoding goes on in the shards' threads while this one waits."""
        decode_seconds = self._held.take_decode_seconds() / self.plan.num_shards
        self.timings.encode += encode_seconds
        self.timings.decode += decode_seconds
        self.timings.wait += max(0.0, exchange_seconds - decode_seconds)
