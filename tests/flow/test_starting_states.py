"""Every job in every starting state: exit code and last line are those of the table in docs/running.md."""

import importlib
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs import run_demo
from tests.builders import SHOP, USER_PROFILES, Shop, event

ROOT = Path(__file__).parent.parent.parent
# Flags of the jobs, in the order in which they run. The demo has a warehouse of its own.
FLAGS: dict[str, list[str]] = {
    "run_demo": [
        *("--set", "derive.sessions.enabled=false", "--set", "derive.transitions.enabled=false"),
        *("--set", "derive.windows.enabled=false", "--set", "learn.factors.enabled=false"),
        *("--set", "learn.segments.enabled=false", "--set", "learn.examples.enabled=false"),
        *("--set", "learn.outcomes.enabled=false", "--set", "serve.outcomes.enabled=false"),
        *("--set", "serve.tags.enabled=false", "--set", "serve.scores.enabled=false"),
        *("--set", "serve.tables.enabled=false"),
    ],
    "capture_init": [],
    "capture_events": [],
    "capture_reprocess": [],
    "derive_features": [],
    "derive_profiles": [],
    "derive_sessions": [],
    "derive_transitions": [],
    "derive_windows": [],
    "steward_compact_tiles": [],
    "learn_factors": [],
    "learn_segments": [],
    "learn_rankers": [],
    "learn_demand": [],
    "learn_outcome_examples": [],
    "learn_outcomes": [],
    "learn_batch_models": [],
    "learn_examples": [],
    "learn_publish": [],
    "serve_tags": [],
    "serve_scores": [],
    "serve_outcomes": [],
    "serve_anomalies": [],
    "serve_tables": [],
    "serve_audience": ["--name", "all", "--where", "true"],
    "serve_report": [],
    "serve_user": ["--user", "shop:käthe"],
    "serve_campaign": ["--users", "user_profiles", "--start", "2026-01-01", "--end", "2026-01-02"],
    "serve_trends": [],
    "steward_status": [],
    "steward_maintain": [],
    "steward_migrate": [],
    "steward_views": [],
    "run_pipeline": [],
}
EVENT = {name: value for name, value in event(1, who="käthe", what="tëa").items() if name != "at"}
EVENT["InvoiceDate"] = "2026-01-01T10:00:00Z"
LOGS: dict[str, list[dict[str, Any]]] = {
    "empty folder": [],
    "rejected rows only": [{**EVENT, "id": f"e{n}", "who": "null"} for n in range(3)],
    "one event": [EVENT],
}
SOURCE_PATH = "capture.sources.online_retail.path"
MAPPING = SHOP.replace('"jsonl"', '"csv"').replace(" at string", " InvoiceDate string").replace('"at"', '"InvoiceDate"')
PROFILES = (
    USER_PROFILES
    + """
[statistics.behavior.vector]
kind = "mean_vector"
[statistics.behavior.vector.dimensions]
price = "price"
[statistics.behavior]
spent = { kind = "sum", of = "value" }
[statistics.basic]
first_seen = { kind = "min", of = "event_time", type = "timestamp" }
[statistics.preference]
items = { kind = "top", of = "item_id", n = 5 }
[population]
name = "population_stats"
of = "behavior.vector"
"""
)
WINDOWS = """
[entities]
user = "user_hours"
[features.user.events]
question = "How many events?"
unit = "events"
kind = "count"
windows = ["1d"]
"""
LABELS = """
[labels.purchase]
question = "Does the user buy?"
unit = "true or false"
kind = "count"
where = "event_type = 'purchase'"
horizons = ["24h"]
"""
OUTCOMES = """
entity = "user"
[labels.purchase]
question = "Does the user buy?"
unit = "true or false"
kind = "count"
where = "event_type = 'purchase'"
[features]
events_1d = {}
[outcomes.purchase_7d]
label = "purchase"
horizon_days = 7
"""
TAGS = """
[groups]
recency_days = "0"
frequency = "1"
monetary = "behavior.spent"
first_event_time = "basic.first_seen"
[groups.rfm_segments]
all = "true"
[groups.loyalty]
points = "behavior.spent"
[groups.loyalty.tiers]
bronze = { enter_at = 2, leave_below = 1 }
[tags.buyer]
question = "Who buys?"
facet = "basic"
enter_when = "behavior.spent > 0"
evidence = "'spent money'"
"""
SETTINGS = """
[derive]
features = ["{conf}/derive/user_hours.toml"]
profiles = ["{home}/profiles.toml"]
[derive.windows]
file = "{home}/windows.toml"
enabled = true
day_tiles_after_days = 35
[derive.sessions]
enabled = true
[derive.transitions]
enabled = true
[learn.factors]
enabled = true
k = 2
first_full_passes = 1
[learn.segments]
enabled = true
k = 2
[learn.rankers]
enabled = true
[learn.demand]
enabled = true
[learn.outcomes]
enabled = true
file = "{home}/outcomes.toml"
[learn.batch_models]
enabled = true
[learn.examples]
enabled = true
file = "{home}/labels.toml"
[serve.tags]
enabled = true
file = "{home}/tags.toml"
[serve.scores]
enabled = true
[serve.outcomes]
enabled = true
[serve.tables]
enabled = true
[serve.report]
enabled = true
"""


