"""The bookkeeping of one shard: steps, outcomes, pulls, rounds. Pure: no I/O, no threads, no arithmetic on blocks.

Calls return effects, in the order in which the caller must carry them out. A step is staged, committed, applied as a job,
and settled; jobs run one after the other in the order in which they were decided.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..protos.common_pb2 import ErrorCode, ParameterGroup
from ..protos.errors import (
    BadRequestError,
    FutureBaseError,
    NonFiniteError,
    NotReadyError,
    PushpullError,
    StepError,
    UnknownBlockError,
    code_of,
)
from ..protos.registrar_pb2 import Contribution, RoundRecord, ShardReport, View
from ..protos.shard_pb2 import Commit, Outcome, Pull, PullDone, Verdict
from .consistency import Policy
from .effects import AnswerPull, AppliedPart, Counters, Dismiss, Effect, Job, Key, PullTicket, Report, Run, Tell
from .membership import Membership
from .norms import StepNorms
from .reports import refused_report, settled_report, staged_report
from .steps import OpenStep, StagedFrame, StepLedger

ENDED_LEDGERS_KEPT = 1024
"""Incarnations that are live no more whose last outcome may still be asked for."""


class ShardState:
    """Steps and pulls of one shard.

    Invariants: an incarnation's steps settle in order, each once; a settled step never runs again; nothing of a step
    reaches a job before its commit and all its frames are here; `round` never falls.
    """

    def __init__(
        self,
        shard: int,
        policy: Policy,
        pushed_ids: Iterable[int],
        versions: NDArray[np.int64],
        check_groups: Callable[[Sequence[ParameterGroup]], None],
        norms: StepNorms,
    ) -> None:
        self._shard = shard
        self._policy = policy
        self._pushed_ids = frozenset(pushed_ids)
        self._versions = versions
        self._check_groups = check_groups
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
        self._ledgers: dict[Key, StepLedger] = {}
        self._refusals: dict[Key, ShardReport] = {}
        self._tickets: dict[Key, PullTicket] = {}
        self._jobs_decided = 0
        self._jobs_done = 0

    @property
    def staged_bytes(self) -> int:
        """Bytes of frames held for steps that are not settled."""
        return sum(ledger.open.num_bytes for ledger in self._ledgers.values() if ledger.open)

    # ---- from workers ----

    def welcome(self, key: Key) -> int:
        """Checks a worker that opens a stream; returns its newest settled step.

        Raises:
            FencedError, UnknownIncarnationError: see `Membership.check`.
        """
        ledger = self._ledgers.get(key)
        if ledger is None:
            self.membership.check(*key)
            ledger = self._ledgers[key] = StepLedger(*key)
        return ledger.last_outcome.step

    def admit(self, key: Key, step: int, attempt: int, blocks: Sequence[int]) -> bool:
        """Checks everything about a message of frames but the frames. False: drop it, it is known or out of date.

        Raises:
            FencedError, UnknownIncarnationError, NotReadyError, StepError: nothing was changed.
        """
        ledger = self._ledger(key)
        if ledger.recorded(step) is not None:
            self.counters.duplicates_dropped += len(blocks)
            return False
        if self.membership.check(*key).observer:
            raise BadRequestError("an observer pushes nothing")
        if not self.ready:
            raise NotReadyError(f"shard {self._shard} has no parameters yet")
        begun = ledger.begin(step, attempt)
        if begun is None or begun.refusal is not None:
            return False
        if begun.commit is not None:
            # what is committed is what was reported: frames behind it are repetitions at best
            self.counters.duplicates_dropped += len(blocks)
            return False
        for block in blocks:
            if block not in self._pushed_ids:
                self._refuse(
                    ledger,
                    UnknownBlockError(f"block {block} is not one that shard {self._shard} takes gradients for"),
                )
                return False
        return True

    def stage(self, key: Key, step: int, attempt: int, frames: dict[int, StagedFrame]) -> None:
        """Keeps validated frames of the open step. They change nothing else."""
        ledger = self._ledger(key)
        if not ledger.takes_frames(step, attempt):
            return
        for block, staged in frames.items():
            try:
                if not ledger.add(block, staged):
                    self.counters.duplicates_dropped += 1
            except PushpullError as error:
                self._refuse(ledger, error)
                return

    def refuse(self, key: Key, step: int, attempt: int, error: PushpullError) -> None:
        """A frame of the open step is not valid: the step will be refused at its commit."""
        ledger = self._ledger(key)
        if ledger.takes_frames(step, attempt):
            self._refuse(ledger, error)

    def commit(self, key: Key, commit: Commit) -> list[Effect]:
        """The step is complete and decided by its worker; implies a pull.

        Raises:
            FencedError, UnknownIncarnationError, NotReadyError, BadRequestError: nothing was changed.
        """
        if commit.verdict not in (Verdict.VERDICT_APPLY, Verdict.VERDICT_SKIP):
            raise BadRequestError("the verdict of a commit is APPLY or SKIP")
        ledger = self._ledger(key)
        base = self._base(commit.base_versions)
        recorded = ledger.recorded(commit.step)
        if recorded is not None:
            self.counters.duplicates_dropped += 1
            self._ticket(key, 0, commit.step, base)
            return [Tell(key, recorded), *self._answer()]
        if self.membership.check(*key).observer:
            raise BadRequestError("an observer pushes nothing")
        if not self.ready:
            raise NotReadyError(f"shard {self._shard} has no parameters yet")
        if ledger.open is not None and ledger.open.closing and ledger.open.step == commit.step:
            self._ticket(key, 0, commit.step, base)
            return []
        open_step = ledger.begin(commit.step, commit.attempt)
        if open_step is None:
            return []
        self._ticket(key, 0, commit.step, base)
        if open_step.commit is None:
            self._check_complete(ledger, open_step, commit, base)
            open_step.commit = commit
        else:
            self.counters.duplicates_dropped += 1
        if open_step.refusal is not None:
            return self._settle_refused(ledger, open_step)
        if self._policy.waits_for_round:
            # Told even when it is late: the registrar gives the step's data back.
            report = Report(staged_report(ledger, commit))
            if commit.round <= self._round_decided:
                return [report, *self._settle(ledger, Outcome.KIND_LATE), *self._answer()]
            return [report]
        if commit.verdict == Verdict.VERDICT_SKIP:
            return [*self._settle(ledger, Outcome.KIND_SKIPPED), *self._answer()]
        return [Run(self._job_of_step(ledger, open_step, commit, base))]

    def pull(self, key: Key, pull: Pull) -> list[Effect]:
        """Asks for values newer than those held.

        Raises:
            FencedError, UnknownIncarnationError, NotReadyError, BadRequestError: nothing was changed.
        """
        self.membership.check(*key)
        if not self.ready:
            raise NotReadyError(f"shard {self._shard} has no parameters yet")
        self._ticket(key, pull.request, 0, self._base(pull.base_versions))
        return self._answer()

    # ---- from the registrar ----

    def install_view(self, view: View) -> list[Effect]:
        """Takes a view; forgets what incarnations that are live no more had staged. Outcomes stay on record."""
        gone = self.membership.install(view)
        live = {(member.worker_id, member.incarnation) for member in view.members}
        for key, ledger in self._ledgers.items():
            if key not in live:
                if ledger.open is not None and not ledger.open.closing:
                    ledger.open = None
                self._tickets.pop(key, None)
                self._refusals.pop(key, None)
        ended = sorted((key for key in self._ledgers if key not in live), key=lambda key: key[1])
        for key in ended[:-ENDED_LEDGERS_KEPT]:
            if self._ledgers[key].open is None:
                del self._ledgers[key]
        return [*(Dismiss(key) for key in gone), *self._answer()]

    def close(self, record: RoundRecord) -> list[Effect]:
        """The registrar closed a round: apply exactly these contributions. A repeated record changes nothing."""
        if record.round <= self._round_decided:
            return []
        self._round_decided = record.round
        appliers = [c for c in record.contributions if c.apply]
        total = sum(c.num_samples for c in appliers)
        settles: dict[Key, Outcome.Kind] = {}
        parts: list[AppliedPart] = []
        for contribution in self._in_order(record.contributions):
            ledger = self._ledgers.setdefault(
                (contribution.worker_id, contribution.incarnation),
                StepLedger(contribution.worker_id, contribution.incarnation),
            )
            if ledger.recorded(contribution.step) is not None:
                continue
            key = (contribution.worker_id, contribution.incarnation)
            settles[key] = Outcome.KIND_APPLIED if contribution.apply else Outcome.KIND_SKIPPED
            if ledger.open is None:
                if contribution.apply:
                    raise BadRequestError(f"round {record.round} names a step that is not staged here")
                ledger.open = OpenStep(contribution.step, 0)
            ledger.open.closing = True
            if contribution.apply and total > 0:
                weight = np.float32(contribution.num_samples * contribution.scale / total)
                parts.append(AppliedPart(contribution.worker_id, float(weight), dict(ledger.open.frames)))
        for key, ledger in self._ledgers.items():
            late = ledger.open is not None and ledger.open.commit is not None and not ledger.open.closing
            if late and ledger.open.commit.round <= record.round:  # type: ignore[union-attr]
                settles[key] = Outcome.KIND_LATE
        self._jobs_decided += 1
        numbers = [dict(group.numbers) for group in record.groups]
        num_members = self.membership.num_active
        return [Run(Job(self._jobs_decided, parts, numbers, None, num_members, settles, record.round))]

    # ---- from the applying threads ----

    def streaming(self, job: Job) -> list[PullTicket]:
        """Pulls that will be answered when the job is done: they may be sent its values as they are made."""
        return [ticket for key, ticket in self._tickets.items() if ticket.step and key in job.settles]

    def finish(self, job: Job) -> list[Effect]:
        """The job is applied: settle its steps, answer pulls."""
        self._jobs_done = job.sequence
        self.round = max(self.round, job.round)
        effects: list[Effect] = []
        for key, kind in job.settles.items():
            if key in self._ledgers:
                effects += self._settle(self._ledgers[key], kind)
        return [*effects, *self._answer()]

    # ---- for a new link to the registrar ----

    def reports_again(self) -> list[ShardReport]:
        """What the registrar may have missed while the link was down. Repeating it changes nothing."""
        reports = [*self._refusals.values(), *self._norms.reports_again()]
        for ledger in self._ledgers.values():
            if ledger.open is not None and ledger.open.commit is not None and self._policy.waits_for_round:
                reports.append(staged_report(ledger, ledger.open.commit))
        return reports

    # ---- inside ----

    def _ledger(self, key: Key) -> StepLedger:
        ledger = self._ledgers.get(key)
        if ledger is None:
            self.membership.check(*key)
            raise BadRequestError("frames, commits and pulls come after Hello")
        return ledger

    def _in_order(self, contributions: Iterable[Contribution]) -> list[Contribution]:
        """The order of the sum: ascending worker id, whatever order the steps arrived in."""
        return sorted(contributions, key=lambda contribution: contribution.worker_id)

    def _base(self, base_versions: Sequence[int]) -> NDArray[np.int64]:
        if not base_versions:
            return np.full(len(self._versions), -1, dtype=np.int64)
        if len(base_versions) != len(self._versions):
            raise BadRequestError(
                f"base_versions has {len(base_versions)} entries, shard {self._shard} has {len(self._versions)} blocks"
            )
        return np.array(base_versions, dtype=np.uint64).astype(np.int64)

    def _ticket(self, key: Key, request: int, step: int, base: NDArray[np.int64]) -> None:
        self._tickets[key] = PullTicket(key, request, step, base, self._jobs_decided)

    def _refuse(self, ledger: StepLedger, error: PushpullError) -> None:
        ledger.refuse(error)
        name = ErrorCode.Name(code_of(error))
        self.counters.pushes_refused[name] = self.counters.pushes_refused.get(name, 0) + 1

    def _check_complete(self, ledger: StepLedger, step: OpenStep, commit: Commit, base: NDArray[np.int64]) -> None:
        if step.refusal is not None:
            return
        if self.diverged is not None:
            said = f"{self.diverged} is not finite after an update: training has diverged; lower the learning rate"
            self._refuse(ledger, NonFiniteError(said))
        elif (base > self._versions).any():
            self._refuse(ledger, FutureBaseError("the gradient was computed from a version that does not exist yet"))
        elif commit.verdict == Verdict.VERDICT_APPLY:
            expected = self._pushed_ids - set(commit.absent)
            if len(step.frames) != commit.num_frames or step.frames.keys() != expected:
                self._refuse(
                    ledger,
                    StepError(
                        f"step {commit.step} has {len(step.frames)} frames, announces {commit.num_frames} and needs "
                        f"{len(expected)}"
                    ),
                )
            elif not (np.isfinite(commit.scale) and 0 <= commit.num_samples < np.inf):
                self._refuse(ledger, StepError("scale and num_samples must be finite numbers"))
            else:
                try:
                    self._check_groups(commit.groups)
                except PushpullError as error:
                    self._refuse(ledger, error)

    def _job_of_step(self, ledger: StepLedger, step: OpenStep, commit: Commit, base: NDArray[np.int64]) -> Job:
        step.closing = True
        self._jobs_decided += 1
        key = (ledger.worker_id, ledger.incarnation)
        return Job(
            self._jobs_decided,
            [AppliedPart(ledger.worker_id, float(np.float32(commit.scale)), dict(step.frames))],
            [dict(group.numbers) for group in commit.groups],
            base.copy(),
            self.membership.num_active,
            {key: Outcome.KIND_APPLIED},
            0,
        )

    def _settle(self, ledger: StepLedger, kind: Outcome.Kind) -> list[Effect]:
        if ledger.open is None:
            return []
        step, commit = ledger.open.step, ledger.open.commit
        lots = list(commit.lots) if commit is not None else []
        refusal = ledger.open.refusal if kind == Outcome.KIND_REFUSED else None
        outcome = Outcome(step=step, kind=kind, round=self.round)
        if refusal is not None:
            outcome.code, outcome.message = refusal
        ledger.settle(outcome, lots)
        self.membership.advance(ledger.worker_id)
        self.counters.steps_applied += kind == Outcome.KIND_APPLIED
        norms = self._norms.settled(ledger.worker_id, ledger.incarnation, step)
        told: list[Effect] = [*map(Report, norms), Tell((ledger.worker_id, ledger.incarnation), outcome)]
        return told if self._policy.waits_for_round else [Report(settled_report(ledger, outcome)), *told]

    def _settle_refused(self, ledger: StepLedger, step: OpenStep) -> list[Effect]:
        effects: list[Effect] = []
        if self._policy.waits_for_round and step.refusal is not None and step.commit is not None:
            report = refused_report(ledger, step.commit, step.refusal[0])
            self._refusals[(ledger.worker_id, ledger.incarnation)] = report
            effects.append(Report(report))
        return [*effects, *self._settle(ledger, Outcome.KIND_REFUSED), *self._answer()]

    def _answer(self) -> list[Effect]:
        """Answers every pull that may be answered now."""
        effects: list[Effect] = []
        for key, ticket in list(self._tickets.items()):
            if ticket.after_job > self._jobs_done or self._ledgers[key].last_outcome.step < ticket.step:
                continue
            lag = self.membership.clock_lag(key[0])
            if not self._policy.may_answer(lag):
                self.counters.pulls_waited += not ticket.waited
                ticket.waited = True
                continue
            del self._tickets[key]
            done = PullDone(
                request=ticket.request,
                step=ticket.step,
                round=self.round,
                clock=self.membership.clock(key[0]),
                smallest_clock=self.membership.smallest_clock(key[0]),
            )
            effects.append(AnswerPull(ticket, done, lag))
        return effects
