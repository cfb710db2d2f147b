"""The only place of `deploy/` that reads or writes the process environment."""

import os
from collections.abc import Sequence

SERVERS = "PUSHPULL_SERVERS"
WORKER_ID = "PUSHPULL_WORKER_ID"
METRICS_LISTEN = "PUSHPULL_METRICS_LISTEN"

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

    What the user has set wins.
    """
    num_threads = max(1, num_usable_cores() // num_processes)
    defaults = _ALLOCATOR | {"OMP_NUM_THREADS": str(num_threads), "PYTHONUNBUFFERED": "1"}
    return defaults | dict(os.environ)


def worker_variables(servers: Sequence[str], worker_id: int | None, metrics_listen: str | None) -> dict[str, str]:
    """What `connect()` reads. `servers` are host:port, shard 0 first."""
    variables = {SERVERS: ",".join(servers)}
    if worker_id is not None:
        variables[WORKER_ID] = str(worker_id)
    if metrics_listen is not None:
        variables[METRICS_LISTEN] = metrics_listen
    return variables


def become_worker(variables: dict[str, str]) -> None:
    """Makes this process the worker that `variables` describe; what an outer worker left is forgotten."""
    for name in (SERVERS, WORKER_ID, METRICS_LISTEN):
        os.environ.pop(name, None)
    os.environ.update(variables)


def num_usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
