"""Hosts in network namespaces of their own, in a star, each behind its link.

A namespace has no name: it lives as long as the process that holds it, and that is a child like all others. So nothing
is left behind, not even when the benchmark is killed (see `deploy.processes`).
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ...deploy.environment import process_environment
from ...deploy.processes import Child, Family, Relay
from ...protos.errors import PushpullError, SettingError
from .link import Link

DEVICE = "wan0"
_SUBNET = "10.78.0"
_NOWHERE = "nowhere"
_START_SECONDS = 30.0
_POLL_SECONDS = 0.02
_QUEUE = "100ms"
"""Longest time that a packet waits at the bottleneck before it is dropped."""
_TOOLS = {"ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "nsenter": "util-linux"}
_PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")


def why_not_here() -> str | None:
    """What this machine lacks for namespaces and shaped links; None if nothing."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces and shaped links need root"
    missing = sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None})
    if missing:
        return f"{' and '.join(missing)} must be installed"
    # Root in a container is root, and may be refused all the same.
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode != 0:
        return "root may make no network namespaces here"
    return None if Path("/dev/net/tun").exists() else "there is no /dev/net/tun"


@dataclass(frozen=True, kw_only=True)
class TcpSettings:
    """How TCP works on every host."""

    congestion_control: str = "cubic"
    """Linux's default; what a machine prefers would make figures of two machines incomparable."""
    sysctls: Sequence[str] = ()
    """key=value."""
    route: Sequence[str] = ()
    """More words of `ip route`, such as `rto_min 50ms`."""


