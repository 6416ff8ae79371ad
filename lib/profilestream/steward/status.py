"""State of a warehouse as text: row accounting, rejected rows by rule, alarms, tables, and commands to query them."""

import json
import shlex
import sys
from collections.abc import Callable
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from pyspark.sql import Column, Row, SparkSession
from pyspark.sql import functions as F

from profilestream import table_registry
from profilestream.base import files, tables
from profilestream.base.delta_table import Table
from profilestream.base.errors import SourceMissing
from profilestream.base.settings import UNITS_SQL, Paths, Settings
from profilestream.capture import row_accounting, sequence_audit

PrintLine = Callable[[str], None]


def show(spark: SparkSession, paths: Paths, print_line: PrintLine) -> None:
    """Print the row accounting of every source, the rejected rows by rule, and the newest alarms.

    Raises:
        SourceMissing: nothing was captured yet.
    """
    if not tables.CAPTURE_BATCHES.exists(spark, paths):
        raise SourceMissing("nothing was captured yet", where=paths.warehouse, do="run jobs/capture_events.py first")
    print_line("rows (in = clean + rejected + duplicate)")
    for row in row_accounting.counts_by_source(tables.CAPTURE_BATCHES.read(spark, paths)).collect():
        batches = "1 batch" if row["batches"] == 1 else f"{row['batches']} batches"
        sign = "=" if row["is_balanced"] else "!="
        suffix = " (reprocessed)" if row["kind"] == "reprocess" else ""
        print_line(
            f"  {row['source']}{suffix}: {row['rows_in']:,} {sign} {row['rows_clean']:,} clean + "
            f"{row['rows_rejected']:,} rejected + {row['rows_duplicate']:,} duplicate, in {batches}"
        )
    print_line("\nrejected, by rule")
    for row in row_accounting.rejected_by_rule(tables.REJECTED_EVENTS.read(spark, paths)).collect():
        print_line(f"  {row['rows']:>7,}  {row['source']}  {row['rule']}: {row['reason']}")
        print_line(f"           such as {row['position']}  {row['payload'] or '':.100}")
    show_alarms(spark, paths, print_line)
    show_gaps(spark, paths, print_line)
    show_upstream_gaps(spark, paths, print_line)


def show_upstream_gaps(spark: SparkSession, paths: Paths, print_line: PrintLine, rows: int = 10) -> None:
    """Print the largest gaps in the sequence numbers of producers; nothing without an audit."""
    if not tables.CAPTURE_SEQUENCES.exists(spark, paths):
        return
    gaps = sequence_audit.upstream_gaps(tables.CAPTURE_SEQUENCES.read(spark, paths))
    size = F.col("last_missing") - F.col("first_missing") + 1
    total = gaps.agg(F.count(F.lit(1)).alias("n"), F.coalesce(F.sum(size), F.lit(0)).alias("records")).collect()[0]
    print_line(f"\nupstream gaps: {total['n']:,}, with {total['records']:,} records that did not reach their source")
    for row in gaps.orderBy(F.desc(size), "source", "producer", "first_missing").limit(rows).collect():
        numbers = f"{row['first_missing']} to {row['last_missing']}"
        print_line(f"  {row['source']} producer {row['producer']}: {numbers}")


def _newest(
    spark: SparkSession, table: Table, paths: Paths, title: str, order: tuple[Column | str, ...],
    print_line: PrintLine, rows: int,
) -> list[Row]:  # fmt: skip
    """The first rows of a table in an order, after a line with their number; nothing without the table."""
    if not table.exists(spark, paths):
        return []
    stored = table.read(spark, paths)
    newest = stored.orderBy(*order).limit(rows).collect()
    print_line(f"\n{title}, the newest {len(newest)} of {table.row_count(spark, paths):,}")
    return newest


def show_gaps(spark: SparkSession, paths: Paths, print_line: PrintLine, rows: int = 10) -> None:
    """Print the newest gaps of topics; nothing when there are none."""
    order = (F.desc("found_at"), "source", "topic", "partition", "first_offset")
    for row in _newest(spark, tables.CAPTURE_GAPS, paths, "gaps of topics", order, print_line, rows):
        last = "unknown" if row["last_offset"] is None else row["last_offset"]
        place = f"{row['topic']}/{row['partition']} from {row['first_offset']} to {last}"
        print_line(f"  {row['source']} {place}: {row['reason']}, {row['action']} {row['found_at']:%Y-%m-%d %H:%M}")