def _shop(home: Path) -> Shop:
    """Settings with every stage and step enabled, and with small declarations."""
    files = {"profiles": PROFILES, "windows": WINDOWS, "labels": LABELS, "outcomes": OUTCOMES, "tags": TAGS}
    for name, text in files.items():
        (home / f"{name}.toml").write_text(text)
    settings = SETTINGS.format(conf=ROOT / "conf", home=home)
    return Shop(home, name="online_retail", mapping=MAPPING, extra_settings=settings, is_tracked=True)


@contextmanager
def _ascii_terminal() -> Iterator[io.BytesIO]:
    """Both outputs of the block, as on a terminal in ASCII."""
    output = io.BytesIO()
    streams = [
        io.TextIOWrapper(output, "ascii", errors, write_through=True) for errors in ("strict", "backslashreplace")
    ]
    with pytest.MonkeyPatch.context() as patch:
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        yield output
    for stream in streams:
        stream.detach()  # a stream that is collected closes its buffer


def _expected() -> dict[str, dict[str, str]]:
    """The table of docs/running.md: exit code and last line, by job and state."""
    text = (ROOT / "docs" / "running.md").read_text()
    section = text[text.index("## Jobs without events") :].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in re.findall(r"^\|.*\|$", section, re.M)]
    states = rows[0][1:]
    return {row[0].strip("`"): dict(zip(states, row[1:], strict=True)) for row in rows[2:]}


def _matches(result: str, cell: str) -> bool:
    """Whether a result `code: last line` is the one of a cell of the table, in which `...` matches anything."""
    code, _, line = cell.partition(": ")
    parts = line.replace("no output", "").strip("`").split("...")
    return re.fullmatch(f"{code}: {'.*'.join(map(re.escape, parts))}", result) is not None


def test_every_job_is_in_the_table_and_in_this_test() -> None:
    jobs = {file.stem for file in (ROOT / "jobs").glob("[a-z]*.py")}
    assert FLAGS.keys() == jobs == _expected().keys()
    assert {tuple(states) for states in _expected().values()} == {tuple(LOGS)}


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each state. The rejected rows are added to the empty folder after all jobs have run on it."""
    before, one = tmp_path_factory.mktemp("no_event"), tmp_path_factory.mktemp("one_event")
    return {"empty folder": before, "rejected rows only": before, "one event": one}


def _last_line(output: bytes) -> str:
    lines = output.decode("ascii").rstrip().splitlines()
    assert not [line for line in lines if "Traceback" in line], lines
    return re.sub(r"^20[-0-9]+ [0-9:]+ ", "", lines[-1]).strip() if lines else ""


@pytest.mark.parametrize("state", LOGS)
def test_every_job_has_the_documented_exit_code_and_last_line(
    spark: SparkSession, homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    home, log = homes[state], LOGS[state]
    shop = _shop(home)
    sample = {name: pa.array([str(row[name]) for row in log], pa.string()) for name in EVENT}
    pq.write_table(pa.table(sample), home / "sample.parquet")
    monkeypatch.setattr(run_demo, "SAMPLE", home / "sample.parquet")
    if log:
        shop.write(
            f"{state}.csv", "\n".join(",".join(map(str, row)) for row in (EVENT, *[one.values() for one in log]))
        )
    paths = {"paths.warehouse": "warehouse", "paths.checkpoints": "checkpoints", SOURCE_PATH: "input"}
    demo_paths = [flag for key, name in paths.items() for flag in ("--set", f"{key}={home}/demo/{name}")]
    config, expected = str(shop.config()), {name: cells[state] for name, cells in _expected().items()}
    results = {}
    for name, flags in FLAGS.items():
        with _ascii_terminal() as output:
            more = demo_paths if name == "run_demo" else []
            arguments = ["--config", config, *flags, *more]
            if name == "capture_init":
                arguments = [str(shop.input), "--name", "shop", "--out", f"{home}/proposal of {state}"]
            code = importlib.import_module(f"jobs.{name}").main(arguments)
        results[name] = f"{code}: {_last_line(output.getvalue())}"
    assert {name: one for name, one in results.items() if not _matches(one, expected[name])} == {}
