"""The only place of `deploy/` that reads or writes the process environment."""

import os
import re
import socket
from collections.abc import Sequence

SERVERS = "PUSHPULL_SERVERS"
WORKER_ID = "PUSHPULL_WORKER_ID"
METRICS_LISTEN = "PUSHPULL_METRICS_LISTEN"
LAYOUT = "PUSHPULL_LAYOUT"
PATIENCE_SECONDS = "PUSHPULL_PATIENCE_SECONDS"
JOB_NAME = "PUSHPULL_JOB_NAME"
RESUME = "PUSHPULL_RESUME"
LOG_FORMAT = "PUSHPULL_LOG_FORMAT"
LOG_LEVEL = "PUSHPULL_LOG_LEVEL"

# What `init_process_group` and training scripts read, by the names that torchrun gave them.
RANK = "RANK"
WORLD_SIZE = "WORLD_SIZE"
LOCAL_RANK = "LOCAL_RANK"
LOCAL_WORLD_SIZE = "LOCAL_WORLD_SIZE"
MASTER_ADDRESS = "MASTER_ADDR"
MASTER_PORT = "MASTER_PORT"
USE_STARTERS_STORE = "TORCHELASTIC_USE_AGENT_STORE"
RESTART_COUNT = "TORCHELASTIC_RESTART_COUNT"
_GROUP = (
    *(RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDRESS, MASTER_PORT, USE_STARTERS_STORE, RESTART_COUNT),
    *("TORCHELASTIC_RUN_ID", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE"),
)

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
_LOOPBACK = "127.0.0.1"
_LOOPBACK_INTERFACES = ("lo", "lo0")

# glibc maps, zeroes and unmaps every large buffer; with these it keeps them, which saves a third of the transport's cost.
# One arena: what one thread frees, every other uses again. It keeps processes within the memory that `pushpull plan`
# predicts, and costs no time that could be measured.
_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}


def process_environment(num_processes: int) -> dict[str, str]:
    """Environment of a process that shares this machine with `num_processes` such processes in all.

    What the user has set wins. A process group that this process is a rank of is not the new one's.
    """
    num_threads = max(1, num_usable_cores() // num_processes)
    defaults = _ALLOCATOR | {"OMP_NUM_THREADS": str(num_threads), "PYTHONUNBUFFERED": "1"}
    return defaults | {name: value for name, value in os.environ.items() if name not in _GROUP}


def rank_variables(rank: int, num_ranks: int, store_port: int) -> dict[str, str]:
    """What `init_process_group()` reads on a rank of a group on this machine, whose starter serves its store at
    `store_port`.
    """
    interfaces = [name for _, name in socket.if_nameindex() if name in _LOOPBACK_INTERFACES]
    gloo = {GLOO_INTERFACE: interfaces[0]} if interfaces and GLOO_INTERFACE not in os.environ else {}
    return gloo | {
        RANK: str(rank),
        WORLD_SIZE: str(num_ranks),
        LOCAL_RANK: str(rank),
        LOCAL_WORLD_SIZE: str(num_ranks),
        MASTER_ADDRESS: _LOOPBACK,
        MASTER_PORT: str(store_port),
        USE_STARTERS_STORE: "True",
        RESTART_COUNT: "0",
    }


def device_variables(first_process: int) -> dict[str, str]:
    """Makes GPU `first_process` of this machine, counted round and round, device 0 of a worker.

    Rank r takes device r (`LOCAL_RANK`), so that workers on one machine spread over its GPUs. All stay visible: a process
    may place layers on several.
    """
    devices = _visible_devices()
    start = first_process % len(devices) if devices else 0
    return {VISIBLE_DEVICES: ",".join(devices[start:] + devices[:start])} if start else {}


def _visible_devices() -> list[str]:
    """GPUs that a process started now could use; found without the driver's library, which takes its time."""
    chosen = os.environ.get(VISIBLE_DEVICES)
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    num_devices = sum(re.fullmatch("nvidia[0-9]+", name) is not None for name in os.listdir("/dev"))
    return [str(number) for number in range(num_devices)]


def world_size() -> int | None:
    """Ranks of the group that this process was started in, by torchrun or by a launcher of ours; None outside one."""
    text = os.environ.get(WORLD_SIZE, "") if RANK in os.environ else ""
    return int(text) if text.isdecimal() else None


def traces_are_wanted() -> bool:
    """Whether the standard variables of OpenTelemetry name a place for traces, and do not turn them off."""
    places = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    off = disabled or os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none"
    return not off and any(os.environ.get(place) for place in places)


def service_is_named() -> bool:
    """Whether the user has chosen the name of this process in traces."""
    return bool(os.environ.get("OTEL_SERVICE_NAME")) or "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")


def own_rank() -> int | None:
    """Of this process in the group that it was started in; None outside one."""
    text = os.environ.get(RANK, "") if world_size() is not None else ""
    return int(text) if text.isdecimal() else None


def metrics_of_rank(address: str) -> str:
    """Where a rank serves metrics if rank 0 of this machine does at host:port: each on a port of its own."""
    host, _, port = address.rpartition(":")
    place = os.environ.get(LOCAL_RANK, "") if world_size() is not None else ""
    if not (port.isdecimal() and int(port) > 0 and place.isdecimal()):
        return address
    return f"{host}:{int(port) + int(place)}"


def worker_variables(
    servers: Sequence[str],
    worker_id: int | None,
    metrics_listen: str | None,
    layout: str | None = None,
    patience_seconds: float | None = None,
    job_name: str = "",
    resume: bool = False,
) -> dict[str, str]:
    """What `connect()` reads. `servers` are host:port, shard 0 first."""
    variables = {SERVERS: ",".join(servers)}
    if worker_id is not None:
        variables[WORKER_ID] = str(worker_id)
    if metrics_listen is not None:
        variables[METRICS_LISTEN] = metrics_listen
    if layout is not None:
        variables[LAYOUT] = layout
    if patience_seconds is not None:
        variables[PATIENCE_SECONDS] = str(patience_seconds)
    if job_name:
        variables[JOB_NAME] = job_name
    if resume:
        variables[RESUME] = "1"
    return variables


def become_worker(variables: dict[str, str]) -> None:
    """Makes this process the worker that `variables` describe; what an outer worker left is forgotten.

    Its rank stays what torchrun or the launcher made it.
    """
    for name in (SERVERS, WORKER_ID, METRICS_LISTEN, LAYOUT, PATIENCE_SECONDS, JOB_NAME, RESUME):
        os.environ.pop(name, None)
    os.environ.update(variables)


def num_usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
