"""Runs one server process until it is told to stop, or its job is over."""

import json
import os
import signal
import sys
import time
from types import FrameType

from ..protos.deadlines import INSISTS_AFTER_SECONDS, SERVER_END_SECONDS
from ..protos.ending_signals import ending_signals
from ..ps_server.config import ServerConfig
from ..ps_server.server import Server
from ..ps_server.standby import Standby
from .logs import Speaker, writes_json
from .output import LAST_WORDS_SECONDS, output_is_closed
from .talk import LINES_DROPPED, STANDARD_ERROR, drain_standard_error, let_nobody_wait_for, talk_of
from .tracing import shard_observer


def serve(config: ServerConfig, announce_fd: int | None, speaker: Speaker) -> None:
    """Serves until SIGTERM, SIGINT, SIGHUP or the server's own end; raises PortInUseError, SettingError and
    UnwritableOutputError.

    The first signal drains the server, a second one ends the process at once. With `announce_fd`, one line of JSON says there
    where the server listens, and the descriptor is closed.
    """
    server = Server(config, shard_observer(config.shard))
    let_nobody_wait_for(STANDARD_ERROR)
    if (talk := talk_of(sys.stderr)) is not None:
        server.watch([LINES_DROPPED], lambda: [(LINES_DROPPED, (), talk.num_dropped)])
    speaker.follow(lambda: {"job": server.job_id} if server.job_id else {})
    server.start()
    drainer, last = Standby("drain"), Standby("hard stop")
    told_at: float | None = None

    def drain(signal_number: int, frame: FrameType | None) -> None:
        # A handler may interrupt anything, also a lock that drain() needs; so another thread drains.
        nonlocal told_at
        if told_at is None:
            told_at = time.monotonic()
            drainer.run(server.drain)
        elif time.monotonic() > told_at + INSISTS_AFTER_SECONDS:
            os._exit(128 + signal_number)

    numbers = (signal.SIGINT, *ending_signals())
    for number in numbers:
        signal.signal(number, drain)
    try:
        _announce(config.shard, server, announce_fd)
    except BaseException:
        server.stop()  # nobody would know where it is
        raise
    server.wait_for_end()
    # What fails from now on, on servers that end one after the other, does not make a failure of an end in order.
    status = 1 if server.has_failed else 0
    last.run(lambda: _end_at_last(config.shard, status))
    server.wait()
    # All is done. A signal that came while the interpreter ends would find no handler, and turn this end into a failure.
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _end_at_last(shard: int, status: int) -> None:
    """Whatever still goes on then - a step that is being applied, say - will not be told to anybody."""
    time.sleep(SERVER_END_SECONDS)
    print(f"pushpull: shard {shard} did not end in order within {SERVER_END_SECONDS:g} s", file=sys.stderr, flush=True)
    drain_standard_error(LAST_WORDS_SECONDS)
    os._exit(status)


def _announce(shard: int, server: Server, fd: int | None) -> None:
    where = {"shard": shard, "address": server.address, "metrics_address": server.metrics_address}
    if fd is None and (writes_json() or output_is_closed()):
        return  # the log has it
    if fd is None:
        print(
            f"Shard {shard} serves at {server.address}; metrics at {server.metrics_address or 'no port'}.",
            flush=True,
        )
        return
    with open(fd, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(where) + "\n")
