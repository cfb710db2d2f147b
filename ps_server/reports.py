"""What a shard tells the registrar about steps. Pure data."""

from ..protos.common_pb2 import ErrorCode
from ..protos.registrar_pb2 import ShardReport, StepRefused, StepSettled, StepStaged
from ..protos.shard_pb2 import Commit, Outcome, Verdict
from .steps import StepLedger


def staged_report(ledger: StepLedger, commit: Commit) -> ShardReport:
    """Every frame of a step is here, and its commit."""
    return ShardReport(
        staged=StepStaged(
            worker_id=ledger.worker_id,
            incarnation=ledger.incarnation,
            step=commit.step,
            round=commit.round,
            apply=commit.verdict == Verdict.VERDICT_APPLY,
            num_samples=commit.num_samples,
            scale=commit.scale,
            groups=commit.groups,
            lots=commit.lots,
            idle=commit.idle,
        )
    )


def refused_report(ledger: StepLedger, commit: Commit, code: ErrorCode) -> ShardReport:
    """A step cannot be applied."""
    return ShardReport(
        refused=StepRefused(
            worker_id=ledger.worker_id,
            incarnation=ledger.incarnation,
            step=commit.step,
            code=code,
            lots=commit.lots,
            round=commit.round,
        )
    )


def settled_report(ledger: StepLedger, outcome: Outcome) -> ShardReport:
    """What became of a step, where steps are applied without rounds."""
    return ShardReport(
        settled=StepSettled(
            worker_id=ledger.worker_id,
            incarnation=ledger.incarnation,
            step=outcome.step,
            applied=outcome.kind == Outcome.KIND_APPLIED,
            lots=ledger.last_lots,
            lots_done=outcome.kind in (Outcome.KIND_APPLIED, Outcome.KIND_SKIPPED),
        )
    )
