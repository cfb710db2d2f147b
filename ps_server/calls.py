"""By which door each method comes in, and how large one of its requests may be."""

from ..protos.transport import MOST_REQUEST_BYTES
from .config import ServerConfig
from .doors import CONTROL_BYTES, Door, Doors, Method
from .envelope import MOST_QUESTION_BYTES
from .metrics import ServerMetrics

MOST_PLAN_BYTES = 4 << 20
"""A block needs about 20 bytes, so this is 200,000 of them."""
MOST_REPORT_BYTES = 1 << 17
"""A heartbeat of a worker that logs 1,000 names has 70 KiB."""

REGISTRAR = {
    "Enrol": Method(most_bytes=MOST_PLAN_BYTES),
    "Leave": Method(most_bytes=MOST_REPORT_BYTES),
    "Heartbeat": Method("heartbeats", MOST_REPORT_BYTES),
    "Status": Method("status"),
    "Link": Method("links", MOST_REQUEST_BYTES, most_first_bytes=CONTROL_BYTES),
}
SHARD = {
    "Exchange": Method("exchanges", MOST_REQUEST_BYTES, most_first_bytes=MOST_QUESTION_BYTES),
    "Status": Method("status"),
    "Beat": Method("heartbeats"),
    "Recorded": Method("heartbeats"),
    "Masters": Method("copies"),
}
HEALTH = {"Check": Method("health"), "List": Method("health"), "Watch": Method("watches")}
REFLECTION = {"ServerReflectionInfo": Method("status")}


def doors_of(config: ServerConfig, metrics: ServerMetrics) -> Doors:
    """Threads for all calls of one server. They are made when they are needed."""
    num_workers = config.max_workers

    def door(name: str, num_threads: int, most_silent: int, most_waiting: int) -> tuple[str, Door]:
        return name, Door(name, num_threads, most_silent, most_waiting, metrics)

    doors = [
        door("exchanges", num_workers + 32, most_silent=32, most_waiting=2 * num_workers),
        door("links", config.num_shards + 8, most_silent=8, most_waiting=64),
        # Join, Activate and Leave wait until every shard has installed a view: all workers may come or go together.
        door("control", num_workers + 32, most_silent=32, most_waiting=4 * num_workers),
        door("heartbeats", 16, most_silent=16, most_waiting=4 * num_workers),
        door("status", 16, most_silent=16, most_waiting=64),
        door("copies", 8, most_silent=8, most_waiting=2 * num_workers),
        door("health", 16, most_silent=16, most_waiting=64),
        door("watches", 8, most_silent=8, most_waiting=4),
    ]
    return Doors(dict(doors), metrics)


def most_connections(config: ServerConfig, most_descriptors: int) -> int:
    """TCP connections at the same time: two for each worker stream, and as many strangers as cost 40 MiB."""
    return max(16, min(2048 + 4 * config.max_workers, most_descriptors - 256))
