"""A real Prometheus scrapes a real run: everything on the dashboards and in the rules has data."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from expressions import Facts, check_expressions
from launches import Launch, wait_until
from prometheus_server import installed, prometheus

SCRIPT = """
import time
import torch
from pushpull.worker import connect

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
data = torch.utils.data.TensorDataset(torch.randn(256, 64), torch.randint(0, 8, (256,)))
with connect() as worker:
    optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.01, clip_norm={clip_norm})
    while True:
        for inputs, wanted in worker.share(data, batch_size=16):
            time.sleep(0.01)
            loss = torch.nn.functional.cross_entropy(model(inputs), wanted)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            worker.log(loss=loss.item())
"""


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Launch]:
    installed("prometheus")
    facts: Facts = request.param
    script = SCRIPT.replace("{clip_norm}", "1.0" if facts.clip_norm else "None")
    started = Launch(
        tmp_path, script, "--set", f"mode={facts.mode}", "--set", "push_codec=int8", workers=facts.num_workers
    )
    yield started
    started.close()


def metrics_addresses(run: Launch) -> list[str]:
    """Of all servers and workers: whichever of the ports that its processes listen on answers with metrics."""
    found = set()
    for process in run.family():
        try:
            listening = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        except psutil.Error:
            continue
        found.update(f"127.0.0.1:{each.laddr.port}" for each in listening if serves_metrics(each.laddr.port))
    return sorted(found)


def serves_metrics(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return b"pushpull_" in answer.read()
    except (OSError, urllib.error.URLError, ValueError):
        return False
    except Exception:  # a gRPC port answers HTTP/1 with something else
        return False


@pytest.mark.parametrize(
    ("run", "facts"),
    [
        (facts, facts)
        for facts in (
            Facts(mode="sync", num_workers=2),
            Facts(mode="bounded", num_workers=2, clip_norm=True),  # tests/containers asks an asynchronous run
        )
    ],
    indirect=["run"],
    ids=["sync", "bounded"],
)
def test_every_expression_has_data_or_a_reason(run: Launch, facts: Facts, tmp_path: Path) -> None:
    wait_until(lambda: len(metrics_addresses(run)) == 2 + facts.num_workers, "all processes serve metrics")
    with prometheus(tmp_path, metrics_addresses(run)) as address:
        report = check_expressions(address, facts)
    assert report.ok, report
