"""Prometheus finds every port that serves metrics, and what it is shipped with is what `deploy/monitoring` has."""

import json

import pytest
import yaml
from charts import ROOT, VALUE_SETS, Rendered, render, the_container

MONITORING = ROOT / "deploy" / "monitoring"


@pytest.fixture(params=["gpu", "everything"], scope="module")
def monitored(request: pytest.FixtureRequest) -> Rendered:
    return render(VALUE_SETS[request.param])


def test_nothing_of_the_operator_is_needed_by_default() -> None:
    assert {item["apiVersion"] for item in render({}).objects} <= {
        "apps/v1",
        "batch/v1",
        "networking.k8s.io/v1",
        "policy/v1",
        "v1",
    }


def test_servers_are_scraped_through_the_service_that_has_all_of_them_and_only_once(monitored: Rendered) -> None:
    monitor = monitored.the("ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    (service,) = [item for item in monitored.of_kind("Service") if wanted <= item["metadata"]["labels"].items()]
    assert service["spec"]["clusterIP"] == "None"
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_every_rank_of_every_worker_is_scraped(monitored: Rendered) -> None:
    monitor = monitored.the("PodMonitor")["spec"]
    scraped = {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]}
    served = set()
    for item in monitored.workers():
        template = item["spec"]["template"]
        assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        served |= {port["name"] for port in the_container(item)["ports"]}
    assert scraped == served


def test_targets_carry_the_names_of_jobs_that_the_documents_use(monitored: Rendered) -> None:
    servers, workers = (
        {
            (relabeling["targetLabel"], relabeling.get("replacement"))
            for endpoint in monitored.the(kind)["spec"][endpoints]
            for relabeling in endpoint["relabelings"]
        }
        for kind, endpoints in [("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints")]
    )
    assert ("job", "pushpull-servers") in servers
    assert {("job", "pushpull-workers"), ("pool", None)} <= workers


def test_monitors_and_rules_carry_the_labels_that_prometheus_selects_by(monitored: Rendered) -> None:
    for item in monitored.of_kind("ServiceMonitor", "PodMonitor", "PrometheusRule"):
        assert item["metadata"]["labels"]["release"] == "prometheus"


def test_the_alerts_are_those_of_the_repository(monitored: Rendered) -> None:
    expected = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))
    assert monitored.the("PrometheusRule")["spec"] == expected


def test_the_dashboards_are_those_of_the_repository(monitored: Rendered) -> None:
    shipped = {
        next(iter(item["data"])): item
        for item in monitored.of_kind("ConfigMap")
        if item["metadata"]["labels"].get("grafana_dashboard") == "1"
    }
    files = {path.name: path for path in (MONITORING / "dashboards").glob("*.json")}
    assert files
    assert shipped.keys() == files.keys()
    for name, item in shipped.items():
        (text,) = item["data"].values()
        assert json.loads(text) == json.loads(files[name].read_text(encoding="utf-8"))
        assert len(text) < 1 << 20, "a ConfigMap takes no more"
