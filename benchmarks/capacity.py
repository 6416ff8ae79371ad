"""Computes what a shop needs from the measured costs (results/costs.json), and writes docs/scaling.md with --page.

Prints cores, shuffle and writes of each stage, sizes of tables, and limits, in the order in which they are exceeded.
"""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / ".ci")]

from benchmarks import costs  # noqa: E402
from benchmarks.costs import Costs  # noqa: E402
from benchmarks.markdown import table  # noqa: E402

PAGE, TEMPLATE = ROOT / "docs" / "scaling.md", Path(__file__).parent / "scaling_page.md"
_DAY = 86_400
# Capture compares the ids of a batch with the events of its dates and of the days before and after: on average half of
# today, and yesterday.
_SEARCHED_DAYS = 1.5
# Core-seconds of a batch per million stored profiles, most of them unchanged (decision 0011: 5.5 for 1.9 million).
_PROFILE_SCAN = 2.9
# Bytes of a profile after 1,000 events (benchmark profile_bytes_1000).
_PROFILE_BYTES = 5_649
_BYTES_OF_ID = 8
# Defaults of stream.local_max_rows and stream.local_max_keys.
_LOCAL_ROWS, _LOCAL_KEYS = 50_000, 5_000_000
_WRITE_BYTES_PER_SECOND = 1e9
_HEADROOM = 2.0
CAPTURE, FEATURES, PROFILES = "capture_events", "derive_features", "derive_profiles"


@dataclass(frozen=True)
class Shop:
    """What a deployment has to process.

    Args:
        rate: events per second.
        interval: seconds between two batches of a stage.
        days: for which `events` is stored.
        hottest_share: share of the events that belong to the most frequent item.
        shards: warehouses between which the users are divided.
    """

    users: float = 100e6
    items: float = 1e6
    rate: float = 1e6
    interval: float = 60.0
    days: float = 365.0
    hottest_share: float = 0.05
    shards: int = 1

    @property
    def shard(self) -> "Shop":
        """One of the warehouses."""
        share = 1 / self.shards
        return Shop(self.users * share, self.items, self.rate * share, self.interval, self.days, self.hottest_share)

    @property
    def batch(self) -> float:
        """Events of a batch of a shard."""
        return self.shard.rate * self.interval

    @property
    def searched_ids(self) -> float:
        """Stored events with which a batch of a shard is compared."""
        return _SEARCHED_DAYS * _DAY * self.shard.rate

    @property
    def updated_profiles(self) -> float:
        """Profiles that a batch of a shard updates, if all users are equally active."""
        users = self.shard.users
        return users * (1 - math.exp(-self.batch / users))

    def is_local(self, keys: float) -> bool:
        """Whether the driver processes the batches of a table with so many keys, instead of Spark."""
        return self.batch <= _LOCAL_ROWS and keys <= _LOCAL_KEYS


@dataclass(frozen=True)
class Need:
    """What a stage needs, in all shards.

    Args:
        cores: that are busy on average.
        shuffled, written: bytes per second.
    """

    cores: float
    shuffled: float
    written: float


@dataclass(frozen=True)
class Limit:
    """A limit, and how far the deployment is from it.

    Args:
        use: part of the limit that is used; above 1 it is exceeded.
    """

    name: str
    use: float
    detail: str


def needs(shop: Shop, measured: Costs) -> dict[str, Need]:
    """The needs by stage, and those that grow with stored rows instead of events."""
    million, batches = shop.rate / 1e6, shop.shards / shop.interval
    result = {
        stage: Need(cost.core_seconds * million, cost.shuffled * shop.rate, cost.written * shop.rate)
        for stage, cost in measured.stages.items()
    }
    profiles = result[PROFILES]
    rewritten = shop.updated_profiles * _PROFILE_BYTES * batches
    result[PROFILES] = Need(profiles.cores, profiles.shuffled, max(profiles.written, rewritten))
    ids = 0.0 if shop.is_local(shop.searched_ids) else shop.searched_ids * batches
    rows = 0.0 if shop.is_local(shop.shard.users) else shop.shard.users * batches
    result[f"{CAPTURE}, search of ids"] = Need(measured.id_search * ids / 1e6, _BYTES_OF_ID * ids, 0.0)
    result[f"{PROFILES}, scan"] = Need(_PROFILE_SCAN * rows / 1e6, 0.0, 0.0)
    return result


def sizes(shop: Shop, measured: Costs) -> dict[str, float]:
    """Bytes by table over all shards, each with all items; without tables of categories.

    A tile table has at most a row for each key and hour.
    """
    per_row = {name: one.bytes / max(one.rows, 1) for name, one in measured.tables.items()}
    events, hours, items = shop.rate * _DAY * shop.days, 24 * shop.days, shop.items * shop.shards
    keys = {"user_segments": shop.users, "factors": shop.users + items}
    most = {"events": events, "sessions": events, "user_hours": shop.users * hours, "item_hours": items * hours}
    rows = keys | {
        name: min(events * measured.tables[name].rows / measured.events, bound)
        for name, bound in most.items()
        if name in measured.tables
    }
    by_key = {"user_profiles": shop.users * _PROFILE_BYTES}
    return by_key | {name: count * per_row[name] for name, count in rows.items() if name in per_row}


