"""Laws 1, 3, 4 and 6 for a complete log: late, shuffled and doubled lines in any batches give the same tables.

python tests/flow/laws.py [--log seeded|online_retail|rees46] [--lines N] [--cuts 1 10 200] [--seed N]
"""

import argparse
import gzip
import io
import json
import math
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
from profilestream import flow
from profilestream.base import settings as settings_module
from profilestream.base import streaming, tables
from profilestream.base.queries import RunOptions
from profilestream.base.session import open_session
from profilestream.base.settings import Settings
from profilestream.capture import ingest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests import recount, table_snapshots  # noqa: E402
from tests.builders import RUN_DEPENDENT_COLUMNS  # noqa: E402

SHOP = """
user_namespace = "shop"
item_namespace = "shop"
[input]
format = "jsonl"
columns = "id string, kind string, at string, who string, what string, aisle string, maker string, price double, \
quantity double, basket string, words string, to string, facts map<string,string>"
[columns]
event_id = "id"
event_type = "kind"
event_time = "at"
user_id = "who"
item_id = "what"
category = "aisle"
brand = "maker"
price = "price"
quantity = "quantity"
order_id = "basket"
query = "words"
target_user_id = "to"
attributes = "facts"
"""
KINDS = ("view", "view", "view", "click", "cart", "uncart", "favorite", "purchase", "purchase", "return", "search",
         "rate", "review", "share", "follow", "identify")  # fmt: skip
LATE, DOUBLED = 0.1, 0.05


@dataclass(frozen=True)
class Log:
    """The lines of a log, oldest first, and its mapping."""

    name: str
    mapping: Path
    header: str
    lines: list[str]
    extension: str


def seeded_log(work: Path, lines: int, seed: int) -> Log:
    """Events of every kind: about 40 per user, a quarter of an hour apart, one in twelve of a guest.

    There are fewer items than a profile stores: a truncated map is exact within the weight of its rest only.
    """
    dice = random.Random(seed)
    mapping = work / "seeded.toml"
    mapping.write_text(SHOP)
    result = []
    for n in range(lines):
        kind, item = dice.choice(KINDS), dice.randrange(18)
        who = None if n % 12 == 0 and kind != "identify" else f"u{dice.randrange(max(1, lines // 40))}"
        event: dict[str, Any] = {
            "id": f"e{n}", "kind": kind, "who": who, "at": _at(n * 900_000 + dice.randrange(900_000)),
            "what": f"i{item}", "aisle": f"c{item % 7}", "maker": f"m{item % 11}", "price": (1 + item) / 4,
            "quantity": float(dice.choice([1, 1, 2, 6])),
        }  # fmt: skip
        if kind in ("purchase", "return"):
            event["basket"] = f"b{n // 3}"
        elif kind == "search":
            event["words"] = dice.choice(["mugs", "red lamp", "cards"])
        elif kind in ("share", "follow"):
            event["to"] = f"u{dice.randrange(9)}"
        elif kind == "identify":
            event["facts"] = {dice.choice(["plan", "town"]): dice.choice("abc")}
        result.append(json.dumps(event))
    return Log("seeded", mapping, "", result, "jsonl")


