"""Documents say what is so: every shell command in them is run, parsed, or a target of make; shown output is real."""

import argparse
import contextlib
import importlib
import io
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from textwrap import dedent

import pytest
from profilestream.base import job
from profilestream.base import settings as settings_module
from profilestream.base.settings import (
    Alarms,
    Capture,
    Derive,
    Examples,
    Factors,
    Frozen,
    Learn,
    Paths,
    Publish,
    PublishSegments,
    Report,
    Scores,
    Segments,
    Sessions,
    Source,
    Spark,
    Stream,
    Tags,
    Tracking,
    Transitions,
    WindowFeatures,
)
from profilestream.capture import cleaning_rules
from profilestream.capture import mapping as mappings
from profilestream.capture.mapping import Bots, Clip, InputSpec, Lookup, Mapping, Rule
from profilestream.derive import feature_declaration
from profilestream.derive.table_declaration import DerivedTable
from profilestream.steward import status
from pyspark.sql import SparkSession

from tests.flow import laws

ROOT = Path(__file__).parent.parent.parent
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
JOBS = (
    "capture_events", "capture_reprocess", "derive_features", "derive_profiles", "run_pipeline", "steward_status",
    "run_demo", "serve_user", "learn_factors", "learn_publish", "serve_scores", "derive_sessions", "derive_transitions",
    "derive_windows", "steward_compact_tiles", "learn_examples", "learn_segments", "serve_tags", "serve_report",
    "serve_campaign", "serve_trends",
)  # fmt: skip

PYTHON = ".venv/bin/python"
CAPTURE, REPLAY, FEATURES, PROFILES, PIPELINE, STATUS = (f"{PYTHON} jobs/{name}.py --config" for name in JOBS[:6])
LOCAL, LADEN, KIOSK = "conf/local.toml", "docs/examples/laden/settings.toml", "docs/examples/kiosk/settings.toml"
CSV = "docs/examples/laden/log/2025-03-30.csv"
LOOK = f"{PYTHON} -c \"import polars as pl; print(pl.scan_delta('artifacts"
# How each command is proven. `run`: its job's main is called, in the session of all tests: a session start costs 8 s.
# `process`: started as it stands, with this Python. `parsed`: the job takes its flags and the files it names are there.
# `make`: the Makefile has the target. `page`: it makes the page that is there. One that ends in `...` stands for all
# that begin so.
PROVEN = {
    f"{CAPTURE} {LADEN} --check": "run",
    f"{CAPTURE} {LADEN} --preview 5 {CSV}": "run",
    f"{CAPTURE} {LADEN}": "run",
    f"{STATUS} {LADEN}": "run",
    f"{REPLAY} {LADEN} --set capture.sources.laden.mapping=corrected.toml --rule event_type_unknown": "run",
    f"{LOOK}/laden/...": "process",
    f"{CAPTURE} {KIOSK}": "run",
    f"{LOOK}/kiosk/...": "process",
    f"{CAPTURE} {LOCAL} --check": "run",
    f"{CAPTURE} {LOCAL} --preview 5 {CSV}": "parsed",
    f"{PIPELINE} {LOCAL}": "run",
    f"{STATUS} {LOCAL}": "parsed",
    f"{PIPELINE} {LOCAL} --check": "parsed",
    f"{CAPTURE} {LOCAL} --source laden": "parsed",
    f"{FEATURES} {LOCAL}": "parsed",
    f"{FEATURES} {LOCAL} --rebuild": "parsed",
    f"{PROFILES} {LOCAL}": "parsed",
    f"{PIPELINE} {LOCAL} --rebuild derive_features": "parsed",
    f"{PYTHON} jobs/derive_sessions.py --config {LOCAL} --set derive.sessions.enabled=true": "parsed",
    f"{PYTHON} jobs/derive_sessions.py --config {LOCAL} --rebuild --cascade": "parsed",
    f"{PYTHON} jobs/derive_transitions.py --config {LOCAL}": "parsed",
    f"{PYTHON} jobs/derive_windows.py --config {LOCAL} --set derive.windows.enabled=true": "parsed",
    f"{PYTHON} jobs/steward_compact_tiles.py --config {LOCAL} --set derive.windows.day_tiles_after_days=35": "parsed",
    f"{PYTHON} -m profilestream.derive.feature_docs conf/derive/windows.toml docs/windows.md": "page",
    f"{PYTHON} jobs/serve_user.py --config {LOCAL} --user laden:K-1001": "run",
    f"{PYTHON} jobs/serve_user.py --config {LOCAL} --user laden:K-1001 --as-of 2025-04-01 --json": "run",
    f"{CAPTURE} {LOCAL} continuous --every 10s": "parsed",
    f"{REPLAY} {LOCAL} --source laden --rule event_type_unknown": "parsed",
    f"{PYTHON} jobs/serve_report.py --config {LOCAL}": "run",
    f"{PYTHON} jobs/learn_segments.py --config {LOCAL}...": "parsed",
    f"{PYTHON} jobs/learn_publish.py --config {LOCAL}...": "parsed",
    f"{PYTHON} jobs/learn_examples.py --config {LOCAL}...": "parsed",
    f"{PYTHON} jobs/serve_tags.py --config {LOCAL}...": "parsed",
    f"{CAPTURE} conf/complete_journey.toml": "parsed",
    f"{PYTHON} jobs/serve_campaign.py --config...": "parsed",
    f"{PYTHON} jobs/serve_trends.py --config...": "parsed",
    "spark-submit --properties-file conf/spark-cluster.conf --archives ...": "parsed",
    "spark-submit --properties-file conf/spark-cluster.conf --py-files profilestream.zip ...": "parsed",
    **dict.fromkeys(
        ("make demo", "make test", "make long", "make zip", "make chaos", "make laws", "make bench"), "make"
    ),
    "make bundle": "make",
    "make bench ONLY=capture_vs_copy": "make",
}


