"""Measures of batches, exported metrics, alerts, and JSON lines; no Spark."""

import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.request import urlopen

import pytest
import yaml  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from profilestream.base import console, delta_log, job, local_appends, tables
from profilestream.base import settings as settings_module
from profilestream.base.errors import BadSettings, NothingToDo, Refused
from profilestream.base.observe import alert_rules, exported_metrics, metrics_file
from profilestream.base.observe.alert_rules import AlertRules
from profilestream.base.observe.alerts import Alerts
from profilestream.base.observe.cpu_clock import CpuClock, ProcessTree
from profilestream.base.observe.exported_metrics import (
    ALERT_ACTIVE,
    CAPTURE_REJECT_RATIO,
    CAPTURE_ROWS,
    STAGE_FAILED,
    STAGE_LAG_ROWS,
    STAGE_LAG_SECONDS,
    STAGE_LAST_BATCH,
    STAGE_LAST_BATCH_SECONDS,
    STAGE_ROWS,
    STEP_FAILED,
    STEP_FAILURES,
    STEP_LAST_SUCCESS,
)
from profilestream.base.observe.followed_log import FollowedLog, Unread, parse_entry
from profilestream.base.observe.metrics_file import MetricsFile, Samples
from profilestream.base.observe.operation_metrics import failed_start, step_metrics
from profilestream.base.observe.otlp_export import sent_by_otlp
from profilestream.base.observe.stage_measures import Lag, kafka_lag
from profilestream.base.observe.stage_metrics import StageCost, StageMetrics
from profilestream.base.queries import BatchResult
from profilestream.base.query_runner import QueryRunner
from profilestream.base.settings import Settings

from jobs import steward_status

ROOT = Path(__file__).parent.parent.parent


def entry(*actions: dict[str, Any], time: float = 100.0) -> str:
    return "\n".join(map(json.dumps, [{"commitInfo": {"timestamp": time * 1000}}, *actions]))


def add(path: str, size: int, rows: int, event_time: str = "2026-01-01T00:00:00.000Z", **more: Any) -> dict[str, Any]:
    stats = json.dumps({"numRecords": rows, "maxValues": {"event_time": event_time}})
    return {"add": {"path": path, "size": size, "stats": stats, "dataChange": True, **more}}


def txn(batch_id: int) -> dict[str, Any]:
    return {"txn": {"appId": "capture/shop/events/e", "version": batch_id}}


def offset(version: int, index: int = -1, *, is_snapshot: bool = False) -> dict[str, Any]:
    return {"reservoirVersion": version, "index": index, "isStartingVersion": is_snapshot}


def followed(entries: dict[int, str], first: int = 1, latest: int = 0) -> FollowedLog:
    log = FollowedLog(entries.get, first, latest)
    log.refresh()
    return log


def test_an_entry_counts_new_files_and_changes_but_not_a_file_that_gets_a_deletion_vector() -> None:
    removed = {"remove": {"path": "old", "dataChange": True}}
    cdc = {"cdc": {"path": "c", "size": 7, "dataChange": False}}
    result = parse_entry(entry(txn(3), removed, add("old", 1000, 5), add("new", 20, 2), cdc))
    assert (result.bytes_added, result.writer, result.time) == (27, ("capture/shop/events/e", 3), 100.0)
    assert (result.has_changes, result.rows_appended) == (True, 0)


def test_lag_is_the_rows_and_the_age_of_the_oldest_commit_after_the_offset_of_a_query() -> None:
    log = followed({1: entry(add("a", 1, 10)), 2: entry(add("b", 1, 20), time=110), 3: entry(add("c", 1, 5), time=120)})
    assert log.unread(offset(2), until=130) == Unread(25, 110.0)
    assert log.unread(offset(2, index=0), until=130) == Unread(25, 110.0)
    assert log.unread(offset(2), until=115) == Unread(20, 110.0)
    assert log.unread(offset(4), until=130) == Unread(0, None)


