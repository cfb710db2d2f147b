"""What is compared: ways to train `examples/char_gpt.py` on workers behind links."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...deploy.environment import GLOO_INTERFACE, MASTER_ADDRESS, MASTER_PORT, RANK, WORLD_SIZE
from ...deploy.processes import Child, pushpull_command
from ...protos.errors import SettingError
from .network import DEVICE, Host, Network

SERVERS = "servers"
"""The host that all shards run on; nothing holds it up."""
_SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
_SERVER_PORT = 7077
_MASTER_PORT = 29500


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained: the same model, data, batch and optimizer for every system that does not say otherwise."""

    arguments: Sequence[str]
    """Of `examples/char_gpt.py`."""
    num_shards: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class System(ABC):
    """One way to train."""

    name: str
    arguments: Sequence[str] = ()
    """Behind those of the task, which they override."""

    @abstractmethod
    def start(self, network: Network, task: Task, records: Path) -> "Started":
        """Starts all processes; each trainer writes its record into the folder `records`."""

    def _arguments(self, task: Task) -> list[str]:
        return [*task.arguments, "--seed", str(task.seed), *self.arguments]


@dataclass(frozen=True)
class Started:
    """The processes of a system."""

    trainers: Sequence[Child]
    others: Sequence[Child] = ()
    registrar: str | None = None
    """Who knows how it goes, host:port."""


@dataclass(frozen=True, kw_only=True)
class Pushpull(System):
    """Servers on the host `servers`, one worker on each other host."""

    settings: Sequence[str]
    """Of the job, key=value."""

    def start(self, network: Network, task: Task, records: Path) -> Started:
        host = network.hosts[SERVERS]
        addresses = [f"{host.address}:{_SERVER_PORT + shard}" for shard in range(task.num_shards)]
        servers = [
            network.start(host, f"server {shard}", self._server(network, task, shard, addresses))
            for shard in range(task.num_shards)
        ]
        script = [str(_SCRIPTS / "links_worker.py"), str(records), *self._arguments(task)]
        workers = [
            network.start(
                worker,
                worker.name,
                [
                    *(*pushpull_command("worker"), "--servers", ",".join(addresses), "--id", str(number)),
                    *("--metrics-listen", "", "--guard-fd", str(network.guard_fd), *script),
                ],
            )
            for number, worker in enumerate(trainers_of(network))
        ]
        return Started(workers, servers, addresses[0])

    def _server(self, network: Network, task: Task, shard: int, addresses: Sequence[str]) -> list[str]:
        command = [*pushpull_command("server"), "--shard", str(shard), "--num-shards", str(task.num_shards)]
        command += ["--listen", addresses[shard], "--metrics-listen", "", "--guard-fd", str(network.guard_fd)]
        if shard > 0:
            return [*command, "--registrar", addresses[0]]
        settings = [f"expected_workers={len(trainers_of(network))}", f"seed={task.seed}", *self.settings]
        return command + [word for setting in settings for word in ("--set", setting)]


@dataclass(frozen=True, kw_only=True)
class Ddp(System):
    """`DistributedDataParallel` over gloo: one rank on each host but the servers', where nothing runs."""

    def start(self, network: Network, task: Task, records: Path) -> Started:
        hosts = trainers_of(network)
        command = [sys.executable, str(_SCRIPTS / "links_ddp_rank.py"), str(records), *self._arguments(task)]
        common = {MASTER_ADDRESS: hosts[0].address, MASTER_PORT: str(_MASTER_PORT), GLOO_INTERFACE: DEVICE}
        return Started(
            [
                network.start(host, host.name, command, {**common, RANK: str(rank), WORLD_SIZE: str(len(hosts))})
                for rank, host in enumerate(hosts)
            ]
        )


def trainers_of(network: Network) -> list[Host]:
    """All hosts but the servers'."""
    return [host for name, host in network.hosts.items() if name != SERVERS]


_ADAMW = ("--optimizer", "adamw", "--learning-rate", "2e-3")
_MORE_STEPS = ("--steps", "1200")
_SPARSE = ("push_codec=topk:0.01+int8",)

SYSTEMS: Sequence[System] = (
    Ddp(name="ddp"),
    Pushpull(name="fp32", settings=()),
    Pushpull(name="int8", settings=("push_codec=int8", "pull_codec=int8")),
    Pushpull(name="topk, pull fp32", settings=_SPARSE),
    Pushpull(name="topk", settings=(*_SPARSE, "pull_codec=topk:0.03+int8")),
    Pushpull(name="topk, bounded", settings=(*_SPARSE, "pull_codec=bf16", "mode=bounded:8"), arguments=_MORE_STEPS),
    Pushpull(name="topk, async", settings=(*_SPARSE, "pull_codec=bf16", "mode=async"), arguments=_MORE_STEPS),
    Ddp(name="ddp adamw", arguments=_ADAMW),
    Pushpull(name="fp32 adamw", settings=(), arguments=_ADAMW),
    Pushpull(name="int8 adamw", settings=("push_codec=int8", "pull_codec=int8"), arguments=_ADAMW),
    Pushpull(
        name="int8 adamw, local 20",
        settings=("push_codec=int8", "pull_codec=int8"),
        arguments=(*_ADAMW, "--local-steps", "20"),
    ),
)


def systems_named(names: Sequence[str]) -> list[System]:
    """The systems of these names.

    Raises:
        SettingError: there is none of a name.
    """
    known = {system.name: system for system in SYSTEMS}
    for name in names:
        if name not in known:
            raise SettingError(f"there is no system '{name}'; there are: {'; '.join(known)}")
    return [known[name] for name in names]
