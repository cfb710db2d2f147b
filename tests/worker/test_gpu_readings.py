"""What is shown of GPUs, with stand-ins for torch's CUDA module and for NVML. No GPU is needed, or used."""

from types import SimpleNamespace
from typing import Any

from pushpull.worker import gpu_readings
from pushpull.worker.gpu_readings import GpuReadings


class Cuda:
    """Two visible devices; this process uses the second."""

    initialised = True

    def is_initialized(self) -> bool:
        return self.initialised

    def device_count(self) -> int:
        return 2

    def memory_reserved(self, device: int) -> int:
        return 4096 * device

    def memory_allocated(self, device: int) -> int:
        return 1024 * device

    def get_device_properties(self, device: int) -> Any:
        return SimpleNamespace(uuid=f"uuid-{device}")


class Nvml:
    NVML_TEMPERATURE_GPU = 0

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-uuid-1"
        return uuid

    def nvmlDeviceGetIndex(self, handle: str) -> int:
        return 5

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return SimpleNamespace(gpu=75)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return SimpleNamespace(used=10, total=40)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 61

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        raise RuntimeError("Not Supported")


def shown(readings: GpuReadings) -> dict[tuple[str, str], float]:
    return {(family.name.removeprefix("pushpull_worker_"), gpu): value for family, (gpu,), value in readings.read()}


def test_shows_the_gpus_that_this_process_uses_by_the_machines_number() -> None:
    assert shown(GpuReadings(Cuda(), Nvml)) == {
        ("torch_allocated_bytes", "5"): 1024,
        ("torch_reserved_bytes", "5"): 4096,
        ("gpu_utilisation_ratio", "5"): 0.75,
        ("gpu_memory_used_bytes", "5"): 10,
        ("gpu_memory_total_bytes", "5"): 40,
        ("gpu_temperature_celsius", "5"): 61,
    }, "power, which this GPU does not tell, is absent"


def test_without_nvml_torchs_own_figures_are_left() -> None:
    def missing() -> Any:
        raise ImportError("no driver")

    assert shown(GpuReadings(Cuda(), missing)) == {
        ("torch_allocated_bytes", "1"): 1024,
        ("torch_reserved_bytes", "1"): 4096,
    }


def test_a_process_that_uses_no_gpu_shows_none() -> None:
    cuda = Cuda()
    cuda.initialised = False
    assert shown(GpuReadings(cuda, Nvml)) == {}


def test_every_figure_is_declared() -> None:
    declared = set(gpu_readings.FAMILIES)
    assert {family for family, _, _ in GpuReadings(Cuda(), Nvml).read()} < declared
