"""The bookkeeping of one shard: steps, outcomes, pulls, rounds. Pure: no I/O, no threads, no arithmetic on blocks.

Calls return effects, in the order in which the caller must carry them out. A step is staged, committed, applied as a job,
and settled; jobs run one after the other in the order in which they were decided. A worker of several ranks has a stream
and a part of the step for each; the step is committed when all parts are.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import inf
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..protos.common_pb2 import ErrorCode, ParameterGroup
from ..protos.errors import (
    BadRequestError,
    ConflictError,
    FutureBaseError,
    NonFiniteError,
    NotReadyError,
    OverBudgetError,
    PushpullError,
    code_of,
)
from ..protos.registrar_pb2 import Contribution, RoundRecord, ShardReport, View
from ..protos.shard_pb2 import Commit, Hello, Outcome, Pull, RecordedRequest, RecordedResponse, Verdict
from .completeness import fault_of_part, fault_of_whole
from .consistency import Policy
from .effects import AppliedPart, Counters, Dismiss, Effect, Job, PullTicket, Report, Run, Tell
from .keys import Key, StreamKey
from .ledgers import Ledgers
from .membership import Membership
from .norms import StepNorms
from .pulls import Progress, RoundSize, WaitingPulls, merged_versions
from .reports import refused_report, settled_report, staged_report
from .round_parts import AppliedStep, gradient_parts, replacements, to_average
from .shares import Share, Shares
from .steps import OpenStep, Part, StagedFrame, StepLedger


class Blocks(Protocol):
    """What the bookkeeping must know of a shard's blocks."""

    versions: NDArray[np.int64]

    @property
    def position_of(self) -> Mapping[int, int]:
        """Places in `versions`, by block id; they ascend together."""

    @property
    def pushed_ids(self) -> Collection[int]:
        """Ids of the blocks that gradients are pushed for."""

    def check_groups(self, groups: Sequence[ParameterGroup]) -> None:
        """Raises PushpullError for group values that the optimizer could not be run with."""