def test_lag_is_unknown_within_the_snapshot_before_the_log_and_of_a_change_feed_with_unread_commits() -> None:
    log = followed({5: entry(add("a", 1, 10))}, first=5, latest=4)
    assert log.unread(offset(5, 3, is_snapshot=True), until=200) is None
    assert log.unread({}, until=200) is None
    assert log.unread(offset(4), until=200) is None
    assert log.unread(offset(5), until=200, is_change_feed=True) == Unread(None, 100.0)
    assert log.unread(offset(6), until=200, is_change_feed=True) == Unread(0, None)


def test_compaction_and_commits_that_rewrite_rows_are_no_lag_of_a_query_that_reads_appended_rows() -> None:
    compaction = entry({"remove": {"path": "a", "dataChange": False}}, add("b", 1, 10, dataChange=False))
    rewrite = entry({"remove": {"path": "b", "dataChange": True}}, add("c", 1, 9))
    log = followed({1: compaction, 2: rewrite})
    assert log.unread(offset(1), until=200) == Unread(0, None)
    assert log.unread(offset(1), until=200, is_change_feed=True) == Unread(None, 100.0)


def test_the_log_continues_after_entries_that_were_removed_and_forgets_entries_that_were_read() -> None:
    entries = {8: entry(txn(1), add("a", 30, 1))}
    log = followed(entries, first=2, latest=7)
    assert log.unread(offset(2), until=200) is None and log.unread(offset(8), until=200) == Unread(1, 100.0)
    assert (log.bytes_of("capture/shop/events/e", 1), log.bytes_of("capture/shop/events/e", 2)) == (30, 0)
    log.forget_before(9)
    entries[9] = entry(add("b", 1, 2), time=150)
    log.refresh()
    assert log.unread(offset(8), until=200) is None and log.unread(offset(9), until=200) == Unread(2, 150.0)


def test_the_newest_event_time_of_a_batch_is_that_of_the_commits_between_its_offsets() -> None:
    times = ["2026-01-01T00:00:05.000Z", "2026-01-01T00:00:09.000Z", "2026-01-01T00:00:07.000Z"]
    log = followed({n: entry(add(f"f{n}", 1, 1, time)) for n, time in enumerate(times, 1)})
    midnight = 1767225600
    assert log.event_time_max(offset(1), offset(2)) == midnight + 5
    assert log.event_time_max(offset(1), offset(2, index=0)) == midnight + 9
    assert log.event_time_max(offset(3), offset(4)) == midnight + 7
    assert log.event_time_max({}, offset(4)) is None


def test_the_bytes_of_an_append_in_the_driver_are_those_of_its_files(tmp_path: Path) -> None:
    paths = settings_module.Paths(warehouse=str(tmp_path), checkpoints=str(tmp_path / "c"))
    table = tables.STAGE_BATCHES
    row = dict.fromkeys(table.names) | {
        "stage": "s", "source": "", "epoch": "e", "batch_id": 0, "started_at": 0, "rows_in": 1, "seconds": 1.0,
        "seconds_by_phase": [],
    }  # fmt: skip
    folder = tmp_path / table.name
    schema = json.dumps({"type": "struct", "fields": [
        {"name": f.name, "type": "string", "nullable": True, "metadata": {}} for f in table.arrow_schema
    ]})  # fmt: skip
    delta_log.create(folder, schema, [], {}, "")
    (folder / "x").mkdir()
    log = FollowedLog(lambda number: delta_log.entry_text(folder, number), 1, 0)
    local_appends.append(table.arrow_rows([row]), table, paths, ("app", 4))
    log.refresh()
    assert log.bytes_of("app", 4) == sum(file.stat().st_size for file in folder.glob("*.parquet"))


def test_the_lag_of_kafka_is_the_sum_over_its_partitions() -> None:
    latest = {"clicks": {"0": 10, "1": 7}, "orders": {"0": 3}}
    assert kafka_lag({"clicks": {"0": 4, "1": 7}}, latest) == 9
    assert kafka_lag({"logOffset": 1}, {"logOffset": 3}) is None and kafka_lag({}, {}) is None


