"""Modules of `base` without Spark: tables, versions, locks, errors, progress."""

import argparse
import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from profilestream.base import console, files, job, locks, session, tables
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings, ProfilestreamError, Refused
from profilestream.base.stage_progress import StageProgress
from pyspark import SparkConf
from rich.console import Console

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("table", tables.ALL, ids=lambda t: t.name)
def test_key_and_partition_columns_of_a_table_exist(table: Table) -> None:
    assert len(set(table.names)) == len(table.names)
    assert set(table.key) | set(table.partitioned_by) <= set(table.names)


@pytest.mark.parametrize(
    ("printed", "release"),
    [
        ('openjdk version "17.0.15" 2025', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "25"', 25),
        ("?", None),
    ],
)
def test_the_java_release_is_parsed_from_the_output_of_java(printed: str, release: int | None) -> None:
    assert session.java_version(printed) == release


def test_an_old_java_is_refused_with_the_needed_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    session.check_java.cache_clear()
    with pytest.raises(BadSettings, match="Java 11 is too old: Spark 4.2.0 needs 17 or newer"):
        session.check_java()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(BadSettings, match="there is no Java"):
        session.check_java()
    session.check_java.cache_clear()


def test_unsupported_package_versions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SPARK", "9.9.9")
    with pytest.raises(BadSettings, match="unsupported versions"):
        session.check_versions()


def test_a_properties_line_without_value_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "spark.conf"
    file.write_text("# a comment\nspark.master  local[2]\nspark.odd\n")
    with pytest.raises(BadSettings, match=r"lines without a value: \['spark.odd'\]"):
        session.properties_of(str(file))
    file.write_text("spark.master  local[2]\nspark.a=b c\n")
    assert session.properties_of(str(file)) == {"spark.master": "local[2]", "spark.a": "b c"}


@pytest.mark.parametrize(
    ("master", "properties", "is_warned"),
    [
        ("local[*]", "", True),
        ("local", "", True),
        ("local[*]", "spark-local.conf", False),
        ("local[*]", "spark-cluster.conf", False),
        ("local-cluster[2,1,1024]", "", False),
        ("yarn", "", False),
    ],
)
def test_a_local_session_without_a_properties_file_prints_a_warning_that_names_the_file(
    master: str, properties: str, is_warned: bool
) -> None:
    conf = SparkConf(loadDefaults=False)
    conf.setAll(list(session.properties_of(properties and str(ROOT / "conf" / properties)).items()))
    warning = session.properties_warning(conf.set("spark.master", master))
    assert ("--properties-file conf/spark-local.conf" in warning) == is_warned


def test_kill_9_releases_the_lock_of_a_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from profilestream.base import locks\n"
        f"with locks.hold_lock({str(tmp_path)!r}, 'capture/x'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with (
            pytest.raises(Refused, match=rf"capture/x is already running \(process {other.pid}\)"),
            locks.hold_lock(str(tmp_path), "capture/x"),
        ):
            pass
        other.kill()
    with locks.hold_lock(str(tmp_path), "capture/x"):
        assert (tmp_path / "capture" / "x.lock").read_text() == str(os.getpid())


def test_a_remote_lock_folder_is_an_error() -> None:
    with (
        pytest.raises(BadSettings, match="locks cannot be stored at s3a://bucket/x"),
        locks.hold_lock("s3a://bucket/x", "a"),
    ):
        pass


@pytest.mark.parametrize(
    ("path", "uri"),
    [("/a/b", "file:/a/b"), ("file:///a/b", "file:/a/b"), ("s3a://b/c", "s3a://b/c"), ("/a b/#c", "file:/a b/#c")],
)
def test_a_path_is_qualified_in_the_spelling_of_hadoop(path: str, uri: str) -> None:
    assert files.qualified(path) == uri


def test_an_error_ends_with_what_to_do() -> None:
    error = ProfilestreamError("it broke", where="here", do="fix it")
    assert str(error).splitlines() == ["it broke", "  where: here", "  what to do: fix it"]


