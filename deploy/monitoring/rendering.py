"""Our dashboards as Grafana's JSON, by the Grafana Foundation SDK."""

from collections.abc import Callable, Sequence
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, text, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models import prometheus as prometheus_models
from grafana_foundation_sdk.models import text as text_models

from .model import Dashboard, Panel, Query, Row, Step

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "pushpull"
RUNBOOKS = "/d/pushpull-runbooks"

ALL_ZERO = models.MatcherConfig(id_val="byValue", options={"reducer": "allIsZero", "op": "gte", "value": 0})
FROM_LEGEND = {"legend": True, "tooltip": True, "viz": False}

LABEL_QUERIES = {
    "shard": 'label_values(pushpull_shard_info{job_id=~"$job_id"}, shard)',
    "worker": 'label_values(pushpull_job_worker_info{job_id=~"$job_id"}, worker)',
}


def dashboard_json(page: Dashboard) -> str:
    """The page as a file for Grafana's provisioning."""
    built = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .description(page.description)
        .tags([TAG])
        .readonly()
        .time("now-1h", "now")
        .refresh("15s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(_link_to_others())
        .link(_link("Runbooks", RUNBOOKS))
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("job_id", "Job", "label_values(pushpull_shard_info, job_id)"))
    )
    for name in page.variables:
        built = built.with_variable(_variable(name, name.capitalize(), LABEL_QUERIES[name]))
    for row in page.rows:
        built = _with_row(built, row)
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def _link_to_others() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("Dashboards")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
    )


def _link(title: str, url: str) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(title).type(models.DashboardLinkType.LINK).url(url).icon("doc").target_blank(True)


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    # All is .+ and not .*: it must leave out series without the label, such as a server's for a choice of workers.
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.NUMERICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _with_row(built: dashboard.Dashboard, row: Row) -> dashboard.Dashboard:
    built = built.with_row(dashboard.Row(row.title))
    for panel in row.panels:
        built = built.with_panel(MAKERS[panel.kind](panel))
    return built


def _dressed(builder: Any, panel: Panel) -> Any:
    """What panels of all kinds have."""
    builder = (
        builder.title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .span(panel.columns)
        .height(panel.rows)
    )
    if panel.kind in ("graph", "stat", "name", "table"):
        builder = builder.unit(panel.unit).thresholds(_thresholds(panel.steps))
        builder = builder.no_value("none")
    return builder


def _thresholds(steps: Sequence[Step]) -> dashboard.ThresholdsConfig:
    colours = [models.Threshold(value=None, color="green")]
    colours += [models.Threshold(value=step.value, color=step.colour) for step in steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(colours)


def _targets(queries: Sequence[Query]) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery().expr(query.expression).legend_format(query.legend or "__auto").ref_id(letter).range()
        for letter, query in zip(ascii_uppercase, queries, strict=False)
    ]


def _graph(panel: Panel) -> Builder[models.Panel]:
    built = _dressed(timeseries.Panel(), panel).targets(_targets(panel.queries)).line_width(1).fill_opacity(8)
    built = built.show_points(common_models.VisibilityMode.AUTO).legend(_legend()).tooltip(_tooltip())
    if panel.stacked:
        built = built.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL)).fill_opacity(40)
    if panel.steps:
        built = built.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        )
    if panel.hides_zeros:
        built = built.with_override(ALL_ZERO, [models.DynamicConfigValue(id_val="custom.hideFrom", value=FROM_LEGEND)])
    if panel.at_least is not None:
        built = built.min(panel.at_least)
    return built if panel.at_most is None else built.max(panel.at_most)  # type: ignore[no-any-return]


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(common_models.LegendDisplayMode.LIST)
        .placement(common_models.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )


def _tooltip() -> common.VizTooltipOptions:
    return (
        common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI).sort(common_models.SortOrder.DESCENDING)
    )


def _stat(panel: Panel) -> Builder[models.Panel]:
    named = panel.kind == "name"
    several = len(panel.queries) > 1
    mode = common_models.BigValueTextMode
    built = _dressed(stat.Panel(), panel).targets(_targets(panel.queries))
    return (  # type: ignore[no-any-return]
        built.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
        .text_mode(mode.NAME if named else mode.VALUE_AND_NAME if several else mode.VALUE)
        .graph_mode(common_models.BigValueGraphMode.NONE if named else common_models.BigValueGraphMode.AREA)
        .color_mode(common_models.BigValueColorMode.VALUE)
        .justify_mode(common_models.BigValueJustifyMode.AUTO)
        .orientation(common_models.VizOrientation.AUTO)
    )


def _table(panel: Panel) -> Builder[models.Panel]:
    """Instant values of all queries, joined by the label that they share."""
    built = _dressed(table.Panel(), panel)
    headings = {panel.table_label: panel.table_label}
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        target = prometheus.Dataquery().expr(query.expression).ref_id(letter).instant()
        built = built.with_target(target.format(prometheus_models.PromQueryFormat.TABLE))
        headings[f"Value #{letter}"] = query.legend
    built = built.with_transformation(
        models.DataTransformerConfig(id_val="joinByField", options={"byField": panel.table_label, "mode": "outer"})
    ).with_transformation(
        models.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": list(headings)}})
    )
    built = built.with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={"renameByName": headings, "indexByName": {name: place for place, name in enumerate(headings)}},
        )
    )
    for heading, unit in panel.units.items():
        built = built.override_by_name(heading, [models.DynamicConfigValue(id_val="unit", value=unit)])
    return built  # type: ignore[no-any-return]


def _heat(panel: Panel) -> Builder[models.Panel]:
    target = prometheus.Dataquery().expr(panel.queries[0].expression).legend_format(panel.queries[0].legend).ref_id("A")
    colours = heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("Oranges")
    built = _dressed(heatmap.Panel(), panel).calculate(False).color(colours)
    return built.with_target(target.range().format(prometheus_models.PromQueryFormat.HEATMAP))  # type: ignore[no-any-return]


def _alerts(panel: Panel) -> Builder[models.Panel]:
    """The SDK has no builder for the list of alerts."""
    options = {
        "viewMode": "list",
        "groupMode": "default",
        "maxItems": 20,
        "sortOrder": 3,
        "dashboardAlerts": False,
        "alertName": "Pushpull",
        "datasource": "${datasource}",
        "stateFilter": {"firing": True, "pending": True, "noData": False, "normal": False, "error": True},
    }
    return _dressed(dashboard.Panel().type("alertlist"), panel).options(options)  # type: ignore[no-any-return]


def _text(panel: Panel) -> Builder[models.Panel]:
    built = text.Panel().title(panel.title).span(panel.columns).height(panel.rows)
    return built.mode(text_models.TextMode.MARKDOWN).content(panel.description)


MAKERS: dict[str, Callable[[Panel], Builder[models.Panel]]] = {
    "graph": _graph,
    "stat": _stat,
    "name": _stat,
    "table": _table,
    "heat": _heat,
    "alerts": _alerts,
    "text": _text,
}
