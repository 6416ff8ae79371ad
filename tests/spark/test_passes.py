"""A pass gives the same outputs with frames and with Arrow tables, for any number of partitions."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from profilestream.base.passes import Pass, run_pass
from profilestream.base.session import conf_set
from pyspark.sql import SparkSession

AT = datetime(2026, 1, 11, 8, tzinfo=UTC)


def _schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, type_) for name, type_ in types.items()])


EVENT = _schema(user_id=pa.string(), item_id=pa.string(), weight=pa.float64())
USER = _schema(key=pa.string(), item_ids=pa.list_(pa.string()), vector=pa.binary(), as_of=pa.timestamp("us", "UTC"))
ITEM = _schema(item_id=pa.string(), price=pa.float64())
LISTED = _schema(item_id=pa.string(), user_id=pa.string())


def passes() -> tuple[Pass, Pass]:
    """Items with doubled prices; the users of events, with their items and the value of their events."""

    def double_prices(items: pa.Table, factor: float) -> dict[str, pa.Table]:
        rows = [{**row, "price": row["price"] * factor} for row in items.to_pylist()]
        return {"catalog": pa.Table.from_pylist(rows, ITEM)}

    def update(events: pa.Table, stored: pa.Table, catalog: pa.Table, factor: float) -> dict[str, Any]:
        price = {row["item_id"]: row["price"] for row in catalog.to_pylist()}
        users: dict[str, dict[str, Any]] = {row["key"]: row for row in stored.to_pylist()}
        for event in events.sort_by([("user_id", "ascending"), ("item_id", "ascending")]).to_pylist():
            user = users.setdefault(event["user_id"], {"key": event["user_id"], "item_ids": None, "as_of": AT})
            user["item_ids"] = [*(user["item_ids"] or []), event["item_id"]]
            value = str(event["weight"] * factor * price[event["item_id"]]).encode()
            user["vector"] = (user.get("vector") or b"") + value
        listed = [{"item_id": item, "user_id": key} for key, row in users.items() for item in row["item_ids"] or []]
        outputs: dict[str, Any] = {"users": pa.Table.from_pylist(list(users.values()), USER)}
        if users:
            outputs["count"] = {"users": len(users), "items": len(price)}
        return outputs | ({"listed": pa.Table.from_pylist(listed, LISTED)} if listed else {})

    pack = Pass(double_prices, inputs={"items": ITEM}, outputs={"catalog": ITEM}, packed=("catalog",))
    users = Pass(
        update,
        inputs={"events": EVENT, "stored": USER, "catalog": ITEM},
        keys={"events": "user_id", "stored": "key"},
        outputs={"users": USER, "listed": LISTED},
        results=("count",),
    )
    return pack, users


ITEMS = pa.Table.from_pylist([{"item_id": f"i{n}", "price": 1.5 * n} for n in range(5)], ITEM)
EVENTS = pa.Table.from_pylist(
    [{"user_id": f"u{n % 7}", "item_id": f"i{n * n % 5}", "weight": 1.0 + n} for n in (9, 3, 7, 1, 12, 0, 5)], EVENT
)
STORED = pa.Table.from_pylist(
    [
        {"key": "u1", "item_ids": ["i4", "i🛒"], "vector": b"\x00", "as_of": AT},
        {"key": "u2", "item_ids": [], "vector": None, "as_of": None},
        {"key": "u5", "item_ids": None, "vector": b"", "as_of": AT},
    ],
    USER,
)


def results(events: Any, stored: Any, items: Any) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """The sorted rows of each output, and the results of each call; other columns of the inputs are ignored."""
    pack, update = passes()
    packed, none = run_pass(pack, {"items": items}, factor=2.0)
    assert none == {}
    inputs = {"events": events, "catalog": packed["catalog"]} | ({} if stored is None else {"stored": stored})
    rows, each = run_pass(update, inputs, factor=3.0)
    tables = {name: one if isinstance(one, pa.Table) else one.toArrow() for name, one in rows.items()}
    ordered = {name: sorted(table.to_pylist(), key=str) for name, table in tables.items()}
    return ordered, each["count"]


@pytest.mark.parametrize(
    ("parts", "events", "stored"),
    [(1, EVENTS, STORED), (3, EVENTS, STORED), (8, EVENTS, None), (3, EVENTS.slice(0, 0), STORED)],
    ids=["1 part", "3 parts", "nothing stored", "no events"],
)
def test_frames_and_tables_give_the_same_outputs(
    spark: SparkSession, parts: int, events: pa.Table, stored: pa.Table | None
) -> None:
    other = ITEMS.append_column("other", pa.nulls(len(ITEMS), pa.string()))
    expected, count = results(events, stored, other)
    assert count == [{"users": len(expected["users"]), "items": 5}]
    with conf_set(spark, {"spark.sql.shuffle.partitions": str(parts)}):
        frames = [spark.createDataFrame(rows) if rows is not None else None for rows in (events, stored, other)]
        actual, counts = results(*frames)
    assert actual == expected
    assert sum(row["users"] for row in counts) == len(expected["users"])
    assert {row["items"] for row in counts} == {5} and len(counts) <= parts


def test_an_input_with_other_columns_is_an_error(spark: SparkSession) -> None:
    pack, update = passes()
    text = ITEMS.set_column(1, "price", pa.array(["1"] * len(ITEMS)))
    catalog = {"catalog": run_pass(pack, {"items": ITEMS}, factor=1.0)[0]["catalog"]}
    for one, name, rows, message in (
        (pack, "items", text, "items has the columns .*; needed: {'price'"),
        (pack, "items", ITEMS.drop_columns(["price"]), "items has the columns .*; needed: {'price'"),
        (update, "stored", STORED.set_column(3, "as_of", pa.array([1, 2, 3])), "stored has .*; needed: {'as_of'"),
    ):
        more = catalog if one is update else {}
        with pytest.raises(TypeError, match=message):
            run_pass(one, {name: rows, **more}, factor=1.0)
        with pytest.raises(TypeError, match=message):
            run_pass(one, {name: spark.createDataFrame(rows)}, factor=1.0)
    wrong = Pass(lambda items: {"rows": text}, inputs={"items": ITEM}, outputs={"rows": ITEM})
    with pytest.raises(TypeError, match="rows has the columns"):
        run_pass(wrong, {"items": ITEMS})
