"""What `connect()` is told: arguments first, then the environment that the launcher sets.

The only module of `worker/` that reads the environment.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..protos.errors import SettingError

SERVERS_VARIABLE = "PUSHPULL_SERVERS"
WORKER_ID_VARIABLE = "PUSHPULL_WORKER_ID"
METRICS_VARIABLE = "PUSHPULL_METRICS_LISTEN"

ANY_WORKER_ID = -1


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Where the servers are and who this worker is. Settings of the job come from the servers."""

    servers: tuple[str, ...]
    """host:port of each shard; the first is shard 0, the registrar."""
    worker_id: int = ANY_WORKER_ID
    metrics_listen: str | None = None
    """host:port of the Prometheus endpoint; port 0 takes any free one; None serves nothing."""
    patience_seconds: float = 60.0
    """How long to try to reach the registrar at the start."""


def worker_config(
    servers: str | Sequence[str] | None = None,
    worker_id: int | None = None,
    metrics_listen: str | None = None,
    patience_seconds: float = 60.0,
    environment: Mapping[str, str] | None = None,
) -> WorkerConfig:
    """Arguments, and the environment for those that are None.

    Raises:
        SettingError: no servers are named anywhere, or a value is malformed.
    """
    variables = os.environ if environment is None else environment
    if patience_seconds <= 0:
        raise SettingError(f"patience_seconds={patience_seconds} must be positive")
    return WorkerConfig(
        servers=_servers(servers, variables),
        worker_id=_worker_id(worker_id, variables),
        metrics_listen=metrics_listen or variables.get(METRICS_VARIABLE) or None,
        patience_seconds=patience_seconds,
    )


def split_address(address: str, what: str) -> tuple[str, int]:
    """Host and port of `host:port`.

    Raises:
        SettingError: not of that form; `what` names the setting.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise SettingError(f"{what}: {address!r} is not host:port, for example 10.0.0.1:7077")
    return host, int(port)


def _servers(servers: str | Sequence[str] | None, variables: Mapping[str, str]) -> tuple[str, ...]:
    source = "servers"
    if servers is None:
        servers, source = variables.get(SERVERS_VARIABLE, ""), SERVERS_VARIABLE
    names = servers.split(",") if isinstance(servers, str) else list(servers)
    addresses = tuple(name.strip() for name in names if name.strip())
    if not addresses:
        raise SettingError(
            "no servers are known: start the script with `pushpull launch`, or with `pushpull worker --servers host:port`, "
            f"or set {SERVERS_VARIABLE}, or pass connect(servers='host:port')"
        )
    for address in addresses:
        split_address(address, source)
    return addresses


def _worker_id(worker_id: int | None, variables: Mapping[str, str]) -> int:
    if worker_id is None:
        text = variables.get(WORKER_ID_VARIABLE, "")
        if not text:
            return ANY_WORKER_ID
        if not text.isdigit():
            raise SettingError(f"{WORKER_ID_VARIABLE}={text!r} is not a whole number of at least 0")
        return int(text)
    if worker_id < 0:
        raise SettingError(f"worker_id={worker_id} must be at least 0; leave it out to get a free one")
    return worker_id
