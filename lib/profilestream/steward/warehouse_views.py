"""Views of the tables in a DuckDB file, and statements that register the tables in a catalog of Spark, for BI tools."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from deltalake import DeltaTable

from profilestream import table_registry
from profilestream.base import files
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings, SourceMissing
from profilestream.base.settings import Paths, Settings
from profilestream.steward import status

NAME = "views"


def write(settings: Settings, folder: str = "") -> tuple[Path, Path, list[str]]:
    """Replace `views.duckdb` and `views.sql`; starts no Spark session.

    A view contains the columns of the stored table except binary ones, and except structs with binary fields.

    Args:
        folder: of both files; empty: the folder that contains the warehouse.

    Returns:
        The paths of both files, and the names of the views, in flow order.

    Raises:
        BadSettings: the package duckdb is not installed, or the folder is not on this machine.
        SourceMissing: no table exists.
    """
    target, paths = _target(settings, folder), settings.paths
    stored = [table for table in table_registry.registry(settings) if DeltaTable.is_deltatable(table.path(paths))]
    if not stored:
        raise SourceMissing("there are no tables yet", where=paths.warehouse, do="run jobs/run_pipeline.py first")
    target.mkdir(parents=True, exist_ok=True)
    database, script = target / f"{NAME}.duckdb", target / f"{NAME}.sql"
    _replace(database, lambda path: _write_database(path, stored, paths))
    _replace(script, lambda path: _write_script(path, stored, paths))
    return database, script, [table.name for table in stored]


def check(settings: Settings, folder: str = "") -> None:
    """Check what `write` needs; writes nothing.

    Raises:
        BadSettings: as for `write`.
    """
    _target(settings, folder)


def _target(settings: Settings, folder: str) -> Path:
    """The folder of both files."""
    if not find_spec("duckdb"):
        do = "pip install duckdb duckdb-extension-delta"
        raise BadSettings("the Python package duckdb is not installed", where="this Python environment", do=do)
    if not folder and files.local_path(settings.paths.warehouse) is None:
        do = "name a local folder for the files: --out FOLDER"
        raise BadSettings("the warehouse is remote", where=settings.paths.warehouse, do=do)
    return Path(os.path.abspath(files.local_output(folder or settings.paths.output(""), "--out")))


def _replace(file: Path, write_file: Callable[[Path], None]) -> None:
    """Write the file under another name and rename it: a tool that has the old file open still reads it."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    write_file(new)
    new.replace(file)


def _write_database(file: Path, stored: list[Table], paths: Paths) -> None:
    import duckdb

    with duckdb.connect(file) as db:
        db.execute(status.load_delta_sql())
        for table in stored:
            path = files.local_path(table.uri(paths)) or table.path(paths)
            scan = f"delta_scan({status.duckdb_literal(path)})"
            columns = db.sql(f"SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {scan})").fetchall()
            names = ", ".join(f'"{name}"' for name, column_type in columns if "BLOB" not in column_type)
            db.execute(f"CREATE VIEW {table.name} AS SELECT {names} FROM {scan}")


def _write_script(file: Path, stored: list[Table], paths: Paths) -> None:
    file.write_text("".join(f"{table.registration(paths)};\n" for table in stored), encoding="utf-8")
