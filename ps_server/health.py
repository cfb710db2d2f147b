"""What a server says of its own health: it starts, is ready, and drains at its end."""

import threading
from enum import Enum

from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse

from ..protos.health import READY, TRAINED


class Phase(Enum):
    """The life of a server."""

    STARTING = "starting"
    """It serves, but does not take part: servers are not linked (or not any more)."""
    READY = "ready"
    DRAINING = "draining"
    """It admits nobody any more. There is no way back."""


class ServerHealth:
    """The phase and whether there are parameters, told to whoever asks the health service.

    The service without a name is SERVING in every phase: a server that drains must not be killed for it. May be told from
    several threads.
    """

    def __init__(self) -> None:
        self.servicer = HealthServicer()
        self.phase = Phase.STARTING
        self._trained = False
        self._told: dict[str, bool] = {}
        self._lock = threading.Lock()
        self._tell()

    def observe(self, linked: bool, trained: bool) -> None:
        """Takes in whether all servers that this one must hear of are linked, and whether it holds parameters."""
        with self._lock:
            if self.phase is not Phase.DRAINING:
                self.phase = Phase.READY if linked else Phase.STARTING
            self._trained = trained
            self._tell()

    def drain(self) -> None:
        """From now on nobody should come."""
        with self._lock:
            self.phase = Phase.DRAINING
            self._tell()

    def _tell(self) -> None:
        self._set(READY, self.phase is Phase.READY)
        self._set(TRAINED, self._trained and self.phase is not Phase.DRAINING)

    def _set(self, service: str, serving: bool) -> None:
        if self._told.get(service) is serving:
            return  # whoever watches is told of changes only
        self._told[service] = serving
        self.servicer.set(service, HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)
