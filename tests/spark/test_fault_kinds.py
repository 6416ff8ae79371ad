"""Inputs that other systems fail on: no value stops a batch, every format gives the same result, nothing is guessed."""

import base64
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from profilestream.base import streaming, tables
from profilestream.base.errors import BadSettings, NothingWritten, Refused, SourceUnreadable
from profilestream.base.queries import RunOptions
from profilestream.capture import capture_checks, currency, failing_rows, ingest, reprocess
from profilestream.capture.mapping import InputSpec
from profilestream.capture.sources.file_source import FileSource, reading_files
from profilestream.serve.report import queries_events
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from tests.builders import Shop
from tests.rule_results import capture_source, evaluate, parse

BASE = """
user_namespace = "s"
item_namespace = "s"
[input]
format = "jsonl"
columns = "id string, kind string, at string, who string, what string, price double, quantity double"
[columns]
event_type = "kind"
event_time = "at"
user_id = "who"
item_id = "what"
price = "price"
quantity = "quantity"
"""
T = "2026-03-01T10:00:00Z"


def mapping(columns: str, **expressions: str) -> str:
    """A mapping of JSON lines with these raw columns; without an expression, the type is view and the time is T."""
    defaults = {"event_type": "'view'", "event_time": f"'{T}'"}
    lines = [f"{name} = {json.dumps(sql)}" for name, sql in {**defaults, **expressions}.items()]
    namespaces = 'user_namespace = "s"\nitem_namespace = "s"\n'
    return f'{namespaces}[input]\nformat = "jsonl"\ncolumns = "{columns}"\n[columns]\n' + "\n".join(lines) + "\n"


def results(spark: SparkSession, text: str, values: list[dict[str, Any] | str], **capture: Any) -> list[Row]:
    """The evaluated rows of JSON lines."""
    source = capture_source(text, **capture)
    lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return evaluate(source, parse(spark, source, lines))


# -- no row and no value stops a batch ----------------------------------------------------------------


