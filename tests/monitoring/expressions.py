"""Every expression that we ship, and whether a Prometheus that scrapes a run has data for it.

    report = check_expressions("http://127.0.0.1:9090", Facts(mode="async", num_workers=3))
    assert report.ok, report

An expression without data is a fault, unless `silent_expressions.yaml` gives the reason; a reason that is not needed is a
fault, too.
"""

import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).resolve().parents[2] / "deploy" / "monitoring"
SILENT = Path(__file__).resolve().parent / "silent_expressions.yaml"

COMPARISON = re.compile(r"^(?P<value>.*\S)\s*(?P<comparison>>=|<=|==|!=|>|<)\s*(?P<limit>[-+\d.eE]+)\s*$", re.DOTALL)
"""How every alert's expression ends."""


@dataclass(frozen=True)
class Expression:
    """One expression and where it is from."""

    where: str
    promql: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of the run that is scraped."""

    mode: str
    """`sync`, `bounded` or `async`."""
    num_workers: int = 2
    gpu: bool = False
    clip_norm: bool = False
    """The script passes clip_norm."""


@dataclass(frozen=True)
class Reason:
    """Why expressions cannot have data in some runs."""

    expressions: str
    """Regular expression, searched in them."""
    reason: str
    when: dict[str, list[Any]]
    """Facts for which it holds, each with its values; all must."""

    def holds(self, facts: Facts) -> bool:
        return all(asdict(facts)[name] in values for name, values in self.when.items())

    def covers(self, expression: Expression) -> bool:
        return re.search(self.expressions, expression.promql) is not None


@dataclass
class Report:
    """What was found."""

    num_checked: int = 0
    failed: list[str] = field(default_factory=list)
    """Expressions that Prometheus does not accept."""
    silent: list[str] = field(default_factory=list)
    """Without data, and without a reason for it."""
    needless: list[str] = field(default_factory=list)
    """Reasons for expressions that have data, or that are not shipped."""

    @property
    def ok(self) -> bool:
        return self.num_checked > 0 and not (self.failed or self.silent or self.needless)

    def __str__(self) -> str:
        lines = [f"{self.num_checked} expressions checked"]
        for name in ("failed", "silent", "needless"):
            lines += [f"{name}: {each}" for each in getattr(self, name)]
        return "\n".join(lines)


def dashboard_expressions() -> list[Expression]:
    """Of all panels of the dashboards in deploy/monitoring."""
    found = []
    for path in sorted((MONITORING / "dashboards").glob("*.json")):
        board = json.loads(path.read_text(encoding="utf-8"))
        for panel in _panels(board["panels"]):
            for target in panel.get("targets", []):
                found.append(Expression(f"{board['title']}: {panel['title']} ({target['refId']})", target["expr"]))
    return found


def rules() -> list[dict[str, Any]]:
    """Of alerts.yaml: alerts and recordings."""
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def rule_expressions() -> list[Expression]:
    """Of all rules; those of alerts without their comparison."""
    return [
        Expression(f"recording {rule['record']}", rule["expr"])
        if "record" in rule
        else Expression(f"alert {rule['alert']}", without_comparison(rule["expr"]))
        for rule in rules()
    ]


def without_comparison(promql: str) -> str:
    """What an alert compares with a number. Raises ValueError if that is not its form."""
    match = COMPARISON.match(promql)
    if match is None:
        raise ValueError(f"an alert's expression must end in a comparison with a number: {promql}")
    return match["value"]


def shipped() -> list[Expression]:
    return dashboard_expressions() + rule_expressions()


def reasons() -> list[Reason]:
    """Why expressions may be silent."""
    return [Reason(**entry) for entry in yaml.safe_load(SILENT.read_text(encoding="utf-8"))]


def substituted(promql: str, interval: str = "10s") -> str:
    """As Grafana asks it with everything chosen and points `interval` apart."""
    asked = promql.replace("$__rate_interval", interval)
    for variable in ("job_id", "shard", "worker"):
        asked = asked.replace(f"${variable}", ".+")
    if "$" in asked:
        raise ValueError(f"an unknown variable in {promql}")
    return asked


def check_expressions(prometheus: str, facts: Facts, interval: str = "10s", timeout_seconds: float = 60.0) -> Report:
    """Asks a Prometheus (http://host:port) that has our rules and scrapes a run for everything we ship.

    Waits until all that should have data has some, `timeout_seconds` at most.
    """
    holding = [reason for reason in reasons() if reason.holds(facts)]
    report, waiting = Report(), shipped()
    report.num_checked = len(waiting)
    excused = [each for each in waiting if any(reason.covers(each) for reason in holding)]
    waiting = [each for each in waiting if each not in excused]
    deadline = time.monotonic() + timeout_seconds
    while waiting and not report.failed:
        waiting = [each for each in waiting if not _has_data(prometheus, each, interval, report)]
        if time.monotonic() > deadline:
            break
        time.sleep(0.5 if waiting else 0)
    report.silent = [f"{each.where}: {each.promql}" for each in waiting]
    loud = [each for each in excused if _has_data(prometheus, each, interval, report)]
    for reason in holding:
        covered = [each for each in excused if reason.covers(each)]
        report.needless += [f"{reason.expressions} ({reason.reason})" for _ in [0] if not covered]
        report.needless += [f"{reason.reason}: {each.where} has data" for each in covered if each in loud]
    return report


def _has_data(prometheus: str, expression: Expression, interval: str, report: Report) -> bool:
    query = urllib.parse.urlencode({"query": substituted(expression.promql, interval)})
    try:
        with urllib.request.urlopen(f"{prometheus}/api/v1/query?{query}", timeout=10) as answer:
            result = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        report.failed.append(f"{expression.where}: {error.read().decode()}")
        return False
    return any(series["value"][1] != "NaN" for series in result)


def _panels(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        yield from _panels(panel.get("panels", []))
        if panel["type"] != "row":
            yield panel
