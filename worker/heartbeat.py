"""Keeps the lease alive from a thread of its own."""

import logging
import threading
import time
from collections.abc import Callable, Iterable

import grpc

from ..protos.errors import FencedError, JobOverError, PushpullError, error_of_call
from ..protos.registrar_pb2 import UnlikeNumber, WorkerReport
from .identity import same_identity
from .registrar_client import RegistrarClient

logger = logging.getLogger(__name__)

LONGEST_INTERVAL_SECONDS = 1.0


class Heartbeat:
    """Beats until it is stopped, this incarnation is fenced or the job is over; `on_end` learns of these, once."""

    def __init__(
        self,
        registrar: RegistrarClient,
        lease_seconds: float,
        report: Callable[[], WorkerReport],
        on_end: Callable[[PushpullError], None],
        on_unlike: Callable[[Iterable[UnlikeNumber]], None],
    ) -> None:
        self.num_workers = 0
        """Trainers in the job, by the newest answer; 0 before the first one."""
        self.suspended = ""
        """Why nobody waits for this worker any more, by the newest answer; empty where others do."""
        self.first_until = 0.0
        """Monotonic time until which this worker may take itself for the first one; the registrar gives nobody else the part
        before the lease that this beat renewed is over."""
        self._lease_seconds = lease_seconds
        self._registrar = registrar
        self._interval_seconds = min(lease_seconds / 3, LONGEST_INTERVAL_SECONDS)
        self._report = report
        self._on_end = on_end
        self._on_unlike = on_unlike
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=same_identity(self._run), name="pushpull-heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=10.0)

    def beat(self) -> None:
        """Beats at once. Raises grpc.RpcError, and ServerLostError where the registrar's process is gone."""
        asked_at = time.monotonic()
        answer = self._registrar.beat(self._report())
        self.first_until = asked_at + self._lease_seconds if answer.is_first else 0.0
        self.num_workers, self.suspended = answer.num_workers, answer.suspended
        self._on_unlike(answer.unlike)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_seconds):
            try:
                self.beat()
            except grpc.RpcError as failure:
                refusal = error_of_call(failure)
                if isinstance(refusal, FencedError | JobOverError):
                    self._on_end(refusal)
                    return
                logger.info("heartbeat failed: %s", refusal or failure.details())
            except JobOverError as error:
                self._on_end(error)
                return
            except ValueError:
                return  # the channel was closed under this call