def test_batches_at_the_same_time_share_the_cpu_time_equally() -> None:
    seconds = iter([10.0, 12.0, 16.0, 17.0])
    clock = CpuClock(lambda: next(seconds))
    with clock.measure() as one:
        with clock.measure() as other:
            assert other.seconds is None
        assert other.seconds == 2.0
    assert one.seconds == 2.0 + 2.0 + 1.0


def test_cpu_time_is_null_where_it_is_unknown() -> None:
    with CpuClock(lambda: None).measure() as share:
        pass
    assert share.seconds is None


def test_the_process_tree_includes_child_processes_and_ended_ones() -> None:
    tree = ProcessTree()
    before = tree.seconds()
    assert before is not None
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    after = tree.seconds()
    assert after is not None and after - before >= 0.25


def test_the_cpu_time_of_an_ended_worker_of_a_parent_that_ignores_it_is_not_lost() -> None:
    script = """
import os, signal, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as the daemon of PySpark
if os.fork() == 0:
    while time.process_time() < 0.3: pass
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    os._exit(0)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        worker = Path("/proc") / parent.stdout.readline().decode().strip()
        tree = ProcessTree()
        before = tree.seconds()
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        while worker.exists():
            time.sleep(0.01)
        after = tree.seconds()
        parent.kill()
    assert before is not None and after is not None and before <= after < before + 0.3


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    config = tmp_path / "shop.toml"
    config.write_text(
        f'[paths]\nwarehouse = "{tmp_path}/w"\ncheckpoints = "{tmp_path}/c"\n'
        '[capture.sources.shop]\npath = "in"\nmapping = "m.toml"\n[observe]\nalerts = "alerts.toml"\n'
    )
    (tmp_path / "alerts.toml").write_text("")
    return settings_module.load(str(config), [])


@pytest.fixture
def metrics(settings: Settings) -> MetricsFile:
    return MetricsFile(metrics_file.metrics_path(settings))


def test_every_metric_has_a_unit_or_is_a_count_by_the_conventions_of_prometheus() -> None:
    for metric in exported_metrics.ALL.values():
        assert metric.name.startswith("profilestream_") and metric.help.endswith(".")
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name


def test_processes_update_one_file_and_a_later_run_continues_its_counters(metrics: MetricsFile) -> None:
    other = MetricsFile(metrics.path)
    metrics.add(STAGE_ROWS, 5, "derive_features", "")
    metrics.set(STAGE_LAG_ROWS, 7, "derive_features", "")
    other.add(STAGE_ROWS, 2, "capture_events", "shop")
    metrics.write()
    other.write()
    metrics.add(STAGE_ROWS, 1, "derive_features", "")
    metrics.set(STAGE_LAG_ROWS, None, "derive_features", "")
    metrics.write()
    next_run = MetricsFile(metrics.path)
    next_run.add(STAGE_ROWS, 10, "capture_events", "shop")
    next_run.write()
    assert metrics_file.read(metrics.path) == {
        (STAGE_ROWS.name, ("derive_features", "")): 6,
        (STAGE_ROWS.name, ("capture_events", "shop")): 12,
    }
    text = metrics.path.read_text()
    assert f"# TYPE {STAGE_ROWS.name} counter" in text
    assert f'{STAGE_ROWS.name}{{source="shop",stage="capture_events"}} 12.0' in text
    assert [path.name for path in metrics.path.parent.iterdir() if path.suffix == ".prom"] == [metrics.path.name]


@pytest.mark.parametrize(
    ("path", "message"),
    [("/tmp/metrics.txt", "end with .prom"), ("s3://bucket/metrics.prom", "not a path on this machine")],
)
def test_a_file_that_the_node_exporter_does_not_read_is_refused(settings: Settings, path: str, message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        settings_module.load(settings.config_file, [f"observe.text_file={path}"])


def test_the_endpoint_serves_the_file_while_the_run_is_active(settings: Settings, metrics: MetricsFile) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    metrics.set(STAGE_LAG_ROWS, 3, "derive_features", "")
    metrics.write()
    served = settings_module.load(settings.config_file, [f"observe.port={port}"])
    with metrics_file.endpoint(served), urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        assert f'{STAGE_LAG_ROWS.name}{{source="",stage="derive_features"}} 3.0' in response.read().decode()
        with pytest.raises(BadSettings, match="cannot be served"), metrics_file.endpoint(served):
            pass
    with pytest.raises(OSError):
        urlopen(f"http://127.0.0.1:{port}/metrics")


def runner(failure: Exception | None = None, *, is_capture: bool = False) -> QueryRunner:
    stage, source = ("capture_events", "shop") if is_capture else ("derive_features", "")
    reads = SimpleNamespace(external=object() if is_capture else None)
    query = SimpleNamespace(stage=stage, source=source, name=f"{stage}/{source}", reads=reads)
    progress = SimpleNamespace(restarts=1 if failure else 0, files_left=None)
    return cast(QueryRunner, SimpleNamespace(query=query, progress=progress, failure=lambda: failure))


def batch_row(rows: int, **more: Any) -> dict[str, Any]:
    return {
        "stage": "derive_features", "source": "", "rows_in": rows, "seconds": 2.0, "commit_seconds": 0.5,
        "cpu_seconds": 3.0, "started_at": datetime.fromtimestamp(50, UTC), "bytes_written": 1000, **more,
    }  # fmt: skip


def test_a_stage_is_failed_from_its_failure_to_its_next_batch_or_to_a_run_without_failure(settings: Settings) -> None:
    key, path = (STAGE_FAILED.name, ("derive_features", "")), metrics_file.metrics_path(settings)

    def failed(stage: StageMetrics) -> float | None:
        stage.write(0.0)
        return metrics_file.read(path).get(key)

    first = StageMetrics(settings)
    first.set_state(runner(), Lag(), is_over=False)
    assert failed(first) is None
    first.set_state(runner(OSError()), Lag(), is_over=False)
    first.set_state(runner(), Lag(), is_over=False)
    assert failed(first) == 1
    first.add_batch(runner(), batch_row(1), None)
    assert failed(first) == 0
    first.set_state(runner(OSError()), Lag(), is_over=True)
    assert failed(first) == 1
    second = StageMetrics(settings)
    second.set_state(runner(), Lag(), is_over=True)
    assert failed(second) == 0


def test_rejected_rows_are_counted_and_their_share_follows_the_last_rows(settings: Settings) -> None:
    stage, row = StageMetrics(settings), batch_row(0, stage="capture_events", source="shop")
    stage.add_batch(
        runner(is_capture=True), row, BatchResult(20_000, rows_out=19_000, rows_rejected=900, rows_duplicate=100)
    )
    for _ in range(4):
        stage.add_batch(runner(is_capture=True), row, BatchResult(10_000, rows_out=5_000, rows_rejected=5_000))
    stage.write(0.0)
    samples = metrics_file.read(metrics_file.metrics_path(settings))
    rows = {outcome: samples[CAPTURE_ROWS.name, ("shop", outcome)] for outcome in ("clean", "rejected", "duplicate")}
    assert rows == {"clean": 39_000, "rejected": 20_900, "duplicate": 100}
    assert 0.48 < samples[CAPTURE_REJECT_RATIO.name, ("shop",)] < 0.5


def test_costs_are_per_million_rows_and_not_shown_for_few_rows() -> None:
    cost = StageCost()
    cost.add(batch_row(900))
    assert cost.text() == ""
    cost.add(batch_row(1_100))
    cost.add(batch_row(5_000, cpu_seconds=None))
    assert cost.text() == "per million rows: 3,000.0 core-seconds, 1.0 MB written"


def rules(text: str) -> AlertRules:
    return AlertRules.model_validate(tomllib.loads(text))


LAG = f'[rules.lag]\nmetric = "{STAGE_LAG_SECONDS.name}"\nlabels = {{ stage = "derive_*" }}\nabove = 60\nfor = "5m"\n'


def test_an_alert_is_pending_then_active_then_resolved_and_each_change_is_sent_once() -> None:
    lag: Samples = {(STAGE_LAG_SECONDS.name, (stage, "")): 90.0 for stage in ("derive_features", "learn_factors")}
    stored: dict[str, alert_rules.Alert] = {}
    states = []
    for now in (0, 200, 300, 400, 500, 600):
        samples = lag if now < 500 else {}
        alerts = alert_rules.evaluate(rules(LAG), samples, stored, now)
        sent = alert_rules.changes(alerts, stored)
        stored = {one.key: one for one in alerts if one.state != "resolved"}
        states.append(([one.state for one in alerts], [one.labels["stage"] for one in sent]))
    assert states == [
        (["pending"], []),
        (["pending"], []),
        (["active"], ["derive_features"]),
        (["active"], []),
        (["resolved"], ["derive_features"]),
        ([], []),
    ]


def test_a_pending_alert_that_ends_is_not_sent() -> None:
    lag: Samples = {(STAGE_LAG_SECONDS.name, ("derive_features", "")): 90.0}
    stored = {one.key: one for one in alert_rules.evaluate(rules(LAG), lag, {}, 0)}
    assert [one.state for one in stored.values()] == ["pending"]
    assert alert_rules.evaluate(rules(LAG), {}, stored, 600) == []


def test_conditions_compare_values_and_ages() -> None:
    text = f'[rules.old]\nmetric = "{STAGE_LAST_BATCH.name}"\nolder_than = "1h"\n[rules.low]\nmetric = '
    alerts = rules(text + f'"{STAGE_LAG_ROWS.name}"\nbelow = 1\nmessage = "no work"\nseverity = "critical"')
    samples: Samples = {
        (STAGE_LAST_BATCH.name, ("a", "")): 0.0, (STAGE_LAST_BATCH.name, ("b", "")): 2.0,
        (STAGE_LAG_ROWS.name, ("c", "shop")): 0.0, (STAGE_LAG_ROWS.name, ("d", "")): 1.0,
    }  # fmt: skip
    messages = [one.message for one in alert_rules.evaluate(alerts, samples, {}, 3601.0)]
    assert messages == [
        f"old: a: {STAGE_LAST_BATCH.name} is older than 1h (value 0)",
        "low: c shop: no work (value 0)",
    ]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ('metric = "x"\nabove = 1', "x is not an exported metric"),
        (f'metric = "{STAGE_LAG_ROWS.name}"', "one of above, below and older_than"),
        (f'metric = "{STAGE_LAG_ROWS.name}"\nabove = 1\nbelow = 2', "one of above, below and older_than"),
        (f'metric = "{STAGE_LAG_ROWS.name}"\nabove = 1\nlabels = {{ step = "x" }}', "has no label"),
        (f'metric = "{STAGE_LAG_ROWS.name}"\nolder_than = "1h"', "needs a metric of a time"),
        (f'metric = "{STAGE_LAG_ROWS.name}"\nabove = 1\nfor = "soon"', "not a duration"),
        (f'metric = "{STAGE_LAG_ROWS.name}"\nabove = 1\nodd = 2', "no such key"),
        (f'metric = "{STAGE_LAG_ROWS.name}"\nabove = 1\n[delivery]\nwebhook = "file:///etc/x"', "no http or https URL"),
    ],
)
def test_an_invalid_rule_is_refused_with_its_file(tmp_path: Path, rule: str, message: str) -> None:
    path = tmp_path / "alerts.toml"
    path.write_text(f"[rules.one]\n{rule}\n")
    with pytest.raises(BadSettings, match=message) as raised:
        alert_rules.load(str(path))
    assert raised.value.where == str(path)


def failed_rule(delivery: str) -> str:
    return f'[rules.failed]\nmetric = "{STAGE_FAILED.name}"\nabove = 0\nseverity = "critical"\n[delivery]\n{delivery}\n'


def test_a_command_gets_each_change_once_as_json_also_from_several_processes(
    settings: Settings, metrics: MetricsFile, tmp_path: Path
) -> None:
    script = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + chr(10))"
    command = json.dumps(["python3", "-c", script, str(tmp_path / "sent")])
    (tmp_path / "alerts.toml").write_text(failed_rule(f"command = {command}"))
    for value in (1, 1, 0):
        metrics.set(STAGE_FAILED, value, "derive_features", "")
        metrics.write()
        Alerts(settings).evaluate()
    sent = [json.loads(line) for line in (tmp_path / "sent").read_text().splitlines()]
    assert [(one["alert"], one["state"], one["labels"]["stage"]) for one in sent] == [
        ("failed", "active", "derive_features"),
        ("failed", "resolved", "derive_features"),
    ]
    assert sent[0]["text"].startswith("[critical, active] failed: derive_features") and sent[0]["warehouse"]
    assert metrics_file.read(metrics.path)[ALERT_ACTIVE.name, ("failed", "critical")] == 0


@contextmanager
def http_server(*statuses: int) -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server, and the bodies that it got; it answers with these statuses first, and then with 200."""
    received: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(statuses[len(received) - 1] if len(received) <= len(statuses) else 200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()


def test_a_change_that_the_webhook_refused_is_sent_again_and_an_accepted_one_is_not(
    settings: Settings, metrics: MetricsFile, tmp_path: Path
) -> None:
    metrics.set(STAGE_FAILED, 1, "derive_features", "")
    metrics.write()
    with http_server(500) as (url, bodies):
        (tmp_path / "alerts.toml").write_text(failed_rule(f'webhook = "{url}/hook"'))
        for _ in range(3):
            assert [one.state for one in Alerts(settings).evaluate()] == ["active"]
    received = [json.loads(body) for body in bodies]
    assert [one["state"] for one in received] == ["active", "active"]
    assert received[0]["since"] == received[1]["since"]


def test_samples_are_sent_to_a_collector_of_opentelemetry_at_the_end_of_a_run(
    settings: Settings, metrics: MetricsFile
) -> None:
    metrics.add(STAGE_ROWS, 7, "derive_features", "")
    metrics.set(STAGE_LAG_ROWS, 3, "capture_events", "shop")
    metrics.write()
    with http_server() as (url, bodies):
        with sent_by_otlp(settings_module.load(settings.config_file, [f"observe.otlp_endpoint={url}/v1/metrics"])):
            pass
    (sent,) = (ExportMetricsServiceRequest.FromString(body).resource_metrics[0] for body in bodies)
    by_name = {one.name: one for one in sent.scope_metrics[0].metrics}
    assert [(a.key, a.value.string_value) for a in sent.resource.attributes if a.key == "service.name"] == [
        ("service.name", "profilestream")
    ]
    (rows,), (lag,) = by_name[STAGE_ROWS.name].sum.data_points, by_name[STAGE_LAG_ROWS.name].gauge.data_points
    assert (rows.as_double, by_name[STAGE_ROWS.name].sum.is_monotonic) == (7, True)
    assert (lag.as_double, {one.key: one.value.string_value for one in lag.attributes}) == (
        3, {"stage": "capture_events", "source": "shop"}
    )  # fmt: skip


def test_a_collector_that_does_not_answer_delays_a_run_by_seconds_only(
    settings: Settings, metrics: MetricsFile
) -> None:
    metrics.set(STAGE_LAG_ROWS, 3, "capture_events", "shop")
    metrics.write()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint, started = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/metrics", time.monotonic()
        with sent_by_otlp(settings_module.load(settings.config_file, [f"observe.otlp_endpoint={endpoint}"])):
            pass
    assert time.monotonic() - started < 15


def test_an_alert_that_cannot_be_sent_delays_a_run_by_its_timeout_at_most_and_raises_nothing(
    settings: Settings, metrics: MetricsFile, tmp_path: Path
) -> None:
    (tmp_path / "alerts.toml").write_text(failed_rule('command = ["sleep", "60"]\ntimeout_seconds = 0.2'))
    metrics.set(STAGE_FAILED, 1, "derive_features", "")
    metrics.write()
    alerts, started = Alerts(settings), time.monotonic()
    alerts.evaluate_in_background()
    assert time.monotonic() - started < 0.1
    alerts.finish()
    assert [one.state for one in alerts.evaluate()] == ["active"]
    assert 0.2 <= time.monotonic() - started < 5


def test_a_user_who_may_not_write_the_state_of_alerts_gets_an_error_with_what_to_do(
    settings: Settings, metrics: MetricsFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "alerts.toml").write_text(LAG)
    monkeypatch.setattr(metrics_file, "file_lock", refuse)
    with pytest.raises(BadSettings, match="state of the alerts cannot be written.*Permission denied") as raised:
        Alerts(settings).evaluate()
    assert "observe.alerts=" in raised.value.do


def test_a_line_is_a_json_object_if_the_settings_require_it(capsys: pytest.CaptureFixture[str]) -> None:
    parser = job.parser("a job", config="conf/demo.toml")

    def body(_: Any) -> None:
        console.use_format("json")
        console.line("3 rows [bold]")
        logging.getLogger("profilestream.x").warning("slow: %s", 2)
        raise BadSettings("a key is wrong", where="here", do="correct it")

    try:
        assert job.run(body, parser, []) == 2
        assert not console.has_bars()
    finally:
        console.use_format("text")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(one["level"], one["logger"]) for one in lines] == [
        ("info", "profilestream"), ("warning", "profilestream.x"), ("error", "profilestream"),
    ]  # fmt: skip
    assert lines[0]["message"] == "3 rows [bold]" and lines[2]["message"].endswith("what to do: correct it")
    assert all(one["time"].endswith("+00:00") for one in lines)