class ShardState:
    """Steps and pulls of one shard.

    Invariants: an incarnation's steps settle in order, each once; a settled step never runs again; nothing of a step
    reaches a job before the commits and all frames of all ranks are here; `round` never falls.
    """

    def __init__(
        self, shard: int, policy: Policy, blocks: Blocks, norms: StepNorms, most_value_bytes: float = inf
    ) -> None:
        """`most_value_bytes`: of frames of values that one rank may stage in a step."""
        self._shard = shard
        self._most_value_bytes = most_value_bytes
        self._policy = policy
        self._blocks = blocks
        self._shares = Shares(shard, blocks.position_of, blocks.pushed_ids)
        self._norms = norms
        self.membership = Membership()
        self.counters = Counters()
        self.round = 0
        """Newest round that is applied."""
        self._round_decided = 0
        self.ready = False
        """Initial values are valid."""
        self.diverged: str | None = None
        """A parameter whose values are not finite any more."""
        self._ledgers = Ledgers(self.membership, self._shares)
        self._refusals: dict[Key, ShardReport] = {}
        self._pulls = WaitingPulls(policy, self.membership, self.counters)
        self._round_size = RoundSize()
        self._jobs_decided = 0
        self._jobs_done = 0

    @property
    def staged_bytes(self) -> int:
        """Bytes of frames held for steps that are not settled."""
        return sum(ledger.open.num_bytes for ledger in self._ledgers if ledger.open)

    @property
    def num_queued_jobs(self) -> int:
        """Jobs decided and not done."""
        return self._jobs_decided - self._jobs_done

    # ---- from workers ----

    def welcome(self, hello: Hello) -> int:
        """Checks a rank that opens a stream and what it says it owns; returns its worker's newest settled step.

        Raises:
            FencedError, UnknownIncarnationError: see `Membership.check`.
            BadRequestError: see `Ledgers.greet`.
        """
        return self._ledgers.greet(hello).last_outcome.step

    def admit(self, key: StreamKey, step: int, attempt: int, blocks: Sequence[int], values: bool = False) -> bool:
        """Checks everything about a message of frames but the frames. False: drop it, it is known or out of date.

        Raises:
            FencedError, UnknownIncarnationError, NotReadyError, StepError: nothing was changed.
        """
        ledger, share = self._ledgers.of(key)
        if ledger.recorded(step) is not None:
            self.counters.duplicates_dropped += len(blocks)
            return False
        self._check_may_push(key)
        part = ledger.begin(step, key.rank, attempt)
        if part is None or part.refusal is not None:
            return False
        if part.commit is not None:
            # what is committed is what was reported: frames behind it are repetitions at best
            self.counters.duplicates_dropped += len(blocks)
            return False
        expected = share.ids if values else share.pushed_ids
        for block in blocks:
            if block not in expected:
                part.refuse(self._shares.refusal(key, block))
                return False
        return True

    def stage(
        self, key: StreamKey, step: int, attempt: int, frames: dict[int, StagedFrame], values: bool = False
    ) -> None:
        """Keeps validated frames of the open step. They change nothing else."""
        ledger, _ = self._ledgers.of(key)
        part = ledger.taking_frames(step, key.rank, attempt)
        if part is None or part.refusal is not None:
            return
        known = sum(block in (part.values if values else part.frames) for block in frames)
        if 0 < known < len(frames):
            # a frame keeps the whole message that it came in, so of a message all or nothing is kept
            part.refuse(ConflictError(f"some frames of one message of step {step} were sent before in another"))
            return
        for block, staged in frames.items():
            try:
                if not ledger.add(part, block, staged, values):
                    self.counters.duplicates_dropped += 1
            except PushpullError as error:
                part.refuse(error)
                return
        if part.value_bytes > self._most_value_bytes:
            part.refuse(OverBudgetError(f"values of more than {self._most_value_bytes:.0f} bytes in one step"))

    def refuse(self, key: StreamKey, step: int, attempt: int, error: PushpullError) -> None:
        """A frame of the open step is not valid: the step will be refused at its commit."""
        ledger, _ = self._ledgers.of(key)
        part = ledger.taking_frames(step, key.rank, attempt)
        if part is not None:
            part.refuse(error)

    def commit(self, key: StreamKey, commit: Commit) -> list[Effect]:
        """A rank's part is complete, and the step decided by its worker; implies a pull.

        Raises:
            FencedError, UnknownIncarnationError, NotReadyError, BadRequestError: nothing was changed.
        """
        if commit.verdict not in (Verdict.VERDICT_APPLY, Verdict.VERDICT_SKIP):
            raise BadRequestError("the verdict of a commit is APPLY or SKIP")
        ledger, share = self._ledgers.of(key)
        base = share.held(commit.base_versions)
        recorded = ledger.recorded(commit.step)
        if recorded is not None:
            self.counters.duplicates_dropped += 1
            self._pull_after(key, commit.step, share, base)
            return [Tell((key,), recorded), *self._answer()]
        self._check_may_push(key)
        if ledger.open is not None and ledger.open.closing and ledger.open.step == commit.step:
            self._pull_after(key, commit.step, share, base)
            return []
        part = ledger.begin(commit.step, key.rank, commit.attempt)
        if part is None:
            return []
        self._pull_after(key, commit.step, share, base)
        if part.commit is None:
            self._check_part(part, commit, share, base)
            part.commit, part.base_versions = commit, base
        else:
            self.counters.duplicates_dropped += 1
        assert ledger.open is not None
        return self._decide(ledger, ledger.open) if ledger.open.whole(ledger.num_ranks) else []

    def pull(self, key: StreamKey, pull: Pull) -> list[Effect]:
        """Asks for values newer than those held.

        Raises:
            FencedError, UnknownIncarnationError, NotReadyError, BadRequestError: nothing was changed.
        """
        self.membership.check(*key.worker)
        _, share = self._ledgers.of(key)
        self.check_ready()
        held = self._shares.wanted(share, pull)
        self._pulls.add(PullTicket(key, pull.request, 0, held, self._jobs_decided))
        return self._answer()

    def recorded(self, request: RecordedRequest) -> RecordedResponse:
        """What became of a step, also of an incarnation that is live no more; changes nothing."""
        return self._ledgers.recorded((request.worker_id, request.incarnation), request.step)

    # ---- from the registrar ----

    def install_view(self, view: View) -> list[Effect]:
        """Takes a view; forgets what incarnations that are live no more had staged. Outcomes stay on record."""
        gone = self.membership.install(view)
        live = {(member.worker_id, member.incarnation) for member in view.members}
        self._ledgers.end_all_but(live)
        self._pulls.keep(live)
        self._norms.keep(live)
        for key in self._refusals.keys() - live:
            del self._refusals[key]
        return [*(Dismiss(key) for key in gone), *self._answer()]

    def close(self, record: RoundRecord) -> list[Effect]:
        """The registrar closed a round: apply exactly these contributions. A repeated record changes nothing."""
        if record.round <= self._round_decided:
            return []
        self._round_decided = record.round
        appliers = [c for c in record.contributions if c.apply]
        total = sum(c.num_samples for c in appliers)
        settles: dict[Key, Outcome.Kind] = {}
        applied: list[AppliedStep] = []
        for contribution in self._in_order(record.contributions):
            key = (contribution.worker_id, contribution.incarnation)
            ledger = self._ledgers.obtain(key)
            if ledger.recorded(contribution.step) is not None:
                continue
            settles[key] = Outcome.KIND_APPLIED if contribution.apply else Outcome.KIND_SKIPPED
            if contribution.apply and (ledger.open is None or not ledger.open.whole(ledger.num_ranks)):
                raise BadRequestError(f"round {record.round} names a step that is not staged here")
            ledger.open = ledger.open or OpenStep(contribution.step)
            ledger.open.closing = True
            if contribution.apply:
                applied.append((contribution, ledger.open))
        for ledger, step, commit in self._ledgers.whole_steps():
            if commit.round <= record.round and not step.closing:
                settles[ledger.key] = Outcome.KIND_LATE
        self._jobs_decided += 1
        numbers = [dict(group.numbers) for group in record.groups]
        job = Job(
            self._jobs_decided,
            gradient_parts(applied, total),
            numbers,
            None,
            self.membership.num_active,
            settles,
            record.round,
            total,
            replacements(applied),
            to_average(applied),
        )
        return [Run(job)]

    # ---- from the applying threads ----

    def streaming(self, job: Job) -> list[PullTicket]:
        """Pulls that will be answered when the job is done: they may be sent its values as they are made."""
        return self._pulls.streaming(job)

    def finish(self, job: Job) -> list[Effect]:
        """The job is applied: settle its steps, answer pulls."""
        self._jobs_done = job.sequence
        self.round = max(self.round, job.round)
        if job.round and job.parts:
            self._round_size = RoundSize(len(job.parts), job.num_samples)
        effects: list[Effect] = []
        for key, kind in job.settles.items():
            ledger = self._ledgers.find(key)
            effects += self._settle(ledger, kind) if ledger is not None else []
        return [*effects, *self._answer()]

    # ---- for a new link to the registrar ----

    def reports_again(self) -> list[ShardReport]:
        """What the registrar may have missed while the link was down. Repeating it changes nothing."""
        whole = self._ledgers.whole_steps() if self._policy.waits_for_round else []
        return [
            *self._refusals.values(),
            *self._norms.reports_again(),
            *(staged_report(ledger, commit) for ledger, _, commit in whole),
        ]

    # ---- inside ----

    def check_ready(self) -> None:
        if not self.ready:
            raise NotReadyError(f"shard {self._shard} has no parameters yet")

    def _check_may_push(self, key: StreamKey) -> None:
        if self.membership.check(*key.worker).observer:
            raise BadRequestError("an observer pushes nothing")
        self.check_ready()

    def _in_order(self, contributions: Iterable[Contribution]) -> list[Contribution]:
        """The order of the sum: ascending worker id, whatever order the steps arrived in."""
        return sorted(contributions, key=lambda contribution: contribution.worker_id)

    def _pull_after(self, key: StreamKey, step: int, share: Share, base: NDArray[np.int64]) -> None:
        held = self._shares.wanted_always(share, base)
        self._pulls.add(PullTicket(key, 0, step, held, self._jobs_decided))

    def _check_part(self, part: Part, commit: Commit, share: Share, base: NDArray[np.int64]) -> None:
        if self.diverged is not None:
            said = f"{self.diverged} is not finite after an update: training has diverged; lower the learning rate"
            part.refuse(NonFiniteError(said))
        elif (base > self._blocks.versions[share.positions]).any():
            part.refuse(FutureBaseError("the gradient was computed from a version that does not exist yet"))
        elif (fault := fault_of_part(part, commit, share)) is not None:
            part.refuse(fault)
        elif commit.verdict == Verdict.VERDICT_APPLY:
            try:
                self._blocks.check_groups(commit.groups)
            except PushpullError as error:
                part.refuse(error)

    def _decide(self, ledger: StepLedger, step: OpenStep) -> list[Effect]:
        """What to do with a step that all ranks have committed."""
        commit = step.commit
        assert commit is not None
        if step.first_refusal is None:
            fault = fault_of_whole(step, self._shares.pushed_ids, ledger.shares.values())
            step.refusal = None if fault is None else (code_of(fault), str(fault))
        if step.first_refusal is not None:
            return self._settle_refused(ledger, commit, step.first_refusal[0])
        if self._policy.waits_for_round:
            # Told even when it is late: the registrar gives the step's data back.
            report = Report(staged_report(ledger, commit))
            if commit.round <= self._round_decided:
                return [report, *self._settle(ledger, Outcome.KIND_LATE), *self._answer()]
            return [report]
        if commit.verdict == Verdict.VERDICT_SKIP:
            return [*self._settle(ledger, Outcome.KIND_SKIPPED), *self._answer()]
        return [Run(self._job_of_step(ledger, step, commit))]

    def _job_of_step(self, ledger: StepLedger, step: OpenStep, commit: Commit) -> Job:
        step.closing = True
        self._jobs_decided += 1
        base = [
            (ledger.shares[rank].positions, part.base_versions)
            for rank, part in step.parts.items()
            if part.base_versions is not None
        ]
        return Job(
            self._jobs_decided,
            [AppliedPart(ledger.worker_id, float(np.float32(commit.scale)), step.frames)],
            [dict(group.numbers) for group in commit.groups],
            merged_versions(len(self._blocks.versions), base),
            self.membership.num_active,
            {ledger.key: Outcome.KIND_APPLIED},
            0,
            replacements=[step.values] if step.values else [],
        )

    def _settle(self, ledger: StepLedger, kind: Outcome.Kind) -> list[Effect]:
        if ledger.open is None:
            return []
        step, commit = ledger.open.step, ledger.open.commit
        lots = list(commit.lots) if commit is not None else []
        refusal = ledger.open.first_refusal if kind == Outcome.KIND_REFUSED else None
        outcome = Outcome(step=step, kind=kind, round=self.round)
        if refusal is not None:
            outcome.code, outcome.message = refusal
        ledger.settle(outcome, lots)
        self.membership.advance(ledger.worker_id)
        self.counters.steps_applied += kind == Outcome.KIND_APPLIED
        norms = self._norms.settled(ledger.worker_id, ledger.incarnation, step)
        told: list[Effect] = [*map(Report, norms), Tell(ledger.streams, outcome)]
        return told if self._policy.waits_for_round else [Report(settled_report(ledger, outcome)), *told]

    def _settle_refused(self, ledger: StepLedger, commit: Commit, code: ErrorCode) -> list[Effect]:
        name = ErrorCode.Name(code)
        self.counters.pushes_refused[name] = self.counters.pushes_refused.get(name, 0) + 1
        effects: list[Effect] = []
        if self._policy.waits_for_round:
            report = self._refusals[ledger.key] = refused_report(ledger, commit, code)
            effects.append(Report(report))
        return [*effects, *self._settle(ledger, Outcome.KIND_REFUSED), *self._answer()]

    def _answer(self) -> list[Effect]:
        """Answers every pull that may be answered now."""
        progress = Progress(self._jobs_done, self.round, self._round_size)
        return self._pulls.answer(progress, self._ledgers.last_step)
