"""Tiles of a stage run equal plain Python after late events, several batches, crashes and rebuilds."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from profilestream import flow
from profilestream.base import streaming
from profilestream.base.errors import BadSettings, Refused, SourceMissing
from profilestream.base.queries import RunOptions
from profilestream.derive import fold_stage, table_declaration, tiles
from profilestream.derive.fold import Fold
from pyspark.sql import Row, SparkSession

from jobs import derive_features
from tests.builders import Shop, event
from tests.fault_injection import Crashes
from tests.open_readers import assert_all_readers_agree

ROOT = Path(__file__).parent.parent.parent
NAMES = ("user_hours", "item_hours", "category_hours")


def _shop(home: Path, *, files: int, shipped: bool = True) -> Shop:
    """Twelve hours of events in `files` files, newest first; each file is a batch of both stages."""
    features = [str(ROOT / "conf" / "derive" / f"{name}.toml") for name in NAMES]
    extra = f"[derive]\nmax_files_per_trigger = 1\nfeatures = {json.dumps(features)}\n" if shipped else ""
    shop = Shop(home, extra_settings=extra)
    shop.mapping = shop.mapping.replace(
        'item_id = "what"', 'item_id = "what"\ncategory = "concat(\'c\', substr(what, 2))"'
    )
    log = [_event(n) for n in range(48)][::-1]
    for n in range(files):
        shop.write(
            f"{n:02}.jsonl", "\n".join(json.dumps(e) for e in log[n * len(log) // files : (n + 1) * len(log) // files])
        )
    return shop


def _event(n: int) -> dict[str, Any]:
    kind = ("view", "purchase", "return", "purchase")[n % 4]
    who = None if n % 9 == 0 else f"u{n % 4}"
    return event(n, kind=kind, who=who, at=f"2026-01-02T{n % 12:02}:{n:02}:00Z", price=str(1 + n % 5),
                 quantity=None if n % 8 == 1 else "2")  # fmt: skip


def _tiles(spark: SparkSession, shop: Shop) -> dict[str, list[str]]:
    """The values of the tiles by table, one line of JSON per key."""
    lines = {}
    for derived in fold_stage.declared_tables(shop.settings()).values():
        rows = derived.table.read(spark, shop.settings().paths)
        values: list[Row] = Fold(derived).read(Fold(derived).merge_rows(rows)).collect()
        lines[derived.name] = sorted(_json_line(_round_floats(row.asDict(recursive=True))) for row in values)
    return lines


def _json_line(row: dict[str, Any]) -> str:
    return json.dumps(row, default=str, sort_keys=True)


def _round_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round_floats(item) for key, item in value.items()}
    return round(value, 9) if isinstance(value, float) else value


def test_tiles_of_two_batches_equal_the_counts_of_plain_python(spark: SparkSession, tmp_path: Path) -> None:
    shop = _shop(tmp_path, files=2)
    flow.run(spark, shop.settings(), RunOptions())
    lines = _tiles(spark, shop)
    for derived in fold_stage.declared_tables(shop.settings()).values():
        assert_all_readers_agree(spark, derived.table.path(shop.settings().paths), "events")
    events = [_event(n) for n in range(48)]
    users = Counter((f"shop:{e['who']}", e["at"][11:13]) for e in events if e["who"])
    user_rows = [json.loads(line) for line in lines["user_hours"]]
    assert {(r["user_id"], r["hour"][11:13]): r["events"] for r in user_rows} == users
    spent: Counter[str] = Counter()
    units: Counter[str] = Counter()
    for e in events:
        if e["kind"] == "purchase":
            spent[f"c{e['what'][1:]}"] += int(e["price"]) * int(e["quantity"] or 0)
            units[f"shop:{e['what']}"] += int(e["quantity"] or 1)
    by_category: Counter[str] = Counter()
    for line in lines["category_hours"]:
        by_category[json.loads(line)["category"]] += json.loads(line)["value"]
    assert by_category == spent
    item_rows = [json.loads(line) for line in lines["item_hours"]]
    # Six of the 48 events are of guests, who have no user tiles.
    sold: Counter[str] = Counter()
    for row in item_rows:
        sold[row["item_id"]] += row["quantity"]
    assert +sold == units
    assert sum(r["events"] for r in item_rows) == 48 and sum(r["events"] for r in user_rows) == 48 - 6


def test_a_crash_before_or_after_any_write_changes_nothing(
    spark: SparkSession, tmp_path: Path, crashes: Crashes
) -> None:
    shop = _shop(tmp_path, files=1)
    shop.capture(spark)
    settings = shop.settings()
    assert crashes.run_through(tiles.queries(settings), settings, batch_id=0) == 4
    assert sum(json.loads(line)["events"] for line in _tiles(spark, shop)["item_hours"]) == 48
    for derived in fold_stage.declared_tables(settings).values():
        rows = derived.table.read(spark, settings.paths)
        assert rows.count() == rows.select(*derived.keys).distinct().count(), derived.name


def test_one_line_in_the_declaration_and_a_rebuild_add_a_statistic(
    spark: SparkSession, tmp_path: Path, capsys: Any
) -> None:
    shop = _shop(tmp_path, files=3, shipped=False)
    file = tmp_path / "user_hours.toml"
    shipped = (ROOT / "conf" / "derive" / "user_hours.toml").read_text()
    file.write_text(shipped)
    shop.extra_settings = f'[derive]\nfeatures = ["{file}"]\n'
    flow.run(spark, shop.settings(), RunOptions())
    before = _tiles(spark, shop)["user_hours"]
    file.write_text(shipped + 'expensive = { kind = "count", where = "price > 3" }\n')
    config = ["--config", str(shop.config())]
    assert derive_features.main(config) == 3
    assert "table user_hours was derived by another declaration" in capsys.readouterr().err
    assert derive_features.main([*config, "--rebuild"]) == 0
    after = [json.loads(line) for line in _tiles(spark, shop)["user_hours"]]
    assert sum(row["expensive"] for row in after) == sum(1 for n in range(48) if n % 9 and 1 + n % 5 > 3)
    assert sorted(_json_line({k: v for k, v in row.items() if k != "expensive"}) for row in after) == before


def test_tiles_of_another_declaration_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    shop = _shop(tmp_path, files=1)
    derived = table_declaration.load(str(ROOT / "conf" / "derive" / "user_hours.toml"), {})
    derived.table.create(spark, shop.settings().paths)
    other = derived.model_copy(update={"where": "user_id IS NOT NULL AND price > 1"})
    with pytest.raises(Refused) as raised:
        other.table.check_stored(spark, shop.settings().paths)
    assert raised.value.do == "restore the declaration, or derive the table again from all events: --rebuild"


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        ('x = { kind = "sum", of = "prise" }', "statistics.x.of", "'prise' is not valid"),
        ('x = { kind = "count", where = "price" }', "statistics.x.where", "'price' is a double"),
        ('x = { kind = "count", weight = "nosuch(price)" }', "statistics.x.weight", "is not valid"),
    ],
)
def test_an_invalid_expression_is_refused_at_the_start(
    spark: SparkSession, tmp_path: Path, line: str, key: str, message: str
) -> None:
    file = tmp_path / "user_hours.toml"
    file.write_text((ROOT / "conf" / "derive" / "user_hours.toml").read_text() + line + "\n")
    shop = Shop(tmp_path, extra_settings=f'[derive]\nfeatures = ["{file}"]\n')
    with pytest.raises(BadSettings) as raised:
        tiles.check(spark, shop.settings())
    assert message in raised.value.what
    assert raised.value.where == f"{file}, {key}"


def test_the_error_for_missing_events_names_the_job_to_run_first(spark: SparkSession, tmp_path: Path) -> None:
    shop = _shop(tmp_path, files=1)
    with pytest.raises(SourceMissing) as raised:
        streaming.run(spark, tiles.queries(shop.settings()), shop.settings(), RunOptions())
    assert raised.value.do == "run jobs/capture_events.py first"
