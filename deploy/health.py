"""`pushpull health`: asks one server for its health, as a probe does. Quick: imports nothing but gRPC."""

import sys

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from ..protos.addresses import split_address
from ..protos.errors import SettingError
from ..protos.health import PROCESS, READY, TRAINED
from ..protos.transport import dial

SERVICES = {"ready": READY, "trained": TRAINED, "": PROCESS}
"""By the names that people use."""


def check_health(address: str, service: str, timeout_seconds: float) -> int:
    """Prints the state of one of `SERVICES` of the server at host:port; returns 0 if it is serving, else 1.

    Raises:
        SettingError: no such service, or no address.
    """
    if service not in SERVICES:
        raise SettingError(f"--service={service} is not one of ready, trained, '' (the process)")
    split_address(address, "HOST:PORT")
    with dial(address) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(service=SERVICES[service]), timeout=timeout_seconds)
        except grpc.RpcError as error:
            print(f"no answer from {address}: {error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    print(HealthCheckResponse.ServingStatus.Name(answer.status))
    return 0 if answer.status == HealthCheckResponse.SERVING else 1