def test_progress_without_a_terminal_is_one_line_per_batch_with_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    with StageProgress("capture/x", 4) as progress:
        progress.batch_done(rows=1000, files=1)
        progress.batch_done(rows=1000, files=3)
    first, second = capsys.readouterr().err.splitlines()
    stamp = r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d "
    assert re.match(stamp + r"capture/x  1/4 files · batch 1 · 1,000 rows · [\d,]+ rows/s · \d+ s left$", first)
    assert re.match(stamp + r"capture/x  4/4 files · batch 2 · 2,000 rows · [\d,]+ rows/s · 0 s left$", second)


def test_bars_and_log_lines_share_one_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(console, "console", lambda: terminal)
    with StageProgress("derive_features", None), StageProgress("capture_events/online_retail", 12) as progress:
        progress.batch_done(rows=531_172, files=3)
        console.line("a log line")
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).strip() for line in screen.getvalue().splitlines()]
    assert "a log line" in lines
    shown = [line for line in lines if line.startswith("capture_events/online_retail")]
    assert "3/12 files · 531,172 rows" in shown[-1] and max(map(len, lines)) <= 80


def test_the_number_of_files_is_left_out_when_it_is_unknown_and_grows_with_added_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with StageProgress("derive_features", None) as unknown, StageProgress("capture/x", 1) as growing:
        unknown.batch_done(rows=10, files=0)
        growing.batch_done(rows=10, files=1)
        growing.batch_done(rows=10, files=2)
    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert [line.split(" · ")[0] for line in lines] == ["batch 1", "1/1 files", "3/3 files"]
    assert "left" not in lines[0]
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(console, "console", lambda: terminal)
    with StageProgress("derive_features", None) as unknown, StageProgress("capture/x", 2) as known:
        unknown.batch_done(rows=10, files=0)
        known.batch_done(rows=10, files=1)
    shown = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in screen.getvalue().splitlines()]
    assert any("?" in line or "-:--" in line for line in shown if "derive_features" in line) is False
    assert any("1/2 files" in line for line in shown)


def test_characters_that_the_terminal_lacks_are_printed_as_escapes_that_json_also_uses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = {"ascii": "caf\\u00e9 \\u20ac \\ud83d\\ude00 \\udc80", "latin-1": "café \\u20ac \\ud83d\\ude00 \\udc80"}
    texts["utf-8"] = "café € 😀 \\udc80"
    text = "café € 😀 \udc80"

    def body(args: argparse.Namespace) -> None:
        sys.stdout.write(json.dumps({"text": text}, ensure_ascii=False) + "\n" + text)

    for encoding, expected in texts.items():
        output = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))
        assert job.run(body, job.parser("A job."), ["--config", "x.toml"]) == 0
        sys.stdout.flush()
        document, shown = output.getvalue().decode(encoding).splitlines()
        assert (json.loads(document), shown) == ({"text": text}, expected)


def test_listed_noise_of_java_is_dropped_and_other_lines_are_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with console.java_output():
        subprocess.run(["sh", "-c", "echo 'WARNING: Using incubator modules: x' >&2; echo 'disk full' >&2"], check=True)
    deadline = time.monotonic() + 10
    printed = ""
    while "disk full" not in printed and time.monotonic() < deadline:
        time.sleep(0.01)
        printed += capfd.readouterr().err
    assert printed == "disk full\n"


def test_lines_of_java_are_json_objects_with_their_level_if_the_settings_require_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    console.use_format("json")
    try:
        with console.java_output():
            subprocess.run(["sh", "-c", "echo '10:11:12 WARN Disk: full' >&2; echo 'at x' >&2"], check=True)
        deadline = time.monotonic() + 10
        printed = ""
        while "at x" not in printed and time.monotonic() < deadline:
            time.sleep(0.01)
            printed += capfd.readouterr().err
    finally:
        console.use_format("text")
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [(one["level"], one["logger"], one["message"]) for one in lines] == [
        ("warning", "java", "10:11:12 WARN Disk: full"),
        ("info", "java", "at x"),
    ]


def test_ctrl_c_outside_of_a_query_ends_a_job_without_a_stack_trace(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(args: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    assert job.run(interrupted, job.parser("A job."), ["--config", "x.toml"]) == 130
    assert capsys.readouterr().err.splitlines() == [
        "", "stopped: the tables contain complete batches only; run it again to continue",
    ]  # fmt: skip


def test_records_of_quiet_libraries_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure_logging()
    logging.getLogger("py4j.clientserver").critical("a stack trace")
    logging.getLogger("profilestream").warning("an alarm")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" an alarm")
