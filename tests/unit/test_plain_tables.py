"""Columns of `users` and `items`: plain types, those of the declared outcomes, and names that are refused; no Spark."""

from pathlib import Path

import pytest
from profilestream import flow
from profilestream.base import settings as settings_module
from profilestream.base import tables
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Settings
from profilestream.serve.plain_tables import users_table

ROOT = Path(__file__).parent.parent.parent
PLAIN_TYPES = {"STRING", "BIGINT", "INT", "DOUBLE", "TIMESTAMP", "ARRAY<STRING>"}
OUTCOMES = """
entity = "user"
[labels.purchase]
question = "Does the user buy?"
unit = "true or false"
kind = "count"
[labels.spend]
question = "How much does the user spend?"
unit = "currency"
kind = "sum"
of = "value"
[features.events_1d]
[outcomes.{name}]
label = "purchase"
horizon_days = 7
[outcomes.value]
label = "spend"
horizon_days = 28
value_days = 42
loss = "poisson"
"""


def _settings(*overrides: str) -> Settings:
    return settings_module.load(str(ROOT / "conf" / "demo.toml"), list(overrides))


def _with_outcome(home: Path, name: str) -> Settings:
    (home / "outcomes.toml").write_text(OUTCOMES.format(name=name))
    return _settings(f"learn.outcomes.file={home}/outcomes.toml")


def test_users_and_items_have_columns_of_plain_types_that_state_how_null_is_read() -> None:
    columns = [*users_table.table(_settings()).columns, *tables.ITEMS.columns]
    assert {column.sql_type for column in columns} == PLAIN_TYPES
    nullable = [column for column in columns if column.is_nullable]
    unexplained = [
        one.name for one in nullable if "null" not in one.meaning.lower() and "As favorite" not in one.meaning
    ]
    assert unexplained == []


def test_every_declared_outcome_has_a_score_and_a_band_with_its_unit_and_horizon(tmp_path: Path) -> None:
    users = users_table.table(_with_outcome(tmp_path, "buys_7d"))
    columns = {column.name: column for column in users.columns}
    assert (columns["buys_7d"].sql_type, columns["buys_7d_band"].sql_type) == ("DOUBLE", "STRING")
    assert (columns["buys_7d"].unit, columns["value"].unit) == ("probability, 0 to 1", "currency")
    assert "the next 7 days" in columns["buys_7d"].meaning and "the next 42 days" in columns["value"].meaning
    without = users_table.table(_settings("learn.outcomes.file="))
    assert [name for name in users.names if name not in without.names] == [
        "buys_7d", "buys_7d_band", "value", "value_band",
    ]  # fmt: skip
    assert users.declaration != without.declaration


@pytest.mark.parametrize("name", ["orders", "as_of", "value_band", "Buys"])
def test_an_outcome_whose_name_cannot_be_a_column_of_users_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadSettings, match=f"'{name}'.*" if name != "Buys" else "'Buys', 'Buys_band'") as error:
        users_table.table(_with_outcome(tmp_path, name))
    assert error.value.where == f"{tmp_path}/outcomes.toml, outcomes"


def test_the_step_runs_after_the_steps_whose_tables_it_reads_and_only_if_it_is_enabled() -> None:
    names = [step.name for step in flow.STEPS]
    position = names.index("serve_tables")
    assert {"describe_segments", "serve_outcomes", "serve_tags", "serve_scores"} <= set(names[:position])
    step = flow.STEPS[position]
    assert step.is_enabled(_settings()) and not step.is_enabled(_settings("serve.tables.enabled=false"))