def test_a_time_outside_the_range_of_python_costs_one_row(spark: SparkSession, tmp_path: Path) -> None:
    text = mapping("ts bigint, t2 bigint, who string, what string", event_time="coalesce(timestamp_millis(ts), "
                   "timestamp_seconds(t2))", user_id="who", item_id="what")  # fmt: skip
    shop = Shop(tmp_path, text)
    lines = [
        {"ts": 1772359200000, "who": "u1", "what": "a"},
        {"ts": 1772359200000000, "who": "u1", "what": "b"},
        {"t2": 1772359200000, "who": "u1", "what": "c"},
        {"t2": -99999999999, "who": "u1", "what": "d"},
        {"ts": 9223372036854775807, "who": "u1", "what": "e"},
        {"ts": -9223372036854775808, "who": "u1", "what": "f"},
    ]
    shop.write("a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    shop.capture(spark)
    assert shop.counts(spark) == (6, 1, 5, 0)
    rejected = shop.read(spark, tables.REJECTED_EVENTS).orderBy("position").select("position", "rule").collect()
    assert [tuple(row) for row in rejected] == [
        ("a.jsonl:2", "event_time_in_future"), ("a.jsonl:3", "event_time_in_future"),
        ("a.jsonl:4", "event_time_before_min_date"), ("a.jsonl:5", "expression_failed"),
        ("a.jsonl:6", "expression_failed"),
    ]  # fmt: skip


def test_a_text_before_the_first_year_is_before_the_first_date(spark: SparkSession) -> None:
    texts = ["0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "0001-01-01"]
    rows = results(spark, BASE, [{"kind": "view", "at": text} for text in texts])
    assert {row.rule for row in rows} <= {"event_time_before_min_date", "event_time_unreadable"}


def test_a_long_text_in_the_column_of_the_time_costs_one_row(spark: SparkSession) -> None:
    ends = ["A" + "/b" * 50_000, "/" * 100_000, " " + "9" * 100_000, "A/" + "b" * 100_000]
    rows = results(spark, BASE, [{"kind": "view", "at": "2026-07-01 10:00:00 " + end} for end in ends])
    assert [row.rule for row in rows] == ["event_time_unreadable"] * 4


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Berlin", "Asia/Tokyo", "Pacific/Honolulu"])
def test_a_time_at_the_bounds_of_spark_is_rejected_in_every_zone(spark: SparkSession, zone: str) -> None:
    text = f'timezone = "{zone}"\n' + mapping("ts bigint, us bigint", event_time="coalesce(CAST(ts AS TIMESTAMP), "
                                              "timestamp_micros(us))")  # fmt: skip
    values: list[Any] = [
        {"ts": 1772359200},
        {"ts": 1772359200000000},
        {"us": 2**63 - 1},
        {"us": -(2**63)},
        {"us": -(2**62)},
    ]
    assert [row.rule for row in results(spark, text, values)] == [
        None, *["event_time_in_future"] * 2, *["event_time_before_min_date"] * 2,
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["bigint", "date", "double"])
def test_a_map_with_a_blank_key_costs_one_row(spark: SparkSession, key: str) -> None:
    text = mapping(f"m map<{key},string>, n map<string,int>", text="string(size(m))")
    good = {"bigint": "1", "date": "2026-01-01", "double": "1.5"}[key]
    values: list[Any] = [{"m": {good: "a"}}, {"m": {"": "b"}}, {"m": {good: "a", " \t": "b"}}, {"n": {"": 1}}, {}]
    assert [row.rule for row in results(spark, text, values)] == [None, "wrong_type", "wrong_type", None, None]


@pytest.mark.parametrize("name", ["c`d", "`", "``x", "a.b`c"])
def test_a_column_with_a_backtick_in_its_name_is_an_unknown_column(
    spark: SparkSession, tmp_path: Path, name: str
) -> None:
    table = pa.table({"kind": ["view"], "at": [T], "who": ["u"], name: ["2"]})
    assert captured(spark, tmp_path, BASE, table).counts(spark) == (1, 1, 0, 0)
    nanoseconds = table.append_column(f"ns{name}", pa.array([datetime(2026, 3, 1)], pa.timestamp("ns")))
    assert captured(spark, tmp_path, BASE, nanoseconds, "b.parquet").counts(spark) == (2, 2, 0, 0)


# By canonical column: raw columns, an expression, values for which it has a result, and values for which it raises.
RAISING: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "query": ("url string", "parse_url(url, 'QUERY', 'utm_source')", {"url": "http://a.b/?utm_source=x"},
              {"url": "http://a.b/?q=red shoes|blue"}),
    "text": ("q string", "url_decode(q)", {"q": "50%25"}, {"q": "50% off"}),
    "event_time": ("y int, m int", f"coalesce(make_timestamp(y, m, 1, 1, 1, 1), timestamp'{T}')",
                   {"y": 2026, "m": 1}, {"y": 2026, "m": 13}),
    "item_id": ("a array<string>", "element_at(a, size(a) - 1)", {"a": ["x", "y"]}, {"a": ["x"]}),
    "channel": ("x string, r string", "regexp_extract(x, r, 0)", {"x": "a", "r": "a"}, {"x": "a", "r": "(("}),
    "device": ("items array<struct<id: string>>", "items[0].id", {"items": [{"id": "i"}]}, {"items": []}),
    "region": ("sku string", "split(sku, '-')[1]", {"sku": "a-b"}, {"sku": "ab"}),
    "brand": ("p array<struct<key: string, v: string>>", "filter(p, x -> x.key = 'page')[0].v",
              {"p": [{"key": "page", "v": "1"}]}, {"p": [{"key": "no", "v": "1"}]}),
    "quantity": ("n int", "n * 100", {"n": 1}, {"n": 2147483647}),
    "price": ("b string", "CAST(b AS DOUBLE) / 2", {"b": "3"}, {"b": "three"}),
    "rating": ("c string, d string", "int(c) % int(d)", {"c": "3", "d": "2"}, {"c": "3", "d": "0"}),
    "category": ("e string", "string(to_timestamp(e, 'yyyy'))", {"e": "2026"}, {"e": "26"}),
    "session_id": ("f string", "from_json(f, 'id string', map('mode', 'FAILFAST')).id", {"f": '{"id":"i"}'},
                   {"f": "{"}),
}  # fmt: skip


def test_an_expression_that_raises_costs_one_row(spark: SparkSession) -> None:
    text = mapping(", ".join(columns for columns, *_ in RAISING.values()),
                   **{name: sql for name, (_, sql, *_) in RAISING.items()})  # fmt: skip
    good = {key: value for _, _, values, _ in RAISING.values() for key, value in values.items()}
    rows = results(spark, text, [good, *[{**good, **bad} for _, _, _, bad in RAISING.values()], good])
    assert (rows[0].rule, rows[-1].rule) == (None, None)
    for (name, (_, _, _, bad)), row in zip(RAISING.items(), rows[1:-1], strict=True):
        assert row.rule == "expression_failed", name
        assert row.reason.startswith(f"columns.{name} fails on this row: ")
        key, value = next(iter(bad.items()))
        assert f"{key} = {json.dumps(value, separators=(',', ':'))}" in row.reason


def test_an_expression_that_raises_in_any_key_of_the_mapping_costs_one_row(spark: SparkSession) -> None:
    base = mapping("n string, items array<string>", user_id="n")
    keys = {
        "reject.x.when": base + "[reject.x]\nwhen = \"int(raw.n) > 7\"\n",
        "warn.x.when": base + "[warn.x]\nwhen = \"int(raw.n) > 7\"\n",
        "fill.quantity": base + "[fill]\nquantity = \"int(raw.n)\"\n",
        "input.explode": base.replace("[columns]", 'explode = "sequence(1, int(n))"\n[columns]'),
    }  # fmt: skip
    for key, text in keys.items():
        rows = results(spark, text, [{"n": "1"}, {"n": "x"}])
        assert {row.rule for row in rows} == {None, "expression_failed"}, key
        (failed,) = [row for row in rows if row.rule]
        assert failed.reason.startswith(f"{key} fails on this row: "), failed.reason


def test_two_columns_share_a_subexpression_that_raises(spark: SparkSession) -> None:
    text = mapping("n string", quantity="int(n) + 1", price="int(n) + 2", rating="int(n)")
    rows = results(spark, text, [{"n": "1"}, {"n": "x"}])
    assert [(row.rule, row.price) for row in rows] == [(None, 3.0), ("expression_failed", None)]


def test_an_expression_that_raises_on_every_row_of_the_first_batch_is_refused_and_later_it_is_an_alarm(
    spark: SparkSession, tmp_path: Path
) -> None:
    wrong = mapping("n string", user_id="n", quantity="int(n)")
    shop = Shop(tmp_path, wrong)
    shop.write("a.jsonl", "".join(f'{{"n":"u{n}"}}\n' for n in range(100)))
    with pytest.raises(NothingWritten) as raised:
        shop.capture(spark)
    assert "columns.quantity" in raised.value.what
    assert shop.read(spark, tables.CAPTURE_BATCHES).count() == 0
    shop.mapping = mapping("n string", user_id="n", quantity="int(substring(n, 2))")
    shop.capture(spark)
    assert shop.counts(spark) == (100, 100, 0, 0)
    shop.write("b.jsonl", "".join(f'{{"n":"x{n}y"}}\n' for n in range(100)))
    shop.capture(spark)
    assert shop.counts(spark) == (200, 100, 100, 0)
    (alarm,) = shop.read(spark, tables.CAPTURE_ALARMS).where("measure = 'expression_failed'").collect()
    assert alarm.message == "columns.quantity fails on every row"


def by_both_ways(
    spark: SparkSession, home: Path, text: str, lines: list[dict[str, Any]], **shop: Any
) -> list[tuple[list[Row], list[Row]]]:
    """Events and rejected rows by position: as captured by the driver, and as captured by Spark."""
    found = []
    for limit in (1000, 0):
        one = Shop(home / str(limit), text, overrides=[f"stream.local_max_rows={limit}"], **shop)
        one.write("a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        one.capture(spark)
        order = [F.length("position"), F.col("position")]
        found.append(
            tuple(one.read(spark, t).orderBy(*order).collect() for t in (tables.EVENTS, tables.REJECTED_EVENTS))
        )
    return found  # type: ignore[return-value]


REGEX = "rlike({}, '^(a|b)*c$')"
LONG_TEXT = "a" * 200_000  # Java's stack is full after some thousand characters
MANY = 2_000_000_000  # numbers, which are 16 GB


def test_an_expression_that_ends_the_task_costs_one_row(spark: SparkSession, tmp_path: Path) -> None:
    text = mapping(
        "ua string, n bigint, q string, r string, w string, f bigint", user_id="'u'", item_id="q",
        query=f"string({REGEX.format('ua')})", quantity="size(sequence(1, n))",
        region="regexp_replace(q, '(x|y)*z', '')",
    )  # fmt: skip
    text += f'[fill]\nrating = "size(array_repeat(1, int(raw.f)))"\n[reject.x]\nwhen = "{REGEX.format("raw.r")}"\n'
    text += f'[warn.y]\nwhen = "{REGEX.format("raw.w")}"\n'
    good = {"ua": "abc", "n": 3, "q": "i", "r": "a", "w": "abc", "f": 5}
    bad: list[tuple[str, dict[str, Any]]] = [
        ("columns.query", {"ua": LONG_TEXT}), ("columns.quantity", {"n": MANY}),
        ("columns.region", {"q": "x" * 200_000}), ("fill.rating", {"f": MANY}),
        ("reject.x.when", {"r": LONG_TEXT}), ("warn.y.when", {"w": LONG_TEXT}),
    ]  # fmt: skip
    lines = [good, *[{**good, **change} for _, change in bad], {**good, "n": 4}]
    for events, rejected in by_both_ways(spark, tmp_path, text, lines):
        assert [(row.position, row.quantity, row.rating, row.warnings) for row in events] == [
            ("a.jsonl:1", 3.0, 5.0, ["filled_rating", "y"]),
            ("a.jsonl:8", 4.0, 5.0, ["filled_rating", "y"]),
        ]
        assert {row.rule for row in rejected} == {"expression_failed"}
        for row, (key, change) in zip(rejected, bad, strict=True):
            ((name, value),) = change.items()
            assert row.reason.startswith(f"{key} fails on this row: "), row.reason
            assert row.reason.endswith("(StackOverflowError)" if isinstance(value, str) else "(OutOfMemoryError)")
            assert f"{name} = {json.dumps(value)[:100]}" in row.reason
            assert json.loads(row.payload) == {**good, **change}


def test_an_element_or_a_line_for_which_an_expression_ends_the_task_is_rejected(
    spark: SparkSession, tmp_path: Path
) -> None:
    text = mapping("n bigint, texts array<string>", item_id="element", query=f"string({REGEX.format('element')})")
    text = text.replace("[columns]", "explode = \"if(size(sequence(1, n)) > 1, texts, array('one'))\"\n[columns]")
    lines: list[dict[str, Any]] = [
        {"n": 2, "texts": ["ac", LONG_TEXT, "bc"]},
        {"n": MANY, "texts": ["ac"]},
        {"n": 1, "texts": None},
    ]
    for events, rejected in by_both_ways(spark, tmp_path, text, lines):
        assert [row.item_id for row in events] == ["s:ac", "s:bc", "s:one"]
        assert [(row.position, row.reason.split(" fails")[0]) for row in rejected] == [
            ("a.jsonl:2", "input.explode"), ("a.jsonl:1#2", "columns.query"),
        ]  # fmt: skip


def test_an_expression_that_ends_too_many_tasks_is_named(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failing_rows, "_MAX_ROWS", 2)
    shop = Shop(tmp_path, mapping("q string", query=f"string({REGEX.format('q')})"))
    shop.write("a.jsonl", 3 * (json.dumps({"q": LONG_TEXT}) + "\n"))
    with pytest.raises(BadSettings, match="columns.query fails on more than 2 rows of a batch: StackOverflowError"):
        shop.capture(spark)
    assert shop.read(spark, tables.CAPTURE_BATCHES).count() == 0


def test_a_file_with_a_colon_in_its_name_is_read(spark: SparkSession, tmp_path: Path) -> None:
    shop = Shop(tmp_path, BASE)
    names = ["events-2026-01-01T10:00:00.jsonl", "[x].jsonl", "a b.jsonl", "50%20+1.jsonl", "ä#1.jsonl"]
    for number, name in enumerate(names):
        shop.write(name, json.dumps({"kind": "view", "at": T, "who": f"u{number}"}) + "\n")
    shop.overrides = ["capture.sources.shop.max_files_per_trigger=10"]
    shop.capture(spark)
    positions = {row.position for row in shop.read(spark, tables.EVENTS).select("position").collect()}
    assert positions == {f"{name}:1" for name in names}


# -- one set of checks for every format ----------------------------------------------------------------


def captured(spark: SparkSession, home: Path, text: str, table: pa.Table, name: str = "a.parquet") -> Shop:
    """A shop that captured one Parquet file."""
    shop = Shop(home, text.replace('format = "jsonl"', 'format = "parquet"'))
    shop.input.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, shop.input / name)
    shop.capture(spark)
    return shop


ITEMS = BASE.replace(
    "price double, quantity double", "items array<struct<id:string,name:string,price:double>>"
).replace('item_id = "what"\nprice = "price"\nquantity = "quantity"', 'item_id = "it.id"\ntext = "it.name"\n'
          'price = "it.price"').replace("[columns]", 'explode = "items"\nexplode_as = "it"\n[columns]')  # fmt: skip


def test_struct_fields_are_taken_by_name_at_every_depth(spark: SparkSession, tmp_path: Path) -> None:
    structs: list[tuple[list[tuple[str, Any]], tuple[str, str, float | None]]] = [
        ([("name", "Cup"), ("id", "i2"), ("price", 2.0)], ("s:i2", "Cup", 2.0)),
        ([("id", "i2"), ("name", "Cup"), ("price", 2.0), ("params", [{"k": "v"}])], ("s:i2", "Cup", 2.0)),
        ([("id", "i2"), ("name", "Cup")], ("s:i2", "Cup", None)),
    ]
    shop = Shop(tmp_path, ITEMS.replace('format = "jsonl"', 'format = "parquet"'))
    shop.input.mkdir(parents=True)
    for number, (struct, _) in enumerate(structs):
        row: dict[str, Any] = {"kind": ["view"], "at": [T], "who": [f"u{number}"], "items": [[dict(struct)]]}
        item = pa.struct([(k, pa.string() if k in ("id", "name") else pa.float64() if k == "price" else
                           pa.list_(pa.struct([("k", pa.string())]))) for k, _ in struct])  # fmt: skip
        schema = pa.schema(
            [("kind", pa.string()), ("at", pa.string()), ("who", pa.string()), ("items", pa.list_(item))]
        )
        pq.write_table(pa.Table.from_pydict(row, schema), shop.input / f"{number}.parquet")
    shop.overrides = ["capture.sources.shop.max_files_per_trigger=10"]
    shop.capture(spark)
    rows = shop.read(spark, tables.EVENTS).orderBy("user_id").collect()
    assert [(row.item_id, row.text, row.price) for row in rows] == [expected for _, expected in structs]
    assert [row.extra and sorted(row.extra) for row in rows] == [None, ["items"], None]
    assert json.loads(rows[1].extra["items"])[0]["params"] == [{"k": "v"}]
    lines = [{"kind": "view", "at": T, "who": f"u{n}", "items": [dict(s)]} for n, (s, _) in enumerate(structs)]
    from_json = results(spark, ITEMS, list(lines))
    assert [(row.item_id, row.text, row.price) for row in from_json] == [expected for _, expected in structs]
    assert [row.extra and sorted(row.extra) for row in from_json] == [None, ["items"], None]


def test_unknown_fields_of_an_object_are_stored_or_ignored(spark: SparkSession) -> None:
    text = mapping("p struct<a:int>, m map<string,struct<a:int>>", quantity="p.a")
    line = {"p": {"a": 1, "b": 2}, "m": {"k": {"a": 1, "c": 3}}, "z": 1.50}
    (row,) = results(spark, text, [json.dumps(line).replace("1.5", "1.50")])
    assert json.loads(row.extra["p"]) == {"a": 1, "b": 2}
    assert json.loads(row.extra["m"]) == {"k": {"a": 1, "c": 3}}
    assert row.extra["z"] == "1.50"
    (ignored,) = results(spark, text.replace("[columns]", 'unknown_fields = "ignore"\n[columns]'), [line])
    assert ignored.extra is None


def test_bytes_that_are_not_utf8_are_rejected_and_bytes_have_a_stated_form(spark: SparkSession, tmp_path: Path) -> None:
    table = pa.table({
        "kind": ["view"] * 3, "at": [T] * 3, "who": ["u1", "u2", "u3"],
        "what": pa.array([b"\xff\xfe\x00q", b"tea", bytes(range(16))], pa.binary()),
        "raw_id": pa.array([b"\xff\x00"] * 3),
    })  # fmt: skip
    shop = captured(spark, tmp_path, BASE, table)
    (rejected,) = shop.read(spark, tables.REJECTED_EVENTS).collect()
    assert (rejected.rule, rejected.payload_encoding) == ("not_utf8", "utf8")
    assert base64.b64decode(json.loads(rejected.payload)["what"]) == b"\xff\xfe\x00q"
    rows = shop.read(spark, tables.EVENTS).orderBy("user_id").collect()
    assert (rows[0].item_id, rows[0].extra, rows[0].warnings) == ("s:tea", {"raw_id": "ff00"}, [])
    assert rows[1].warnings == ["control_characters"]
    as_hex = captured(spark, tmp_path / "hex", BASE.replace("what string", "what binary"), table)
    (row,) = as_hex.read(spark, tables.EVENTS).where("user_id = 's:u3'").collect()
    assert row.item_id == "s:" + bytes(range(16)).hex()


def test_numbers_as_text_follow_one_rule_in_all_formats(spark: SparkSession, tmp_path: Path) -> None:
    numbers = {
        "12345678.0": "12345678", "12345678": "12345678", "1.10": "1.10", "1E5": "100000", "17850.0": "17850",
        "12345678901234567890": "12345678901234567890", "-7.00": "-7", "1.5e-3": "1.5e-3", "1.5E3": "1500",
        "0.10": "0.10", "3.14": "3.14",
    }  # fmt: skip
    lines = [f'{{"kind":"view","at":"{T}","what":{number}}}' for number in numbers]
    lines += [line.replace(":1.10}", ": 1.10 }") for line in lines if "1.10" in line]
    rows = results(spark, BASE, list(lines))
    assert [row.item_id for row in rows] == [f"s:{text}" for text in numbers.values()] + ["s:1.10"]
    strings = results(spark, BASE, [{"kind": "view", "at": T, "what": text} for text in ("1.10", "12345678.0", "1E5")])
    assert [row.item_id for row in strings] == ["s:1.10", "s:12345678.0", "s:1E5"]
    start = f'{{"kind":"view","at":"{T}"'
    blanks: list[dict[str, Any] | str] = [start + end for end in (
        ',"what" : "3.0" }', ', "what": "3.0"\t}', ',"what" : 3.0 }', ', "what": 3.0}', ',\t"what":\t2.50\t}',
    )]  # fmt: skip
    assert [row.item_id for row in results(spark, BASE, blanks)] == ["s:3.0", "s:3.0", "s:3", "s:3", "s:2.50"]
    others = ',"a":3.450,"b": 3.45,"c":"3.0","d" : 2.0 ,"e":0.1,"f":[1.0,2.50],"g":1E2}'
    (row,) = results(spark, BASE, [start + ',"what":3.45' + others])
    texts = {"a": "3.450", "b": "3.45", "c": "3.0", "d": "2", "e": "0.1", "g": "100"}
    assert row.item_id == "s:3.45" and {name: row.extra[name] for name in texts} == texts
    typed = mapping("n bigint, d decimal(20,4), o struct<id:string>", quantity="n", text="cast(d as string)",
                    item_id="o.id")  # fmt: skip
    (row,) = results(spark, typed, ['{"n":12345678.0,"d":12345678901234.5678,"o":{"id":12345678.0}}'])
    assert (row.quantity, row.text, row.item_id) == (12345678.0, "12345678901234.5678", "s:12345678")
    csv = BASE.replace("price double, quantity double", "price string, quantity string")
    csv_source = capture_source(csv.replace('format = "jsonl"', 'format = "csv"'))
    header = "id,kind,at,who,what,price,quantity"
    cells = {"12345678.0": "12345678", "1.10": "1.10", "1.2345678E7": "12345678", "A-1.0": "A-1.0", "12E3": "12E3"}
    csv_lines = [f"1,view,{T},u,{cell},," for cell in cells]
    from_csv = evaluate(csv_source, parse(spark, csv_source, csv_lines, header))
    assert [row.item_id for row in from_csv] == [f"s:{text}" for text in cells.values()]
    doubles = [12345678.0, 17850.0, 1.1, 0.0001, 1e22]
    table = pa.table({
        "kind": ["view"] * 5, "at": [T] * 5, "who": pa.array(doubles), "price": pa.array([24.9] * 5, pa.float32()),
        "what": pa.array([Decimal("5.00"), Decimal("1.10"), None, None, None], pa.decimal128(9, 2)),
    })  # fmt: skip
    parquet = captured(spark, tmp_path, BASE, table).read(spark, tables.EVENTS).orderBy("position").collect()
    assert [row.user_id for row in parquet] == ["s:12345678", "s:17850", "s:1.1", "s:0.0001", "s:1" + "0" * 22]
    assert [row.item_id for row in parquet] == ["s:5", "s:1.10", None, None, None]
    assert {row.price for row in parquet} == {24.9}


def test_numbers_and_strings_of_unusual_json_keep_their_characters(spark: SparkSession) -> None:
    start = f'{{"kind":"view","at":"{T}"'
    items = mapping("kind string, at string, items array<struct<sku:string,price:double>>", event_type="kind",
                    event_time="at", item_id="items[0].sku", price="items[0].price")  # fmt: skip
    rows = results(spark, items, [start + f',"items":[{{"sku":{sku},"price":{price}}}]}}' for sku, price in (
        ('"1.000"', "1.5"), ('"1.000"', "2"), ("7.0", "1.5"), ("7.50", "2"),
    )])  # fmt: skip
    assert [(row.item_id, row.price) for row in rows] == [
        ("s:1.000", 1.5),
        ("s:1.000", 2.0),
        ("s:7", 1.5),
        ("s:7.50", 2),
    ]
    keys = mapping("kind string, at string, `größe` string, sku string, price string, content string",
                   event_type="kind", event_time="at", item_id="coalesce(sku, `größe`)",
                   text="coalesce(content, price)")  # fmt: skip
    ends = {
        ',"gr\\u00f6\\u00dfe":"42.0"}': ("42.0", None),
        ',"sku":  "1.000"}': ("1.000", None),
        ',"sku":"7.0","parent":{"id":1,"sku":7.0}}': ("7.0", None),
        ',"sku":7.0,"parent":{"id":1,"sku":"7.0"}}': ("7", None),
        ',"sku":"a","price":4.50,"x":{"y":1,"price":4.5}}': ("a", "4.50"),
        ',"sku":"a","content":{"a":1.10,"b":"2.0","c":[1.0,2]}}': ("a", '{"a":1.10,"b":"2.0","c":[1.0,2]}'),
        ',"sku":"a","content":"[1.50]"}': ("a", "[1.50]"),
        ',"sku":"a\\"1.0\\"","price":1.50}': ('a"1.0"', "1.50"),
    }
    rows = results(spark, keys, [start + end for end in ends])
    assert [(row.item_id, row.text) for row in rows] == [(f"s:{item}", text) for item, text in ends.values()]
    lines: list[dict[str, Any] | str] = [
        '{"kind":"view"},null]x',
        '{"kind":"view"},null]',
        '{"kind":"view","x":[1,null]}',
    ]
    assert [row.rule for row in results(spark, BASE, lines)] == ["unparseable", "unparseable", "event_time_unreadable"]


def test_parquet_columns_that_spark_cannot_read_are_left_out_or_named(spark: SparkSession, tmp_path: Path) -> None:
    moment = datetime(2026, 3, 1, 10)
    base: dict[str, Any] = {
        "kind": ["view"],
        "who": ["u1"],
        "WHO": ["other"],
        "t": pa.array([1], pa.time64("us")),
        "at": [moment],
    }
    table = pa.table({**base, "at": pa.array([moment], pa.timestamp("ns", tz="UTC")),
                      "seen": pa.array([moment], pa.timestamp("ns"))})  # fmt: skip
    typed = BASE.replace("at string", "at timestamp")
    shop = captured(spark, tmp_path, typed, table)
    (row,) = shop.read(spark, tables.EVENTS).collect()
    assert (row.user_id, row.event_time, row.extra) == ("s:u1", moment, {"seen": "2026-03-01 10:00:00"})
    with pytest.raises(BadSettings, match="'t'"):
        captured(spark, tmp_path / "mapped", typed.replace("id string", "t string"), table)


def test_an_empty_parquet_file_is_unreadable(spark: SparkSession, tmp_path: Path) -> None:
    shop = Shop(tmp_path, BASE.replace('format = "jsonl"', 'format = "parquet"'))
    shop.write("a.parquet", b"")
    with pytest.raises(SourceUnreadable, match="zero bytes"):
        shop.capture(spark)


def test_every_format_gives_the_same_events_and_rejected_rows(spark: SparkSession, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"kind": "view", "at": T, "who": "u1", "what": "a b", "price": "1.50", "quantity": None},
        {"kind": "purchase", "at": T, "who": " u2\u3000", "what": "(not set)", "price": "\u00a012.5 ", "quantity": "2"},
        {"kind": "view", "at": "2026-07-01 10:00:00 BST", "who": "u3", "what": "x", "price": "0x1p3", "quantity": "1"},
        {"kind": "view", "at": T, "who": "{{user_id}}", "what": "x", "price": None, "quantity": None},
        {"kind": "view", "at": T, "who": "u5", "what": "x", "price": "1e300", "quantity": None},
        {"kind": "view", "at": T, "who": "u6", "what": "bell\u0007", "price": "abc", "quantity": None},
    ]
    text = BASE.replace("price double, quantity double", "price string, quantity string")
    names = ["kind", "at", "who", "what", "price", "quantity"]
    found = {}
    for form in ("jsonl", "csv", "parquet", "delta"):
        shop = Shop(tmp_path / form, text.replace('format = "jsonl"', f'format = "{form}"'))
        shop.input.mkdir(parents=True)
        table = pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in names]))
        if form == "jsonl":
            shop.write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        elif form == "csv":
            shop.write("a.csv", ",".join(names) + "\n" + "".join(
                ",".join(row[n] or "" for n in names) + "\n" for row in rows))  # fmt: skip
        elif form == "parquet":
            pq.write_table(table, shop.input / "a.parquet")
        else:
            spark.createDataFrame(table).coalesce(1).write.format("delta").save(str(shop.input))
        shop.capture(spark)
        stored = shop.read(spark, tables.EVENTS).orderBy("user_id", "item_id")
        refused = shop.read(spark, tables.REJECTED_EVENTS).orderBy("rule").select("rule", "reason")
        columns = ("event_id", "event_type", "event_time", "user_id", "item_id", "price", "quantity", "warnings")
        found[form] = (stored.select(*columns).collect(), refused.collect())
    events, rejected = found["jsonl"]
    assert [(row.user_id, row.item_id, row.price) for row in events] == [("s:u1", "s:a b", 1.5), ("s:u2", None, 12.5)]
    assert [row.rule for row in rejected] == [
        "event_time_unreadable", "number_absurd", "price_unreadable", "user_id_placeholder",
    ]  # fmt: skip
    for form, result in found.items():
        assert result == found["jsonl"], form


