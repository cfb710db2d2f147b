"""Turns traces on in the processes that we start, where the standard variables of OpenTelemetry ask for them."""

import atexit
import logging
import threading
from typing import TYPE_CHECKING

from ..ps_server.step_observer import NoObserver, StepObserver
from .environment import service_is_named, traces_are_wanted

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

LAST_EXPORT_SECONDS = 2.0
"""For spans that are left at the end: a collector that does not answer keeps no process alive."""


def start_tracing(service: str) -> bool:
    """Whether traces are on in this process from now on. Without the variables nothing is imported.

    `service` is the name in traces unless OTEL_SERVICE_NAME says another.
    """
    if not traces_are_wanted():
        return False
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        logger.warning(
            "there are no traces, although OTEL_EXPORTER_OTLP_* asks for them: install pushpull[otel] (%s)", error
        )
        return False
    resource = Resource.create({} if service_is_named() else {"service.name": service})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    atexit.register(_export_the_last, provider)
    return True


def shard_observer(shard: int) -> StepObserver:
    """What a server tells of its steps: traces, if they are wanted."""
    if not start_tracing("pushpull-server"):
        return NoObserver()
    from opentelemetry import trace

    from .shard_tracing import TracedShard

    return TracedShard(trace.get_tracer("pushpull.ps_server"), shard)


def _export_the_last(provider: "TracerProvider") -> None:
    last = threading.Thread(target=provider.shutdown, daemon=True)
    last.start()
    last.join(LAST_EXPORT_SECONDS)
