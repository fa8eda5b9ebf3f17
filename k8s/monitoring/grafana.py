"""Grafana's JSON of a dashboard, by Grafana's own SDK."""

from __future__ import annotations

import itertools

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

from k8s.monitoring.panels import NAMESPACE, RUN, Dashboard, Look, Panel

TAG = "cclm"
"""By which the dashboards find each other."""
_DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_PANEL_HEIGHT, _NUMBER_HEIGHT = 8, 4
_ALERTS = "/alerting/list?search=rule:"
"""Grafana's list of alerts, narrowed to one of this name. It shows rules of Prometheus, too."""

Builder = timeseries.Panel | stat.Panel | bargauge.Panel


def json_of(dashboard: Dashboard) -> str:
    """The dashboard as Grafana 11.6 writes it (schema version 41). Newer ones read it, too."""
    builder = (
        grafana.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags([TAG])
        .time("now-6h", "now")
        .refresh("1m")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            grafana.DashboardLink("cclm")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(grafana.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    if dashboard.has_run:
        builder = builder.with_variable(_variable(NAMESPACE, "Namespace", f"label_values(cclm_phase, {NAMESPACE})"))
        runs = f'label_values(cclm_phase{{{NAMESPACE}="$namespace"}}, {RUN})'
        builder = builder.with_variable(_variable("run", "Run", runs))
    identities = itertools.count(1)
    for row in dashboard.rows:
        builder = builder.with_row(grafana.Row(row.title).id(next(identities)))
        for panel in row.panels:
            builder = builder.with_panel(_panel(panel, next(identities)))
    return JSONEncoder(sort_keys=True, indent=1).encode(builder.build()) + "\n"


def _variable(name: str, label: str, query: str) -> grafana.QueryVariable:
    return (
        grafana.QueryVariable(name)
        .label(label)
        .datasource(_DATASOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )


def _panel(panel: Panel, identity: int) -> Builder:
    builder = (
        _builder(panel)
        .id(identity)
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(_DATASOURCE)
        .span(panel.width)
        .links([grafana.DashboardLink(f"Alert {panel.alert}").type(DashboardLinkType.LINK).url(_ALERTS + panel.alert)])
    )
    if panel.minimum is not None:
        builder = builder.min(panel.minimum)
    if panel.maximum is not None:
        builder = builder.max(panel.maximum)
    steps = [Threshold(color="green")]
    if panel.limit is not None:
        steps.append(Threshold(value=panel.limit, color="red"))
    builder = builder.thresholds(grafana.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    is_instant = panel.look is Look.RANKING
    for letter, query in zip(map(chr, itertools.count(ord("A"))), panel.queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).expr(query.expression).legend_format(query.legend)
        builder = builder.with_target(target.instant() if is_instant else target.range())
    return builder


def _builder(panel: Panel) -> Builder:
    """One that draws as the panel wants it."""
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    match panel.look:
        case Look.NUMBER:
            return stat.Panel().graph_mode(BigValueGraphMode.AREA).height(_NUMBER_HEIGHT).reduce_options(last)
        case Look.RANKING:
            return bargauge.Panel().orientation(VizOrientation.HORIZONTAL).height(_PANEL_HEIGHT).reduce_options(last)
        case _:
            return _timeseries(panel)


def _timeseries(panel: Panel) -> timeseries.Panel:
    builder = (
        timeseries.Panel()
        .height(_PANEL_HEIGHT)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if panel.look is Look.BARS:
        builder = builder.draw_style(GraphDrawStyle.BARS).fill_opacity(60)
    if panel.look in (Look.STACKED, Look.BARS):
        builder = builder.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if panel.look is Look.STACKED:
        builder = builder.fill_opacity(40)
    if panel.limit is not None:
        builder = builder.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.LINE))
    return builder
