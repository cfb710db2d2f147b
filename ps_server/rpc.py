"""The edge between our errors and gRPC's: how a call is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import grpc
import structlog

from ..protos.common_pb2 import ErrorCode
from ..protos.errors import ERROR_CODE_METADATA_KEY, STATUS_OF, PushpullError, RetryableError, code_of
from .metrics import ServerMetrics

log = structlog.get_logger(__name__)

MOST_SENTENCE_BYTES = 4096
"""Of a refusal on the wire. Clients take 8 KiB of metadata; of more, they lose the code as well and blame the transport."""


def refuse(context: grpc.ServicerContext, error: PushpullError, metrics: ServerMetrics) -> NoReturn:
    """Ends a call with the error's status, its code in the trailing metadata and its sentence as details."""
    name = ErrorCode.Name(code_of(error))
    metrics.refusals.labels(reason=name).inc()
    # That a caller should ask again is no news; that it may not is for whoever runs it.
    say = log.debug if isinstance(error, RetryableError) else log.warning
    say("call refused", reason=name, message=str(error), peer=context.peer())
    end_call(context, error)


def end_call(context: grpc.ServicerContext, error: PushpullError) -> NoReturn:
    """The same, of what is told and counted elsewhere."""
    code = code_of(error)
    context.set_trailing_metadata(((ERROR_CODE_METADATA_KEY, ErrorCode.Name(code)),))
    context.abort(STATUS_OF[code], short_enough(str(error)))
    raise AssertionError("abort() raises")


def short_enough(sentence: str) -> str:
    """The sentence, cut where it would not fit into a call's trailing metadata: it may quote names that callers chose."""
    size = 0
    for end, character in enumerate(sentence):
        # gRPC writes every byte that is no printable ASCII, and the percent sign, as three.
        plain = " " <= character <= "~" and character != "%"
        size += 1 if plain else 3 * len(character.encode("utf-8", "replace"))
        if size > MOST_SENTENCE_BYTES:
            return f"{sentence[:end]} ..."
    return sentence


@contextmanager
def refusing(context: grpc.ServicerContext, metrics: ServerMetrics) -> Iterator[None]:
    """Turns our errors inside the block into a refused call."""
    try:
        yield
    except PushpullError as error:
        refuse(context, error, metrics)
