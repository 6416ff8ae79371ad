"""The load tool: generated lines, replayed logs, the search for a rate, and the page of results."""

import json
from collections import Counter
from datetime import datetime
from pathlib import Path

import kafka_broker
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from profilestream.capture import mapping as mappings
from profilestream.serve.tags import tag_declaration

from benchmarks import load_run, load_writer, performance_page
from benchmarks.load_run import Input, Window
from benchmarks.load_writer import FolderTarget
from benchmarks.performance_page import LoadReport, RateResult
from benchmarks.probe_reader import Probes
from benchmarks.shop_events import LogLines, ShopEvents

ROOT = Path(__file__).parent.parent.parent
START = 1_700_000_000.0


def _lines(seed: int, rates: list[int]) -> list[list[str]]:
    events = ShopEvents(seed)
    return [events.next_second(START + n, rate) for n, rate in enumerate(rates)]


def _records(lines: list[str]) -> list[dict[str, str]]:
    """The JSON objects with a time."""
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if "event_time" in record:
            records.append(record)
    return records


def test_the_same_seed_gives_the_same_lines_and_another_one_does_not() -> None:
    assert _lines(1, [50, 200]) == _lines(1, [50, 200])
    assert _lines(1, [50]) != _lines(2, [50])


def test_each_second_has_as_many_lines_as_the_rate() -> None:
    assert [len(lines) for lines in _lines(1, [1, 100, 1_000, 10])] == [1, 100, 1_000, 10]


def test_shares_of_late_repeated_and_bad_lines() -> None:
    seconds = _lines(3, [20_000, 20_000])
    lines = [line for second in seconds for line in second]
    records = [_records(second) for second in seconds]
    late = [
        record
        for n, second in enumerate(records)
        for record in second
        if START + n - datetime.fromisoformat(record["event_time"]).timestamp() > 1.01
    ]
    repeated = len(lines) - len(set(lines)) - (len(lines) - sum(map(len, records)))
    assert len(lines) - sum(map(len, records)) == pytest.approx(200, rel=0.25)
    assert len(late) == pytest.approx(400, rel=0.25)
    assert repeated == pytest.approx(400, rel=0.25)


def test_items_are_zipf_distributed_and_events_come_in_sessions_of_one_user() -> None:
    records = [record for lines in _lines(5, [500] * 80) for record in _records(lines)]
    items = Counter(record["item_id"] for record in records).most_common()
    assert items[0][0] == "i0" and 5 < items[0][1] / items[9][1] < 20
    users: dict[str, set[str]] = {}
    for record in records:
        if not record["user_id"].startswith("probe"):
            users.setdefault(record["session_id"], set()).add(record["user_id"])
    assert max(map(len, users.values())) == 1
    assert 3 < len(records) / len(users) < 6


def test_the_first_line_of_each_second_is_a_new_user_on_time() -> None:
    first = [json.loads(lines[0]) for lines in _lines(1, [500] * 20)]
    assert [record["user_id"] for record in first] == [f"probe{n}" for n in range(20)]
    assert first[7]["event_time"] == "2023-11-14T22:13:27.000Z"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_log_is_replayed_as_json_lines_until_it_ends(tmp_path: Path, suffix: str) -> None:
    log, rows = tmp_path / f"log{suffix}", [{"user": f"u{n}", "text": "a,\nb"} for n in range(5)]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), log)
    elif suffix == ".csv":
        log.write_text("user,text\n" + "".join(f'{row["user"]},"a,\nb"\n' for row in rows))
    else:
        log.write_text("\n".join(map(json.dumps, rows)))
    lines = LogLines(log)
    batches = [lines.next_second(0.0, 3), lines.next_second(1.0, 3), lines.next_second(2.0, 3)]
    assert [[json.loads(line) for line in batch] for batch in batches] == [rows[:3], rows[3:], []]


def test_a_file_appears_complete_and_its_first_line_has_the_printed_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", iter(["5 1\n", "7 1\n"]))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert load_writer.main([str(tmp_path), "--seed", "1"]) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["second"], one["lines"], one["position"]) for one in reports] == [
        (0, 5, "000000.jsonl:1"), (1, 7, "000001.jsonl:1"),
    ]  # fmt: skip
    assert [len(file.read_text().splitlines()) for file in sorted(tmp_path.glob("*.jsonl"))] == [5, 7]
    assert FolderTarget(tmp_path).write(12, ["a"]) == "000012.jsonl:1"


def _append(folder: Path, **columns: list[str]) -> None:
    write_deltalake(folder, pa.table(columns), mode="append")


def test_a_probe_is_visible_in_events_by_its_position_and_elsewhere_by_its_user(tmp_path: Path) -> None:
    _append(tmp_path / "user_profiles", user_id=["shop:probe0", "shop:u1"])
    probes = Probes(tmp_path, ["events", "user_profiles"])
    probes.add(0, "a:1")
    assert list(probes.visible()) == []
    _append(tmp_path / "events", position=["a:1", "a:2"], user_id=["shop:probe0", "shop:u1"])
    assert list(probes.visible()) == [(0, "events")]  # the stored profile is older than the event
    _append(tmp_path / "user_profiles", user_id=["shop:u1"])
    assert list(probes.visible()) == []
    _append(tmp_path / "user_profiles", user_id=["shop:probe0"])
    assert list(probes.visible()) == [(0, "user_profiles")]
    assert list(probes.visible()) == []


