"""Traces: one of each step, over worker and shards; nothing of OpenTelemetry without being asked, and nothing wrong by it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from clusters import ROOT, launch_command, local_cluster

pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from pushpull.deploy.shard_tracing import TracedShard, parent_context
from pushpull.deploy.tracing import LAST_EXPORT_SECONDS
from pushpull.worker import Worker

GOOD = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traces:
    """Spans of servers and workers in this process."""

    def __init__(self, **settings: Any) -> None:
        self.provider = TracerProvider(**settings)
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def observers(self, num_shards: int) -> list[TracedShard]:
        return [TracedShard(self.provider.get_tracer("servers"), shard) for shard in range(num_shards)]

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def wait_for(self, name: str, number: int) -> list[ReadableSpan]:
        """A shard's last span may end behind the worker's step."""
        deadline = time.monotonic() + 20
        while len(self.spans(name)) < number and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.spans(name)


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traces]:
    made = Traces()
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", made.provider)
    yield made
    made.provider.shutdown()


def train(worker: Worker, num_steps: int = 1) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.Linear(40, 40))
    optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
    for _ in range(num_steps):
        model(torch.ones(2, 40)).square().mean().backward()
        optimizer.step(num_samples=2)
        optimizer.zero_grad()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_step_is_one_trace_over_worker_and_shards(traces: Traces, mode: str) -> None:
    with local_cluster(2, observers=traces.observers(2), mode=mode) as cluster:
        cluster.train(lambda worker: train(worker, num_steps=3))
        published = traces.wait_for("publish", 6)
    steps = traces.spans("step")
    assert [step.attributes["pushpull.step"] for step in steps] == [1, 2, 3]
    assert len({step.context.trace_id for step in steps}) == 3
    assert all(step.parent is None for step in steps)
    ours = {step.context.trace_id: step for step in steps}
    for name in ("compute", "encode", "exchange", "decode"):
        assert len(traces.spans(name)) == 3
    on_shards = [*traces.spans("stage"), *traces.spans("apply"), *published]
    assert len(on_shards) == 3 * 2 * 3
    for span in [*on_shards, *traces.spans("compute"), *traces.spans("exchange")]:
        step = ours[span.context.trace_id]
        assert span.parent.span_id == step.context.span_id
        assert step.start_time <= span.start_time <= span.end_time
    for span in on_shards:
        assert span.attributes["pushpull.step"] == ours[span.context.trace_id].attributes["pushpull.step"]
    assert {span.attributes["pushpull.shard"] for span in on_shards} == {0, 1}
    assert {span.attributes["pushpull.outcome"] for span in traces.spans("apply")} == {"applied"}


def test_the_parts_of_a_step_follow_each_other_and_fill_it(traces: Traces) -> None:
    with local_cluster(1) as cluster:
        cluster.train(lambda worker: train(worker, num_steps=2))
    step = traces.spans("step")[-1]
    parts = [traces.spans(name)[-1] for name in ("compute", "encode", "exchange", "decode")]
    edges = [parts[0].start_time, *(part.end_time for part in parts)]
    assert edges == sorted(edges)
    assert (edges[0], edges[-1]) == (step.start_time, step.end_time)


def test_a_step_that_is_not_sampled_leaves_nothing_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    off, shards = Traces(sampler=ParentBased(ALWAYS_OFF)), Traces()
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", off.provider)
    observers = shards.observers(1)
    with local_cluster(1, observers=observers) as cluster:
        cluster.train(train)
    assert not off.spans("step")
    assert not shards._exporter.get_finished_spans()
    assert not observers[0]._steps


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\xff" * 55,
        b"00" * 500_000,
        GOOD[:-1],
        GOOD + b"0",
        GOOD.upper().replace(b"0AF", b"xyz"),
        b"00-" + b"0" * 32 + GOOD[35:],
        GOOD[:36] + b"0" * 16 + GOOD[52:],
        b"ff" + GOOD[2:],
        GOOD[:-1] + b"0",
    ],
)
def test_what_is_no_trace_context_is_ignored(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parent_context(sent) is None


def test_a_step_with_a_bad_trace_context_counts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hostile:
        def begin(self) -> bytes:
            return b"\xff\x00" * 1000

        def step_ended(self, step: object) -> None: ...

    monkeypatch.setattr("pushpull.worker.worker.step_tracer", lambda identity: Hostile())
    traces = Traces()
    with local_cluster(1, observers=traces.observers(1)) as cluster:
        cluster.train(lambda worker: train(worker, num_steps=2))
        (shard,) = cluster.status().shards
    assert (shard.steps_applied, dict(shard.pushes_refused)) == (2, {})
    assert not traces._exporter.get_finished_spans()


def test_a_good_one_is_taken() -> None:
    context = parent_context(GOOD)
    assert context is not None
    assert trace.get_current_span(context).get_span_context().trace_id == int(GOOD[3:35], 16)


SCRIPT = """
import sys, torch
from pushpull.worker import connect

model = torch.nn.Linear(4, 4)
with connect() as worker:
    optimizer = worker.optimizer(model, torch.optim.SGD, lr=0.1)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
print("traced", "opentelemetry.sdk.trace" in sys.modules, flush=True)
"""


def without_tracing() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}


def test_nothing_of_it_is_loaded_without_being_asked() -> None:
    program = (
        "import sys\n"
        "import pushpull.worker, pushpull.ps_server.server, pushpull.deploy.cli, pushpull.deploy.serve\n"
        "from pushpull.deploy.tracing import shard_observer, start_tracing\n"
        "from pushpull.ps_server.step_observer import NoObserver\n"
        "from pushpull.worker.tracing import NoTracer, step_tracer\n"
        "assert not start_tracing('x') and type(shard_observer(0)) is NoObserver and type(step_tracer(None)) is NoTracer\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=90, env=without_tracing())
    off = without_tracing() | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1", "OTEL_TRACES_EXPORTER": "none"}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=90, env=off)


NOBODY_IS_THERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


def test_the_standard_variables_turn_it_on(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = without_tracing() | NOBODY_IS_THERE
    command = launch_command(script, workers=1)
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "traced True" in done.stderr


def test_a_silent_collector_keeps_no_process_alive() -> None:
    program = (
        "import time\n"
        "from pushpull.deploy.tracing import start_tracing\n"
        "assert start_tracing('x')\n"
        "from opentelemetry import trace\n"
        "trace.get_tracer('x').start_span('x').end()\n"
        "print(time.time())"
    )
    environment = without_tracing() | NOBODY_IS_THERE
    done = subprocess.run([sys.executable, "-c", program], check=True, timeout=90, capture_output=True, env=environment)
    assert time.time() - float(done.stdout) < LAST_EXPORT_SECONDS + 5
