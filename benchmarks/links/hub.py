"""A star of TUN devices, one in each network namespace, with delay and loss made here: kernels without `sch_netem` have
no other place for them. The rate is made by `tbf` in the namespaces.

Run as a process of its own by `network.py`; it prints `up` when the devices are there, and works until it is killed.
"""

import argparse
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_MOST_PACKET_BYTES = 65536
_PACKETS_AT_A_TIME = 64
_DESTINATION = slice(16, 20)
"""Of an IPv4 header."""


@dataclass(frozen=True)
class Port:
    """One end of the star."""

    fd: int
    delay_seconds: float
    """Added in each direction."""
    loss: float


def open_tun(name: str, pid: int) -> int:
    """A TUN device in the network namespace of process `pid`; its packets are read from and written to the result."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    # The device is made here, under a name of its own, and then moved.
    own_name = f"pp{os.getpid()}-{pid}"[:15]
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", own_name.encode(), _IFF_TUN | _IFF_NO_PI))
    subprocess.run(["ip", "link", "set", own_name, "netns", str(pid), "name", name], check=True)
    return fd


def forward(ports: dict[bytes, Port], draw: random.Random) -> None:
    """Carries packets between ports, which are found by IPv4 address, until one of them is gone."""
    by_fd = {port.fd: port for port in ports.values()}
    waiting: list[tuple[float, int, int, bytes]] = []
    num_packets = 0
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select(by_fd, [], [], timeout)
        now = time.monotonic()
        for fd in readable:
            source = by_fd[fd]
            for _ in range(_PACKETS_AT_A_TIME):
                try:
                    packet = os.read(fd, _MOST_PACKET_BYTES)
                except BlockingIOError:
                    break
                except OSError:
                    return  # its namespace is gone: the network is being taken down
                target = ports.get(packet[_DESTINATION])
                if target is None or draw.random() >= (1 - source.loss) * (1 - target.loss):
                    continue
                num_packets += 1  # packets that are due together leave in the order they came in
                due = now + source.delay_seconds + target.delay_seconds
                heapq.heappush(waiting, (due, num_packets, target.fd, packet))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, fd, packet = heapq.heappop(waiting)
            try:
                os.write(fd, packet)
            except OSError:
                pass  # the device's queue is full, or it is gone: lost, as on any network


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", required=True, help="name of the devices")
    parser.add_argument("--seed", type=int, default=0, help="of the losses")
    parser.add_argument("ports", nargs="+", metavar="PID,ADDRESS,DELAY_SECONDS,LOSS")
    options = parser.parse_args(argv)
    ports = {}
    for text in options.ports:
        pid, address, delay_seconds, loss = text.split(",")
        ports[socket.inet_aton(address)] = Port(open_tun(options.device, int(pid)), float(delay_seconds), float(loss))
    print("up", flush=True)
    forward(ports, random.Random(options.seed))


if __name__ == "__main__":
    main()
