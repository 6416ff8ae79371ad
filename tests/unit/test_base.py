"""What base does without Spark: rooms, tables, versions, locks, progress."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from profilestream.base import files, locks, session, tables
from profilestream.base.errors import BadSettings, ProfilestreamError, Refused
from profilestream.base.progress import StageProgress

PACKAGE = Path(files.__file__).parent.parent
ROOMS = ("base", "capture", "derive", "learn", "serve", "steward")


def test_a_room_imports_only_rooms_before_it() -> None:
    wrong = []
    for file in PACKAGE.glob("*/*.py"):
        room = file.parent.name
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            used = {name.split(".")[1] for name in names if name.startswith("profilestream.") and name.count(".")}
            wrong += [f"{file.name} of {room} imports {other}" for other in used & set(ROOMS) if other > room]
    assert wrong == []


def _imports(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    froms = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    # `from profilestream.learn import als` names a module too.
    froms |= {
        f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == "profilestream.learn"
        for alias in node.names
    }
    return (froms - {"profilestream.learn"}) | {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }


def test_what_runs_on_executors_imports_the_standard_library_numpy_and_pyarrow_only() -> None:
    names = (
        "als",
        "item_index",
        "kmeans_tasks",
        "kmeans",
        "ranking_metrics",
        "score_tasks",
        "als_tasks",
        "cluster_sums",
    )
    own = {f"profilestream.learn.{name}" for name in names}
    wrong = {
        name: sorted(
            found
            for found in _imports(PACKAGE / "learn" / f"{name}.py") - own
            if found.split(".")[0] not in {*sys.stdlib_module_names, "numpy", "pyarrow"}
            and not any(found.startswith(f"{module}.") for module in own)
        )
        for name in names
    }
    assert {name: found for name, found in wrong.items() if found} == {}


def test_only_what_talks_to_mlflow_and_the_files_that_it_runs_import_mlflow() -> None:
    users = [f.name for f in PACKAGE.rglob("*.py") if any(name.split(".")[0] == "mlflow" for name in _imports(f))]
    assert sorted(users) == ["model_registry.py", "recommender.py", "segment_assigner.py", "tracking.py"]


def test_only_session_makes_a_session_and_only_commits_writes_tables() -> None:
    makers = [f.name for f in PACKAGE.rglob("*.py") if ".getOrCreate()" in f.read_text()]
    assert makers == ["session.py"]
    writers = sorted(f.name for f in PACKAGE.rglob("*.py") if 'write.format("delta")' in "".join(f.read_text().split()))
    assert writers == ["commits.py", "stage_batches.py"]


def test_jobs_are_wiring_of_at_most_50_lines() -> None:
    long = {f.name: len(f.read_text().splitlines()) for f in (PACKAGE.parent.parent / "jobs").glob("*.py")}
    assert {name: lines for name, lines in long.items() if lines > 50} == {}


@pytest.mark.parametrize("table", tables.ALL, ids=lambda t: t.name)
def test_a_tables_key_and_partitions_are_columns_of_it(table: tables.Table) -> None:
    assert len(set(table.columns)) == len(table.columns)
    assert set(table.key) | set(table.partitioned_by) <= set(table.columns)


@pytest.mark.parametrize(
    ("printed", "release"),
    [
        ('openjdk version "17.0.15" 2025', 17),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "25"', 25),
        ("?", None),
    ],
)
def test_the_java_release_is_read_from_what_java_prints(printed: str, release: int | None) -> None:
    assert session.java_version(printed) == release


def test_an_old_java_is_told_with_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    session.check_java.cache_clear()
    with pytest.raises(BadSettings, match="Java 11 is too old: Spark 4.2.0 needs 17 or newer"):
        session.check_java()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(BadSettings, match="no Java was found"):
        session.check_java()
    session.check_java.cache_clear()


def test_versions_that_do_not_work_together_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SPARK", "9.9.9")
    with pytest.raises(BadSettings, match="these versions are not known to work together"):
        session.check_versions()


def test_a_properties_line_without_value_is_told(tmp_path: Path) -> None:
    file = tmp_path / "spark.conf"
    file.write_text("# a comment\nspark.master  local[2]\nspark.odd\n")
    with pytest.raises(BadSettings, match=r"lines without a value: \['spark.odd'\]"):
        session.properties_of(str(file))
    file.write_text("spark.master  local[2]\nspark.a=b c\n")
    assert session.properties_of(str(file)) == {"spark.master": "local[2]", "spark.a": "b c"}


def test_a_lock_ends_with_its_process_even_by_kill_9(tmp_path: Path) -> None:
    code = (
        "import sys, time; from profilestream.base import locks\n"
        f"with locks.held({str(tmp_path)!r}, 'capture/x'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with (
            pytest.raises(Refused, match=rf"capture/x is already running \(process {other.pid}\)"),
            locks.held(str(tmp_path), "capture/x"),
        ):
            pass
        other.kill()
    with locks.held(str(tmp_path), "capture/x"):
        assert (tmp_path / "capture" / "x.lock").read_text() == str(os.getpid())


def test_locks_must_lie_on_this_machine() -> None:
    with pytest.raises(BadSettings, match="locks cannot be kept at s3a://bucket/x"), locks.held("s3a://bucket/x", "a"):
        pass


@pytest.mark.parametrize(
    ("path", "uri"),
    [("/a/b", "file:/a/b"), ("file:///a/b", "file:/a/b"), ("s3a://b/c", "s3a://b/c"), ("/a b/#c", "file:/a b/#c")],
)
def test_a_path_is_qualified_as_hadoop_writes_it(path: str, uri: str) -> None:
    assert files.qualified(path) == uri


def test_an_error_says_what_where_and_last_what_to_do() -> None:
    error = ProfilestreamError("it broke", where="here", do="mend it")
    assert str(error).splitlines() == ["it broke", "  where: here", "  what to do: mend it"]


def test_progress_without_a_terminal_is_a_line_a_batch(capsys: pytest.CaptureFixture[str]) -> None:
    with StageProgress("capture/x", 4) as progress:
        progress.batch_done(rows=1000, files=1)
        progress.batch_done(rows=1000, files=3)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("capture/x  1/4 files · batch 1 · 1,000 rows · ")
    assert second.startswith("capture/x  4/4 files · batch 2 · 2,000 rows · ")
    assert second.endswith(" · 0 s left")
