"""Where one server stands among the servers of its job, from what its command line says."""

from dataclasses import dataclass
from typing import Self

from ..protos.addresses import dialled_address, server_addresses, split_address
from ..protos.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class ServerPlace:
    """Which shard, how many there are, and who listens and is dialled where. Addresses are host:port."""

    shard: int
    num_shards: int
    registrar: str | None
    """None on shard 0, which is the registrar."""
    listen: str
    advertise: str | None
    """What workers dial; None is what is bound."""

    @classmethod
    def in_list(cls, servers: str, shard: int, listen: str | None = None) -> Self:
        """From the list of all servers, the same on each of them. Listens on every interface by default.

        Raises:
            SettingError: the list is empty or malformed, or has no such shard.
        """
        addresses = server_addresses(servers, "--servers")
        if not addresses:
            raise SettingError(
                "--servers is empty: name every server as HOST:PORT, shard 0 first, separated by commas."
            )
        if shard >= len(addresses):
            raise SettingError(
                f"--servers names {len(addresses)} servers, so --shard is 0 to {len(addresses) - 1}, not {shard}."
            )
        for address in {addresses[0], addresses[shard]}:
            dialled_address(address, "--servers")
        _, port = split_address(addresses[shard], "--servers")
        if listen is not None:
            split_address(listen, "--listen")
        return cls(
            shard=shard,
            num_shards=len(addresses),
            registrar=addresses[0] if shard > 0 else None,
            listen=listen or f"0.0.0.0:{port}",
            advertise=addresses[shard],
        )

    @classmethod
    def alone(
        cls,
        shard: int,
        num_shards: int,
        registrar: str | None = None,
        listen: str | None = None,
        advertise: str | None = None,
    ) -> Self:
        """Where only shard 0's address is known to the others. Listens on any free port of loopback by default.

        Raises:
            SettingError: `registrar` is missing, or given to the registrar itself; an address is malformed; there is no
                such shard.
        """
        if shard >= num_shards:
            raise SettingError(f"--num-shards is {num_shards}, so --shard is 0 to {num_shards - 1}, not {shard}.")
        if shard == 0 and registrar is not None:
            raise SettingError("Shard 0 is the registrar itself: leave out --registrar.")
        if shard > 0 and registrar is None:
            raise SettingError(f"Shard {shard} needs --registrar HOST:PORT, the address of shard 0 (or --servers).")
        if listen is not None:
            split_address(listen, "--listen")
        for option, dialled in {"--registrar": registrar, "--advertise": advertise}.items():
            if dialled is not None:
                dialled_address(dialled, option)
        return cls(
            shard=shard,
            num_shards=num_shards,
            registrar=registrar,
            listen=listen or "127.0.0.1:0",
            advertise=advertise,
        )