@dataclass(frozen=True)
class Command:
    """A line of a `sh` block, and what the `text` block right below shows of its output."""

    doc: Path
    text: str
    shown: tuple[str, ...] = ()

    @property
    def proof(self) -> str:
        """The entry of PROVEN; empty when there is none."""
        return next((known for known in PROVEN if _is(self.text, known)), "")


def _is(text: str, known: str) -> bool:
    return text.startswith(known.removesuffix("...")) if known.endswith("...") else text == known


def _blocks(doc: Path) -> list[tuple[str, list[str], bool]]:
    """Fenced blocks as (language, lines, whether only blank lines lie between it and the block before)."""
    found = []
    end = -1
    text = doc.read_text(encoding="utf-8")
    for block in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.S | re.M):
        found.append((block[2], dedent(block[3]).splitlines(), end >= 0 and not text[end : block.start()].strip()))
        end = block.end()
    return found


def _commands(doc: Path) -> list[Command]:
    found: list[Command] = []
    previous = ""
    for language, lines, follows in _blocks(doc):
        if language == "sh":
            found += [Command(doc, line) for line in lines]
        elif language == "text" and follows and previous == "sh":
            found[-1] = Command(doc, found[-1].text, tuple(line for line in lines if line))
        previous = language
    return found


COMMANDS = [command for doc in DOCS for command in _commands(doc)]


def _proven(how: str) -> list[Command]:
    return [command for command in COMMANDS if PROVEN.get(command.proof) == how]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> "Parse":
    """Parses a job's command line by the job's own parser, and runs nothing."""
    parsers: list[argparse.ArgumentParser] = []
    monkeypatch.setattr(job, "run", lambda body, made, argv: parsers.append(made))
    return Parse(parsers)


class Parse:
    def __init__(self, parsers: list[argparse.ArgumentParser]) -> None:
        self._parsers = parsers

    def parser(self, name: str) -> argparse.ArgumentParser:
        importlib.import_module(f"jobs.{name}").main([])
        return self._parsers[-1]

    def __call__(self, words: list[str]) -> argparse.Namespace:
        return self.parser(Path(words[0]).stem).parse_args(words[1:])


def test_every_command_is_known_and_every_known_one_is_told() -> None:
    assert [command.text for command in COMMANDS if not command.proof] == []
    assert sorted(PROVEN.keys() - {command.proof for command in COMMANDS}) == []


def test_commands_of_make_are_targets_that_take_what_is_given(parse: Parse) -> None:
    makefile = (ROOT / "Makefile").read_text()
    inline = [found for doc in DOCS for found in re.findall(r"`(make [^`]+)`", doc.read_text())]
    texts = {*inline, *[command.text for command in _proven("make")]}
    assert 'make demo ARGS="--days 20"' in texts
    for text in texts:
        _, target, *given = shlex.split(text)
        recipe = re.search(rf"^{target}:.*## .*\n((?:\t.*\n?)+)", makefile, re.M)
        assert recipe, text
        for name, value in (word.split("=", 1) for word in given):
            assert f"$({name})" in recipe[1], text
            if target == "demo":
                parse(["jobs/run_demo.py", *shlex.split(value)])
            elif target == "laws":
                laws.parser().parse_args(shlex.split(value))
            elif name == "ONLY":
                assert any(f"def {value}(" in file.read_text() for file in (ROOT / "benchmarks").glob("*.py")), text