def limits(shop: Shop, measured: Costs) -> list[Limit]:
    """The limits of a shard, the most exceeded one first."""
    needed = needs(shop, measured)
    search = needed.pop(f"{CAPTURE}, search of ids").cores
    others = sum(need.cores for need in needed.values())
    tiles = sum(name.endswith("_hours") for name in measured.tables)
    fold = measured.stages[FEATURES].core_seconds / 1e6 / max(tiles, 1)
    hottest = shop.hottest_share * shop.shard.rate * fold
    written = shop.updated_profiles * _PROFILE_BYTES / shop.interval
    result = [
        Limit(
            "search of repeated ids",
            search / others,
            f"a batch of capture compares its ids with {shop.searched_ids:,.0f} stored ones: {search:,.1f} cores, "
            f"against {others:,.1f} for all other work",
        ),
        Limit(
            "hottest item in one task",
            hottest,
            f"{shop.hottest_share:.0%} of the events have one key, whose task in a tile table needs "
            f"{hottest * shop.interval:,.1f} of the {shop.interval:,.0f} s between two batches",
        ),
        Limit(
            "rewritten profiles",
            written / _WRITE_BYTES_PER_SECOND,
            f"a batch updates {shop.updated_profiles:,.0f} of {shop.shard.users:,.0f} profiles: "
            f"{written / 1e6:,.0f} MB/s, against {_WRITE_BYTES_PER_SECOND / 1e6:,.0f} MB/s",
        ),
    ]
    return sorted(result, key=lambda limit: -limit.use)


def needs_table(shop: Shop, measured: Costs) -> str:
    """A row for each stage, and their sum."""
    needed = needs(shop, measured)
    total = Need(*(sum(getattr(need, name) for need in needed.values()) for name in ("cores", "shuffled", "written")))
    rows = [
        [
            f"`{stage}`" if "," not in stage else stage,
            f"{need.cores:,.1f}",
            f"{need.cores * _HEADROOM:,.0f}",
            f"{need.shuffled / 1e6:,.1f}",
            f"{need.written / 1e6:,.1f}",
        ]
        for stage, need in {**needed, "all, sum": total}.items()
    ]
    return table(["stage", "busy cores", "planned cores", "shuffle, MB/s", "written, MB/s"], rows)


def sizes_table(shop: Shop, measured: Costs) -> str:
    """A row for each table."""
    rows = [[f"`{name}`", f"{size / 1e9:,.1f}"] for name, size in sizes(shop, measured).items()]
    return table([f"table after {shop.days:,.0f} days", "GB"], rows)


def limits_table(shop: Shop, measured: Costs) -> str:
    """A row for each limit."""
    rows = [[limit.name, f"{limit.use:,.2g}", limit.detail] for limit in limits(shop, measured)]
    return table(["limit", "use", "why"], rows)


def costs_table(measured: Costs) -> str:
    """The measured costs of each stage."""
    rows = [
        [
            f"`{stage}`",
            f"{cost.core_seconds:,.1f}",
            f"{1e6 / cost.core_seconds:,.0f}" if cost.core_seconds else "-",
            f"{cost.shuffled:,.0f}",
            f"{cost.written:,.0f}",
            f"{cost.read:,.0f}",
        ]
        for stage, cost in measured.stages.items()
    ]
    header = ["stage", "core-seconds per million events", "events per core-second"]
    return table([*header, "bytes shuffled per event", "bytes written", "bytes read"], rows)


def table_sizes_table(measured: Costs) -> str:
    """The measured sizes of the tables with at least 1,000 rows."""
    rows = [
        [f"`{name}`", f"{one.rows:,}", f"{one.bytes / one.rows:,.0f}", f"{one.bytes / measured.events:,.1f}"]
        for name, one in measured.tables.items()
        if one.rows >= 1_000
    ]
    return table(["table", "rows", "bytes per row", "bytes per event"], rows)


def page(measured: Costs) -> str:
    """The text of docs/scaling.md: the template with its tables."""
    example, sharded = Shop(), Shop(shards=100, interval=600.0)
    parts = {
        "machine": f"{measured.date}: {measured.machine}",
        "events": f"{measured.events:,}",
        "users": f"{measured.users:,}",
        "items": f"{measured.items:,}",
        "rows_per_batch": f"{measured.rows_per_batch:,}",
        "id_search": f"{measured.id_search:.2f}",
        "costs": costs_table(measured),
        "sizes": table_sizes_table(measured),
        "needs": needs_table(example, measured),
        "limits": limits_table(example, measured),
        "tables": sizes_table(example, measured),
        "sharded_needs": needs_table(sharded, measured),
        "sharded_limits": limits_table(sharded, measured),
    }
    text = TEMPLATE.read_text()
    for name, part in parts.items():
        text = text.replace("{{" + name + "}}", part)
    return text


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--users", type=float, default=Shop.users)
    result.add_argument("--items", type=float, default=Shop.items)
    result.add_argument("--rate", type=float, default=Shop.rate, help="events per second")
    result.add_argument("--interval", type=float, default=Shop.interval, help="seconds between two batches of a stage")
    result.add_argument("--days", type=float, default=Shop.days, help="for which events are stored")
    result.add_argument("--hottest-share", type=float, default=Shop.hottest_share, help="of the most frequent item")
    result.add_argument("--shards", type=int, default=Shop.shards, help="warehouses that divide the users")
    result.add_argument("--page", action="store_true", help="write docs/scaling.md")
    return result


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if not costs.RESULTS.exists():
        print(f"{costs.RESULTS} does not exist: run make bench ONLY=cost_per_million", file=sys.stderr)
        return 2
    measured = costs.read()
    if args.page:
        PAGE.write_text(page(measured))
        return 0
    shop = Shop(args.users, args.items, args.rate, args.interval, args.days, args.hottest_share, args.shards)
    for text in (needs_table(shop, measured), sizes_table(shop, measured), limits_table(shop, measured)):
        print(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
