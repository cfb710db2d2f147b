"""What `connect()` is told: arguments first, then the environment that the launcher sets.

The only module of `worker/` that reads the environment.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..protos.addresses import server_addresses
from ..protos.errors import SettingError
from .layout import Layout, parse_layout

SERVERS_VARIABLE = "PUSHPULL_SERVERS"
WORKER_ID_VARIABLE = "PUSHPULL_WORKER_ID"
METRICS_VARIABLE = "PUSHPULL_METRICS_LISTEN"
LAYOUT_VARIABLE = "PUSHPULL_LAYOUT"
PATIENCE_VARIABLE = "PUSHPULL_PATIENCE_SECONDS"
JOB_NAME_VARIABLE = "PUSHPULL_JOB_NAME"
RESUME_VARIABLE = "PUSHPULL_RESUME"
RANK_VARIABLE = "RANK"
NUM_RANKS_VARIABLE = "WORLD_SIZE"
LOCAL_RANK_VARIABLE = "LOCAL_RANK"
"""Set by torchrun and by `pushpull launch` for every rank of a worker."""

ANY_WORKER_ID = -1
MOST_NUMBER = 2**31 - 1
"""Of a worker or a rank: what messages hold."""
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Where the servers are and who this worker is. Settings of the job come from the servers."""

    servers: tuple[str, ...]
    """host:port of each shard; the first is shard 0, the registrar."""
    worker_id: int = ANY_WORKER_ID
    metrics_listen: str | None = None
    """host:port of the Prometheus endpoint; port 0 takes any free one; None serves nothing."""
    patience_seconds: float = PATIENCE_SECONDS
    """How long to try to reach the registrar at the start."""
    layout: Layout | None = None
    """How the ranks of this worker split the model; None is the job's layout with that many ranks."""
    job_name: str = ""
    """Of the job that is meant; empty is one without a name."""
    resume: bool = False
    """Whether to go on with a job whose run is over."""
    rank: int = 0
    num_ranks: int = 1
    """Processes of this worker."""
    local_rank: int = 0
    """Of this process among those on its machine."""


def worker_config(
    servers: str | Sequence[str] | None = None,
    worker_id: int | None = None,
    metrics_listen: str | None = None,
    patience_seconds: float | None = None,
    layout: str | None = None,
    job_name: str | None = None,
    resume: bool | None = None,
    environment: Mapping[str, str] | None = None,
) -> WorkerConfig:
    """Arguments, and the environment for those that are None.

    Raises:
        SettingError: no servers are named anywhere, or a value is malformed.
    """
    variables = os.environ if environment is None else environment
    rank, num_ranks = _number(RANK_VARIABLE, variables, 0), _number(NUM_RANKS_VARIABLE, variables, 1)
    return WorkerConfig(
        servers=_servers(servers, variables),
        worker_id=_worker_id(worker_id, variables),
        metrics_listen=metrics_listen or variables.get(METRICS_VARIABLE) or None,
        patience_seconds=_patience_seconds(patience_seconds, variables),
        layout=_layout(layout or variables.get(LAYOUT_VARIABLE), num_ranks),
        job_name=variables.get(JOB_NAME_VARIABLE, "") if job_name is None else job_name,
        resume=variables.get(RESUME_VARIABLE, "") not in ("", "0") if resume is None else resume,
        rank=rank,
        local_rank=_number(LOCAL_RANK_VARIABLE, variables, 0),
        num_ranks=num_ranks,
    )


def _servers(servers: str | Sequence[str] | None, variables: Mapping[str, str]) -> tuple[str, ...]:
    source = "servers"
    if servers is None:
        servers, source = variables.get(SERVERS_VARIABLE, ""), SERVERS_VARIABLE
    addresses = server_addresses(servers, source)
    if not addresses:
        raise SettingError(
            "no servers are known: start the script with `pushpull launch`, or with `pushpull worker --servers host:port`, "
            f"or set {SERVERS_VARIABLE}, or pass connect(servers='host:port')"
        )
    return addresses


def _layout(text: str | None, num_ranks: int) -> Layout | None:
    if not text:
        return Layout() if num_ranks == 1 else None
    layout = parse_layout(text)
    if layout.num_ranks != num_ranks:
        raise SettingError(
            f"layout {layout.spec} has {layout.num_ranks} ranks, but this worker was started with {num_ranks} "
            f"({NUM_RANKS_VARIABLE}); start it with `pushpull launch --layout {layout.spec}`, or with torchrun "
            f"--nproc-per-node={layout.num_ranks}"
        )
    return layout


def _patience_seconds(seconds: float | None, variables: Mapping[str, str]) -> float:
    text = variables.get(PATIENCE_VARIABLE, "")
    name, value = ("patience_seconds", str(seconds)) if seconds is not None else (PATIENCE_VARIABLE, text)
    if not value:
        return PATIENCE_SECONDS
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise SettingError(f"{name}={value} is not a number of seconds greater than 0")
    return number


def _number(name: str, variables: Mapping[str, str], default: int) -> int:
    text = variables.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > MOST_NUMBER:
        raise SettingError(f"{name}={text!r} is not a whole number from 0 to {MOST_NUMBER}")
    return int(text)


def _worker_id(worker_id: int | None, variables: Mapping[str, str]) -> int:
    if worker_id is None:
        return _number(WORKER_ID_VARIABLE, variables, ANY_WORKER_ID)
    if not 0 <= worker_id <= MOST_NUMBER:
        raise SettingError(f"worker_id={worker_id} is not from 0 to {MOST_NUMBER}; leave it out to get a free one")
    return worker_id