# -- nothing is guessed ---------------------------------------------------------------------------------


def test_a_time_outside_the_grammar_is_unreadable(spark: SparkSession) -> None:
    times = [
        "2026-07-01 10:00:00 BST", "2026-07-01 10:00:00 CST", "2026-07-01T10:00:00 PST", "2026-07", "2026-07-01 10",
        "2026-07-01 10:00:00 EST", "2026-07-01T10:00:00EDT", "2026-07-01 10:00:00 IST", "2026", "10:00", "now",
    ]  # fmt: skip
    rows = results(spark, BASE, [{"kind": "view", "at": time} for time in times])
    assert [row.rule for row in rows] == ["event_time_unreadable"] * len(times)


def test_zones_of_the_grammar_are_read(spark: SparkSession) -> None:
    zones = {"Z": 10, "+02:00": 8, " UTC": 10, " GMT": 10, "": 10, " Europe/Berlin": 8, "-0500": 15, "+05": 5}
    rows = results(spark, BASE, [{"kind": "view", "at": f"2026-07-01 10:00:00{zone}"} for zone in zones])
    assert [row.event_time.hour for row in rows] == list(zones.values())
    with_pattern = 'time_format = "MMM dd HH:mm:ss zzz yyyy"\n' + BASE
    rows = results(spark, with_pattern, [{"kind": "view", "at": f"Jul 01 10:00:00 {z} 2026"} for z in ("BST", "UTC")])
    assert [row.rule for row in rows] == ["event_time_unreadable", None]


