"""What the command line makes of the values of options, beyond what their types say."""

import math
import re

from ..protos.addresses import server_addresses
from ..protos.errors import SettingError


def servers_named(servers: str) -> tuple[str, ...]:
    """The addresses of `--servers`, at least one; raises SettingError."""
    addresses = server_addresses(servers, "--servers")
    if not addresses:
        raise SettingError("--servers is empty: name every server as HOST:PORT, shard 0 first, separated by commas.")
    return addresses


def check_seconds(seconds: float | None, option: str) -> None:
    """Raises SettingError for what is no time. A range of typer's lets NaN and infinity through."""
    if seconds is not None and not 0 < seconds < math.inf:
        raise SettingError(f"{option}={seconds:g} is not a number of seconds greater than 0")


def readable(sentence: str) -> str:
    """The sentence without what nobody could read, such as a whole file in the place of a name; so the reason is still seen."""
    return re.sub(r"\S{200,}", lambda word: f"{word[0][:60]}... ({len(word[0])} characters)", sentence)
