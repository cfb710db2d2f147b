"""The dashboards that are shipped: in step with their source, complete, and about metrics that exist."""

import json
import re
from itertools import combinations
from typing import Any

import pytest
import yaml
from expressions import MONITORING, dashboard_expressions, rule_expressions, rules, substituted
from metric_families import shown_names

from pushpull.deploy.monitoring.catalogue import DASHBOARDS
from pushpull.deploy.monitoring.model import Dashboard, Panel

BOARDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (MONITORING / "dashboards").glob("*.json")
}
PANELS = [(page, panel) for page in DASHBOARDS for panel in page.panels]
METRIC = re.compile(r"\b((?:pushpull|process)_[a-z0-9_]+)")


def drawn(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def test_the_files_are_what_their_source_makes() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="the extra `monitoring` is not installed")
    from pushpull.deploy.monitoring.generate import stale_files

    assert stale_files() == [], "run `make dashboards`"


def test_there_are_the_five_and_the_runbooks() -> None:
    names = ("overview", "servers", "workers", "network", "staleness", "runbooks")
    assert BOARDS.keys() == {f"pushpull-{name}" for name in names}


def test_every_alert_has_its_runbook_in_grafana() -> None:
    titles = [panel["title"] for panel in drawn(BOARDS["pushpull-runbooks"])]
    assert titles == [rule["alert"] for rule in rules() if "alert" in rule]


@pytest.mark.parametrize(("page", "panel"), PANELS, ids=[f"{page.uid}: {panel.title}" for page, panel in PANELS])
def test_a_panel_is_described_and_asks_something(page: Dashboard, panel: Panel) -> None:
    assert len(panel.description) > 20
    assert panel.description.endswith(".")
    assert panel.queries or panel.kind == "alerts"
    assert list(panel.steps) == sorted(panel.steps, key=lambda step: step.value)
    if panel.kind == "graph" and len(panel.queries) > 1:
        assert all(query.legend for query in panel.queries), "several lines without names"


@pytest.mark.parametrize("page", DASHBOARDS, ids=lambda page: page.uid)
def test_no_two_panels_of_a_dashboard_share_a_title(page: Dashboard) -> None:
    titles = [(row.title, panel.title) for row in page.rows for panel in row.panels]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("uid", BOARDS)
def test_panels_lie_within_the_page_and_on_no_other(uid: str) -> None:
    places = [panel["gridPos"] for panel in BOARDS[uid]["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


@pytest.mark.parametrize("uid", sorted(BOARDS.keys() - {"pushpull-runbooks"}))
def test_a_dashboard_has_its_variables_and_leads_on(uid: str) -> None:
    board = BOARDS[uid]
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert list(variables)[:2] == ["datasource", "job_id"]
    used = set(re.findall(r"\$(job_id|shard|worker)\b", json.dumps([p.get("targets") for p in drawn(board)])))
    assert used == variables.keys() - {"datasource"}, "a variable is not used, or not there"
    links = {link["title"]: link for link in board["links"]}
    assert links["Dashboards"]["tags"] == board["tags"] == ["pushpull"]
    assert links["Runbooks"]["url"].removeprefix("/d/") in BOARDS
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in drawn(board))


def test_the_overview_lists_alerts() -> None:
    assert "alertlist" in {panel["type"] for panel in drawn(BOARDS["pushpull-overview"])}


def test_rates_follow_the_scrape_interval() -> None:
    for expression in dashboard_expressions():
        ranges = re.findall(r"\[(.*?)\]", expression.promql)
        assert set(ranges) <= {"$__rate_interval"}, expression
        substituted(expression.promql)


def test_dashboards_and_rules_ask_for_metrics_that_exist() -> None:
    names = shown_names()
    for expression in dashboard_expressions() + rule_expressions():
        unknown = set(METRIC.findall(re.sub(r"\b\w+:\w+:\w+", "", expression.promql))) - names
        assert not unknown, expression


def test_grafana_is_told_where_the_dashboards_and_the_data_are() -> None:
    folder = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    (provider,) = yaml.safe_load((folder / "dashboards" / "pushpull.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["allowUiUpdates"] is False


def test_prometheus_is_told_where_the_rules_are() -> None:
    configuration = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    assert configuration["rule_files"] == ["alerts.yaml"]