def test_a_text_with_an_offset_is_an_instant_in_any_time_zone(spark: SparkSession) -> None:
    berlin = 'timezone = "Europe/Berlin"\n' + BASE
    times = {"2026-07-01 12:00:00": 10, "2026-07-01T12:00:00Z": 12, "2026-07-01T12:00:00+02:00": 10,
             "2026-07-01 12:00:00 Asia/Tokyo": 3, "2026-07-01": 22}  # fmt: skip
    rows = results(spark, berlin, [{"kind": "view", "at": time} for time in times])
    assert [row.event_time.hour for row in rows] == list(times.values())


SUMMER = "2026-07-01 12:00:00"  # 10 o'clock in UTC if it is a time in Berlin


def test_a_typed_time_is_an_instant_in_any_time_zone(spark: SparkSession, tmp_path: Path) -> None:
    moment = datetime(2026, 7, 1, 12)
    cells: list[tuple[str, pa.DataType, Any, int]] = [
        ("ts", pa.timestamp("us", "UTC"), moment, 12), ("ns", pa.timestamp("ns", "UTC"), moment, 12),
        ("ms", pa.int64(), 1782907200000, 12), ("ntz", pa.timestamp("us"), moment, 10),
        ("d", pa.date32(), date(2026, 7, 2), 22), ("txt", pa.string(), SUMMER, 10),
        ("zone", pa.string(), "2026-07-01T12:00:00Z", 12), ("offset", pa.string(), SUMMER + "+05:00", 7),
    ]  # fmt: skip
    table = pa.table({
        "kind": ["view"] * len(cells), "who": [name for name, *_ in cells],
        **{name: pa.array([value if name == other else None for other, *_ in cells], data_type)
           for name, data_type, value, _ in cells},
    })  # fmt: skip
    declared = "kind string, who string, ms bigint, txt string, zone string, offset string"
    mixed = ", ".join(f"CAST({name} AS TIMESTAMP)" for name in ("ntz", "d", "txt", "zone", "offset"))
    types = {
        "ts timestamp, ns timestamp, ntz timestamp_ntz, d date": f"coalesce(ts, ns, timestamp_millis(ms), {mixed})",
        "ts timestamp_ntz, ns timestamp_ntz, ntz timestamp, d timestamp": f"coalesce(CAST(ts AS TIMESTAMP), "
        f"CAST(ns AS TIMESTAMP), timestamp_millis(ms), {mixed})",
        "ts string, ns string, ntz string, d string": "coalesce(ts, ns, string(timestamp_millis(ms)) || 'Z', ntz, d, "
        "txt, zone, offset)",
    }  # fmt: skip
    for number, (typed, sql) in enumerate(types.items()):
        text = f"timezone = 'Europe/Berlin'\n[input]\nformat = 'parquet'\ncolumns = '{declared}, {typed}'\n[columns]\n"
        text += f'event_type = "kind"\nevent_time = "{sql}"\nuser_id = "who"\n'
        for limit in (1000, 0):
            shop = Shop(tmp_path / f"{number}{limit}", text, overrides=[f"stream.local_max_rows={limit}"])
            shop.input.mkdir(parents=True)
            pq.write_table(table, shop.input / "a.parquet")
            shop.capture(spark)
            hours = {row.user_id: row.event_time.hour for row in shop.read(spark, tables.EVENTS).collect()}
            assert hours == {name: hour for name, _, _, hour in cells}, typed


