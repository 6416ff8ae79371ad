"""The documents match the code: commands run or parse, shown output is real, flags, settings and messages exist."""

import argparse
import ast
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
from profilestream.base.observe.alert_rules import AlertRules
from profilestream.base.settings import (
    Alarms,
    AudienceFiles,
    Capture,
    Demand,
    Derive,
    Examples,
    Factors,
    Frozen,
    Kafka,
    Learn,
    Maintain,
    Observe,
    Outcomes,
    OutcomeScores,
    Paths,
    Publish,
    PublishOutcomes,
    PublishRankers,
    PublishSegments,
    Rankers,
    Report,
    ScheduleSettings,
    Scores,
    Segments,
    Serve,
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
from profilestream.capture.mapping import Audit, Bots, Clip, InputSpec, Lookup, Mapping, Rule
from profilestream.derive.table_declaration import DerivedTable
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcome
from profilestream.steward import status
from pyspark.sql import SparkSession

from benchmarks import capacity, load
from tests.flow import laws

ROOT = Path(__file__).parent.parent.parent
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
JOBS = (
    "capture_events", "capture_reprocess", "derive_features", "derive_profiles", "run_pipeline", "steward_status",
    "run_demo", "serve_user", "learn_factors", "learn_publish", "serve_scores", "derive_sessions", "derive_transitions",
    "derive_windows", "steward_compact_tiles", "learn_examples", "learn_segments", "serve_tags", "serve_report",
    "serve_campaign", "serve_trends", "capture_init", "learn_rankers", "steward_maintain", "steward_migrate",
    "learn_outcome_examples", "learn_outcomes", "serve_outcomes", "learn_demand", "serve_anomalies",
    "learn_batch_models", "serve_tables", "serve_audience", "steward_views",
)  # fmt: skip

PYTHON = ".venv/bin/python"
CAPTURE, REPROCESS, FEATURES, PROFILES, PIPELINE, STATUS = (f"{PYTHON} jobs/{name}.py --config" for name in JOBS[:6])
LOCAL, LADEN, KIOSK = "conf/local.toml", "docs/examples/laden/settings.toml", "docs/examples/kiosk/settings.toml"
CSV = "docs/examples/laden/log/2025-03-30.csv"
# Written by the first command of README.md.
PROPOSED = "conf/my_shop/settings.toml"
SCAN = f"{PYTHON} -c \"import polars as pl; print(pl.scan_delta('artifacts"
# How each command is checked. `run`: the main of its job is called, in the session of all tests (a session start costs
# 8 s). `process`: it is started unchanged, with this Python. `parsed`: the job accepts its flags, and the files that it
# names exist. `make`: the Makefile has the target. `page`: it generates the page in docs/. A key that ends in `...`
# matches all commands that start with it.
CHECKS = {
    f"{CAPTURE} {LADEN} --check": "run",
    f"{CAPTURE} {LADEN} --preview 5 {CSV}": "run",
    f"{CAPTURE} {LADEN}": "run",
    f"{STATUS} {LADEN}": "run",
    f"{REPROCESS} {LADEN} --set capture.sources.laden.mapping=corrected.toml --rule event_type_unknown": "run",
    f"{SCAN}/laden/...": "process",
    f"{CAPTURE} {KIOSK}": "run",
    f"{SCAN}/kiosk/...": "process",
    f"{PYTHON} jobs/capture_init.py docs/examples/laden/log --name my_shop --timezone Europe/Berlin": "run",
    f"{CAPTURE} {PROPOSED} --preview 5 {CSV}": "run",
    f"{PIPELINE} {PROPOSED}": "parsed",
    f"{PIPELINE} {LOCAL}": "run",
    f"{STATUS} {LOCAL}": "parsed",
    f"{STATUS} {LOCAL} --json": "parsed",
    f"{STATUS} {LOCAL} --watch 5": "parsed",
    f"{PIPELINE} {LOCAL} --check": "parsed",
    f"{PIPELINE} {LOCAL} continuous --every 1s": "parsed",
    f"{CAPTURE} {LOCAL} --source laden": "parsed",
    f"{FEATURES} {LOCAL}": "parsed",
    f"{FEATURES} {LOCAL} --rebuild": "parsed",
    f"{PROFILES} {LOCAL}": "parsed",
    f"{PIPELINE} {LOCAL} --rebuild derive_features": "parsed",
    f"{PIPELINE} conf/cluster.toml --rebuild derive_profiles --cascade": "parsed",
    f"{PYTHON} jobs/steward_migrate.py --config {LOCAL}": "run",
    f"{PYTHON} jobs/steward_migrate.py --config {LOCAL} --dry-run": "run",
    f"{PYTHON} jobs/derive_sessions.py --config {LOCAL} --set derive.sessions.enabled=true": "parsed",
    f"{PYTHON} jobs/derive_sessions.py --config {LOCAL} --rebuild --cascade": "parsed",
    f"{PYTHON} jobs/derive_transitions.py --config {LOCAL}": "parsed",
    f"{PYTHON} jobs/derive_windows.py --config {LOCAL} --set derive.windows.enabled=true": "parsed",
    f"{PYTHON} jobs/steward_compact_tiles.py --config {LOCAL} --set derive.windows.day_tiles_after_days=35": "parsed",
    f"{PYTHON} jobs/steward_maintain.py --config {LOCAL}": "run",
    f"{PYTHON} jobs/steward_maintain.py --config {LOCAL} --dry-run": "run",
    f"{PYTHON} -m profilestream.derive.feature_docs conf/derive/windows.toml docs/windows.md": "page",
    f"{PYTHON} -m profilestream.steward.table_docs conf/demo.toml docs/tables.md": "page",
    f"{PYTHON} -m profilestream.steward.settings_docs docs/settings.md": "page",
    f"{PYTHON} jobs/serve_user.py --config {LOCAL} --user laden:K-1001": "run",
    f"{PYTHON} jobs/serve_user.py --config {LOCAL} --user laden:K-1001 --as-of 2025-04-01 --json": "run",
    f"{PYTHON} jobs/serve_user.py --config {LOCAL} --user laden:K-1001 --html demo/user.html": "parsed",
    f"{CAPTURE} {LOCAL} continuous --every 10s": "parsed",
    f"{REPROCESS} {LOCAL} --source laden --rule event_type_unknown": "parsed",
    f"{PYTHON} jobs/serve_report.py --config {LOCAL}": "run",
    f"{PYTHON} jobs/serve_tables.py --config {LOCAL}": "run",
    f'{PYTHON} jobs/serve_audience.py --config {LOCAL} --name buyers --where "orders > 0" --dry-run': "run",
    f'{PYTHON} jobs/serve_audience.py --config {LOCAL} --name buyers --where "orders > 0"': "run",
    f"{PYTHON} jobs/learn_segments.py --config {LOCAL}...": "parsed",
    f"{PYTHON} jobs/learn_publish.py --config {LOCAL}...": "parsed",
    f"{PYTHON} jobs/learn_examples.py --config {LOCAL}...": "parsed",
    f"{PYTHON} jobs/learn_outcome_examples.py --config {LOCAL}": "parsed",
    f"{PYTHON} jobs/learn_outcomes.py --config {LOCAL}": "parsed",
    f"{PYTHON} jobs/learn_batch_models.py --config {LOCAL}": "parsed",
    f"{PYTHON} jobs/serve_tags.py --config {LOCAL}...": "parsed",
    f"{CAPTURE} conf/complete_journey.toml": "parsed",
    f"{PYTHON} jobs/serve_campaign.py --config...": "parsed",
    f"{PYTHON} jobs/serve_trends.py --config...": "parsed",
    "PYSPARK_PYTHON=$PWD/.venv/bin/python .venv/bin/spark-submit ...": "parsed",
    "spark-submit --properties-file conf/spark-cluster.conf --archives ...": "parsed",
    "spark-submit --properties-file conf/spark-cluster.conf --py-files profilestream.zip ...": "parsed",
    **dict.fromkeys(
        ("make demo", "make kafka", "make test", "make long", "make zip", "make chaos", "make laws", "make bench"),
        "make",
    ),
    "make kafka-chaos": "make",
    "make workers": "make",
    "make views...": "make",
    "make load...": "make",
    "make capacity...": "make",
    "make bench ONLY=capture_vs_copy": "make",
}


@dataclass(frozen=True)
class Command:
    """A line of a `sh` block, and the lines of its output that the `text` block directly below shows."""

    doc: Path
    text: str
    shown: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The key of CHECKS that matches; empty when there is none."""
        return next((key for key in CHECKS if _matches(self.text, key)), "")


def _matches(text: str, key: str) -> bool:
    return text.startswith(key.removesuffix("...")) if key.endswith("...") else text == key


def _blocks(doc: Path) -> list[tuple[str, list[str], bool]]:
    """Fenced blocks as (language, lines, whether only blank lines are between it and the previous block)."""
    blocks = []
    end = -1
    text = doc.read_text(encoding="utf-8")
    for block in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.S | re.M):
        blocks.append((block[2], dedent(block[3]).splitlines(), end >= 0 and not text[end : block.start()].strip()))
        end = block.end()
    return blocks


def _commands(doc: Path) -> list[Command]:
    commands: list[Command] = []
    previous = ""
    for language, lines, follows in _blocks(doc):
        if language == "sh":
            commands += [Command(doc, line) for line in lines]
        elif language == "text" and follows and previous == "sh":
            commands[-1] = Command(doc, commands[-1].text, tuple(line for line in lines if line))
        previous = language
    return commands


COMMANDS = [command for doc in DOCS for command in _commands(doc)]


def _checked_by(check: str) -> list[Command]:
    return [command for command in COMMANDS if CHECKS.get(command.key) == check]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> "Parse":
    """Parses a command line with the parser of its job; runs nothing."""
    parsers: list[argparse.ArgumentParser] = []
    monkeypatch.setattr(job, "run", lambda body, parser, argv: parsers.append(parser))
    return Parse(parsers)


class Parse:
    def __init__(self, parsers: list[argparse.ArgumentParser]) -> None:
        self._parsers = parsers

    def parser(self, name: str) -> argparse.ArgumentParser:
        importlib.import_module(f"jobs.{name}").main([])
        return self._parsers[-1]

    def __call__(self, words: list[str]) -> argparse.Namespace:
        return self.parser(Path(words[0]).stem).parse_args(words[1:])


def test_every_command_has_a_check_and_every_check_a_command() -> None:
    assert [command.text for command in COMMANDS if not command.key] == []
    assert sorted(CHECKS.keys() - {command.key for command in COMMANDS}) == []


def test_make_commands_are_targets_that_use_the_variables(parse: Parse) -> None:
    makefile = (ROOT / "Makefile").read_text()
    inline = [text for doc in DOCS for text in re.findall(r"`(make [^`]+)`", doc.read_text())]
    texts = {*inline, *[command.text for command in _checked_by("make")]}
    assert 'make demo ARGS="--days 20"' in texts
    for text in texts:
        _, target, *variables = shlex.split(text)
        recipe = re.search(rf"^{target}:.*## .*\n((?:\t.*\n?)+)", makefile, re.M)
        assert recipe, text
        for name, value in (variable.split("=", 1) for variable in variables):
            assert f"$({name})" in recipe[1], text
            if target == "demo":
                parse(["jobs/run_demo.py", *shlex.split(value)])
            elif target == "laws":
                laws.parser().parse_args(shlex.split(value))
            elif target in ("load", "capacity"):
                {"load": load, "capacity": capacity}[target].parser().parse_args(shlex.split(value))
            elif name == "ONLY":
                assert any(f"def {value}(" in file.read_text() for file in (ROOT / "benchmarks").glob("*.py")), text


def test_job_commands_parse_and_name_existing_files(parse: Parse) -> None:
    texts = [command.text for command in COMMANDS if "jobs/" in command.text]
    assert len(texts) >= 15
    for text in texts:
        words = shlex.split(text)
        at = next(i for i, word in enumerate(words) if word.startswith("jobs/"))
        if "--properties-file" in words:
            assert (ROOT / words[words.index("--properties-file") + 1]).exists(), text
        args = parse(words[at:])
        if words[at] == "jobs/capture_init.py":
            assert (ROOT / args.path).exists(), text
            continue
        if args.config == PROPOSED:
            continue
        settings = settings_module.load(str(ROOT / args.config), args.set)
        for source in settings.capture.sources.values():
            mappings.load(source.mapping)


def test_cron_lines_contain_commands_that_are_checked() -> None:
    lines = [line for doc in DOCS for language, lines, _ in _blocks(doc) if language == "cron" for line in lines]
    assert lines
    for line in lines:
        match = re.search(r"&& (.*) >> ", line)
        assert match and match[1] in {command.text for command in COMMANDS}, line


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the folders of the checkout that the commands use."""
    home = tmp_path_factory.mktemp("checkout")
    for folder in ("conf", "jobs", "docs/examples"):
        shutil.copytree(ROOT / folder, home / folder)
    return home


@dataclass(frozen=True)
class Result:
    """Exit code of a command, and its output on both streams."""

    code: int
    output: str


@pytest.fixture(scope="module")
def results(checkout: Path, _session: SparkSession) -> dict[str, Result]:
    """The results of the commands that are run, by text; they run in the order of the documents."""
    results = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        for line in dict.fromkeys(command.text for command in _checked_by("run")):
            _, script, *argv = shlex.split(line)
            output = io.StringIO()
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                code = importlib.import_module(f"jobs.{Path(script).stem}").main(argv)
            results[line] = Result(code, output.getvalue())
    for line in [command.text for command in _checked_by("process")]:
        words = [sys.executable, *shlex.split(line)[1:]]
        run = subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=False)
        results[line] = Result(run.returncode, run.stdout + run.stderr)
    return results


