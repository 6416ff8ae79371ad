"""Stages, steps, models and alerts of a warehouse, from the exported metrics; no Spark."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from profilestream.base.errors import SourceMissing
from profilestream.base.observe import exported_metrics, metrics_file
from profilestream.base.observe.alert_rules import Alert
from profilestream.base.observe.alerts import Alerts
from profilestream.base.observe.metrics_file import Samples
from profilestream.base.settings import Settings

# Groups of metrics by the start of their names, and the labels that identify an entry of the group.
_GROUPS = {"stage": ("stage", "source"), "capture": ("source",), "step": ("step",), "model": ("model",)}
_EXIT_CODES = {"ok": 0, "warning": 4, "critical": 5}
_UNITS = (("d", 86400), ("h", 3600), ("m", 60))

Entry = dict[str, Any]


@dataclass(frozen=True)
class OperationStatus:
    """The state of a warehouse.

    Args:
        groups: entries by group; the names of values are those of metrics without `profilestream_<group>_`.
        alerts: pending and active alerts.
    """

    warehouse: str
    time: float
    groups: dict[str, list[Entry]]
    alerts: list[Alert]

    @property
    def status(self) -> str:
        """`critical` or `warning` if an alert of this severity is active; otherwise `ok`."""
        active = {alert.severity for alert in self.alerts if alert.state == "active"}
        return "critical" if "critical" in active else "warning" if active else "ok"

    @property
    def exit_code(self) -> int:
        """For schedulers: 0 ok, 4 warning, 5 critical."""
        return _EXIT_CODES[self.status]

    def as_json(self) -> str:
        """One JSON object; times are seconds since 1970."""
        groups = {f"{group}s": entries for group, entries in self.groups.items()}
        head = {"status": self.status, "time": self.time, "warehouse": self.warehouse}
        return json.dumps({**head, **groups, "alerts": [asdict(alert) for alert in self.alerts]}, indent=1)


def read(settings: Settings) -> OperationStatus:
    """The state now. Evaluates the alert rules, and sends changes.

    Raises:
        SourceMissing: no run has written metrics yet.
    """
    path = metrics_file.metrics_path(settings)
    if not path.exists():
        raise SourceMissing("no run has written metrics yet", where=str(path), do="run jobs/run_pipeline.py first")
    alerts = Alerts(settings).evaluate()
    return OperationStatus(settings.paths.warehouse, time.time(), group_samples(metrics_file.read(path)), alerts)


def group_samples(samples: Samples) -> dict[str, list[Entry]]:
    """Entries by group: the labels that identify the entry, and the values by name.

    A further label becomes a part of the name, as in `rows_total_clean`.
    """
    groups: dict[str, dict[tuple[str, ...], Entry]] = {group: {} for group in _GROUPS}
    for (name, values), value in sorted(samples.items()):
        labels = dict(zip(exported_metrics.ALL[name].labels, values, strict=True))
        group = name.removeprefix(exported_metrics.PREFIX).split("_")[0]
        if group in groups:
            key = tuple(labels.pop(label) for label in _GROUPS[group])
            entry = groups[group].setdefault(key, dict(zip(_GROUPS[group], key, strict=True)))
            short_name = name.removeprefix(f"{exported_metrics.PREFIX}{group}_")
            entry["_".join([short_name, *labels.values()])] = value
    return {group: list(entries.values()) for group, entries in groups.items()}


def show(settings: Settings, *, seconds: float | None = None, as_json: bool = False, is_optional: bool = False) -> int:
    """Print the state to standard output; returns the exit code.

    Args:
        seconds: refresh a table until Ctrl-C; null: print once.
        is_optional: print nothing if no run has written metrics yet, instead of raising an error.
    """
    if is_optional and not metrics_file.metrics_path(settings).exists():
        return 0
    output, state = Console(highlight=False, emoji=False), read(settings)
    if as_json:
        print(state.as_json())  # noqa: T201
    elif seconds is None:
        output.print(view(state), soft_wrap=True)
    else:
        state = _watch(settings, output, state, seconds)
    return state.exit_code


def _watch(settings: Settings, output: Console, state: OperationStatus, seconds: float) -> OperationStatus:
    try:
        with Live(view(state), console=output, auto_refresh=False) as live:
            while True:
                time.sleep(seconds)
                state = read(settings)
                live.update(view(state), refresh=True)
    except KeyboardInterrupt:
        return state


def view(state: OperationStatus) -> RenderableType:
    """Tables of stages and steps, and a line for each alert."""
    at = datetime.fromtimestamp(state.time, UTC)
    heading = Text(f"\n{state.warehouse} at {at:%Y-%m-%d %H:%M:%S} UTC: {state.status}")
    alerts = [Text(f"  {one.state} ({one.severity}) {one.message}") for one in state.alerts]
    tables = [_stages(state), *([_steps(state)] if state.groups["step"] else [])]
    return Group(heading, *alerts, *tables)


def _stages(state: OperationStatus) -> Table:
    cells: dict[str, Callable[[Entry], str]] = {
        "stage": lambda one: "/".join(filter(None, (one["stage"], one["source"]))),
        "state": lambda one: "failed" if one.get("failed") else "ok",
        "rows": lambda one: _number(one.get("rows_total")),
        "batches": lambda one: _number(one.get("batches_total")),
        "lag, rows": lambda one: _number(one.get("lag_rows")),
        "lag, files": lambda one: _number(one.get("lag_files")),
        "lag": lambda one: _duration(one.get("lag_seconds")),
        "newest event": lambda one: _age(one.get("newest_event_timestamp_seconds"), state.time),
        "last batch": lambda one: _age(one.get("last_batch_timestamp_seconds"), state.time),
        "took": lambda one: _duration(one.get("last_batch_seconds")),
        "restarts": lambda one: _number(one.get("restarts_total")),
    }
    return _table(cells, state.groups["stage"])


def _steps(state: OperationStatus) -> Table:
    cells: dict[str, Callable[[Entry], str]] = {
        "step": lambda one: str(one["step"]),
        "state": lambda one: "failed" if one.get("failed") else "ok",
        "last success": lambda one: _age(one.get("last_success_timestamp_seconds"), state.time),
        "took": lambda one: _duration(one.get("last_run_seconds")),
        "failures": lambda one: _number(one.get("failures_total")),
    }
    return _table(cells, state.groups["step"])


def _table(cells: dict[str, Callable[[Entry], str]], entries: list[Entry]) -> Table:
    table = Table(box=None, pad_edge=True)
    for number, name in enumerate(cells):
        table.add_column(name, justify="left" if number < 2 else "right", no_wrap=True)
    for entry in entries:
        table.add_row(*[cell(entry) for cell in cells.values()])
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _duration(seconds: float | None) -> str:
    """Seconds as text in the largest unit that gives at least 2, such as `3.0 s`, `90 m` or `4 d`."""
    if seconds is None:
        return "-"
    return next((f"{seconds / size:,.0f} {unit}" for unit, size in _UNITS if seconds >= 2 * size), f"{seconds:,.1f} s")


def _age(at: float | None, now: float) -> str:
    return "-" if at is None else f"{_duration(max(now - at, 0.0))} ago"
