"""Runs one server process until it is told to stop."""

import json
import signal
import threading
from types import FrameType

from ..ps_server.config import ServerConfig
from ..ps_server.server import Server
from .logs import Speaker, writes_json

_GRACE_SECONDS = 2.0


def serve(config: ServerConfig, announce_fd: int | None, speaker: Speaker) -> None:
    """Serves until SIGTERM, SIGINT or the server's own end; raises PortInUseError and SettingError.

    With `announce_fd`, one line of JSON says there where the server listens, and the descriptor is closed.
    """
    server = Server(config)
    speaker.follow(lambda: {"job": server.job_id} if server.job_id else {})
    server.start()
    stopper = threading.Thread(target=server.stop, args=(_GRACE_SECONDS,), daemon=True)

    def stop(signal_number: int, frame: FrameType | None) -> None:
        # A handler may interrupt anything, also a lock that stop() needs; so another thread stops.
        if stopper.ident is None:
            stopper.start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    _announce(config.shard, server, announce_fd)
    server.wait()
    if stopper.ident is not None:
        stopper.join()


def _announce(shard: int, server: Server, fd: int | None) -> None:
    where = {"shard": shard, "address": server.address, "metrics_address": server.metrics_address}
    if fd is None and writes_json():
        return  # the log has it
    if fd is None:
        print(
            f"Shard {shard} serves at {server.address}; metrics at {server.metrics_address or 'no port'}.",
            flush=True,
        )
        return
    with open(fd, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(where) + "\n")