@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: doc.stem)
def test_commands_succeed_and_print_the_shown_output(results: dict[str, Result], doc: Path) -> None:
    for command in _commands(doc):
        assert command.text in results or not command.shown, f"{command.text} shows output that no test checks"
        if command.text in results:
            result = results[command.text]
            assert result.code == 0, f"{command.text}\nprinted\n{result.output}"
            lines = {line.rstrip() for line in result.output.splitlines()}
            missing = [shown for shown in command.shown if not any(_pattern(shown).fullmatch(line) for line in lines)]
            assert missing == [], f"{command.text}\nprinted\n{result.output}"


def _pattern(shown: str) -> re.Pattern[str]:
    """A pattern of a shown line, in which `...` matches anything."""
    return re.compile(".*".join(re.escape(part) for part in shown.rstrip().split("...")))


@pytest.mark.parametrize("engine", ["Spark SQL", "DuckDB", "Polars"])
def test_query_commands_of_status_run_unchanged(
    results: dict[str, Result], checkout: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout)
    commands = status.commands(Paths(warehouse="artifacts/laden/warehouse", checkpoints="unused"))
    run = subprocess.run(commands[engine], shell=True, cwd=checkout, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    rows = re.findall(r"laden:(A-\d+)\W+([\d.]+)", run.stdout)
    assert rows == [("A-08", "500.0"), ("A-17", "1.0")]


# Their TOML is of settings or declarations, not of mappings in docs/examples.
WITHOUT_EXAMPLES = (
    "audiences.md", "features.md", "flow.md", "learners.md", "logs.md", "running.md", "translations.md",
)  # fmt: skip


def test_shown_mappings_and_logs_are_the_examples() -> None:
    examples = [file.read_text() for file in (ROOT / "docs" / "examples").rglob("*.*") if file.is_file()]
    shown = [
        "\n".join(lines)
        for doc in DOCS
        for language, lines, follows in _blocks(doc)
        if language == "text" or doc.name not in WITHOUT_EXAMPLES
        if doc.parent.name != "decisions"
        if language == "toml" or (language == "text" and lines[0].startswith(("Zeitpunkt;", '{"id"')))
    ]
    (lookups,) = [text for text in shown if "[lookup." in text]
    shipped = mappings.load(str(ROOT / "conf" / "sources" / "complete_journey.toml"))
    declared = tomllib.loads(lookups)["lookup"]
    assert {name: Lookup.model_validate(lookup) for name, lookup in declared.items()} == shipped.lookup
    shown.remove(lookups)
    assert len(shown) == 4
    assert [text for text in shown if not any(text in example for example in examples)] == []


def test_shown_declarations_are_valid_and_part_of_the_shipped_one() -> None:
    blocks = [lines for language, lines, _ in _blocks(ROOT / "docs" / "features.md") if language == "toml"]
    shipped = (ROOT / "conf" / "derive" / "user_hours.toml").read_text().splitlines()
    assert [line for line in blocks[0] if line not in shipped] == []
    added = tomllib.loads("\n".join(["[statistics]", *blocks[1]]))
    DerivedTable.model_validate(tomllib.loads("\n".join(shipped)) | added)
    (example,) = [lines for language, lines, _ in _blocks(ROOT / "docs" / "flow.md") if language == "toml"]
    DerivedTable.model_validate(
        tomllib.loads("\n".join([*shipped[: shipped.index("[statistics]")], "[statistics]", *example]))
    )


def test_shown_settings_of_operation_are_valid() -> None:
    blocks = [lines for language, lines, _ in _blocks(ROOT / "docs" / "running.md") if language == "toml"]
    assert blocks
    for document in (tomllib.loads("\n".join(lines)) for lines in blocks):
        if "schedule" in document:
            ScheduleSettings.model_validate(document["schedule"])
        else:
            AlertRules.model_validate(document)


def test_shown_settings_of_learners_and_audiences_are_valid() -> None:
    for page, key, model in (("learners.md", "learn", Learn), ("audiences.md", "serve", Serve)):
        blocks = [lines for language, lines, _ in _blocks(ROOT / "docs" / page) if language == "toml"]
        assert blocks
        for document in (tomllib.loads("\n".join(lines)) for lines in blocks):
            for outcome in document.get("outcomes", {}).values():
                DeclaredOutcome.model_validate(outcome)
            if "outcomes" not in document:
                model.model_validate(document[key])


def test_generated_pages_are_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for command in _checked_by("page"):
        _, _, module, *sources, target = shlex.split(command.text)
        importlib.import_module(module).main([*sources, str(tmp_path / "page.md")])
        assert (tmp_path / "page.md").read_text() == Path(target).read_text(), f"run {command.text}"


def _has_target(path: Path, anchor: str) -> bool:
    if not path.exists() or not anchor:
        return path.exists()
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_have_targets() -> None:
    broken = []
    for doc in [*DOCS, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "deploy" / "README.md"]:
        for link in re.findall(r"\]\(([^)]+)\)", doc.read_text()):
            name, _, anchor = link.partition("#")
            if not link.startswith("https:") and not _has_target(doc.parent / name if name else doc, anchor):
                broken.append(f"{doc.name}: {link}")
    assert broken == []


def test_documents_named_in_code_and_settings_exist() -> None:
    files = [path for folder in ("lib", "jobs", "conf") for path in (ROOT / folder).rglob("*.*")]
    texts = {path: path.read_text() for path in files if path.suffix in (".py", ".toml", ".conf")}
    links = {(path, link) for path, text in texts.items() for link in re.findall(r"docs/(\w+\.md)(?:#([\w-]+))?", text)}
    assert len(links) > 20
    assert [(str(path), link) for path, link in links if not _has_target(ROOT / "docs" / link[0], link[1])] == []


def test_python_examples_import_existing_names() -> None:
    blocks = [lines for doc in DOCS for language, lines, _ in _blocks(doc) if language == "python"]
    imports = [line for lines in blocks for line in lines if line.startswith("from profilestream")]
    assert imports
    for line in imports:
        _, module, _, names = line.split(maxsplit=3)
        missing = [name for name in names.split(", ") if not hasattr(importlib.import_module(module), name)]
        assert missing == [], line


def test_documented_messages_are_messages_of_the_code() -> None:
    running = (ROOT / "docs" / "running.md").read_text()
    section = running[running.index("## Exit codes and messages") : running.index("## Modes and stopping")]
    cells = re.findall(r"^\| (`.*?`) \| [123] \|", section, re.M)
    documented = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    templates = [text for path in (ROOT / "lib").rglob("*.py") for text in _message_templates(path)]
    assert len(documented) > 30
    assert [m for m in documented if not any(_pattern(m).match(template) for template in templates)] == []


def _message_templates(path: Path) -> list[str]:
    """All strings of a module; the placeholders of f-strings are replaced by `x`."""
    templates = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "x" for part in node.values]
            templates.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            templates.append(node.value)
    return templates


