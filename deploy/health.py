"""`pushpull health`: asks one server for its health, as a probe does. Quick: imports nothing but gRPC."""

import sys

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from ..protos.addresses import split_address
from ..protos.errors import SettingError
from ..protos.health import PROCESS, READY, REASON_METADATA_KEY, TRAINED
from ..protos.transport import dial
from ..protos.who_answers import in_words

SERVICES = {"ready": READY, "trained": TRAINED, "": PROCESS}
"""By the names that people use."""


def check_health(address: str, service: str, timeout_seconds: float) -> int:
    """Prints the state of one of `SERVICES` of the server at host:port, and on standard error why it is not serving.

    Returns 0 if it is serving; 1 if it is not, if there is no answer, or one of something else than a server of ours.

    Raises:
        SettingError: no such service, or no address.
    """
    if service not in SERVICES:
        raise SettingError(f"--service={service} is not one of ready, trained, '' (the process)")
    split_address(address, "HOST:PORT")
    with dial(address) as channel:
        try:
            request = HealthCheckRequest(service=SERVICES[service])
            answer, call = HealthStub(channel).Check.with_call(request, timeout=timeout_seconds)
        except grpc.RpcError as error:
            print(_no_answer(address, error), file=sys.stderr)
            return 1
    print(HealthCheckResponse.ServingStatus.Name(answer.status))
    if answer.status == HealthCheckResponse.SERVING:
        return 0
    reason = dict(call.trailing_metadata() or ()).get(REASON_METADATA_KEY, b"")
    if isinstance(reason, bytes) and reason:
        print(f"not serving: {reason.decode(errors='replace')}", file=sys.stderr)
    return 1


def _no_answer(address: str, error: grpc.RpcError) -> str:
    if error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND):
        return f"{address} is no pushpull server: another gRPC service answers there ({error.code().name})"
    return f"no answer from {address}: {error.code().name}: {in_words(address, error)}"
