# SPDX-License-Identifier: GPL-2.0-or-later
"""Grafana's dashboards of mesh relays: all of them, and one.

`python -m docs.prometheus.dashboard` writes fleet.json and relay.json beside this file. Each
query is run against a real Prometheus that watches real relays (tests/netns/test_watching.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

HERE = Path(__file__).parent
#: Grafana replaces both: by the relays that are chosen, and by a time that holds four scrapes at least.
INSTANCE, INTERVAL = "$instance", "$__rate_interval"
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${source}")
#: Of Grafana's grid, which is 24 wide.
WIDE, HALF, THIRD, QUARTER = 24, 12, 8, 6


@dataclass(frozen=True)
class Panel:
    """One panel: ``queries`` by what stands for each series in the legend. ``kind``: stat, states or lines."""

    title: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "lines"
    unit: str = "short"
    span: int = THIRD
    description: str = ""
    #: A value from which on it is red.
    bad_from: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class View:
    """One dashboard: rows of panels."""

    uid: str
    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    #: Whether one relay is chosen, rather than all shown.
    is_of_one: bool


ALL = '{job="mesh-relay"}'
ONE = f'{{job="mesh-relay", instance=~"{INSTANCE}"}}'


def of_one(metric: str, labels: str = "") -> str:
    """A metric of the chosen relay."""
    return f'{metric}{{job="mesh-relay", instance=~"{INSTANCE}"{", " + labels if labels else ""}}}'


def rate(metric: str, by: str, labels: str = "") -> str:
    """What a counter of the chosen relay rises by in a second, summed."""
    return f"sum by ({by}) (rate({of_one(metric, labels)}[{INTERVAL}]))"


def happened(metric: str, by: str, labels: str = "") -> str:
    """How often something happened to the chosen relay; nothing where it did not."""
    return f"sum by ({by}) (increase({of_one(metric, labels)}[{INTERVAL}])) > 0"


def quantile(part: float, metric: str) -> str:
    """A quantile of a histogram of the chosen relay, in seconds."""
    return f"histogram_quantile({part}, sum by (le) (rate({of_one(metric + '_bucket')}[{INTERVAL}])))"


def quantile_of_each(part: float, metric: str) -> str:
    """A quantile of a histogram of each relay, in seconds."""
    return f"histogram_quantile({part}, sum by (instance, le) (rate({metric}_bucket{ALL}[{INTERVAL}])))"


FLEET = View(
    uid="mesh-relay-fleet",
    title="Mesh relays",
    is_of_one=False,
    rows=(
        (
            "At a glance",
            (
                Panel("Relays that answer", ((f"count(up{ALL} == 1) or vector(0)", ""),), "stat", span=QUARTER),
                Panel(
                    "Relays that do not",
                    ((f"count(up{ALL} == 0) or vector(0)", ""),),
                    "stat",
                    span=QUARTER,
                    bad_from=1,
                ),
                Panel(
                    "Alerts",
                    (('count(ALERTS{job="mesh-relay", alertstate="firing"}) or vector(0)', ""),),
                    "stat",
                    span=QUARTER,
                    bad_from=1,
                ),
                Panel("Envelopes held, of all", ((f"sum(relay_store_envelopes{ALL})", ""),), "stat", span=QUARTER),
                Panel(
                    "Alerts by relay",
                    (
                        (
                            'max by (instance, alertname) (ALERTS{job="mesh-relay", alertstate="firing"})',
                            "{{instance}}: {{alertname}}",
                        ),
                    ),
                    "states",
                    span=HALF,
                    description="Each bar is an alert, for as long as it fired. None: all is well.",
                ),
                Panel(
                    "Whether they answer",
                    ((f"up{ALL}", "{{instance}}"),),
                    "states",
                    span=HALF,
                    description="0: does not answer. A relay that starts again shows as a gap.",
                ),
            ),
        ),
        (
            "Room and neighbours",
            (
                Panel(
                    "How full the stores are",
                    ((f"relay_store_full_ratio{ALL}", "{{instance}}"),),
                    unit="percentunit",
                    bad_from=0.9,
                    most=1.0,
                    description="Of bytes or envelopes, whichever is nearer to its bound.",
                ),
                Panel("Neighbours", ((f"relay_neighbours{ALL}", "{{instance}}"),), description="Coarse from 4 on."),
                Panel("Free space on disks", ((f"relay_store_free_bytes{ALL}", "{{instance}}"),), unit="bytes"),
            ),
        ),
        (
            "Traffic",
            (
                Panel(
                    "New envelopes a second",
                    ((f"sum by (instance) (rate(relay_envelopes_accepted_total{ALL}[{INTERVAL}]))", "{{instance}}"),),
                ),
                Panel(
                    "Handed on a second",
                    ((f"sum by (instance) (rate(relay_envelopes_forwarded_total{ALL}[{INTERVAL}]))", "{{instance}}"),),
                ),
                Panel(
                    "Slowest commit of a hundred",
                    (
                        (
                            quantile_of_each(0.99, "relay_commit_seconds"),
                            "{{instance}}",
                        ),
                    ),
                    unit="s",
                    bad_from=1,
                ),
            ),
        ),
        (
            "Machines",
            (
                Panel("Time since their start", ((f"relay_uptime_seconds{ALL}", "{{instance}}"),), unit="s"),
                Panel(
                    "Clock, less this machine's",
                    ((f"relay_clock_time_seconds{ALL} + 1800 - time()", "{{instance}}"),),
                    unit="s",
                    description="To the hour. Only relays that go by a clock are here.",
                ),
                Panel(
                    "Temperature",
                    ((f"relay_board_temperature_celsius{ALL}", "{{instance}}"),),
                    unit="celsius",
                    bad_from=80,
                ),
            ),
        ),
    ),
)

RELAY = View(
    uid="mesh-relay-one",
    title="One mesh relay",
    is_of_one=True,
    rows=(
        (
            "How it is",
            (
                Panel(
                    "What it says of itself",
                    ((f"{of_one('relay_condition')} == 1", "{{severity}}: {{condition}}"),),
                    "states",
                    span=HALF,
                    description="As on its status page.",
                ),
                Panel(
                    "Links and processes",
                    (
                        (f"{of_one('relay_link_state')} == 1", "{{link}}: {{state}}"),
                        (f"{of_one('relay_component_state')} == 1", "relay {{component}}: {{state}}"),
                    ),
                    "states",
                    span=HALF,
                ),
                Panel("Neighbours", ((of_one("relay_neighbours"), "relays"),), span=QUARTER),
                Panel(
                    "Connected, coarse",
                    ((f"sum by (link, peer) ({of_one('relay_link_peers')})", "{{link}}: {{peer}}s"),),
                    span=QUARTER,
                    description="Under five clients are 0, so that nobody's coming and going shows.",
                ),
                Panel("Time without a neighbour", ((of_one("relay_alone_seconds"), "alone"),), unit="s", span=QUARTER),
                Panel("Time since its start", ((of_one("relay_uptime_seconds"), "up"),), unit="s", span=QUARTER),
            ),
        ),
        (
            "Store",
            (
                Panel(
                    "Envelopes",
                    (
                        (of_one("relay_store_envelopes"), "held"),
                        (of_one("relay_store_capacity_envelopes"), "room"),
                    ),
                    span=QUARTER,
                ),
                Panel(
                    "Bytes",
                    ((of_one("relay_store_bytes"), "held"), (of_one("relay_store_capacity_bytes"), "room")),
                    unit="bytes",
                    span=QUARTER,
                ),
                Panel("Free on its disk", ((of_one("relay_store_free_bytes"), "free"),), unit="bytes", span=QUARTER),
                Panel("Price", ((of_one("relay_store_price"), "bits of work"),), span=QUARTER),
                Panel(
                    "Refused",
                    ((happened("relay_envelopes_rejected_total", "reason"), "{{reason}}"),),
                    span=QUARTER,
                ),
                Panel(
                    "Left before their time",
                    ((happened("relay_envelopes_evicted_total", "reason"), "{{reason}}"),),
                    span=QUARTER,
                ),
                Panel(
                    "Commits",
                    (
                        (quantile(0.5, "relay_commit_seconds"), "median"),
                        (quantile(0.99, "relay_commit_seconds"), "one in a hundred"),
                        (of_one("relay_commit_wait_seconds"), "waiting now"),
                    ),
                    unit="s",
                    bad_from=1,
                    span=QUARTER,
                ),
                Panel(
                    "Damage",
                    (
                        (happened("relay_store_unreadable_bodies_total", "job"), "damaged"),
                        (of_one("relay_store_read_failures_total"), "failed reads since the start"),
                    ),
                    span=QUARTER,
                ),
            ),
        ),
        (
            "Traffic",
            (
                Panel(
                    "Envelopes a second",
                    (
                        (rate("relay_envelopes_accepted_total", "job"), "new"),
                        (rate("relay_envelopes_forwarded_total", "job"), "handed on"),
                        (rate("relay_envelopes_duplicate_total", "job"), "here already"),
                        (rate("relay_envelopes_expired_total", "job"), "expired"),
                    ),
                ),
                Panel(
                    "Bytes a second",
                    ((rate("relay_bytes_total", "link, direction"), "{{link}} {{direction}}"),),
                    unit="Bps",
                ),
                Panel(
                    "From arrival to a neighbour",
                    (
                        (quantile(0.5, "relay_forward_latency_seconds"), "median"),
                        (quantile(0.99, "relay_forward_latency_seconds"), "one in a hundred"),
                    ),
                    unit="s",
                ),
                Panel("Queues", ((of_one("relay_queue_length"), "{{queue}}"),)),
                Panel("Dropped", ((happened("relay_queue_dropped_total", "reason"), "{{reason}}"),)),
                Panel("Age of the oldest", ((of_one("relay_store_oldest_age_seconds"), "held"),), unit="s"),
            ),
        ),
        (
            "Strangers",
            (
                Panel(
                    "Did not become sessions",
                    ((happened("relay_handshake_failures_total", "reason"), "{{reason}}"),),
                ),
                Panel("Wrong in sessions", ((rate("relay_errors_total", "reason"), "{{reason}}"),)),
                Panel("Sessions ended", ((rate("relay_sessions_ended_total", "reason"), "{{reason}}"),)),
            ),
        ),
        (
            "Machine",
            (
                Panel("Processor", ((rate("process_cpu_seconds_total", "job"), "of one core"),), unit="percentunit"),
                Panel("Memory", ((of_one("relay_process_memory_bytes"), "relay {{process}}"),), unit="bytes"),
                Panel(
                    "Temperature",
                    ((of_one("relay_board_temperature_celsius"), "hottest"),),
                    unit="celsius",
                    bad_from=80,
                ),
                Panel(
                    "Voltage too low",
                    (
                        (of_one("relay_board_undervoltage"), "now"),
                        (of_one("relay_board_undervoltage_seen"), "since the start"),
                    ),
                    bad_from=1,
                ),
                Panel(
                    "Card and battery",
                    (
                        (of_one("relay_board_card_life_used_percent"), "life of the card used"),
                        (of_one("relay_board_power_percent"), "battery"),
                    ),
                    unit="percent",
                    most=100.0,
                ),
                Panel(
                    "Clock, less this machine's",
                    ((f"{of_one('relay_clock_time_seconds')} + 1800 - time()", "clock"),),
                    unit="s",
                ),
            ),
        ),
    ),
)

VIEWS = {"fleet.json": FLEET, "relay.json": RELAY}


def queries() -> list[str]:
    """Every query of the dashboards, as it stands there."""
    panels = (panel for view in VIEWS.values() for _, row in view.rows for panel in row)
    return list(dict.fromkeys(query for panel in panels for query, _ in panel.queries))


def concrete(query: str, *, instance: str, interval: str) -> str:
    """A query with what Grafana puts in: a pattern of relays, and a duration."""
    return query.replace(INSTANCE, instance).replace(INTERVAL, interval)


def render(view: View) -> str:
    """The dashboard as Grafana imports it."""
    board = (
        builders.Dashboard(view.title)
        .uid(view.uid)
        .tags(["mesh-relay"])
        .refresh("1m")
        .time("now-6h" if view.is_of_one else "now-24h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(builders.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .link(
            builders.DashboardLink("Mesh relays")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["mesh-relay"])
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
    )
    if view.is_of_one:
        board.with_variable(
            builders.QueryVariable("instance")
            .label("Relay")
            .datasource(SOURCE)
            .query("label_values(relay_build_info, instance)")
            .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(models.VariableSort.ALPHABETICAL_ASC)
        )
    for title, panels in view.rows:
        board.with_row(builders.Row(title))
        for panel in panels:
            board.with_panel(_panel(panel))
    return json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(board.build())), indent=1) + "\n"


def _panel(panel: Panel) -> timeseries.Panel | stat.Panel | statetimeline.Panel:
    made: timeseries.Panel | stat.Panel | statetimeline.Panel
    if panel.kind == "stat":
        made = stat.Panel().color_mode(common_models.BigValueColorMode.BACKGROUND_SOLID)
    elif panel.kind == "states":
        made = statetimeline.Panel().show_value(common_models.VisibilityMode.NEVER)
    else:
        made = timeseries.Panel().min(0).line_width(2).legend(_legend())
        if "time()" in panel.queries[0][0]:
            made = timeseries.Panel().line_width(2).legend(_legend())
    made.title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    made.span(panel.span).height(4 if panel.kind == "stat" else 8)
    if panel.most is not None:
        made.max(panel.most)
    made.thresholds(_thresholds(panel))
    for number, (query, legend) in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query).ref_id(chr(ord("A") + number)).legend_format(legend or "__auto")
        made.with_target(target)
    return made


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .show_legend(show_legend=True)
        .display_mode(common_models.LegendDisplayMode.LIST)
        .placement(common_models.LegendPlacement.BOTTOM)
    )


def _thresholds(panel: Panel) -> builders.ThresholdsConfig:
    steps = [models.Threshold(value=None, color="green")]
    if panel.bad_from is not None:
        steps.append(models.Threshold(value=panel.bad_from, color="red"))
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


if __name__ == "__main__":
    for name, view in VIEWS.items():
        (HERE / name).write_text(render(view))
