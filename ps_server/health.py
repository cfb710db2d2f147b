"""What a server says of its own health: it starts, is ready, and drains at its end."""

import threading
from collections.abc import Mapping
from enum import Enum

import grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from ..protos.health import READY, REASON_METADATA_KEY, TRAINED


class Phase(Enum):
    """The life of a server."""

    STARTING = "starting"
    """It serves, but does not take part: servers are not linked (or not any more)."""
    READY = "ready"
    DRAINING = "draining"
    """It admits nobody any more. There is no way back."""


class _ReasoningServicer(HealthServicer):  # type: ignore[misc]
    """The standard service; who checks also learns why something is not serving."""

    reasons: Mapping[str, str] = {}
    """By service; replaced as a whole."""

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        reason = self.reasons.get(request.service, "")
        if reason:
            context.set_trailing_metadata(((REASON_METADATA_KEY, reason.encode()),))
        return super().Check(request, context)


class ServerHealth:
    """The phase and whether there are parameters, told to whoever asks the health service.

    The service without a name is SERVING in every phase: a server that drains must not be killed for it. May be told from
    several threads.
    """

    def __init__(self) -> None:
        self.servicer = _ReasoningServicer()
        self.phase = Phase.STARTING
        self._trained = False
        self._obstacle = "it has just been started"
        self._told: dict[str, bool] = {}
        self._lock = threading.Lock()
        self._tell()

    def observe(self, obstacle: str, trained: bool) -> None:
        """Takes in what keeps this server from taking part (nothing: an empty text), and whether it holds parameters."""
        with self._lock:
            if self.phase is not Phase.DRAINING:
                self.phase = Phase.STARTING if obstacle else Phase.READY
            self._obstacle, self._trained = obstacle, trained
            self._tell()

    def drain(self) -> None:
        """From now on nobody should come."""
        with self._lock:
            self.phase = Phase.DRAINING
            self._tell()

    def _tell(self) -> None:
        drains = "it was told to end, or its job ends" if self.phase is Phase.DRAINING else ""
        untrained = "" if self._trained else "it holds no parameters: no worker has initialised them yet"
        # The reason first: who is told that it does not serve may ask why at once.
        self.servicer.reasons = {READY: drains or self._obstacle, TRAINED: drains or untrained}
        self._set(READY, self.phase is Phase.READY)
        self._set(TRAINED, self._trained and self.phase is not Phase.DRAINING)

    def _set(self, service: str, serving: bool) -> None:
        if self._told.get(service) is serving:
            return  # whoever watches is told of changes only
        self._told[service] = serving
        self.servicer.set(service, HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)