def test_a_text_that_is_declared_as_a_time_is_moved_if_it_states_no_zone(spark: SparkSession) -> None:
    texts = {SUMMER: 10, "2026-07-01T12:00:00Z": 12, SUMMER + "+05:00": 7, SUMMER + " Asia/Tokyo": 3, "2026-07-01": 22}
    for declared in ("timestamp", "timestamp_ntz", "struct<t: timestamp>", "array<timestamp_ntz>"):
        value = {"struct<t: timestamp>": "at.t", "array<timestamp_ntz>": "at[0]"}.get(declared, "at")
        text = "timezone = 'Europe/Berlin'\n" + mapping(f"at {declared}", event_time=value)
        cells = [{"at": {"at": at, "at.t": {"t": at}, "at[0]": [at]}[value]} for at in texts]
        rows = results(spark, text, [*cells])
        assert [row.event_time.hour for row in rows] == list(texts.values()), declared
    skipped = "2026-03-29 02:30:00"  # does not exist
    rows = results(spark, "timezone = 'Europe/Berlin'\n" + mapping("at timestamp", event_time="at"), [{"at": skipped}])
    assert [row.rule for row in rows] == ["wrong_type"]
    rows = results(spark, "timezone = 'Europe/Berlin'\n" + mapping("at string", event_time="to_timestamp(at)"),
                   [{"at": skipped}, {"at": "2026-10-25 02:30:00"}, {"at": "2026-10-25T00:30:00Z"}])  # fmt: skip
    assert [(row.rule, row.warnings) for row in rows] == [
        ("event_time_nonexistent", None), (None, ["event_time_ambiguous"]), (None, []),
    ]  # fmt: skip
    rows = results(spark, mapping("at timestamp_ntz", event_time="at"), [{"at": SUMMER}, {"at": SUMMER + "+05:00"}])
    assert [row.event_time.hour for row in rows] == [12, 7]


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("'LOG' yyyy-MM-dd HH:mm:ss z", {
            "LOG 2026-07-01 12:00:00 UTC": 12, "LOG 2026-07-01 12:00:00 Europe/Berlin": 10,
            "LOG 2026-07-01 12:00:00 +05:00": 7, "LOG 2026-07-01 12:00:00 EST": None,
            "LOG 2026-07-01 12:00:00 est": None, "log 2026-07-01 12:00:00 IST": None,
        }),
        ("yyyy-MM-dd HH:mm:ss zzzz", {
            "2026-07-01 12:00:00 GMT": 12, "2026-07-01 12:00:00 Pacific Standard Time": None,
            "2026-07-01 12:00:00 China Standard Time": None,
        }),
        ("yyyy-MM-dd HH:mm:ss VV", {
            "2026-07-01 12:00:00 Z": 12, "2026-07-01 12:00:00 Asia/Tokyo": 3, "2026-07-01 12:00:00 CST6CDT": None,
            "2026-07-01 12:00:00 EST": None, "2026-07-01 12:00:00 NZ": None, "2026-07-01 12:00:00 Cuba": None,
        }),
        ("yyyyMMdd HH:mm:ss O", {"20260701 12:00:00 GMT+5": 7, "20260701 12:00:00 GMT": 12}),
        ("d MMM yyyy h:mm a['[CST]'][ XXX][ z]", {
            "1 Jul 2026 12:00 PM[CST]": 10, "1 Jul 2026 12:00 PM[CST] +05:00": 7, "1 Jul 2026 12:00 PM UTC": 12,
            "1 Jul 2026 12:00 PM": 10, "1 Jul 2026 12:00 PM CST": None,
        }),
    ],
)  # fmt: skip
def test_only_the_zone_of_a_time_with_a_pattern_is_examined(
    spark: SparkSession, pattern: str, texts: dict[str, int | None]
) -> None:
    text = f'timezone = "Europe/Berlin"\ntime_format = "{pattern}"\n' + BASE
    rows = results(spark, text, [{"kind": "view", "at": at} for at in texts])
    assert [row.event_time and row.event_time.hour for row in rows] == list(texts.values())
    assert {row.rule for row in rows} <= {None, "event_time_unreadable"}


@pytest.mark.parametrize(
    ("zone", "twice", "once"),
    [
        ("Australia/Lord_Howe", "2026-04-05 01:45:00", "2026-04-05 01:15:00"),
        ("Europe/Berlin", "2026-10-25 02:30:00", "2026-10-25 03:30:00"),
    ],
)
def test_a_local_time_that_occurs_twice_is_found_for_any_shift(
    spark: SparkSession, zone: str, twice: str, once: str
) -> None:
    rows = results(spark, f'timezone = "{zone}"\n' + BASE, [{"kind": "view", "at": time} for time in (twice, once)])
    assert [row.warnings for row in rows] == [["event_time_ambiguous"], []]


def test_a_scale_keeps_decimal_numbers_exact(spark: SparkSession) -> None:
    rows = results(spark, BASE + "[scale]\nprice = 0.01\nquantity = 2.5\n", [
        {"kind": "view", "at": T, "price": price, "quantity": 4} for price in (1999, 57, 1.1, -0.0)
    ])  # fmt: skip
    assert [row.price for row in rows] == [19.99, 0.57, 0.011, 0.0]
    assert {row.quantity for row in rows} == {10.0}
    assert str(rows[3].price) == "0.0"


def test_numbers_are_read_by_a_stated_grammar(spark: SparkSession) -> None:
    text = BASE.replace("price double", "price string")
    prices = {"\u00a012.5\u202f": 12.5, "1e3": 1000.0, ".5": 0.5, "5.": 5.0, "+7": 7.0, "": None, "\u3000": None}
    rows = results(spark, text, [{"kind": "view", "at": T, "price": price} for price in prices])
    assert [row.price for row in rows] == list(prices.values())
    wrong = ["0x1p3", "5d", "NaN", "Infinity", "1,5", "1 000", "٣"]
    rows = results(spark, text, [{"kind": "view", "at": T, "price": price} for price in wrong])
    assert [row.rule for row in rows] == ["price_unreadable"] * len(wrong)
    rows = results(spark, BASE, [{"kind": "view", "at": T, "price": price} for price in ("", 1e308, 1e-320, 1e16)])
    assert [row.rule for row in rows] == [None, "number_absurd", "number_absurd", "number_absurd"]


# -- placeholders ------------------------------------------------------------------------------------------


