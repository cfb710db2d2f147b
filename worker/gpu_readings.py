"""Figures of the GPUs that this process uses, as torch and NVIDIA's management library (NVML) know them.

A process that uses none shows none: absent, not 0. NVML's utilisation is the share of time in which any kernel ran, however
small; samples per second say more.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch

from ..protos.exposition import Family, Reading


def _gauge(name: str, text: str) -> Family:
    return Family("gauge", f"pushpull_worker_{name}", text, ("gpu",))


ALLOCATED = _gauge("torch_allocated_bytes", "Memory that this process's tensors take on the GPU.")
RESERVED = _gauge("torch_reserved_bytes", "Memory that torch has taken from the GPU for this process.")
UTILISATION = _gauge("gpu_utilisation_ratio", "Share of time in which a kernel ran on the GPU, of any process.")
MEMORY_USED = _gauge("gpu_memory_used_bytes", "Memory in use on the GPU, by all processes.")
MEMORY_TOTAL = _gauge("gpu_memory_total_bytes", "Memory of the GPU.")
TEMPERATURE = _gauge("gpu_temperature_celsius", "Temperature of the GPU.")
POWER = _gauge("gpu_power_watts", "Power that the GPU draws.")

FAMILIES = (ALLOCATED, RESERVED, UTILISATION, MEMORY_USED, MEMORY_TOTAL, TEMPERATURE, POWER)


class GpuReadings:
    """Reads every GPU that holds memory of this process. `cuda` and `load_nvml` are given for tests."""

    def __init__(self, cuda: Any = torch.cuda, load_nvml: Callable[[], Any] | None = None) -> None:
        self._cuda = cuda
        self._load_nvml = load_nvml or _load_nvml
        self._handles: dict[int, Any] = {}

    @cached_property
    def _nvml(self) -> Any:
        """None where it is missing, or has no driver to talk to."""
        with contextlib.suppress(Exception):
            return self._load_nvml()
        return None

    def read(self) -> Iterator[Reading]:
        """As Prometheus is shown them."""
        if not self._cuda.is_initialized():
            return
        for device in range(self._cuda.device_count()):
            reserved = self._cuda.memory_reserved(device)
            if reserved:
                yield from self._read_one(device, reserved)

    def _read_one(self, device: int, reserved: int) -> Iterator[Reading]:
        nvml = self._nvml
        name, handle = (str(device),), None
        with contextlib.suppress(Exception):
            handle = self._handle(device)
            name = (str(nvml.nvmlDeviceGetIndex(handle)),)
        yield ALLOCATED, name, self._cuda.memory_allocated(device)
        yield RESERVED, name, reserved
        if handle is None:
            return
        figures: dict[Family, Callable[[], float]] = {
            UTILISATION: lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100.0,
            MEMORY_USED: lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
            MEMORY_TOTAL: lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total,
            TEMPERATURE: lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            POWER: lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000.0,
        }
        for family, read in figures.items():
            # Not every GPU has every figure; what one lacks must not cost the others.
            with contextlib.suppress(Exception):
                yield family, name, read()

    def _handle(self, device: int) -> Any:
        if device not in self._handles:
            uuid = self._cuda.get_device_properties(device).uuid
            self._handles[device] = self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        return self._handles[device]


def _load_nvml() -> Any:
    import pynvml

    pynvml.nvmlInit()
    return pynvml