def test_commands_of_jobs_parse_and_name_files_that_are_there(parse: Parse) -> None:
    told = [command.text for command in COMMANDS if "jobs/" in command.text]
    assert len(told) >= 15
    for text in told:
        words = shlex.split(text)
        at = next(i for i, word in enumerate(words) if word.startswith("jobs/"))
        if "--properties-file" in words:
            assert (ROOT / words[words.index("--properties-file") + 1]).exists(), text
        args = parse(words[at:])
        settings = settings_module.load(str(ROOT / args.config), args.set)
        for source in settings.capture.sources.values():
            mappings.load(source.mapping)


def test_lines_of_cron_hold_commands_that_are_proven() -> None:
    lines = [line for doc in DOCS for language, lines, _ in _blocks(doc) if language == "cron" for line in lines]
    assert lines
    for line in lines:
        found = re.search(r"&& (.*) >> ", line)
        assert found and found[1] in {command.text for command in COMMANDS}, line


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands need of a checkout, in a folder of its own."""
    home = tmp_path_factory.mktemp("checkout")
    for folder in ("conf", "jobs", "docs/examples"):
        shutil.copytree(ROOT / folder, home / folder)
    return home


@dataclass(frozen=True)
class Ran:
    """What a command printed, both streams together, and its exit code."""

    code: int
    printed: str


@pytest.fixture(scope="module")
def ran(checkout: Path, _session: SparkSession) -> dict[str, Ran]:
    """Every command that is run, by its text; in the order in which the documents tell them."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        for line in dict.fromkeys(command.text for command in _proven("run")):
            _, script, *argv = shlex.split(line)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                code = importlib.import_module(f"jobs.{Path(script).stem}").main(argv)
            found[line] = Ran(code, printed.getvalue())
    for line in [command.text for command in _proven("process")]:
        words = [sys.executable, *shlex.split(line)[1:]]
        run = subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=False)
        found[line] = Ran(run.returncode, run.stdout + run.stderr)
    return found


@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: doc.stem)
def test_commands_run_and_print_what_is_shown(ran: dict[str, Ran], doc: Path) -> None:
    for command in _commands(doc):
        assert command.text in ran or not command.shown, f"{command.text} is not run, so nothing holds what it shows"
        if command.text in ran:
            got = ran[command.text]
            assert got.code == 0, f"{command.text}\nprinted\n{got.printed}"
            lines = {line.rstrip() for line in got.printed.splitlines()}
            missing = [shown for shown in command.shown if not any(_pattern(shown).fullmatch(line) for line in lines)]
            assert missing == [], f"{command.text}\nprinted\n{got.printed}"


def _pattern(shown: str) -> re.Pattern[str]:
    """A shown line as a pattern: `...` stands for anything."""
    return re.compile(".*".join(re.escape(part) for part in shown.rstrip().split("...")))


