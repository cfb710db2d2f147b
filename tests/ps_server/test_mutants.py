"""Each invariant's suite can fail: a core with one named fault is caught by it."""

from collections.abc import Callable

import invariants
import pytest

from pushpull.compression.error_feedback import ErrorFeedback
from pushpull.protos.registrar_pb2 import Member
from pushpull.ps_server.consistency import BoundedStaleness
from pushpull.ps_server.leases import Leases
from pushpull.ps_server.membership import Membership
from pushpull.ps_server.rounds import PendingStep
from pushpull.ps_server.shard_state import ShardState
from pushpull.ps_server.steps import OpenStep, Part, StepLedger

Patch = pytest.MonkeyPatch


def dedupe_off(patch: Patch) -> None:
    """A settled step is taken for a new one."""

    def begin(ledger: StepLedger, step: int, rank: int, attempt: int) -> Part:
        ledger.open = ledger.open or OpenStep(step)
        return ledger.open.parts.setdefault(rank, Part(attempt))

    patch.setattr(StepLedger, "recorded", lambda ledger, step: None)
    patch.setattr(StepLedger, "begin", begin)


def fence_off(patch: Patch) -> None:
    """Every incarnation is a member."""
    patch.setattr(
        Membership, "check", lambda self, worker, incarnation: Member(worker_id=worker, incarnation=incarnation)
    )


def bound_plus_one(patch: Patch) -> None:
    """Pulls are answered one clock too early."""
    patch.setattr(BoundedStaleness, "may_answer", lambda self, clock_lag: clock_lag <= self.bound + 1)


def arrival_order_reduction(patch: Patch) -> None:
    """Contributions are added in the order in which they came."""
    arrived: list[int] = []
    original = ShardState.commit

    def commit(state, key, message):
        arrived.append(key[0])
        return original(state, key, message)

    patch.setattr(ShardState, "commit", commit)
    patch.setattr(
        ShardState,
        "_in_order",
        lambda state, contributions: sorted(contributions, key=lambda c: arrived[::-1].index(c.worker_id)),
    )


def close_before_staged(patch: Patch) -> None:
    """A round closes when one shard holds a step, not all."""
    patch.setattr(PendingStep, "complete", lambda step, num_shards: len(step.staged_on) >= 1)


def commit_of_one_rank_completes_the_step(patch: Patch) -> None:
    """A step counts as soon as any rank has committed its part."""
    patch.setattr(OpenStep, "whole", lambda step, num_ranks: step.num_committed >= 1)
    patch.setattr("pushpull.ps_server.shard_state.fault_of_whole", lambda step, pushed_ids, shares: None)


def one_rank_keeps_the_lease(patch: Patch) -> None:
    """A worker lives while any of its ranks does."""
    original = Leases.renew

    def renew(leases, incarnation, rank, now):
        for other in range(8):
            original(leases, incarnation, other, now)

    patch.setattr(Leases, "renew", renew)


def residual_swapped_at_send(patch: Patch) -> None:
    """The residual changes when a frame is made, not when its step is applied."""
    original_encode, original_commit = ErrorFeedback.encode, ErrorFeedback.commit

    def encode(self, key, values, out, seed=0):
        length = original_encode(self, key, values, out, seed)
        original_commit(self, [key])
        return length

    patch.setattr(ErrorFeedback, "encode", encode)
    patch.setattr(ErrorFeedback, "commit", lambda self, keys: None)


MUTANTS = (
    (dedupe_off, invariants.applied_exactly_once),
    (fence_off, invariants.fenced_changes_nothing),
    (bound_plus_one, invariants.staleness_bounded),
    (arrival_order_reduction, invariants.reduction_order_fixed),
    (close_before_staged, invariants.rounds_close_complete),
    (commit_of_one_rank_completes_the_step, invariants.steps_hold_every_rank),
    (one_rank_keeps_the_lease, invariants.a_silent_rank_ends_its_worker_alone),
    (residual_swapped_at_send, invariants.residual_telescopes),
)


@pytest.mark.parametrize(("mutant", "invariant"), MUTANTS, ids=[mutant.__name__ for mutant, _ in MUTANTS])
def test_the_suite_catches(mutant: Callable[[Patch], None], invariant: Callable[[], None], monkeypatch: Patch) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        invariant()