def _labels_in(expression: str) -> set[str]:
    """Labels that a PromQL expression or a template uses."""
    matchers = [part for braces in re.findall(r"(?<!\{)\{([^{}]*)\}", expression) for part in braces.split(",") if part]
    groups = [name for names in re.findall(r"\bby \(([^)]*)\)", expression) for name in names.split(",")]
    return {re.split(r"[=!~]", part)[0].strip() for part in matchers} | {name.strip() for name in groups}


def _check_metrics(expression: str, more_labels: set[str]) -> set[str]:
    """The metrics of an expression, after checks that they and the labels are declared."""
    names = set(re.findall(r"profilestream_\w+", expression))
    assert names and names <= exported_metrics.ALL.keys(), expression
    labels = {label for name in names for label in exported_metrics.ALL[name].labels}
    assert _labels_in(expression) | more_labels <= labels, expression
    assert expression.count("(") == expression.count(")")
    return names


def test_the_alert_rules_of_prometheus_use_exported_metrics_and_their_labels() -> None:
    document = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    for rule in rules:
        used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        _check_metrics(rule["expr"], used)
        assert rule["labels"]["severity"] in ("warning", "critical")
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 9


def test_the_dashboard_uses_exported_metrics_and_their_labels_and_shows_every_metric() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/profilestream.json").read_text())
    variables = {one["name"] for one in dashboard["templating"]["list"]}
    shown = set[str]()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            shown |= _check_metrics(target["expr"], set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])))
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables, target["expr"]
    assert exported_metrics.ALL.keys() - shown == {
        STEP_LAST_SUCCESS.name,
        STAGE_LAST_BATCH_SECONDS.name,
    }
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


