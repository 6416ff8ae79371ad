"""The page docs/performance.md, its picture, and the results that both are made from (results/load.json)."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.load_run import slowest_stage
from benchmarks.markdown import table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "load.json"
PAGE, PICTURE = ROOT / "docs" / "performance.md", ROOT / "docs" / "pictures" / "load.svg"


@dataclass(frozen=True)
class RateResult:
    """What was measured at a rate.

    Args:
        rate: events per second.
        seconds: of the measurement.
        is_steady: whether the lag of user_profiles was flat.
        latency: by table p50, p95 and p99 in seconds; null without a visible probe.
        missing: probes that did not become visible in user_profiles.
        lag_growth: by stage, in seconds.
        cores: that the pipeline used.
        files: of the warehouse.
        costs: core-seconds per million rows, by stage.
    """

    rate: int
    seconds: int
    lines_per_second: float
    is_steady: bool
    latency: dict[str, list[float] | None]
    missing: int
    lag_growth: dict[str, float]
    cores: float
    memory_mb: int
    files: int
    costs: dict[str, float]


@dataclass(frozen=True)
class LoadReport:
    """The results of a run of load.py.

    Args:
        machine: processor, cores, memory.
        source: what arrived, and where.
        stages: names of the stages that ran.
        profiles: stored ones at the start.
    """

    machine: str
    date: str
    source: str
    stages: str
    profiles: int
    rates: tuple[RateResult, ...]


def read() -> LoadReport:
    """The results of the last run with --report."""
    fields = json.loads(RESULTS.read_text())
    return LoadReport(**{**fields, "rates": tuple(RateResult(**rate) for rate in fields["rates"])})


def write(report: LoadReport) -> None:
    """Store the results, and write the page and its picture."""
    RESULTS.write_text(json.dumps(asdict(report), indent=1) + "\n")
    PAGE.write_text(page(report))
    PICTURE.write_text(picture(report))


def _seconds(latency: list[float] | None) -> str:
    return "-" if latency is None else " / ".join(f"{value:.1f}" for value in latency)


def rates_table(report: LoadReport) -> str:
    """A row for each rate."""
    names = list(report.rates[0].latency) if report.rates else []
    header = ["events/s", *(f"`{name}`, s" for name in names), "lag", "cores", "memory, GB", "files"]
    rows = [
        [
            f"{one.rate:,}",
            *(_seconds(one.latency[name]) for name in names),
            "flat" if one.is_steady else "**grows**",
            f"{one.cores:.1f}",
            f"{one.memory_mb / 1000:.1f}",
            f"{one.files:,}",
        ]
        for one in report.rates
    ]
    return table(header, rows)


def costs_table(report: LoadReport) -> str:
    """Core-seconds per million rows by stage, a column for each rate."""
    stages = list(dict.fromkeys(stage for one in report.rates for stage in one.costs))
    rows = [
        [f"`{stage}`", *(f"{one.costs[stage]:,.0f}" if stage in one.costs else "-" for one in report.rates)]
        for stage in stages
    ]
    return table(["stage", *(f"{one.rate:,}/s" for one in report.rates)], rows)


def saturation(report: LoadReport) -> str:
    """What is saturated at the first rate at which lag grows."""
    limit = next((one for one in report.rates if not one.is_steady), None)
    steady = [one for one in report.rates if one.is_steady]
    highest = f"Lag is flat up to {steady[-1].rate:,} events/s" if steady else "Lag is flat at none of these rates"
    if limit is None:
        return f"{highest}, the highest rate that was tried, so nothing is saturated."
    growths = ", ".join(f"`{stage}` {seconds:.1f} s" for stage, seconds in sorted(limit.lag_growth.items()))
    arrived = ""
    if limit.lines_per_second < 0.98 * limit.rate:
        arrived = f" Only {limit.lines_per_second:,.0f} lines/s arrived, so the writer is a limit too."
    slowest = slowest_stage(limit.lag_growth)
    return (
        f"{highest}. At {limit.rate:,} events/s it grows, first in `{slowest}`; the pipeline uses "
        f"{limit.cores:.1f} cores. Growth of lag within {limit.seconds} s, by stage: {growths}.{arrived}"
    )


def page(report: LoadReport) -> str:
    """The text of docs/performance.md."""
    seconds = report.rates[0].seconds if report.rates else 0
    return f"""# Performance

