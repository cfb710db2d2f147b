"""What a worker may say of itself: it is kept for as long as the job knows the worker, and shown to everybody. Pure."""

from collections.abc import MutableMapping

from .errors import BadRequestError
from .registrar_pb2 import JoinRequest, WorkerReport

MOST_NAMES = 100
"""Values that a worker logs."""
MOST_NAME_CHARACTERS = 200


def keep_within_bounds(report: WorkerReport) -> WorkerReport:
    """A copy without names that are too long or too many; which of the latter is the same in every report.

    It holds on to nothing else: what a message was taken from stays in memory for as long as a part of it does.
    """
    kept = WorkerReport()
    for values in (report.metrics, report.first_metrics):
        _keep(values)
    kept.CopyFrom(report)
    return kept


def check_join(request: JoinRequest) -> None:
    """Raises BadRequestError if what it says for people is no name any more."""
    for field in ("host", "layout"):
        if len(getattr(request, field)) > MOST_NAME_CHARACTERS:
            raise BadRequestError(f"{field} has more than {MOST_NAME_CHARACTERS} characters")


def _keep(values: MutableMapping[str, float]) -> None:
    if len(values) <= MOST_NAMES and all(len(name) <= MOST_NAME_CHARACTERS for name in values):
        return
    short = sorted(name for name in values if len(name) <= MOST_NAME_CHARACTERS)
    kept = set(short[:MOST_NAMES]) | ({"loss"} & values.keys())
    for name in [name for name in values if name not in kept]:
        del values[name]