def test_local_toml_lists_every_setting_with_its_default() -> None:
    text = (ROOT / LOCAL).read_text()
    with_defaults = re.sub(r"^# (\w+ = .*|\[[\w.]+\])$", r"\1", text, flags=re.M)
    documents = tomllib.loads(with_defaults), tomllib.loads(text)
    models: dict[str, type[Frozen]] = {
        "paths": Paths, "spark": Spark, "stream": Stream, "observe": Observe,
        "schedule": ScheduleSettings, "capture": Capture, "capture.alarms": Alarms,
        "capture.sources.laden": Source, "capture.sources.clicks.kafka": Kafka, "derive": Derive,
        "derive.sessions": Sessions,
        "derive.transitions": Transitions, "derive.windows": WindowFeatures, "learn.factors": Factors,
        "learn.tracking": Tracking,
        "learn.publish": Publish, "learn.publish_segments": PublishSegments, "learn.examples": Examples,
        "learn.rankers": Rankers, "learn.publish_rankers": PublishRankers, "learn.outcomes": Outcomes,
        "learn.publish_outcomes": PublishOutcomes, "learn.demand": Demand,
        "learn.segments": Segments, "serve.scores": Scores, "serve.tags": Tags, "serve.report": Report,
        "serve.audience": AudienceFiles, "serve.outcomes": OutcomeScores, "maintain": Maintain,
    }  # fmt: skip
    for path, model in models.items():
        table, overrides = (
            reduce(lambda part, name: part.get(name, {}), path.split("."), document) for document in documents
        )
        assert table.keys() == model.model_fields.keys() - ({"kafka"} if model is Source else set())
        for key, field in model.model_fields.items():
            if key not in overrides and not field.is_required() and field.default is not None:
                default = list(field.default) if isinstance(field.default, tuple) else field.default
                assert table[key] == default, f"{path}.{key}"


