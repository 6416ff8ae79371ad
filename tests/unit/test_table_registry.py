"""The table registry: complete, consistent, and the source of docs/tables.md."""

from pathlib import Path

import pytest
from profilestream import table_registry
from profilestream.base import settings as settings_module
from profilestream.base import tables
from profilestream.base.columns import Column, Subject
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.derive import fold_stage
from profilestream.steward import table_docs

ROOT = Path(__file__).parent.parent.parent
TABLES = table_registry.registry(
    settings_module.load(str(ROOT / "conf" / "demo.toml"), list(table_docs.ALL_TABLES_OVERRIDES))
)


@pytest.fixture(scope="module")
def settings() -> Settings:
    return settings_module.load(str(ROOT / "conf" / "demo.toml"), list(table_docs.ALL_TABLES_OVERRIDES))


def _with_fields(columns: tuple[Column, ...]) -> list[Column]:
    return [item for column in columns for item in (column, *_with_fields(column.fields))]


def test_every_reserved_and_every_declared_table_is_registered_once(settings: Settings) -> None:
    declared = [table.name for one in fold_stage.declared_tables(settings).values() for table in one.tables]
    assert sorted(table.name for table in TABLES) == sorted([*tables.RESERVED_NAMES, *declared])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_states_what_its_rows_and_columns_are(table: Table) -> None:
    assert len(set(table.names)) == len(table.names)
    assert set(table.key) | set(table.partitioned_by) <= set(table.names)
    assert table.meaning.endswith(".") and table.writer and table.retention
    assert [column.name for column in _with_fields(table.columns) if not column.meaning.endswith((".", "?"))] == []


def test_columns_that_identify_a_person_are_marked() -> None:
    unmarked = [
        f"{table.name}.{column.name}"
        for table in TABLES
        for column in table.columns
        if column.name in ("user_id", "target_user_id", "text", "query", "payload") and column.subject is None
    ]
    assert unmarked == []
    subjects = {f"{table.name}.{c.name}": c.subject for table in TABLES for c in _with_fields(table.columns)}
    assert subjects["factors.key"] == Subject("user", where="side = 'user'")
    assert subjects["item_hours.users"] == Subject("user", "sketch")
    assert subjects["events.target_user_id"] == Subject("other_user")
    assert subjects["rejected_events.payload"] == Subject("raw_payload")


def test_states_have_the_unit_of_their_event_column() -> None:
    units = {f"{table.name}.{c.name}": c.unit for table in TABLES for c in _with_fields(table.columns)}
    assert (units["user_hours.events"], units["user_hours.value"], units["user_hours.prices"]) == (
        "events", "currency", "currency",
    )  # fmt: skip


def test_every_table_has_readers_that_exist(settings: Settings) -> None:
    readers = table_registry.readers(settings)
    names = {table.name for table in TABLES}
    assert readers.keys() <= names
    jobs = {path.stem for path in (ROOT / "jobs").glob("*.py")}
    assert {job for read_by in readers.values() for job in read_by} <= jobs
    assert {job for table in TABLES for job in table.writer.split(", ")} <= {*jobs, "every stage"}


@pytest.mark.parametrize("name", ["factors", "events", "published_segments", "sessions", "user_tags"])
def test_a_declared_table_with_a_reserved_name_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        f'name = "{name}"\nwrite = "merge"\n[keys.user_id]\nof = "user_id"\n[statistics]\nn = {{ kind = "count" }}\n'
    )
    settings = settings_module.load(str(ROOT / "conf" / "demo.toml"), [f'derive.profiles=["{file}"]'])
    with pytest.raises(BadSettings, match=f"'{name}' is the name of a table of profilestream itself"):
        fold_stage.declared_tables(settings)


def test_the_page_of_tables_is_generated_from_the_registry(settings: Settings) -> None:
    command = ".venv/bin/python -m profilestream.steward.table_docs conf/demo.toml docs/tables.md"
    assert (ROOT / "docs" / "tables.md").read_text() == table_docs.page(settings), f"run {command}"
