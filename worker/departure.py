"""How a worker leaves its job: when it is told to, when nothing refers to it any more, and when its process ends."""

import atexit
import logging
import os
import sys
import threading
import weakref

from ..protos.metrics_endpoint import MetricsEndpoint
from .ending import EndOnSigterm, failure_text
from .membership import Membership
from .ranks.group import Ranks
from .registrar_client import RegistrarClient
from .replica import Replica

logger = logging.getLogger(__name__)


class Departure:
    """What of a worker must end with it. Refers to nothing that refers to the worker, and so may outlive it."""

    def __init__(
        self, ranks: Ranks, registrar: RegistrarClient, sigterm: EndOnSigterm, endpoint: MetricsEndpoint | None
    ) -> None:
        self.membership: Membership | None = None
        """Once it has joined."""
        self.replica: Replica | None = None
        """Once it has a model."""
        self._ranks = ranks
        self._registrar = registrar
        self._sigterm = sigterm
        self._endpoint = endpoint
        self._process = os.getpid()
        self._closing = threading.Lock()
        self.is_over = False
        """It has left, or is about to."""
        self._finalizer: weakref.finalize[[], object] | None = None

    def attend(self, worker: object) -> None:
        """From now on the worker's end is noticed: that of the object, and that of the process."""
        self._finalizer = weakref.finalize(worker, self._abandoned)
        self._finalizer.atexit = False
        atexit.register(self._at_exit)

    def leave(self, failure: str, orderly: bool, finished: bool = True) -> None:
        """Leaves the job, once.

        Not orderly: other ranks may be in the middle of something, and are not waited for. Not finished: another worker may
        come in this one's place.
        """
        with self._closing:
            if self.is_over:
                return
            self.is_over = True
        if self._finalizer is not None:
            self._finalizer.detach()
            atexit.unregister(self._at_exit)
        if self.membership is not None:
            if orderly:
                self.membership.say_goodbye()
            self._ranks.close(orderly)
            self.membership.leave(failure, finished)
        self._registrar.close()
        self._sigterm.remove()
        if self._endpoint is not None:
            self._endpoint.close()

    def _abandoned(self) -> None:
        # Whatever thread collects garbage must not wait for servers: it may hold locks.
        if os.getpid() == self._process:
            threading.Thread(target=self._leave_unattended, args=("", False), name="pushpull-leaving").start()

    def _at_exit(self) -> None:
        if os.getpid() == self._process:  # a forked child has these callbacks, too, and is no worker
            self._leave_unattended(failure_at_exit(), finished=True)

    def _leave_unattended(self, failure: str, finished: bool) -> None:
        if self.is_over or self.membership is None:
            return
        logger.warning(
            "worker %d was never closed and leaves the job now; use `with connect() as worker:`, or call worker.close()",
            self.membership.worker_id,
        )
        if self.replica is not None:
            self.replica.close()
        if self._ranks.rank > 0:
            self.membership.say_goodbye()
        self.leave(failure, orderly=False, finished=finished)


def failure_at_exit() -> str:
    """What the process ends with, if that is an error of the script; interactive sessions remember errors of long ago."""
    error = getattr(sys, "last_value", None)
    return "" if hasattr(sys, "ps1") else failure_text(error)