@pytest.mark.parametrize("engine", ["Spark SQL", "DuckDB", "Polars"])
def test_queries_that_status_tells_work_as_they_are(
    ran: dict[str, Ran], checkout: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    commands = status.commands(Paths(warehouse="artifacts/laden/warehouse", checkpoints="unused"))
    told = subprocess.run(commands[engine], shell=True, cwd=checkout, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    rows = re.findall(r"laden:(A-\d+)\W+([\d.]+)", told.stdout)
    assert rows == [("A-08", "500.0"), ("A-17", "1.0")]


def test_shown_mappings_and_logs_are_the_examples() -> None:
    examples = [file.read_text() for file in (ROOT / "docs" / "examples").rglob("*.*") if file.is_file()]
    shown = [
        "\n".join(lines)
        for doc in DOCS
        for language, lines, follows in _blocks(doc)
        if language == "text" or doc.name not in ("features.md", "flow.md", "learners.md")
        if language == "toml" or (language == "text" and lines[0].startswith(("Zeitpunkt;", '{"id"')))
    ]
    (lookups,) = [text for text in shown if "[lookup." in text]
    shipped = mappings.load(str(ROOT / "conf" / "sources" / "complete_journey.toml"))
    told = tomllib.loads(lookups)["lookup"]
    assert {name: Lookup.model_validate(one) for name, one in told.items()} == shipped.lookup
    shown.remove(lookups)
    assert len(shown) == 4
    assert [text for text in shown if not any(text in example for example in examples)] == []


def test_the_shown_declaration_is_the_beginning_of_the_shipped_one() -> None:
    blocks = [lines for language, lines, _ in _blocks(ROOT / "docs" / "features.md") if language == "toml"]
    shipped = (ROOT / "conf" / "derive" / "user_hours.toml").read_text().splitlines()
    assert [line for line in blocks[0] if line not in shipped] == []
    added = tomllib.loads("\n".join(["[statistics]", *blocks[1]]))
    DerivedTable.model_validate(tomllib.loads("\n".join(shipped)) | added)
    (example,) = [lines for language, lines, _ in _blocks(ROOT / "docs" / "flow.md") if language == "toml"]
    DerivedTable.model_validate(
        tomllib.loads("\n".join([*shipped[: shipped.index("[statistics]")], "[statistics]", *example]))
    )


def test_the_shown_settings_of_learners_fit() -> None:
    for language, lines, _ in _blocks(ROOT / "docs" / "learners.md"):
        if language == "toml":
            Learn.model_validate(tomllib.loads("\n".join(lines))["learn"])


def test_the_reference_of_windows_is_made_of_the_shipped_declaration() -> None:
    for command in _proven("page"):
        *_, module, declaration, target = shlex.split(command.text)
        made = importlib.import_module(module).page(feature_declaration.load(str(ROOT / declaration), {}))
        assert (ROOT / target).read_text() == made, f"run {command.text}"


def test_links_lead_somewhere() -> None:
    broken = []
    for doc in DOCS:
        for link in re.findall(r"\]\(([^)]+)\)", doc.read_text()):
            name, _, anchor = link.partition("#")
            if link.startswith("https:"):
                continue
            target = (doc.parent / name) if name else doc
            titles = [] if not anchor else re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            if not target.exists() or (anchor and anchor not in slugs):
                broken.append(f"{doc.name}: {link}")
    assert broken == []


def test_local_toml_names_every_setting_with_its_default() -> None:
    text = (ROOT / LOCAL).read_text()
    given, whole = (tomllib.loads(one) for one in (text, re.sub(r"^# (\w+ = .*)$", r"\1", text, flags=re.M)))
    models: dict[str, type[Frozen]] = {
        "paths": Paths, "spark": Spark, "stream": Stream, "capture": Capture, "capture.alarms": Alarms,
        "capture.sources.laden": Source, "derive": Derive, "derive.sessions": Sessions, "derive.transitions": Transitions,
        "derive.windows": WindowFeatures, "learn.factors": Factors, "learn.tracking": Tracking,
        "learn.publish": Publish, "learn.publish_segments": PublishSegments, "learn.examples": Examples,
        "learn.segments": Segments, "serve.scores": Scores, "serve.tags": Tags,
        "serve.report": Report,
    }  # fmt: skip
    for path, model in models.items():
        table, set_here = (
            reduce(lambda part, name: part.get(name, {}), path.split("."), one) for one in (whole, given)
        )
        assert table.keys() == model.model_fields.keys()
        for key, field in model.model_fields.items():
            if key not in set_here and field.default is not None:
                default = list(field.default) if isinstance(field.default, tuple) else field.default
                assert table[key] == default, f"{path}.{key}"


def test_the_mapping_reference_names_every_key_rule_and_warning() -> None:
    text = (ROOT / "docs" / "mappings.md").read_text()
    keys = {key for model in (Mapping, InputSpec, Lookup, Rule, Clip, Bots) for key in model.model_fields}
    sections = {found for found in re.findall(r"`\[(\w+)[^`]*\]`", text)}
    assert sorted(key for key in keys if f"`{key}`" not in text and key not in sections) == []
    every = Mapping.model_validate({
        "input": {"format": "csv", "columns": "a string"}, "timezone": "Europe/Berlin", "anonymous": "reject",
        "columns": {"event_id": "a", "event_type": "a", "event_time": "a"} | dict.fromkeys(mappings.NUMERIC_COLUMNS, "a"),
        "bots": {"max_events_per_minute": 1},
    })  # fmt: skip
    rejects, warns = cleaning_rules.names(every)
    named = {*rejects, *warns, "filled_<column>", "clipped_<column>"}
    table = "\n".join(re.findall(r"^\| (`[^|]*) \|", text[text.index("## Every rule and warning") :], re.M))
    assert sorted(name for name in named if f"`{name}`" not in table) == []
    told = [name for name in re.findall(r"`(\w+)`", table) if name in named]
    assert told == [name for name in (*_told_order(rejects), *warns) if name in told]


def _told_order(rejects: list[str]) -> list[str]:
    """Rules in the order in which they are tried: a line that is not UTF-8 is not measured, and files come last."""
    first = ["not_utf8", "line_too_long"]
    last = ["id_reused", "file_unreadable"]
    return [*first, *[name for name in rejects if name not in (*first, *last)], *last]


def test_running_or_the_page_that_it_names_for_a_job_tells_every_flag(parse: Parse) -> None:
    running = (ROOT / "docs" / "running.md").read_text()
    for name in JOBS:
        (row,) = re.findall(rf"^\| `jobs/{name}\.py` .*$", running, re.M)
        pages = re.findall(r"\]\((\w+\.md)", row)
        text = "\n".join([running, *((ROOT / "docs" / page).read_text() for page in pages)])
        flags = [flag for action in parse.parser(name)._actions for flag in action.option_strings]
        assert [flag for flag in flags if flag.startswith("--") and flag != "--help" and f"`{flag}" not in text] == []
