"""What the links really are: round trip time, and rate in both directions."""

import json
import re
import shutil
import subprocess
import time
from dataclasses import dataclass

from ...protos.errors import PushpullError, SettingError
from .network import Host, Network

_PINGS = 20
_IPERF_SECONDS = 3
_PORT = 5201
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class MeasuredLink:
    """Between a worker and the servers."""

    worker: str
    asked: str
    rtt_ms: float
    """Mean of the pings that came back."""
    up_mbits: float
    """One TCP connection, worker to servers."""
    down_mbits: float
    congestion_control: str


def measure(network: Network, worker: Host, servers: Host) -> MeasuredLink:
    """Pings, then one TCP connection each way.

    Raises:
        SettingError: ping or iperf3 is not installed.
        PushpullError: they failed.
    """
    missing = [tool for tool in ("ping", "iperf3") if shutil.which(tool) is None]
    if missing:
        raise SettingError(f"{' and '.join(missing)} must be installed to measure links; or say --no-link-check")
    pings = _run(worker, ["ping", "-q", "-c", str(_PINGS), "-i", "0.1", servers.address])
    times = re.search(r"= [0-9.]+/([0-9.]+)/", pings)
    if times is None:
        raise PushpullError(f"no ping came back from {worker.name}: {pings}")
    server = network.start(servers, "iperf3", ["iperf3", "--server", "--port", str(_PORT)])
    try:
        up, control = _iperf(worker, servers)
        down, _ = _iperf(worker, servers, "--reverse")
    finally:
        network.stop([server])
    return MeasuredLink(worker.name, str(worker.link), float(times[1]), up, down, control)


def _iperf(worker: Host, servers: Host, *options: str) -> tuple[float, str]:
    words = ["iperf3", "--client", servers.address, "--port", str(_PORT), "--time", str(_IPERF_SECONDS), "--json"]
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        result = json.loads(_run(worker, [*words, *options]))
        if "sum_received" in result["end"]:
            end = result["end"]
            return end["sum_received"]["bits_per_second"] / 1e6, end.get("sender_tcp_congestion", "?")
        if time.monotonic() > deadline:
            raise PushpullError(f"iperf3 from {worker.name} failed: {result.get('error', 'it says nothing')}")
        time.sleep(0.2)  # its server is not listening yet, or still ending the connection before


def _run(host: Host, words: list[str]) -> str:
    done = subprocess.run(host.command(words), capture_output=True, text=True, timeout=60, check=False)
    if not done.stdout:
        raise PushpullError(f"`{' '.join(words)}` failed on {host.name}: {done.stderr}")
    return done.stdout