PLACEHOLDERS = [
    "00000000-0000-0000-0000-000000000000",
    "(not set)",
    "\\N",
    "[object Object]",
    "(null)",
    "guest",
    "{{user_id}}",
    "{sku}",
    "{00000000-0000-0000-0000-000000000000}",
    '"null"',
    "-",
    "#N/A",
    "0.0",
    "\u3000",
    "\u200b",
    "",
    " ",
    "NULL",
    "${uid}",
    " 'None' ",
    "[Object Array]",
    "0" * 32,
    "<undefined>",
    "[]",
    "{}",
    "\u2014",
    " \u2013 ",
    "#REF!",
    "#DIV/0!",
    "<nil>",
    "<NA>",
    "NaN",
    "(none)",
    "[Null]",
    "(Not Available)",
    "__HIVE_DEFAULT_PARTITION__",
    "D41D8CD98F00B204E9800998ECF8427E",
    "()",
    "???",
]
# Ids of real shops that resemble a placeholder.
REAL_IDS = [
    "0000", "00", "01", "0" * 31 + "1", "D41D8CD98F00B204E9800998ECF8427F", "nancy", "none-such", "[12]", "(a)", "<b>",
    "#1", "#ref", "unknown-7", "x-", "a?", "no", "true", "empty", "test",
    "{3F2504E0-4F89-11D3-9A0C-0305E82C3301}",
]  # fmt: skip


def test_names_that_spark_accepts_as_zones_are_none_and_minutes_may_have_a_zone(spark: SparkSession) -> None:
    ends = [" NZ", "NZ", " GMT0", "GMT0", " PRC"]
    rows = results(spark, BASE, [{"kind": "view", "at": "2026-07-01 10:00:00" + end} for end in ends])
    assert [row.rule for row in rows] == ["event_time_unreadable"] * 5
    hours = {"T10:00Z": 10, "T10:00+02:00": 8, " 10:00 UTC": 10, " 10:00 Europe/Berlin": 8, " 9:05Z": 9, "T10:00": 10}
    for text in (BASE, BASE.replace("at string", "at timestamp")):
        rows = results(spark, text, [{"kind": "view", "at": "2026-07-01" + end} for end in hours])
        assert [row.event_time.hour for row in rows] == list(hours.values())


@pytest.mark.parametrize("rate", ["NaN", "Infinity", "5d", "0x1", "-1", "0", ""])
def test_a_rate_that_is_no_positive_number_is_refused(spark: SparkSession, tmp_path: Path, rate: str) -> None:
    rates = tmp_path / "rates.csv"
    rates.write_text(f"currency,valid_from,rate\nUSD,2026-01-01,{rate}\n")
    settings = f'[capture.currency]\nreporting = "EUR"\nrates = "{rates}"\n'
    config = Shop(tmp_path, BASE, extra_settings=settings).settings().capture.currency
    assert config is not None
    with pytest.raises(BadSettings, match="a rate is not valid"):
        currency.check_rates(spark, config)


def test_a_cell_of_a_side_table_ends_where_one_of_a_log_does(spark: SparkSession, tmp_path: Path) -> None:
    side, names = tmp_path / "s.csv", ["Tea\u2028cup", "a\u0085b", "a\vb", "a\fb", "a\x1cb"]
    side.write_text("sku,name,cat\n" + "".join(f"{n},{name},c{n}\n" for n, name in enumerate(names)))
    lookup = f'[lookup.g]\npath = "{side}"\nformat = "csv"\nkey = "sku"\non = "what"\n'
    text = BASE + 'text = "g.name"\ncategory = "g.cat"\n' + lookup
    rows = results(spark, text, [{"kind": "view", "at": T, "what": str(n)} for n in range(len(names))])
    assert [(row.text, row.category) for row in rows] == [(name, f"c{n}") for n, name in enumerate(names)]


@pytest.mark.parametrize("user", ["\u0085", "null\u0085", "\u00ad", "\u2800", "\u200e null", "\x1f"])
def test_a_user_of_characters_without_a_shape_is_a_placeholder(spark: SparkSession, user: str) -> None:
    (row,) = results(spark, BASE, [{"kind": "view", "at": T, "who": user}])
    assert row.rule == "user_id_placeholder"


def test_placeholders_are_found_in_every_id_column(spark: SparkSession) -> None:
    text = mapping(
        "id string, who string, what string, o string, s string, f string, c string, b string", event_id="id",
        user_id="who", item_id="what", order_id="o", session_id="s", target_user_id="f", category="c", brand="b",
    )  # fmt: skip
    good = {"id": "1", "who": "u", "what": "i", "o": "o", "s": "s", "f": "f", "c": "c", "b": "b"}
    users = results(spark, text, [{**good, "who": value} for value in PLACEHOLDERS])
    assert {row.rule for row in users} == {"user_id_placeholder"}
    ids = results(spark, text, [{**good, "id": value} for value in PLACEHOLDERS])
    assert {row.rule for row in ids} == {"event_id_missing"}
    others = ("what", "o", "s", "f", "c", "b")
    columns = ("item_id", "order_id", "session_id", "target_user_id", "category", "brand")
    rows = results(spark, text, [{**good, **dict.fromkeys(others, value)} for value in PLACEHOLDERS])
    assert {tuple(row[column] for column in columns) for row in rows} == {(None,) * 6}
    assert {tuple(sorted(row.warnings)) for row in rows} == {tuple(sorted(f"placeholder_{c}" for c in columns))}
    (clean,) = results(spark, text, [{**good, "who": " u\u00a0", "what": "guest house"}])
    assert (clean.user_id, clean.item_id, clean.warnings) == ("s:u", "s:guest house", [])
    real = results(spark, text, [{**good, **dict.fromkeys(("who", *others), value)} for value in REAL_IDS])
    assert [(row.rule, row.user_id, row.item_id, row.warnings) for row in real] == [
        (None, f"s:{value}", f"s:{value}", []) for value in REAL_IDS
    ]


def test_a_mapping_extends_or_replaces_the_placeholders(spark: SparkSession) -> None:
    shop = BASE + '[placeholders]\nreplace = ["none"]\nadd = ["test-*"]\nuser = "anonymous"\n'
    values = [("0", "0"), ("test-7", "TEST-"), ("none", "null")]
    rows = results(spark, shop, [{"kind": "view", "at": T, "who": who, "what": what} for who, what in values])
    assert [(row.rule, row.user_id, row.item_id) for row in rows] == [
        (None, "s:0", "s:0"), (None, None, None), (None, None, "s:null"),
    ]  # fmt: skip
    rows = results(spark, BASE, [{"kind": "view", "at": T, "who": "0"}], placeholders=["nobody"])
    assert rows[0].user_id == "s:0"


# -- the meaning of numbers -------------------------------------------------------------------------------

MONEY = BASE.replace("price double, quantity double", "price double, cur string").replace(
    'quantity = "quantity"', 'quantity = "1"\ncurrency = "cur"'
)


def test_values_are_in_the_reporting_currency_by_the_rate_of_the_date(spark: SparkSession, tmp_path: Path) -> None:
    rates = tmp_path / "rates.csv"
    rates.write_text("currency,valid_from,rate\nJPY,2026-01-01,0.006\nJPY,2026-03-01,0.005\nUSD,2026-03-02,0.9\n")
    shop = Shop(tmp_path, MONEY, extra_settings=f'[capture.currency]\nreporting = "EUR"\nrates = "{rates}"\n')
    rows = [("EUR", T, 100), ("JPY", T, 10000), ("JPY", "2026-02-28T23:59:59Z", 10000), ("USD", T, 5), (None, T, 7)]
    shop.write("a.jsonl", "".join(
        json.dumps({"kind": "purchase", "at": at, "who": f"u{n}", "price": price, "cur": code}) + "\n"
        for n, (code, at, price) in enumerate(rows)))  # fmt: skip
    shop.capture(spark)
    events = shop.read(spark, tables.EVENTS).orderBy("user_id").collect()
    assert [row.value for row in events] == [100.0, 50.0, 60.0, None, 7.0]
    assert [row.price for row in events] == [100.0, 10000.0, 10000.0, 5.0, 7.0]
    assert [row.warnings for row in events] == [[], [], [], ["currency_rate_missing"], []]
    rates.write_text("currency,valid_from,rate\nJPY,2026-01-01,0\n")
    with pytest.raises(BadSettings, match="a rate is not valid"):
        capture_checks.check_sources(spark, shop.settings())


def test_the_bound_of_numbers_applies_to_the_stored_value(spark: SparkSession, tmp_path: Path) -> None:
    rates = tmp_path / "rates.csv"
    rates.write_text("currency,valid_from,rate\nJPY,2026-01-01,100\nUSD,2026-01-01,0.01\n")
    text = mapping("v double, p double, q double, cur string", value="v", price="p", quantity="q * 1e6", currency="cur")
    text += "[scale]\nprice = 1e5\n"
    cases: list[tuple[dict[str, Any], str | None, float | None]] = [
        ({"v": 1e14, "cur": "EUR"}, None, 1e14), ({"v": 1e14, "cur": "JPY"}, "number_absurd", None),
        ({"v": -2e13, "cur": "JPY"}, "number_absurd", None), ({"v": 2e15, "cur": "USD"}, None, 2e13),
        ({"v": 1e-14, "cur": "USD"}, "number_absurd", None), ({"v": 5, "cur": "CHF"}, None, None),
        ({"p": 1e3, "q": 1, "cur": "JPY"}, "number_absurd", None), ({"p": 1e11, "cur": "EUR"}, "number_absurd", None),
        ({"q": 1e10}, "number_absurd", None), ({"p": 1e3, "q": 1, "cur": "USD"}, None, 1e12),
    ]  # fmt: skip
    settings = f'[capture.currency]\nreporting = "EUR"\nrates = "{rates}"\n'
    lines = [{**line, "n": n} for n, (line, *_) in enumerate(cases)]
    for events, rejected in by_both_ways(spark, tmp_path, text, lines, extra_settings=settings):
        rules: dict[str, str | None] = {row.position: row.rule for row in rejected}
        values = {row.position: row.value for row in events}
        places = [f"a.jsonl:{n + 1}" for n in range(len(cases))]
        assert [rules.get(place) for place in places] == [rule for _, rule, _ in cases]
        assert [values.get(place) for place in places] == [value for *_, value in cases]
        assert [row.warnings for row in events if row.currency == "CHF"] == [["currency_rate_missing"]]


