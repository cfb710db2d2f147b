"""Lines of several processes in one stream: which of them wrote each. Pure but for the time of day."""

import json
from datetime import UTC, datetime

from .log_settings import LogFormat


def relayed_line(log_format: LogFormat, name: str, line: str) -> str:
    """What to show of a line that the child `name` wrote.

    As JSON, a line that is an object already stays as it is: it says itself who wrote it. Any other (what a script prints,
    also something like an object that holds NaN, which JSON does not know) becomes one.
    """
    if log_format is LogFormat.TEXT:
        return f"[{name}] {line}"
    if line.startswith("{"):
        try:
            json.loads(line, parse_constant=_refuse)
            return line
        except ValueError:
            pass
    return _object(event=line, process=name)


def launcher_line(line: str) -> str:
    """What the launcher itself says, as JSON."""
    return _object(event=line, role="launcher")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _object(**fields: str) -> str:
    timestamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"timestamp": timestamp, "level": "info", **fields})