def test_the_shipped_alert_rules_are_valid_and_cover_the_failures_of_operation() -> None:
    shipped = alert_rules.load(str(ROOT / "conf/alerts.toml"))
    names = {"stage_failed", "stage_lag", "profiles_stale", "reject_share", "step_failed", "model_rollback", "no_run"}
    assert names <= shipped.rules.keys() and shipped.delivery == alert_rules.Delivery()


def test_every_shipped_alert_has_a_runbook() -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs/operations.md").read_text(), re.M)
    assert headings == list(alert_rules.load(str(ROOT / "conf/alerts.toml")).rules)


def test_the_documents_list_all_metrics() -> None:
    assert exported_metrics.markdown() in (ROOT / "docs/running.md").read_text()


def test_the_status_is_json_and_its_exit_code_is_that_of_the_worst_active_alert(
    settings: Settings, metrics: MetricsFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def status() -> tuple[int, Any]:
        code = steward_status.main(["--config", settings.config_file, "--json"])
        captured = capsys.readouterr()
        assert captured.out, captured.err
        return code, json.loads(captured.out)

    (tmp_path / "alerts.toml").write_text(failed_rule("") + LAG)
    metrics.set(STAGE_LAG_SECONDS, 100, "derive_features", "")
    metrics.add(CAPTURE_ROWS, 7, "shop", "clean")
    metrics.write()
    code, document = status()
    assert (code, document["status"], document["alerts"][0]["state"]) == (0, "ok", "pending")
    (tmp_path / "alerts.toml").write_text(failed_rule("") + LAG.replace("5m", "0s"))
    code, document = status()
    assert (code, document["status"]) == (4, "warning")
    metrics.set(STAGE_FAILED, 1, "derive_features", "")
    metrics.write()
    code, document = status()
    assert (code, document["status"], len(document["alerts"])) == (5, "critical", 2)
    assert document["stages"] == [{"stage": "derive_features", "source": "", "failed": 1.0, "lag_seconds": 100.0}]
    assert document["captures"] == [{"source": "shop", "rows_total_clean": 7.0}]


def test_the_status_without_a_run_exits_2(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert steward_status.main(["--config", settings.config_file, "--json"]) == 2
    assert "no run has written metrics yet" in capsys.readouterr().err


def test_the_live_table_shows_stages_steps_and_alerts_until_ctrl_c(
    settings: Settings, metrics: MetricsFile, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def sleep(seconds: float) -> None:
        assert seconds == 0.5
        metrics.set(STAGE_FAILED, 1, "derive_features", "")
        metrics.write()
        if sleeps.pop():
            raise KeyboardInterrupt

    sleeps = [True, False]
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "alerts.toml").write_text(failed_rule(""))
    metrics.set(STAGE_LAG_SECONDS, 7200, "derive_features", "")
    metrics.set(STEP_FAILED, 0, "serve_tags")
    metrics.write()
    assert steward_status.main(["--config", settings.config_file, "--watch", "0.5"]) == 5
    output = capsys.readouterr().out
    assert re.search(r"derive_features +failed", output) and "2 h" in output and "serve_tags" in output
    assert "active (critical) failed: derive_features" in output


def test_a_step_exports_its_success_and_its_failure_but_not_that_it_had_nothing_to_do(settings: Settings) -> None:
    def samples() -> dict[str, float]:
        return {name: value for (name, _), value in metrics_file.read(metrics_file.metrics_path(settings)).items()}

    nothing = NothingToDo("no rows", where="here", do="wait")
    with pytest.raises(NothingToDo), step_metrics("serve_tags", settings):
        raise nothing
    assert samples() == {}
    for _ in range(2):
        with pytest.raises(OSError), step_metrics("serve_tags", settings):
            raise OSError
    assert (samples()[STEP_FAILED.name], samples()[STEP_FAILURES.name]) == (1, 2)
    with step_metrics("serve_tags", settings):
        pass
    assert (samples()[STEP_FAILED.name], samples()[STEP_FAILURES.name]) == (0, 2)
    assert time.time() - samples()[STEP_LAST_SUCCESS.name] < 10


def test_a_stage_that_cannot_start_is_failed(settings: Settings, metrics: MetricsFile) -> None:
    with failed_start("learn_factors", "", settings):
        pass
    assert not metrics.path.exists()
    with pytest.raises(Refused), failed_start("learn_factors", "", settings):
        raise Refused("another declaration", where="here", do="--rebuild")
    assert metrics_file.read(metrics.path) == {(STAGE_FAILED.name, ("learn_factors", "")): 1}


def test_a_metrics_file_that_cannot_be_written_fails_no_step(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    path = settings_module.load(settings.config_file, ["observe.text_file=/proc/no/metrics.prom"])
    with step_metrics("serve_tags", path):
        pass
    assert "metrics are not exported" in caplog.text
