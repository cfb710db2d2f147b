"""The alert rules: complete, linked to their runbooks, and tested by promtool in three cases each."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from expressions import COMPARISON, MONITORING, rules
from prometheus_server import installed

from pushpull.ps_server.metrics import REASONS

ROOT = MONITORING.parents[1]
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool_tests() -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    return tests


def cases_of(alert: str, case: str) -> list[dict[str, Any]]:
    return [test for test in promtool_tests() if re.match(rf"{alert} {case}(:|$)", test["name"])]


def promtool(*words: str, folder: Path = MONITORING) -> "subprocess.CompletedProcess[str]":
    command = [installed("promtool"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def runbook_headings() -> list[str]:
    text = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    return re.findall(r"^## (Pushpull\w+)$", text, re.MULTILINE)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_it_means_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert alert.startswith("Pushpull")
    assert rule["labels"]["severity"] in ("warning", "critical")
    annotations = rule["annotations"]
    assert annotations["summary"].endswith(".")
    assert annotations["description"].endswith(".")
    assert annotations["runbook_url"].endswith(f"/alerts.md#{alert.lower()}")
    boards = {path.stem for path in (MONITORING / "dashboards").glob("*.json")}
    assert re.search(r"/d/([\w-]+)", annotations["dashboard_url"])[1] in boards  # type: ignore[index]
    assert alert in runbook_headings(), "docs/alerts.md has no runbook"


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_value_that_can_be_looked_at(alert: str) -> None:
    assert COMPARISON.match(ALERTS[alert]["expr"]), "not of the form `value > number`"


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tested_in_three_cases(alert: str) -> None:
    def expected(case: str) -> list[int]:
        (test,) = cases_of(alert, case)
        assert test["input_series"], "silence about nothing proves nothing"
        checks = test["alert_rule_test"]
        assert {check["alertname"] for check in checks} == {alert}
        return [len(check["exp_alerts"]) for check in checks]

    assert expected("fires") == [1]
    assert expected("stays quiet") == [0]
    assert expected("resolves") == [1, 0]


def test_there_are_no_tests_and_no_runbooks_of_alerts_that_do_not_exist() -> None:
    assert {test["name"].split()[0] for test in promtool_tests()} == ALERTS.keys()
    assert runbook_headings() == list(ALERTS), "in the order of alerts.yaml"


def test_the_runbook_of_refusals_knows_every_reason() -> None:
    text = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    runbook = text[text.index("## PushpullRefusals") : text.index("## PushpullNonFiniteGradients")]
    assert set(re.findall(r"`([A-Z][A-Z_]+)`", runbook)) == set(REASONS)


def test_an_alert_that_uses_a_recording_stands_behind_it_in_its_group() -> None:
    """Groups are evaluated at the same time: an alert in another group would see the newest value, or the one before."""
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]:
        known: set[str] = set()
        for rule in group["rules"]:
            assert set(re.findall(r"\b\w+:\w+:\w+", rule["expr"])) <= known, rule
            known |= {rule["record"]} if "record" in rule else set()


def test_promtool_accepts_the_rules() -> None:
    checked = promtool("check", "rules", "alerts.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_promtools_tests_pass() -> None:
    tested = promtool("test", "rules", "alerts_test.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize(("limit", "case"), [("1e18", "fires"), ("-1e18", "resolves")])
def test_promtools_tests_notice_a_wrong_threshold(tmp_path: Path, limit: str, case: str) -> None:
    text = (MONITORING / "alerts.yaml").read_text(encoding="utf-8")
    groups = yaml.safe_load(text)
    for group in groups["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                below = COMPARISON.match(rule["expr"])["comparison"] == "<"  # type: ignore[index]
                other = f"-{limit}".replace("--", "") if below else limit
                rule["expr"] = COMPARISON.sub(rf"\g<value> \g<comparison> {other}", rule["expr"])
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(groups), encoding="utf-8")
    (tmp_path / "alerts_test.yaml").write_text((MONITORING / "alerts_test.yaml").read_text(), encoding="utf-8")
    tested = promtool("test", "rules", "alerts_test.yaml", folder=tmp_path)
    failed = set(re.findall(r"alertname: ?(\w+)", tested.stdout + tested.stderr))
    assert failed == ALERTS.keys(), f"unnoticed in {case}: {sorted(ALERTS.keys() - failed)}"


def test_links_follow_external_labels(tmp_path: Path) -> None:
    """Who has the documents and Grafana elsewhere says so in Prometheus's configuration."""
    text = (MONITORING / "alerts_test.yaml").read_text(encoding="utf-8")
    elsewhere = text.replace("runbook_url: docs/", "runbook_url: https://wiki/").replace(
        "http://localhost:3000", "https://g"
    )
    configured = elsewhere.replace(
        "    interval: 1m\n",
        "    interval: 1m\n    external_labels: {pushpull_docs: https://wiki, pushpull_grafana: https://g}\n",
    )
    (tmp_path / "alerts.yaml").write_text((MONITORING / "alerts.yaml").read_text(), encoding="utf-8")
    (tmp_path / "alerts_test.yaml").write_text(configured, encoding="utf-8")
    tested = promtool("test", "rules", "alerts_test.yaml", folder=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr
