"""steward_views: a DuckDB file with a view per stored table, without binary columns, and statements for Spark."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from profilestream.steward import status, warehouse_views

from jobs import steward_views
from tests.builders import Shop

STATE = pa.struct([("behavior", pa.struct([("orders", pa.binary())]))])
TABLES = {
    "user_profiles": pa.table({
        "user_id": ["a", "b"], "behavior": [{"orders": 1}, {"orders": 2}],
        "state": pa.array([{"behavior": {"orders": b"1"}}] * 2, STATE),
    }),
    "users": pa.table({"user_id": ["a"], "tags": [["new", "vip"]]}),
    "factors": pa.table({"key": ["a"], "vector": [b"v"], "weight": [1.5]}),
}  # fmt: skip
# In flow order, with the columns of the views.
VIEWS = {"user_profiles": ["user_id", "behavior"], "factors": ["key", "weight"], "users": ["user_id", "tags"]}


def _rows(db: duckdb.DuckDBPyConnection, name: str) -> list[tuple[object, ...]]:
    return sorted(db.sql(f"SELECT * FROM {name}").fetchall())


def test_a_reader_opens_the_file_and_reads_all_tables_without_binary_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "a shop's data"
    profiles = f'profiles = ["{Path(__file__).parent.parent.parent}/conf/derive/user_profiles.toml"]'
    shop = Shop(home, extra_settings=f"[derive]\n{profiles}\n", overrides=["learn.factors.enabled=true"])
    flags = ["--config", str(shop.config())]
    assert steward_views.main(flags) == 2
    assert capsys.readouterr().err.endswith("what to do: run jobs/run_pipeline.py first\n")
    assert steward_views.main([*flags, "--set", "paths.warehouse=s3://bucket/shop"]) == 2
    assert "s3://bucket/shop\n  what to do: name a local folder" in capsys.readouterr().err
    for check in (["--check"], []):
        assert steward_views.main([*flags, "--out", "s3://bucket/views", *check]) == 2
        assert "s3://bucket/views is not a path on this machine\n  where: --out" in capsys.readouterr().err
    assert not Path("s3:").exists()
    for name, rows in TABLES.items():
        write_deltalake(f"{home}/warehouse/{name}", rows)
    assert steward_views.main([*flags, "--check"]) == 0 and not (home / "views.duckdb").exists()

    assert steward_views.main([*flags, "--out", f"file://{home}"]) == 0
    assert capsys.readouterr().out.startswith(f"3 views: {home}/views.duckdb\n")
    with duckdb.connect(home / "views.duckdb", read_only=True) as db:
        # A tool lists views and columns before it loads the extension.
        columns = db.sql("SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal").fetchall()
        assert {name: [column for view, column in columns if view == name] for name in VIEWS} == VIEWS
        db.execute(status.load_delta_sql())
        for name, names in VIEWS.items():
            expected = [tuple(row[column] for column in names) for row in TABLES[name].to_pylist()]
            assert _rows(db, name) == expected
        # The file that a tool has open is replaced, not changed.
        write_deltalake(f"{home}/warehouse/items", pa.table({"item_id": ["i"]}))
        _, script, names = warehouse_views.write(shop.settings(), folder=str(home))
        assert _rows(db, "users") == [("a", ["new", "vip"])]
    assert names == [*VIEWS, "items"] and sorted(home.glob("views*")) == [home / "views.duckdb", script]
    path = str(home).replace("'", "\\'")
    assert script.read_text() == "".join(
        f"CREATE TABLE IF NOT EXISTS {name} USING DELTA LOCATION 'file:{path}/warehouse/{name}';\n" for name in names
    )