def test_several_currencies_without_rates_are_a_warning_of_the_batch_and_the_page_has_no_sum(
    spark: SparkSession, tmp_path: Path
) -> None:
    shop = Shop(tmp_path, MONEY)
    for number, code in enumerate(("EUR", "JPY")):
        event = {"kind": "purchase", "at": T, "who": "u1", "price": 100, "cur": code}
        shop.write(f"{number}.jsonl", json.dumps(event) + "\n")
    shop.capture(spark)
    batches = shop.read(spark, tables.CAPTURE_BATCHES).orderBy("batch_id").collect()
    assert [row.warned_by_rule["currency_mixed"] for row in batches] == [0, 1]
    totals = queries_events.totals(shop.read(spark, tables.EVENTS), "UTC")
    assert totals is not None and totals.value is None


# -- one reading path ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right", "content", "text"),
    [
        ("", 'encoding = "GBK"', b"id,kind,at,who,note\n1,view,%b,u1,\xb2\xe8\xb1\xad\n", "茶杯"),
        ('separator = ";"', 'escape = "\\\\"', b'id,kind,at,who,note\n1,view,%b,u1,"a\\",b"\n', 'a",b'),
        ("", "header = false", b"1,view,%b,u1,tea\n", "tea"),
    ],
    ids=["encoding", "separator and escape", "header"],
)
def test_a_corrected_key_of_input_repairs_rejected_rows(
    spark: SparkSession, tmp_path: Path, wrong: str, right: str, content: bytes, text: str
) -> None:
    base = """
[input]
format = "csv"
KEY
columns = "id string, kind string, at string, who string, note string"
[columns]
event_type = "kind"
event_time = "at"
user_id = "who"
text = "note"
"""
    shop = Shop(tmp_path, base.replace("KEY", wrong))
    shop.write("a.csv", content.replace(b"%b", T.encode()))
    shop.capture(spark)
    assert shop.counts(spark)[1] == 0
    shop.mapping = base.replace("KEY", right)
    reprocess.run(spark, shop.settings(), "shop", None)
    (event,) = shop.read(spark, tables.EVENTS).collect()
    assert event.text == text


def test_csv_side_tables_are_read_like_a_log(spark: SparkSession, tmp_path: Path) -> None:
    side = tmp_path / "side.csv"
    side.write_text('# goods\nsku;name;cat\n1;"6"" plate; blue";plates\n2;"the ""big"" one";cards\n6;"two\nlines";z\n')
    text = BASE + (f'text = "g.name"\ncategory = "g.cat"\n[lookup.g]\npath = "{side}"\nformat = "csv"\nkey = "sku"\n'
                   'on = "what"\nseparator = ";"\ncomment = "#"\n')  # fmt: skip
    rows = results(spark, text, [{"kind": "view", "at": T, "what": sku} for sku in ("1", "2", "6", "9")])
    assert [(row.text, row.category) for row in rows] == [
        ('6" plate; blue', "plates"), ('the "big" one', "cards"), ("two\nlines", "z"), (None, None),
    ]  # fmt: skip


# -- sources of an unexpected shape ---------------------------------------------------------------------


CSV = (BASE.replace('format = "jsonl"', 'format = "csv"')
       .replace("price double, quantity double", "price string, note string")
       .replace('quantity = "quantity"', 'text = "note"'))  # fmt: skip
HEADER = "id,kind,at,who,what,price,note\n"


def test_a_line_break_in_a_cell_cannot_make_an_event(spark: SparkSession, tmp_path: Path) -> None:
    shop = Shop(tmp_path, CSV)
    shop.write(
        "a.csv", HEADER + f'1,view,{T},u1,tea,1.5,"nice\n9,purchase,{T},u2,gold,999,x"\n2,view,{T},u3,tea,1,ok\n'
    )
    shop.write("b.csv", HEADER + f'1,view,{T},u4,tea,1.5,"a\n8,purchase,{T},u2,gold,999,x\n9,view,{T},u2,g,9,"\n')
    shop.write("c.csv", HEADER + f'1,view,{T},u5,5" cup,1.5,x\n2,view,{T},u6,tea,1.5,"stray\n3,view,{T},u7,t,1,x\n')
    shop.overrides = ["capture.sources.shop.max_files_per_trigger=10"]
    shop.capture(spark)
    users = {row.user_id for row in shop.read(spark, tables.EVENTS).collect()}
    assert users == {"s:u3", "s:u5", "s:u7"}
    rejected = shop.read(spark, tables.REJECTED_EVENTS).orderBy("position").collect()
    assert [(row.position, row.rule) for row in rejected] == [
        ("a.csv:2", "unparseable"), ("a.csv:3", "unparseable"), ("b.csv:2", "unparseable"),
        ("b.csv:3", "unparseable"), ("b.csv:4", "unparseable"), ("c.csv:3", "unparseable"),
    ]  # fmt: skip
    reprocess.run(spark, shop.settings(), "shop", ["unparseable"])
    assert shop.read(spark, tables.EVENTS).count() == 3


def test_a_header_without_mapped_columns_rejects_every_line(spark: SparkSession, tmp_path: Path) -> None:
    line = f"1,view,{T},u1,i1,1.5,x\n"
    contents = {
        "no header": (line * 3, 3), "separator": (HEADER.replace(",", ";") + line.replace(",", ";"), 2),
        "preamble": ("sep=,\n" + HEADER + line, 3), "capitals": (HEADER.upper() + line, 2),
        "blank lines": ("\n\n" + HEADER + line, 0),
    }  # fmt: skip
    shop = Shop(tmp_path, CSV, overrides=["capture.sources.shop.max_files_per_trigger=10"])
    for name, (content, _) in contents.items():
        shop.write(f"{name}.csv", content)
    shop.capture(spark)
    assert shop.counts(spark) == (11, 1, 10, 0)
    rejected = shop.read(spark, tables.REJECTED_EVENTS).collect()
    assert all(row.rule == "header_unknown" and "header, separator" in row.reason for row in rejected)
    files = [row.position.split(".csv:")[0] for row in rejected]
    assert {name: files.count(name) for name in contents} == {name: count for name, (_, count) in contents.items()}


def test_comments_skipped_lines_and_partition_values(spark: SparkSession, tmp_path: Path) -> None:
    text = CSV.replace("note string", "note string, date string").replace("[columns]", 'skip_lines = 2\ncomment = "#"\n'
                                                                          '[columns]\nregion = "date"\n')  # fmt: skip
    text += 'channel = "source_file"\n'
    shop = Shop(tmp_path, text)
    body = f"export of\nsome tool\n#c\n{HEADER}#x\n1,view,{T},u1,i1,1.5,x\n1,view,bad,u1,i1,1.5,x\n"
    shop.write("date=2026-03-01/kind2=a%20b/p.csv", body)
    shop.capture(spark)
    (event,) = shop.read(spark, tables.EVENTS).collect()
    path = "date=2026-03-01/kind2=a%20b/p.csv"
    assert (event.region, event.extra, event.channel, event.position) == (
        "2026-03-01", {"kind2": "a b"}, path, f"{path}:6",
    )  # fmt: skip
    shop.mapping = text.replace('event_time = "at"', f"event_time = \"'{T}'\"")
    reprocess.run(spark, shop.settings(), "shop", None)
    rows = shop.read(spark, tables.EVENTS).collect()
    assert [(row.region, row.extra, row.channel) for row in rows] == [("2026-03-01", {"kind2": "a b"}, path)] * 2


def test_a_partition_value_of_another_type_is_rejected(spark: SparkSession, tmp_path: Path) -> None:
    text = mapping("who string, date date", user_id="who", event_time="timestamp(date)")
    shop = Shop(tmp_path, text, overrides=["capture.sources.shop.max_files_per_trigger=10"])
    for folder in ("2026-03-01", "someday"):
        shop.write(f"date={folder}/a.jsonl", '{"who":"u1"}\n')
    shop.capture(spark)
    (event,) = shop.read(spark, tables.EVENTS).collect()
    assert event.event_time == datetime(2026, 3, 1)
    (rejected,) = shop.read(spark, tables.REJECTED_EVENTS).collect()
    assert (rejected.rule, rejected.position) == ("wrong_type", "date=someday/a.jsonl:1")


