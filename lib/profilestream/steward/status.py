"""Where things stand: conservation of rows, reject reasons, alarms, tables. Read from the tables alone."""

import sys
from collections.abc import Callable
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from profilestream import flow
from profilestream.base import tables
from profilestream.base.errors import SourceMissing
from profilestream.base.settings import Paths, Settings
from profilestream.capture import row_accounting

Tell = Callable[[str], None]


def show(spark: SparkSession, paths: Paths, tell: Tell) -> None:
    """Tell the conservation line of every source, why rows were rejected, and alarms.

    Raises:
        SourceMissing: nothing was captured yet.
    """
    if not tables.CAPTURE_BATCHES.exists(spark, paths):
        raise SourceMissing("nothing was captured yet", where=paths.warehouse, do="run jobs/capture_events.py first")
    tell("rows (in = clean + rejected + duplicate)")
    for row in row_accounting.conservation(tables.CAPTURE_BATCHES.read(spark, paths)).collect():
        batches = "1 batch" if row["batches"] == 1 else f"{row['batches']} batches"
        sign = "=" if row["adds_up"] else "IS NOT"
        replay = " put through again" if row["kind"] == "replay" else ""
        tell(
            f"  {row['source']}{replay}: {row['rows_in']:,} {sign} {row['rows_clean']:,} clean + "
            f"{row['rows_rejected']:,} rejected + {row['rows_duplicate']:,} duplicate, in {batches}"
        )
    tell("\nrejected, by rule")
    for row in row_accounting.rejects(tables.REJECTED_EVENTS.read(spark, paths)).collect():
        tell(f"  {row['rows']:>7,}  {row['source']}  {row['rule']}: {row['reason']}")
        tell(f"           such as {row['position']}  {row['payload'] or '':.100}")
    show_alarms(spark, paths, tell)


def show_alarms(spark: SparkSession, paths: Paths, tell: Tell, rows: int = 10) -> None:
    """Tell the newest alarms; nothing when there never was one."""
    if not tables.CAPTURE_ALARMS.exists(spark, paths):
        return
    alarms = tables.CAPTURE_ALARMS.read(spark, paths)
    newest = alarms.orderBy(F.desc("ingest_time"), F.desc("batch_id"), "source", "measure").limit(rows).collect()
    tell(f"\nalarms, the newest {len(newest)} of {alarms.count():,}")
    for row in newest:
        until = "" if row["event_time_max"] is None else f", up to {row['event_time_max']:%Y-%m-%d %H:%M}"
        tell(f"  {row['source']} batch {row['batch_id']}{until}: {row['measure']}: {row['message']}")


def show_clean(spark: SparkSession, paths: Paths, tell: Tell, rows: int = 5) -> None:
    """A look at clean rows: the columns that hold something, of the newest events."""
    events = tables.EVENTS.read(spark, paths)
    newest = events.where(F.col("event_date") == events.agg(F.max("event_date")).collect()[0][0])
    wanted = ["event_time", "event_type", "user_id", "item_id", "quantity", "price", "value", "text"]
    found = newest.orderBy(F.desc("event_time"), "event_id").select(*wanted).limit(rows).collect()
    cells = [wanted, *[[_cell(value) for value in row] for row in found]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(wanted))]
    tell("\nthe newest clean rows")
    for line in cells:
        tell("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)[:28]


def show_queries(spark: SparkSession, settings: Settings, tell: Tell) -> None:
    """Where the tables are, and one command each that reads them with Spark SQL, DuckDB and Polars."""
    paths = settings.paths
    tell("\ntables")
    for table in flow.written_tables(settings):
        if table.exists(spark, paths):
            tell(f"  {table.read(spark, paths).count():>9,} rows  {table.path(paths)}")
    tell("\nquery them (each line works as it is, in a shell, here)")
    for name, command in commands(paths).items():
        tell(f"  {name}:\n    {command}")


def commands(paths: Paths) -> dict[str, str]:
    """A shell command per query engine: the five best-selling items."""
    python = _shown(sys.executable)
    events = tables.EVENTS.path(paths)
    sql = (
        "SELECT item_id, sum(quantity) AS sold FROM {} WHERE event_type = 'purchase' "
        "GROUP BY item_id ORDER BY sold DESC LIMIT 5"
    )
    by_path = f"delta.`{tables.EVENTS.uri(paths)}`"
    code = {
        "Spark SQL": "from profilestream.base.session import open_session; "
        f'open_session("look", "conf/spark-local.conf").sql("{sql.format(by_path)}").show()',
        "DuckDB": f"import duckdb; db = duckdb.connect(); {load_delta()}"
        f'print(db.sql("{sql.format(f"delta_scan({chr(39)}{events}{chr(39)})")}"))',
        "Polars": f'import polars as pl; print(pl.scan_delta("{events}").filter(pl.col("event_type") == "purchase")'
        '.group_by("item_id").agg(pl.sum("quantity").alias("sold")).top_k(5, by="sold").collect())',
    }
    return {name: f"{python} -c {_quoted(text)}" for name, text in code.items()}


def load_delta() -> str:
    """DuckDB's own download when its Delta extension is not among the Python packages."""
    spec = find_spec("duckdb_extension_delta")
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [file for folder in folders for file in glob(f"{folder}/extensions/*/delta.duckdb_extension")]
    return f"db.execute(\"LOAD '{_shown(found[0])}'\"); " if found else 'db.execute("INSTALL delta; LOAD delta"); '


def _shown(path: str) -> str:
    """The path as seen from the working folder, when it lies below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _quoted(code: str) -> str:
    """The code as one word of a shell: double quotes and $ and ` inside are escaped."""
    escaped = code.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`").replace("$", "\\$")
    return f'"{escaped}"'