Seconds from the arrival of an event until it is visible in each table, and the highest rate at which they do not grow.
This page is written by `make load ARGS="--report"`; do not edit it. The README has a table of
[all benchmarks](../README.md#benchmarks), and [scaling.md](scaling.md) computes what other rates need.

- Measured on {report.date}: {report.machine}, which also runs the program that writes the events.
- Input: {report.source}.
- Running: {report.stages}; {report.profiles:,} profiles are stored at the start.
- Each rate is measured for {seconds} s after a warm-up. Latency is measured by a probe each second: p50 / p95 / p99 of
  the time from its arrival until a reader of the table sees it. Batches start as soon as the last one has ended.

## Latency against rate

![Latency against rate](pictures/load.svg)

{rates_table(report)}

Lag grows if the latency of `user_profiles` increases within the window by more than 1.5 s or 1 % of its length. Rows of
`user_tags` are written by a step on a schedule, so their latency is up to its interval plus its duration.

## What saturates first

{saturation(report)}

## Cost

Core-seconds per million rows. Batches get larger with the rate, so a row costs less.

{costs_table(report)}

## Measure your machine

```sh
make load
make load ARGS="--rates 100,1000 --seconds 20 --warm-up 10"
make load ARGS="--kafka --learners"
make load ARGS="--log data/online_retail/online_retail_2010_2011.parquet --mapping conf/sources/online_retail.toml"
```

The last command replays a log: its lines arrive in their order, with their own event times. Rows of a CSV or Parquet
log arrive as JSON objects. The warehouse of the run is `artifacts/load/home`; its `stage_batches` has the details.
"""


_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 420, 60, 150, 30, 50
_COLORS = {"events": "#1f77b4", "user_profiles": "#d62728", "user_tags": "#2ca02c"}


def picture(report: LoadReport) -> str:
    """Latency (p50 dashed, p95) against rate, both logarithmic; an empty circle: lag grows."""
    values = [value for one in report.rates for latency in one.latency.values() if latency for value in latency[:2]]
    rates = [one.rate for one in report.rates]
    x = _scale(min(rates), max(rates), _LEFT, _WIDTH - _RIGHT)
    low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))
    y = _scale(low, high, _HEIGHT - _BOTTOM, _TOP)
    shapes = [_text(x(rate), _HEIGHT - _BOTTOM + 18, f"{rate:,}", "middle") for rate in rates]
    tick = low
    while tick <= high * 1.001:
        shapes += [_line([(_LEFT, y(tick)), (_WIDTH - _RIGHT, y(tick))], "#ddd")]
        shapes += [_text(_LEFT - 8, y(tick) + 4, f"{tick:g}", "end")]
        tick *= 10
    for name in report.rates[0].latency:
        color = _COLORS[name]
        for number, dash in ((0, "4 4"), (1, "none")):
            points = [(x(one.rate), y(p[number]), one.is_steady) for one in report.rates if (p := one.latency[name])]
            shapes.append(_line([point[:2] for point in points], color, dash))
            shapes += [
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" stroke="{color}" fill="{color if is_steady else "white"}"/>'
                for px, py, is_steady in points
            ]
            if points and number:
                shapes.append(_text(points[-1][0] + 8, points[-1][1] + 4, name, "start", color))
    shapes.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, "events per second", "middle"))
    shapes.append(
        _text(10, 14, "seconds from arrival to visibility: p95, dashed p50; empty circles: lag grows", "start")
    )
    body = "\n".join(shapes)
    style = 'font-family="sans-serif" font-size="12" style="background:white"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" {style}>\n'
        f"{body}\n</svg>\n"
    )


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """A logarithmic scale from values to coordinates."""
    span = math.log(high / low) or 1.0
    return lambda value: start + (end - start) * math.log(value / low) / span


def _line(points: list[tuple[float, float]], color: str, dash: str = "none") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5" stroke-dasharray="{dash}"/>'


def _text(x: float, y: float, text: str, anchor: str, color: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{text}</text>'
