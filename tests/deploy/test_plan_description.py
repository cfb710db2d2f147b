"""The cluster file: what is accepted, and what a refusal says."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pushpull.deploy.planning.cluster import Cluster, load_cluster
from pushpull.deploy.planning.units import in_rate, in_seconds, rate_bytes_per_second, size_bytes
from pushpull.protos.errors import SettingError, UnknownKeyError

SERVER = {"memory": "4GiB", "bandwidth": "10Gbit/s"}
DEVICE = {"memory": "24GiB", "tflops": 80}


def load(folder: Path, **changes: Any) -> Cluster:
    content = {"servers": [SERVER], "workers": [{"devices": [DEVICE], "bandwidth": "1Gbit/s"}], **changes}
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_cluster(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("24GiB", 24 << 30), ("500MB", 500_000_000), (1000, 1000), ("1.5 kB", 1500), ("2Ti", 2 << 40)],
)
def test_sizes_have_decimal_and_binary_units(text: object, expected: int) -> None:
    assert size_bytes(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("10Gbit/s", 1.25e9), ("64GB/s", 64e9), ("800 kbit/s", 1e5)])
def test_rates_are_in_bits_or_bytes(text: str, expected: float) -> None:
    assert rate_bytes_per_second(text) == expected


@pytest.mark.parametrize("text", ["ten", "10", "10Gbit", "-1GB/s", "10GBit/s"])
def test_other_rates_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="10Gbit/s"):
        rate_bytes_per_second(text)


def test_rates_and_times_are_printed_in_fitting_units() -> None:
    assert (in_rate(1.25e9), in_rate(1.25e5)) == ("10 Gbit/s", "1 Mbit/s")
    assert (in_seconds(1.234), in_seconds(0.0123)) == ("1.23 s", "12.3 ms")


def test_counts_stand_for_so_many_machines_each_with_a_name(tmp_path: Path) -> None:
    cluster = load(
        tmp_path,
        servers=[{**SERVER, "count": 2}],
        workers=[
            {"name": "a", "devices": [{**DEVICE, "count": 4}], "bandwidth": "1Gbit/s", "count": 2},
            {"devices": [DEVICE], "bandwidth": "1Gbit/s"},
        ],
    )
    assert len(cluster.server_machines) == 2
    assert [machine.name for machine in cluster.worker_machines] == ["a.0", "a.1", "worker 2"]
    assert [len(machine.ranks) for machine in cluster.worker_machines] == [4, 4, 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"worker": []}, "no key `worker`; the nearest is `workers`"),
        ({"servers": [{**SERVER, "memori": "1GB"}]}, "no key `servers.0.memori`; the nearest is `memory`"),
        (
            {"workers": [{"devices": [{**DEVICE, "flops": 1}], "bandwidth": "1Gbit/s"}]},
            "no key `workers.0.devices.0.flops`; the nearest is `tflops`",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownKeyError, match=said):
        load(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"servers": [{**SERVER, "memory": "much"}]}, "servers.0.memory.*24GiB"),
        ({"servers": []}, "`servers`"),
        ({"workers": [{"devices": [DEVICE]}]}, "workers.0.bandwidth.*missing"),
        (
            {"workers": [{"devices": [DEVICE], "bandwidth": "1Gbit/s", "layout": "tp2"}]},
            "tp2 needs 2 devices and there are 1",
        ),
        ({"workers": [{"devices": [DEVICE], "bandwidth": "1Gbit/s", "layout": "two"}]}, "two"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        load(tmp_path, **changes)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--cluster"):
        load_cluster(tmp_path / "nowhere.yaml")
