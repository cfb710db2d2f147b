"""The description of machines and model that a plan is made for: YAML, typed, unknown keys refused."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ...protos.errors import SettingError, UnknownKeyError
from ...worker.layout import Layout, parse_layout
from ..yaml_file import read_yaml
from .units import rate_bytes_per_second, size_bytes

Bytes = Annotated[int, BeforeValidator(size_bytes), Field(gt=0)]
Rate = Annotated[float, BeforeValidator(rate_bytes_per_second), Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Device(_Part):
    """What one rank computes on."""

    kind: Literal["cuda", "cpu"] = "cuda"
    memory: Bytes
    tflops: float = Field(gt=0, description="10^12 floating-point operations per second, at best.")
    count: int = Field(default=1, ge=1)


class WorkerMachine(_Part):
    """The devices of one worker and their link to the servers, which all its ranks share."""

    name: str = ""
    devices: tuple[Device, ...] = Field(min_length=1)
    bandwidth: Rate
    interconnect: Rate | None = Field(default=None, description="Between its devices; default: its bandwidth.")
    host_memory: Bytes | None = Field(default=None, description="Of the machine, for devices that are not its CPU.")
    batch_size: int | None = Field(default=None, ge=1, description="Samples of a step; default: the cluster's.")
    layout: str | None = Field(default=None, description="The only layout to consider.")
    count: int = Field(default=1, ge=1, description="Workers like this one.")

    @property
    def ranks(self) -> tuple[Device, ...]:
        """Each device by itself."""
        return tuple(device for device in self.devices for _ in range(device.count))

    @property
    def fixed_layout(self) -> Layout | None:
        return None if self.layout is None else parse_layout(self.layout)

    @model_validator(mode="after")
    def _layout_has_devices(self) -> "WorkerMachine":
        layout = self.fixed_layout
        if layout is not None and layout.num_ranks > len(self.ranks):
            raise ValueError(f"layout {layout.spec} needs {layout.num_ranks} devices and there are {len(self.ranks)}")
        return self


class ServerMachine(_Part):
    """Where one server process runs."""

    memory: Bytes
    bandwidth: Rate
    elements_per_second: float = Field(
        default=0.8e9, gt=0, description="Elements decoded, optimised and encoded again each second."
    )
    count: int = Field(default=1, ge=1, description="Servers like this one.")


class Cluster(_Part):
    """Model and machines."""

    model: str | None = Field(default=None, description="file.py:function that makes the model.")
    loss: str | None = Field(
        default=None, description="file.py:function(model, batch_size) that computes a loss; measures work and memory."
    )
    optimizer: str = "AdamW"
    optimizer_options: dict[str, Any] = {}
    batch_size: int = Field(default=1, ge=1, description="Samples of one worker's step.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="Of the computation (autocast).")
    tokens_per_sample: int = Field(default=1, ge=1, description="Without `loss`: 6 operations per parameter and token.")
    activation_bytes_per_sample: Bytes | None = Field(default=None, description="Without `loss`.")
    efficiency: float = Field(default=0.4, gt=0, le=1, description="Share of `tflops` that training reaches.")
    servers: tuple[ServerMachine, ...] = Field(min_length=1)
    workers: tuple[WorkerMachine, ...] = Field(min_length=1)

    @property
    def server_machines(self) -> tuple[ServerMachine, ...]:
        """One for each shard."""
        return tuple(server for server in self.servers for _ in range(server.count))

    @property
    def worker_machines(self) -> tuple[WorkerMachine, ...]:
        """One for each worker; those without a name are called by their number."""
        machines: list[WorkerMachine] = []
        for machine in self.workers:
            for number in range(machine.count):
                name = machine.name or f"worker {len(machines)}"
                if machine.name and machine.count > 1:
                    name = f"{machine.name}.{number}"
                machines.append(machine.model_copy(update={"name": name, "count": 1}))
        return tuple(machines)


def load_cluster(path: Path, model: str | None = None) -> Cluster:
    """Reads a cluster file; `model` wins over the file's.

    Raises:
        SettingError: names the key, and what it should be; UnknownKeyError for one that does not exist.
    """
    content = read_yaml(path, "description of the cluster", "--cluster")
    if not isinstance(content, dict):
        raise SettingError(f"The cluster file {path} must hold lines `key: value`, among them servers and workers.")
    try:
        return Cluster.model_validate(content if model is None else content | {"model": model})
    except ValidationError as error:
        raise _refusal(path, error) from None


def _refusal(path: Path, error: ValidationError) -> SettingError:
    problems = error.errors()
    for problem in problems:
        if problem["type"] == "extra_forbidden":
            *parents, key = problem["loc"]
            known = list(_fields_at(parents))
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            return UnknownKeyError(
                f"{path}: there is no key `{_dotted(problem['loc'])}`; the nearest is `{near}`. All keys there: "
                f"{', '.join(known)}."
            )
    return SettingError(" ".join(f"{path}: `{_dotted(p['loc'])}`: {_reason(p['msg'])}." for p in problems))


def _fields_at(parents: list[int | str]) -> dict[str, Any]:
    part: type[BaseModel] = Cluster
    for key in parents:
        if isinstance(key, str):
            part = get_args(part.model_fields[key].annotation)[0]
    return dict(part.model_fields)


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))


def _reason(message: str) -> str:
    return (
        message.removeprefix("Value error, ").replace("Input should", "it should").replace("Field required", "missing")
    )
