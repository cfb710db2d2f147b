"""Reading what came over the network: measured first, and only then made into a message."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..protos.errors import BadRequestError
from .message_parts import has_more_parts_than
from .plan_check import MOST_BLOCKS

MOST_PARTS = 2 * MOST_BLOCKS + (1 << 13)
"""Of one message: see `message_parts`. They take up to 30 MiB; the most that is honest is a plan of so many blocks and
parameters, with its optimizer."""


@dataclass(frozen=True)
class Reader:
    """Of the messages of one kind."""

    parse: Callable[[bytes], Any] | None
    """The `FromString` of its class, or what stands for one; None leaves bytes."""
    most_bytes: int

    def read(self, data: bytes) -> Any:
        """The message.

        Raises:
            BadRequestError: it is too large, would be once it is read, or is no such message.
        """
        if len(data) > self.most_bytes:
            raise BadRequestError(
                f"a message of {len(data)} bytes is too large here; at most {self.most_bytes} are taken"
            )
        try:
            if self._has_too_many_parts(data):
                raise BadRequestError(
                    f"a message of more than {MOST_PARTS} parts is too large (if it is the plan of a model: a larger "
                    "block_elements makes fewer blocks)"
                )
            return data if self.parse is None else self.parse(data)
        except BadRequestError:
            raise
        except Exception as error:
            raise BadRequestError(f"a message that cannot be read: {error}") from error

    def _has_too_many_parts(self, data: bytes) -> bool:
        kind = getattr(getattr(self.parse, "__self__", None), "DESCRIPTOR", None)
        return kind is not None and has_more_parts_than(MOST_PARTS, data, kind)
