"""Tells people who came, who counts and who went. What it says follows from the roster alone."""

from collections.abc import Iterable

import structlog

from .held_lines import Say, at_once
from .workers import Worker

log = structlog.get_logger(__name__)


class RosterLog:
    """Remembers what it has said of everybody, and says what has changed."""

    def __init__(self, say: Say = at_once) -> None:
        self._say = say
        self._live: dict[int, tuple[int, str]] = {}
        """Incarnation and state, by worker id."""
        self._phase = ""

    def observe(self, phase: str, changed: Iterable[Worker]) -> None:
        """Called after calls and ticks that may have changed something; `changed` by incarnation."""
        if phase != self._phase:
            self._phase = phase
            self._say(log.info, "phase", phase=phase)
        for worker in changed:
            before, state = self._live.pop(worker.worker_id, None), (worker.incarnation, worker.state)
            if worker.live:
                self._live[worker.worker_id] = state
            if before is not None and before[0] != worker.incarnation:
                self._say(log.warning, "worker replaced", worker=worker.worker_id, incarnation=before[0])
            if before != state:
                self._tell(worker, is_new=before is None or before[0] != worker.incarnation)

    def _tell(self, worker: Worker, is_new: bool) -> None:
        who = {"worker": worker.worker_id, "incarnation": worker.incarnation, "host": worker.host}
        if worker.observer:
            self._say(log.debug, f"observer {worker.state}", **who)
        elif worker.state == "replaced":
            self._say(log.warning, "worker replaced", worker=worker.worker_id, incarnation=worker.incarnation)
        elif is_new:
            self._say(
                log.info, "worker joined", **who, ranks=worker.num_ranks, layout=worker.layout or None, life=worker.life
            )
        elif worker.state == "expired":
            self._say(log.warning, "worker expired", **who, silent=worker.who_was_silent, clock=worker.clock)
        elif worker.suspended:
            self._say(log.warning, "worker suspended", **who, why=worker.suspended, clock=worker.clock)
        elif worker.state == "failed":
            self._say(log.warning, "worker failed", **who, failure=worker.failure, clock=worker.clock)
        else:
            self._say(log.info, f"worker {worker.state}", **who, clock=worker.clock)