@dataclass(frozen=True)
class Host:
    """One host of a network. `link` None is a host that nothing holds up."""

    name: str
    address: str
    link: Link | None
    pid: int
    """Of the process that holds its namespace."""

    def command(self, words: Sequence[str]) -> list[str]:
        """The words that run a command there."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *words]

    def bytes_sent_and_received(self) -> tuple[int, int]:
        """Bytes of IP packets since the host was made, headers and what was sent again included."""
        for line in Path(f"/proc/{self.pid}/net/dev").read_text().splitlines():
            name, _, counters = line.partition(":")
            if name.strip() == DEVICE:
                received, sent = int(counters.split()[0]), int(counters.split()[8])
                return sent, received
        raise PushpullError(f"host {self.name} has no device {DEVICE} any more")


class Network:
    """Hosts and what runs on them. Use as a context; everything ends with it.

    Raises:
        SettingError: this machine cannot have one; says why.
    """

    def __init__(self, links: Mapping[str, Link | None], tcp: TcpSettings, relay: Relay) -> None:
        reason = why_not_here()
        if reason is not None:
            raise SettingError(f"pushpull bench links: {reason}.")
        self.hosts: dict[str, Host] = {}
        self._links = links
        self._tcp = tcp
        self._family = Family(relay)

    def start(
        self, host: Host, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Child:
        """Starts a command on a host; its lines go where the network's go, marked with `name`."""
        return self._family.start(name, host.command(command), _environment() | dict(environment or {}))

    def stop(self, children: Sequence[Child]) -> None:
        """Ends some of what runs, at once."""
        self._family.stop(children, 0.0, lambda: True)

    def cut(self, one: Host, other: Host) -> None:
        """From now on nothing that one of these hosts sends arrives at the other; nobody is told. All else goes on.

        For hosts without a link.
        """
        for host, unheard in ((one, other), (other, one)):
            _on(
                host,
                f"tc filter add dev {DEVICE} parent ffff: protocol ip prio {_priority(unheard)} u32 match ip src "
                f"{unheard.address}/32 action mirred egress redirect dev {_NOWHERE}",
            )

    def mend(self, one: Host, other: Host) -> None:
        """Ends a cut."""
        for host, unheard in ((one, other), (other, one)):
            _on(host, f"tc filter del dev {DEVICE} parent ffff: prio {_priority(unheard)}")

    @property
    def guard_fd(self) -> int:
        """See `Family.guard_fd`."""
        return self._family.guard_fd

    def __enter__(self) -> Self:
        self._family.__enter__()
        try:
            for number, (name, link) in enumerate(self._links.items(), start=1):
                self.hosts[name] = self._make_host(name, f"{_SUBNET}.{number}", link)
            self._connect()
            for host in self.hosts.values():
                self._shape(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._family.__exit__(None, None, None)

    def _make_host(self, name: str, address: str, link: Link | None) -> Host:
        holder = self._family.start(f"host {name}", ["unshare", "--net", "sleep", "infinity"], _environment())
        own = os.readlink("/proc/self/ns/net")
        _wait_until(lambda: _namespace_of(holder) not in (None, own), holder)
        return Host(name, address, link, holder.pid)

    def _connect(self) -> None:
        ports = [
            f"{host.pid},{host.address},{host.link.rtt_ms / 2000 if host.link else 0.0},{host.link.loss if host.link else 0.0}"
            for host in self.hosts.values()
        ]
        # In front of the training processes: a hub that waits for the processor would be a longer link.
        command = ["nice", "-n", "-15", sys.executable, "-P", "-m", "pushpull.benchmarks.links.hub"]
        hub = self._family.start("hub", [*command, "--device", DEVICE, *ports], _environment())
        _wait_until(lambda: "up" in hub.last_lines, hub)

    def _shape(self, host: Host) -> None:
        mtu = host.link.mtu if host.link else 9000
        # Nobody here speaks IPv6, and its neighbour discovery would count among the bytes.
        _on(host, "sysctl -e -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
        _on(host, "ip link set lo up")
        _on(host, f"ip addr add {host.address}/24 dev {DEVICE}")
        _on(host, f"ip link set {DEVICE} up mtu {mtu} txqueuelen 1000")
        _on(
            host,
            f"ip route change {_SUBNET}.0/24 dev {DEVICE} src {host.address} congctl {self._tcp.congestion_control} "
            + " ".join(self._tcp.route),
        )
        for assignment in self._tcp.sysctls:
            _on(host, f"sysctl -q -w {assignment}")
        if host.link is None:
            # what arrives from hosts that this one is cut off from is sent to a device that stays down
            _on(host, f"tc qdisc add dev {DEVICE} ingress")
            _on(host, f"ip link add {_NOWHERE} type ifb")
            return
        # What leaves is shaped on the device, what arrives on a device behind it.
        burst = max(32_000, int(host.link.rate_mbits * 1e6 / 8 / 250))
        shaped = f"root tbf rate {host.link.rate_mbits:g}mbit burst {burst} latency {_QUEUE}"
        _on(host, "ip link add arriving type ifb")
        _on(host, f"ip link set arriving up mtu {mtu} txqueuelen 1000")
        _on(host, f"tc qdisc add dev {DEVICE} {shaped}")
        _on(host, f"tc qdisc add dev arriving {shaped}")
        _on(host, f"tc qdisc add dev {DEVICE} ingress")
        _on(
            host,
            f"tc filter add dev {DEVICE} parent ffff: protocol all u32 match u32 0 0 "
            "action mirred egress redirect dev arriving",
        )


def _priority(host: Host) -> int:
    """Of the filter for what comes from this host."""
    return 100 + int(host.address.rpartition(".")[2])


def _on(host: Host, command: str) -> None:
    done = subprocess.run(host.command(command.split()), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PushpullError(f"`{command}` failed on host {host.name}: {done.stderr.strip()}")


def _namespace_of(child: Child) -> str | None:
    try:
        return os.readlink(f"/proc/{child.pid}/ns/net")
    except OSError:
        return None


def _wait_until(condition: Callable[[], bool], child: Child) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not condition():
        if child.exit_status is not None or time.monotonic() > deadline:
            child.finish_output()
            raise PushpullError(f"{child.name} did not come up; it said: {' '.join(child.last_lines) or 'nothing'}")
        time.sleep(_POLL_SECONDS)


def _environment() -> dict[str, str]:
    """One thread for each process: they share few cores. A proxy cannot be reached from a namespace."""
    inherited = process_environment(os.cpu_count() or 1)
    return {name: value for name, value in inherited.items() if name.lower() not in _PROXIES}
