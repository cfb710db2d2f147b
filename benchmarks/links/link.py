"""The link between a worker and everybody else: how it is written, and what it means. Pure."""

import re
from dataclasses import dataclass

from ...protos.errors import SettingError

JUMBO_MTU = 9000
ETHERNET_MTU = 1500
_JUMBO_FROM_MBITS = 1000.0
_FORM = re.compile(r"(?P<rate>[0-9.]+)(?P<unit>mbit|gbit)(?:/(?P<rtt>[0-9.]+)ms)?(?:/(?P<loss>[0-9.]+)%)?")


@dataclass(frozen=True)
class Link:
    """Full duplex: each direction has the rate, half of the round trip time, and the loss."""

    rate_mbits: float
    """Megabits per second."""
    rtt_ms: float = 0.0
    """Milliseconds from this end to a host behind a perfect link and back."""
    loss: float = 0.0
    """Share of the packets of each direction that are lost, 0 to 1."""

    @property
    def mtu(self) -> int:
        """Bytes of a packet. Large ones from 1 Gbit/s on: the hub's cost is per packet."""
        return JUMBO_MTU if self.rate_mbits >= _JUMBO_FROM_MBITS else ETHERNET_MTU

    def __str__(self) -> str:
        rate = f"{self.rate_mbits / 1000:g} Gbit/s" if self.rate_mbits >= 1000 else f"{self.rate_mbits:g} Mbit/s"
        rtt = f", {self.rtt_ms:g} ms" if self.rtt_ms else ""
        return rate + rtt + (f", {100 * self.loss:g}% loss" if self.loss else "")


def parse_link(text: str) -> Link:
    """A link written as `20mbit/80ms/1%`: rate, round trip time, loss of each direction; both may be left out.

    Raises:
        SettingError: it is written otherwise.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise SettingError(
            f"'{text}' is no link: write RATE[/RTT[/LOSS]], for example 1gbit, 100mbit/20ms or 20mbit/80ms/1%"
        )
    rate = float(match["rate"]) * (1000 if match["unit"] == "gbit" else 1)
    link = Link(rate, float(match["rtt"] or 0), float(match["loss"] or 0) / 100)
    if rate <= 0 or link.loss >= 1:
        raise SettingError(f"'{text}' is no link: the rate must be above 0 and the loss below 100%")
    return link


def parse_links(text: str) -> list[Link]:
    """Links separated by commas, one for each worker."""
    return [parse_link(part) for part in text.split(",")]
