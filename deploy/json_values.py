"""Messages and figures as JSON that every parser reads (RFC 8259)."""

import json
import math
from typing import Any

from google.protobuf.message import Message


def strict_json(value: Any) -> str:
    """One line of JSON. It knows neither NaN nor infinity: where a figure is one, `null` stands."""
    return json.dumps(_finite(value), allow_nan=False)


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON values, every field present, 64-bit integers as numbers, values of an enumeration by the names that
    people write: `sync` and not `MODE_SYNC`.
    """
    return {field.name: _plain_field(message, field) for field in message.DESCRIPTOR.fields}


def _plain_field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.message_type is not None:
        return [plain(item) for item in value] if field.is_repeated else plain(value)
    if field.enum_type is not None:
        return _name_of(field.enum_type, value)
    return list(value) if field.is_repeated else value


def _name_of(enumeration: Any, number: int) -> str | int:
    known = enumeration.values_by_number.get(number)
    return number if known is None else str(known.name).removeprefix(f"{enumeration.name.upper()}_").lower()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
