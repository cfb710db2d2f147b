"""Addresses of servers, as people write them: `host:port`, and lists of these."""

from collections.abc import Sequence

from .errors import SettingError


def split_address(address: str, what: str) -> tuple[str, int]:
    """Host and port of `host:port`.

    Raises:
        SettingError: not of that form; `what` names the setting.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise SettingError(f"{what}: {address!r} is not host:port, for example 10.0.0.1:7077")
    return host, int(port)


def server_addresses(servers: str | Sequence[str], what: str) -> tuple[str, ...]:
    """The host:port of every server that a list names, shard 0 first; a text separates them by commas.

    Raises:
        SettingError: one is malformed, or named twice; `what` names the setting.
    """
    names = servers.split(",") if isinstance(servers, str) else servers
    addresses = tuple(name.strip() for name in names if name.strip())
    for number, address in enumerate(addresses):
        split_address(address, what)
        if address in addresses[:number]:
            raise SettingError(f"{what}: {address} is named twice; each shard is a server of its own")
    return addresses


def dialled_address(address: str, what: str) -> str:
    """`address` itself, which others connect to.

    Raises:
        SettingError: not host:port, or the port is 0, which only who listens can choose; `what` names the setting.
    """
    _, port = split_address(address, what)
    if port == 0:
        raise SettingError(f"{what}: {address} has no port that others could dial.")
    return address
