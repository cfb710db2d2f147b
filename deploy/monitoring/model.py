"""What a dashboard of ours consists of. Pure data; `grafana` makes Grafana's JSON of it."""

from dataclasses import dataclass, field
from typing import Literal

Colour = Literal["green", "yellow", "orange", "red", "blue", "text"]


@dataclass(frozen=True)
class Query:
    """One PromQL expression of a panel and how its series are called."""

    expression: str
    legend: str = ""
    """With {{label}} for the value of a label; in a table the heading of its column."""


@dataclass(frozen=True)
class Step:
    """From `value` on, a figure has this colour."""

    value: float
    colour: Colour


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture.

    `graph` over time, `stat` one large figure, `name` the series' name in place of its figure, `table` one row for each
    value of `table_label`, `heat` a histogram over time (its query gives buckets by `le`), `alerts` what fires now, `text` its
    description as Markdown.
    """

    title: str
    description: str
    """What it shows, what is usual, and what to do when it is not."""
    kind: Literal["graph", "stat", "name", "table", "heat", "alerts", "text"] = "graph"
    queries: tuple[Query, ...] = ()
    unit: str = "short"
    columns: int = 8
    """Width; a dashboard has 24."""
    rows: int = 8
    steps: tuple[Step, ...] = ()
    """Ascending; below the first a figure is green."""
    stacked: bool = False
    hides_zeros: bool = False
    """Leaves series that are 0 all the time out of the legend."""
    at_least: float | None = 0.0
    at_most: float | None = None
    table_label: str = "worker"
    units: dict[str, str] = field(default_factory=dict)
    """Of the columns of a table, by heading."""


@dataclass(frozen=True)
class Row:
    """Panels that answer one question."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """One page."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Literal["shard", "worker"], ...] = ()
    """What can be chosen beside data source and job."""

    @property
    def panels(self) -> list[Panel]:
        return [panel for row in self.rows for panel in row.panels]