def show_alarms(spark: SparkSession, paths: Paths, print_line: PrintLine, rows: int = 10) -> None:
    """Print the newest alarms; nothing when there are none."""
    order = (F.desc("ingest_time"), F.desc("batch_id"), "source", "measure")
    for row in _newest(spark, tables.CAPTURE_ALARMS, paths, "alarms", order, print_line, rows):
        newest_event = "" if row["event_time_max"] is None else f", up to {row['event_time_max']:%Y-%m-%d %H:%M}"
        print_line(f"  {row['source']} batch {row['batch_id']}{newest_event}: {row['measure']}: {row['message']}")


def show_clean(spark: SparkSession, paths: Paths, print_line: PrintLine, rows: int = 5) -> None:
    """Print the newest events, with the most important columns."""
    events = tables.EVENTS.read(spark, paths)
    newest = events.where(F.col("event_date") == events.agg(F.max("event_date")).collect()[0][0])
    columns = ["event_time", "event_type", "user_id", "item_id", "quantity", "price", "value", "text"]
    events_shown = newest.orderBy(F.desc("event_time"), "event_id").select(*columns).limit(rows).collect()
    cells = [columns, *[[_cell(value) for value in row] for row in events_shown]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    print_line("\nthe newest clean rows")
    for line in cells:
        print_line("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)[:28]


def show_queries(spark: SparkSession, settings: Settings, print_line: PrintLine) -> None:
    """Print row count and path of every table, and a command that queries them in Spark SQL, DuckDB and Polars."""
    paths = settings.paths
    print_line("\ntables")
    for table in table_registry.registry(settings):
        if table.exists(spark, paths):
            print_line(f"  {table.row_count(spark, paths):>9,} rows  {table.path(paths)}")
    print_line("\ncommands that query the tables, to run in a shell in this folder")
    for name, command in commands(paths).items():
        print_line(f"  {name}:\n    {command}")


def commands(paths: Paths) -> dict[str, str]:
    """A shell command for each query engine that prints the five best-selling items, by engine.

    The commands work for all paths that settings.Paths accepts without a warning.
    """
    python = shlex.quote(_relative(sys.executable))
    events = tables.EVENTS.path(paths)
    sql = (
        f"SELECT item_id, sum({UNITS_SQL}) AS sold FROM {{}} WHERE event_type = 'purchase' "
        "GROUP BY item_id ORDER BY sold DESC LIMIT 5"
    )
    spark_sql = sql.format(f"delta.`{tables.EVENTS.uri(paths)}`")
    duckdb_sql = sql.format(f"delta_scan({duckdb_literal(events)})")
    code = {
        "Spark SQL": "from profilestream.base.session import open_session; "
        f'open_session("query", "conf/spark-local.conf").sql({_python_literal(spark_sql)}).show()',
        "DuckDB": f"import duckdb; db = duckdb.connect(); {load_delta_code()}"
        f"print(db.sql({_python_literal(duckdb_sql)}))",
        # Without use_pyarrow, Polars does not find files in a folder whose name has a blank, a # or a non-ASCII letter.
        "Polars": f"import polars as pl; print(pl.scan_delta({_python_literal(events)}, use_pyarrow=True)"
        '.filter(pl.col("event_type") == "purchase").group_by("item_id")'
        '.agg(pl.col("quantity").fill_null(1).sum().alias("sold"))'
        '.top_k(5, by="sold").collect())',
    }
    return {name: f"{python} -c {_quoted(text)}" for name, text in code.items()}


def duckdb_literal(path: str) -> str:
    """The path of a table for `delta_scan`, as a literal of SQL. DuckDB decodes % in paths, but not in URIs."""
    local = files.local_path(files.qualified(path))
    return _sql_literal(f"file://{quote(local)}" if local is not None and "%" in local else path)


def load_delta_code() -> str:
    """Python code that loads the Delta extension of DuckDB in the connection `db`."""
    return f"db.execute({_python_literal(load_delta_sql())}); "


def load_delta_sql() -> str:
    """SQL that loads the Delta extension of DuckDB from its Python package; DuckDB downloads it otherwise."""
    spec = find_spec("duckdb_extension_delta")
    folders = list(spec.submodule_search_locations or []) if spec else []
    extensions = [file for folder in folders for file in glob(f"{folder}/extensions/*/delta.duckdb_extension")]
    return f"LOAD {_sql_literal(_relative(extensions[0]))}" if extensions else "INSTALL delta; LOAD delta"


def _relative(path: str) -> str:
    """The path relative to the working directory when it is below it; else unchanged."""
    working_directory = Path.cwd()
    is_below = Path(path).is_relative_to(working_directory)
    return str(Path(path).relative_to(working_directory)) if is_below else path


def _sql_literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _python_literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _quoted(code: str) -> str:
    """The code as a double-quoted shell argument."""
    escaped = code.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`").replace("$", "\\$")
    return f'"{escaped}"'
