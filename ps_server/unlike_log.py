"""Tells people which numbers differ between workers."""

from collections.abc import Iterable

import structlog

from ..protos.registrar_pb2 import UnlikeNumber

log = structlog.get_logger(__name__)


def tell_unlike(numbers: Iterable[UnlikeNumber]) -> None:
    """Of those that were found just now."""
    for number in numbers:
        log.warning(
            "numbers differ between workers",
            name=number.name,
            group=number.group,
            worker=number.worker_id,
            its=number.value,
            worker_that_counts=number.holder_id,
            counts=number.held,
            round=number.round,
        )