def test_text_files_are_read_in_any_charset(spark: SparkSession, tmp_path: Path) -> None:
    for encoding in ("GBK", "GB18030", "windows-1252", "UTF-16", "UTF-16LE", "Big5"):
        word = "price €" if encoding == "windows-1252" else "茶杯"
        path = tmp_path / encoding / "a.csv"
        path.parent.mkdir()
        has_invalid = encoding in ("GBK", "GB18030", "Big5")
        path.write_bytes(f"id,note\n1,{word}\r\n2,x\r\n".encode(encoding) + b"3,\xff\xff\n" * has_invalid)
        spec = InputSpec(format="csv", columns="id string, note string", encoding=encoding)
        source = FileSource("shop", str(path.parent), spec, ("maxFilesPerTrigger", 1), max_line_bytes=1000)
        with reading_files(spark, []):
            rows = source.records(spark, [f"file:{path}"]).orderBy("position").collect()
        expected = [(None, word), (None, "x"), ("not_utf8", None)]
        assert [(row.fault, row.raw.note) for row in rows] == expected[: 2 + has_invalid], encoding


def test_a_text_log_has_one_column(spark: SparkSession, tmp_path: Path) -> None:
    text = """
[input]
format = "text"
[columns]
event_time = "split(line, ' ')[0]"
event_type = "split(line, ' ')[1]"
user_id = "split(line, ' ')[2]"
"""
    shop = Shop(tmp_path, text)
    shop.write("a.log", f"{T} view u1\n{T}\n")
    shop.capture(spark)
    assert shop.counts(spark) == (2, 1, 1, 0)


def test_a_change_of_a_delta_source_is_refused_or_skipped(spark: SparkSession, tmp_path: Path) -> None:
    shop = Shop(tmp_path, BASE.replace('format = "jsonl"', 'format = "delta"'))
    path = str(shop.input)

    def append(*users: str) -> None:
        rows = [("view", T, user) for user in users]
        spark.createDataFrame(rows, "kind string, at string, who string").coalesce(1).write.format("delta").mode(
            "append"
        ).save(path)

    append("u1", "u2", "u3")
    shop.capture(spark)
    positions = [row.position for row in shop.read(spark, tables.EVENTS).orderBy("position").collect()]
    assert positions == ["0:1", "0:2", "0:3"]
    spark.sql(f"DELETE FROM delta.`{path}` WHERE who = 'u1'")
    append("u4")
    with pytest.raises(Refused) as refused:
        shop.capture(spark)
    assert "DELETE" in refused.value.what and 'on_change = "skip"' in refused.value.do
    shop.overrides = ["capture.sources.shop.on_change=skip"]
    shop.capture(spark)
    assert shop.counts(spark) == (4, 4, 0, 0)
    spark.sql(f"OPTIMIZE delta.`{path}`")
    append("u5")
    shop.capture(spark)
    assert shop.counts(spark) == (5, 5, 0, 0)


def test_the_same_event_stored_twice(spark: SparkSession, tmp_path: Path) -> None:
    shop = Shop(tmp_path, BASE + 'event_id = "id"\n')
    night = {"id": "e1", "kind": "view", "at": "2026-03-01T23:59:59.9Z", "who": "u1"}
    shop.write("a.jsonl", json.dumps(night) + "\n")
    shop.write("b.jsonl", json.dumps({**night, "at": "2026-03-02T00:00:00.1Z"}) + "\n")
    shop.write("c.jsonl", json.dumps({**night, "receivedAt": "later"}) + "\n")
    shop.capture(spark)
    assert shop.counts(spark) == (3, 1, 1, 1)
    without_id = Shop(tmp_path / "identity", 'identity = ["id"]\n' + BASE)
    without_id.write("a.jsonl", json.dumps(night) + "\n")
    without_id.write("b.jsonl", json.dumps({**night, "more": 1}) + "\n")
    without_id.capture(spark)
    assert without_id.counts(spark) == (2, 1, 0, 1)
    raw = Shop(tmp_path / "raw", BASE.replace('"kind"', "\"'view'\""))
    raw.write("a.jsonl", json.dumps(night) + "\n" + json.dumps({**night, "kind": "open"}) + "\n")
    raw.capture(spark)
    assert raw.counts(spark) == (2, 2, 0, 0)


def test_two_sources_over_the_same_files_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    shop = Shop(tmp_path, BASE)
    shop.write("a/a.jsonl", "{}\n")
    shop.extra_settings = f'[capture.sources.other]\npath = "{shop.input}/a"\nmapping = "{shop.home}/shop.toml"\n'
    with pytest.raises(BadSettings, match="read the same files"):
        capture_checks.check_sources(spark, shop.settings())
    # Different patterns that select a file in common.
    shop.mapping = BASE.replace("[input]", '[input]\nglob = "*.jsonl"')
    other = shop.home / "other.toml"
    other.write_text(BASE.replace("[input]", '[input]\nglob = "a*"'))
    shop.extra_settings = f'[capture.sources.other]\npath = "{shop.input}/a"\nmapping = "{other}"\n'
    with pytest.raises(BadSettings, match="read the same files"):
        capture_checks.check_sources(spark, shop.settings())
    other.write_text(BASE.replace("[input]", '[input]\nglob = "*.json"'))
    capture_checks.check_sources(spark, shop.settings())


def test_a_zone_that_is_optional_in_the_time_format_is_used_where_it_is_stated(spark: SparkSession) -> None:
    text = 'timezone = "Europe/Berlin"\ntime_format = "yyyy-MM-dd HH:mm:ss[XXX]"\n' + BASE
    times = ["2026-03-02 09:00:00", "2026-03-02 09:00:00+05:00", "2026-03-02 09:00:00Z"]
    rows = results(spark, text, [{"kind": "view", "at": time} for time in times])
    assert [row.event_time.astimezone(UTC).hour for row in rows] == [8, 4, 9]


def test_the_same_id_with_other_content_in_one_batch_or_two_keeps_the_row_of_the_first_file(
    spark: SparkSession, tmp_path: Path
) -> None:
    for files_per_batch in (1, 2):
        shop = Shop(tmp_path / str(files_per_batch), BASE.replace("[columns]", '[columns]\nevent_id = "id"'))
        shop.overrides = [f"capture.sources.shop.max_files_per_trigger={files_per_batch}"]
        row = {"id": "e1", "kind": "view", "at": T, "who": "u1", "what": "a"}
        others = [json.dumps({**row, "id": f"x{n}"}) for n in range(9)]
        shop.write("a.jsonl", "\n".join([*others, json.dumps(row)]))
        shop.write("b.jsonl", json.dumps({**row, "what": "b"}))
        shop.capture(spark)
        events = shop.read(spark, tables.EVENTS).where("event_id = 'e1'").collect()
        assert [(event.item_id, event.position) for event in events] == [("s:a", "a.jsonl:10")]


def test_bytes_and_microseconds_of_a_rejected_row_are_those_of_its_reprocessing(
    spark: SparkSession, tmp_path: Path
) -> None:
    moment = datetime(2026, 3, 1, 10, 0, 0, 123456)
    text = mapping("kind string, who string, at timestamp", event_type="kind", event_time="at", user_id="who")
    table = pa.table({"kind": ["peek"], "who": pa.array([b"anna"], pa.binary()), "more": pa.array([b"\x01\xff"]),
                      "at": pa.array([moment], pa.timestamp("us", tz="UTC"))})  # fmt: skip
    shop = captured(spark, tmp_path, text, table)
    assert shop.counts(spark) == (1, 0, 1, 0)
    shop.mapping = shop.mapping.replace('event_type = "kind"', "event_type = \"'view'\"")
    assert reprocess.run(spark, shop.settings(), "shop", None).rows_out == 1
    (row,) = shop.read(spark, tables.EVENTS).collect()
    assert (row.user_id, row.event_time.microsecond, row.extra) == ("s:anna", 123456, {"more": "01ff"})
    twin = captured(spark, tmp_path / "twin", text.replace('event_type = "kind"', "event_type = \"'view'\""), table)
    assert twin.read(spark, tables.EVENTS).collect()[0].event_id == row.event_id


def test_the_query_can_be_built_without_input(spark: SparkSession, tmp_path: Path) -> None:
    shop = Shop(tmp_path, BASE)
    settings = shop.settings()
    streaming.run(spark, [ingest.query(settings, "shop")], settings, RunOptions())
    assert shop.counts(spark) == (0, 0, 0, 0)