def test_the_mapping_reference_lists_every_key_rule_and_warning() -> None:
    text = (ROOT / "docs" / "mappings.md").read_text()
    keys = {key for model in (Mapping, InputSpec, Lookup, Rule, Clip, Bots, Audit) for key in model.model_fields}
    sections = set(re.findall(r"`\[(\w+)[^`]*\]`", text))
    assert sorted(key for key in keys if f"`{key}`" not in text and key not in sections) == []
    columns = ("event_id", "event_type", "event_time", *mappings.NUMERIC_COLUMNS)
    mapping = Mapping.model_validate({
        "input": {"format": "csv", "columns": "a string"}, "timezone": "Europe/Berlin", "anonymous": "reject",
        "columns": dict.fromkeys(columns, "a"), "bots": {"max_events_per_minute": 1},
    })  # fmt: skip
    rejects, warns = cleaning_rules.names(mapping)
    names = {*rejects, *warns, "filled_<column>", "clipped_<column>"}
    table = "\n".join(re.findall(r"^\| (`[^|]*) \|", text[text.index("## Every rule and warning") :], re.M))
    assert sorted(name for name in names if f"`{name}`" not in table) == []
    listed = [name for name in re.findall(r"`(\w+)`", table) if name in names]
    assert listed == [name for name in (*_documented_order(rejects), *warns) if name in listed]


def _documented_order(rejects: list[str]) -> list[str]:
    """Rules in the order of evaluation: encoding before length, and rules of duplicates and files last."""
    first = ["not_utf8", "line_too_long"]
    last = ["id_reused", "file_unreadable"]
    return [*first, *[name for name in rejects if name not in (*first, *last)], *last]


def test_every_flag_is_documented_in_running_or_the_page_of_the_job(parse: Parse) -> None:
    running = (ROOT / "docs" / "running.md").read_text()
    for name in JOBS:
        (row,) = re.findall(rf"^\| `jobs/{name}\.py` .*$", running, re.M)
        pages = re.findall(r"\]\((\w+\.md)", row)
        text = "\n".join([running, *((ROOT / "docs" / page).read_text() for page in pages)])
        flags = [flag for action in parse.parser(name)._actions for flag in action.option_strings]
        assert [flag for flag in flags if flag.startswith("--") and flag != "--help" and f"`{flag}" not in text] == []