def test_settings_enable_the_requested_stages_and_the_input(tmp_path: Path) -> None:
    files = load_run.load_settings(tmp_path / "files", Input(tmp_path / "input"), features=False, tags_seconds=30)
    assert files.capture.sources["shop"].path == str(tmp_path / "input")
    assert files.derive.features == () and files.derive.profiles and files.derive.sessions.enabled
    assert files.serve.tags.enabled and files.schedule.steps == {"serve_tags": "30s"}
    topic = load_run.load_settings(tmp_path / "topic", Input(tmp_path, "127.0.0.1:1"), sessions=False, learners=True)
    source = topic.capture.sources["shop"]
    assert source.path == "" and source.kafka is not None and source.kafka.topics == ("shop",)
    assert topic.learn.factors.enabled and not topic.derive.sessions.enabled and not topic.serve.tags.enabled


def test_tags_of_a_load_run_need_no_window_features_and_include_that_of_probes(tmp_path: Path) -> None:
    settings = load_run.load_settings(tmp_path, Input(tmp_path / "input"), tags_seconds=30)
    tags = tag_declaration.from_settings(settings).tags
    assert "load_probe" in tags and len(tags) > 5
    assert not any("features." in tag.enter_when for tag in tags.values())


def test_a_mapping_of_csv_files_becomes_one_of_json_objects(tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(kafka_broker.json_mapping(ROOT / "conf" / "sources" / "online_retail.toml"))
    assert mappings.load(str(mapping)).input.format == "jsonl"


def _window(latencies: list[float], missing: int = 0) -> Window:
    arrived = {n: float(n) for n in range(len(latencies) + missing)}
    visible = {n: n + latency for n, latency in enumerate(latencies)}
    return Window(100, len(arrived), arrived=arrived, visible={"user_profiles": visible})


def test_lag_is_steady_when_latency_does_not_grow_and_probes_are_visible() -> None:
    assert _window([2.0, 3.0, 2.5] * 10).is_steady("user_profiles")
    assert not _window([n / 5 for n in range(30)]).is_steady("user_profiles")
    assert not _window([2.0] * 20, missing=10).is_steady("user_profiles")
    assert not _window([], missing=3).is_steady("user_profiles")


def test_percentiles_are_over_visible_probes() -> None:
    window = _window([1.0] * 99 + [5.0], missing=1)
    assert window.percentiles("user_profiles") == [1.0, 1.0, 1.04]
    assert window.missing("user_profiles") == 1
    assert window.percentiles("user_tags") is None


@pytest.mark.parametrize(("capacity", "expected"), [(2_900, 2_750), (500, 0), (100_000, 32_000)])
def test_the_highest_steady_rate_is_found_by_doubling_and_bisection(capacity: int, expected: int) -> None:
    tried: list[int] = []

    def is_steady(rate: int) -> bool:
        tried.append(rate)
        return rate <= capacity

    assert load_run.steady_rate(is_steady, first=1_000, last=32_000, steps=3) == expected
    assert len(tried) == len(set(tried)) <= 6


def _report() -> LoadReport:
    latency: dict[str, list[float] | None] = {"events": [0.5, 1.0, 1.2], "user_tags": None}
    flat = RateResult(
        100, 60, 100.0, True, latency, 0, {"capture_events": 0.0}, 0.4, 2100, 500, {"capture_events": 900.0}
    )
    grows = RateResult(
        800, 60, 700.0, False, {"events": [9.0, 30.0, 40.0], "user_tags": [70.0, 90.0, 95.0]}, 12,
        {"capture_events": 1.0, "derive_profiles": 20.0}, 1.9, 2500, 900, {"derive_profiles": 1234.5},
    )  # fmt: skip
    return LoadReport("a machine", "2026-01-01", "files", "capture_events, derive_profiles", 0, (flat, grows))


def test_the_page_names_the_rate_at_which_lag_grows_and_the_stage() -> None:
    report = _report()
    text = performance_page.saturation(report)
    assert "flat up to 100 events/s. At 800 events/s it grows, first in `derive_profiles`" in text
    assert "Only 700 lines/s arrived" in text
    assert "| 100 | 0.5 / 1.0 / 1.2 | - | flat | 0.4 | 2.1 | 500 |" in performance_page.rates_table(report)
    assert "| `derive_profiles` | - | 1,234 |" in performance_page.costs_table(report)
    assert "highest rate that was tried" in performance_page.saturation(LoadReport("", "", "", "", 0, report.rates[:1]))


def test_the_picture_has_a_point_for_each_measured_percentile() -> None:
    picture = performance_page.picture(_report())
    assert picture.count("<circle") == 6
    assert picture.count('fill="white"') == 4