def _at(milliseconds: int) -> str:
    moment = time.gmtime(1_767_225_600 + milliseconds // 1000)  # 2026-01-01
    return time.strftime("%Y-%m-%dT%H:%M:%S", moment) + f".{milliseconds % 1000:03}Z"


def online_retail(work: Path, lines: int, seed: int) -> Log:
    """The first lines of the shipped sample."""
    table = pq.read_table(ROOT / "data" / "online_retail" / "online_retail_2010_2011.parquet").slice(0, lines)
    text = io.BytesIO()
    pyarrow.csv.write_csv(table, text)
    header, *rest = text.getvalue().decode().rstrip("\n").split("\n")
    return Log("online_retail", ROOT / "conf" / "sources" / "online_retail.toml", header, rest, "csv")


def rees46(work: Path, lines: int, seed: int) -> Log:
    """The first lines of the shipped sample."""
    (sample,) = (ROOT / "data" / "rees46").glob("*.csv.gz")
    header, *rest = gzip.decompress(sample.read_bytes()).decode().rstrip("\n").split("\n")
    return Log("rees46", ROOT / "conf" / "sources" / "rees46.toml", header, rest[:lines], "csv")


LOGS: dict[str, Callable[[Path, int, int], Log]] = {
    "seeded": seeded_log,
    "online_retail": online_retail,
    "rees46": rees46,
}


def deliver(log: Log, folder: Path, files: int, dice: random.Random) -> int:
    """Write the log as files: a tenth of the lines in a later file, a twentieth twice. Returns the number of lines."""
    parts: list[list[str]] = [[] for _ in range(files)]
    for n, line in enumerate(log.lines):
        due = n * files // len(log.lines)
        delivered = dice.randrange(due, files) if dice.random() < LATE else due
        parts[delivered].append(line)
        if dice.random() < DOUBLED:
            parts[dice.randrange(delivered, files)].append(line)
    folder.mkdir(parents=True)
    for number, part in enumerate(parts):
        dice.shuffle(part)
        file = folder / f"{number:04}.{log.extension}"
        file.write_text("\n".join([log.header, *part] if log.header else part) + "\n")
        os.utime(file, (1_700_000_000 + number, 1_700_000_000 + number))
    return sum(map(len, parts))


def check_laws(
    spark: SparkSession, work: Path, log: Log, cuts: list[int], seed: int, print_line: Callable[[str], object]
) -> dict[str, int]:
    """Run the flow over the log in each number of batches, then rebuild the tables of the last run in one batch.

    Returns:
        Number of rows of `events`, and of keys of each derived table.

    Raises:
        AssertionError: the row accounting is wrong, or two runs differ.
    """
    results = {}
    for cut in cuts:
        started = time.monotonic()
        home = work / f"in_{cut}"
        config = capture_log(spark, home, log, cut, seed)
        flow.run(spark, settings_module.load(str(config), []), RunOptions())
        results[f"in {cut}"] = read_result(spark, config)
        print_line(f"{log.name}: {len(log.lines):,} lines in {cut} batches, {time.monotonic() - started:.0f} s")
    results["rebuilt"] = rebuild_all(spark, config)
    first, *others = results
    for name in others:
        assert_same(results[first], results[name], f"{first} and {name}")
    return results[first].rows()


@dataclass(frozen=True)
class LawResult:
    """Content of `events` and of the derived tables after a run, without run-dependent columns."""

    events: Counter[str]
    derived: table_snapshots.Snapshot

    def rows(self) -> dict[str, int]:
        """Number of rows of `events`, and of keys of each derived table."""
        return {"events": self.events.total()} | {table: len(keys) for table, keys in self.derived.items()}


def capture_log(spark: SparkSession, home: Path, log: Log, cut: int, seed: int) -> Path:
    """Deliver the log and capture it in so many batches; returns settings that derive it in as many batches."""
    lines = deliver(log, home / "input", cut, random.Random(seed + cut))
    settings = settings_module.load(str(write_config(log, home, derive_files=1)), [])
    streaming.run(spark, [ingest.query(settings, log.name)], settings, RunOptions())
    _assert_row_accounting(spark, settings, lines, cut)
    written = len(list((home / "warehouse" / "events").glob("**/*.parquet")))
    return write_config(log, home, derive_files=math.ceil(written / cut))


def rebuild_all(spark: SparkSession, config: Path) -> LawResult:
    """The result after a rebuild of all stages in one batch, by Spark only."""
    one_batch = [f"{stage}.max_files_per_trigger=1000000" for stage in ("derive", "learn")]
    settings = settings_module.load(str(config), [*one_batch, "stream.local_max_rows=0"])
    flow.run(spark, settings, RunOptions(rebuild=tuple(flow.derived_stages())))
    recount.assert_sums_equal_recount(spark, settings)
    return read_result(spark, config)


def read_result(spark: SparkSession, config: Path) -> LawResult:
    """The current content."""
    settings = settings_module.load(str(config), [])
    return LawResult(_events(spark, settings), table_snapshots.snapshot(spark, settings))


def assert_same(one: LawResult, other: LawResult, which: str) -> None:
    """Two runs over the same log have the same result."""
    different = (one.events - other.events) + (other.events - one.events)
    assert not different, f"{different.total()} events differ between {which}"
    differences = table_snapshots.differences(one.derived, other.derived)
    assert not differences, f"{len(differences)} differences between {which}, such as {differences[:3]}"


def write_config(log: Log, home: Path, *, derive_files: int) -> Path:
    """A settings file of the complete flow over the delivered files, with one file per batch."""
    derive = ROOT / "conf" / "derive"
    features = [str(derive / f"{name}_hours.toml") for name in ("user", "item", "category", "brand", "user_category")]
    config = home / "settings.toml"
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.{log.name}]\npath = "{home}/input"\nmapping = "{log.mapping}"\nmax_files_per_trigger = 1\n'
        f'[derive]\nfeatures = {features}\nprofiles = ["{derive}/user_profiles.toml"]\n'
        f'shop_timezone = "Europe/London"\nmax_files_per_trigger = {derive_files}\n'
        "[derive.sessions]\nenabled = true\n[derive.transitions]\nenabled = true\n"
        f'[derive.windows]\nfile = "{derive}/windows.toml"\nenabled = true\n'
        f"[learn]\nmax_files_per_trigger = {derive_files}\n[learn.segments]\nenabled = true\nk = 3\n"
        "[learn.tracking]\nenabled = false\n"
        f'[serve.tags]\nfile = "{ROOT}/conf/tags.toml"\nenabled = true\n'
    )
    return config


def _assert_row_accounting(spark: SparkSession, settings: Settings, lines: int, batches: int) -> None:
    """Law 1, against the number of delivered lines."""
    rows = tables.CAPTURE_BATCHES.read(spark, settings.paths).collect()
    assert len(rows) == batches
    for row in rows:
        assert row["rows_in"] == row["rows_clean"] + row["rows_rejected"] + row["rows_duplicate"], row
    assert sum(row["rows_in"] for row in rows) == lines
    assert sum(row["rows_clean"] for row in rows) == tables.EVENTS.read(spark, settings.paths).count()


def _events(spark: SparkSession, settings: Settings) -> Counter[str]:
    """How often each row of `events` occurs.

    Run-dependent columns are left out; the warning about bots depends on the batch.
    """
    rows = tables.EVENTS.read(spark, settings.paths).drop(*RUN_DEPENDENT_COLUMNS, "position", "batch_id", "warnings")
    return Counter(row[0] for row in rows.select(F.to_json(F.struct("*"))).collect())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--log", choices=LOGS, default="seeded")
    arguments.add_argument("--lines", type=int, default=4_000)
    arguments.add_argument("--cuts", type=int, nargs="+", default=[1, 10, 200])
    arguments.add_argument("--seed", type=int, default=1)
    return arguments


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    spark = open_session("laws", str(ROOT / "conf" / "spark-local.conf"))
    with tempfile.TemporaryDirectory() as work:
        log = LOGS[args.log](Path(work), args.lines, args.seed)
        rows = check_laws(spark, Path(work), log, args.cuts, args.seed, print)
    print(f"{args.log}, in {args.cuts} batches and rebuilt: the same tables; {rows}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
