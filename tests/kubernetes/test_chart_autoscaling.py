"""Workers may be scaled, servers never; and the query that decides counts workers that compute."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import VALUE_SETS, Object, Rendered, render

from pushpull.worker.metrics import WorkerMetrics

NAMESPACE, POOL = "training", "demo-pushpull-worker-spot"
STEP_SECONDS = 'pushpull_worker_step_seconds_sum{{part="{part}",namespace="{namespace}",pod="{pod}"}}'


def scaled() -> Object:
    return render(VALUE_SETS["spot"], namespace=NAMESPACE).the("ScaledObject")


def test_nothing_scales_servers(rendered: Rendered) -> None:
    assert rendered.of_kind("HorizontalPodAutoscaler") == []
    references = [item["spec"]["scaleTargetRef"] for item in rendered.of_kind("ScaledObject")]
    targets = {(target["kind"], target["name"]) for target in references}
    pools = {(item["kind"], item["metadata"]["name"]) for item in rendered.workers()}
    assert targets <= pools
    assert not targets & {("StatefulSet", item["metadata"]["name"]) for item in rendered.of_kind("StatefulSet")}


def test_an_autoscaled_pool_leaves_its_size_to_the_autoscaler(rendered: Rendered) -> None:
    """`helm upgrade` would take back what the autoscaler has done."""
    targets = {item["spec"]["scaleTargetRef"]["name"] for item in rendered.of_kind("ScaledObject")}
    for item in rendered.of_kind("Deployment"):
        assert ("replicas" in item["spec"]) is (item["metadata"]["name"] not in targets)


def test_workers_are_taken_away_one_by_one_after_a_long_look() -> None:
    behaviour = scaled()["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] == 600
    assert [policy["value"] for policy in behaviour["scaleDown"]["policies"]] == [1]


def test_lost_metrics_change_nothing() -> None:
    (trigger,) = scaled()["spec"]["triggers"]
    assert trigger["metadata"]["ignoreNullValues"] == "false"


def test_the_query_asks_for_what_workers_export() -> None:
    exported = {
        (sample.name, sample.labels.get("part"))
        for family in WorkerMetrics(0).shown.collect()
        for sample in family.samples
    }
    (trigger,) = scaled()["spec"]["triggers"]
    asked = set(re.findall(r"pushpull_\w+", trigger["metadata"]["query"].replace(POOL, "")))
    assert asked
    assert {(name, "compute") for name in asked} <= exported


def times(pod: str, compute: float, wait: float, namespace: str = NAMESPACE) -> list[dict[str, str]]:
    """Series of a worker that spends so much of each second in these parts of its steps."""
    return [
        {
            "series": STEP_SECONDS.format(part=part, namespace=namespace, pod=pod),
            "values": f"0+{60 * seconds}x20",
        }
        for part, seconds in [("compute", compute), ("wait", wait)]
    ]


@pytest.mark.parametrize(
    ("series", "wanted"),
    [
        pytest.param(
            [times(f"{POOL}-5d4-{n}", 0.9, 0.1) for n in "abcd"], 3.6, id="4 workers that compute most of the time"
        ),
        pytest.param([times(f"{POOL}-5d4-{n}", 0.1, 0.4) for n in "abcd"], 0.8, id="4 workers that wait for servers"),
        pytest.param(
            [times(f"{POOL}-5d4-{n}", 0.25, 0.25) for n in "ab"], 1.0, id="time outside of steps does not count"
        ),
        pytest.param([times(f"{POOL}-5d4-{n}", 0.0, 0.0) for n in "ab"], 0.0, id="the training is over"),
        pytest.param([times(f"{POOL}-5d4-a", 0.5, 0.5), times(f"{POOL}-2-5d4-a", 1, 0)], 0.5, id="not another pool"),
        pytest.param(
            [times(f"{POOL}-5d4-a", 0.5, 0.5), times(f"{POOL}-5d4-b", 1, 0, "x")], 0.5, id="not another namespace"
        ),
        pytest.param([], None, id="no figures: no answer"),
    ],
)
def test_the_query_counts_the_workers_that_compute(series: list[Any], wanted: float | None, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    (trigger,) = scaled()["spec"]["triggers"]
    samples = [] if wanted is None else [{"labels": "{}", "value": wanted}]
    case = {
        "interval": "1m",
        "input_series": [entry for worker in series for entry in worker],
        "promql_expr_test": [{"expr": trigger["metadata"]["query"], "eval_time": "15m", "exp_samples": samples}],
    }
    path = tmp_path / "query.yaml"
    path.write_text(yaml.safe_dump({"tests": [case], "evaluation_interval": "1m"}), encoding="utf-8")
    run = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
