"""Values are read as they were written, in every format, at every depth, and again when a row is reprocessed."""

import base64
import json
import random
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from profilestream.base import tables
from profilestream.capture import reprocess, row_payload
from profilestream.capture.json_numbers import changes_number
from profilestream.capture.number_text import float_text, number_text
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from tests.builders import Shop
from tests.rule_results import capture_source, evaluate, parse

TIME = "2026-03-01T10:00:00Z"
UUID = bytes(range(120, 136))  # not UTF-8


def mapping(form: str, columns: str, **expressions: str) -> str:
    """A mapping of events of the type view at TIME, unless an expression states another."""
    lines = {"event_type": "'view'", "event_time": f"'{TIME}'", **expressions}
    return (f'[input]\nformat = "{form}"\ncolumns = """{columns}"""\n[columns]\n'
            + "".join(f"{name} = {json.dumps(sql)}\n" for name, sql in lines.items()))  # fmt: skip


def captured(spark: SparkSession, home: Path, text: str, table: pa.Table, *overrides: str) -> Shop:
    """A shop that captured the rows as one Parquet file or Delta table."""
    shop = Shop(home, text, overrides=list(overrides))
    shop.input.mkdir(parents=True)
    if 'format = "delta"' in text:
        pq.write_table(table, home / "rows.parquet")
        spark.read.parquet(str(home / "rows.parquet")).coalesce(1).write.format("delta").save(str(shop.input))
    else:
        pq.write_table(table, shop.input / "a.parquet")
    shop.capture(spark)
    return shop


def events(spark: SparkSession, shop: Shop) -> list[Row]:
    """Its events, in the order of the input."""
    return shop.read(spark, tables.EVENTS).orderBy("position").collect()


# Numbers by their text in JSON, and the text that they give where a text is declared.
NUMBERS = {
    "1E5": "100000", "1e5": "100000", "1.10": "1.10", "12345678.0": "12345678", "-7.00": "-7", "-0.0": "0", "-0": "0",
    "0e-7": "0", "1e-7": "1e-7", "1.5e-3": "1.5e-3", "1500e-2": "15", "0.05E3": "50", "-2.50e1": "-25",
    "1e-20": "1e-20", "1e22": "1" + "0" * 22,
    "1e400": "1" + "0" * 400, "-1E400": "-1" + "0" * 400, "1e-400": "1e-400",
    "1.0000000000000000001": "1.0000000000000000001", "1.0000000000000000001e0": "1.0000000000000000001e0",
    "1234567890123456789012.5e0": "1234567890123456789012.5e0", "1e99999999999": "1e99999999999",
    "12345678901234567890": "12345678901234567890", "3": "3", "0.10": "0.10", "24.9": "24.9", "0.001": "0.001",
    "0.0001": "0.0001", "12345678.5": "12345678.5", "-9999999.25": "-9999999.25",
    "0.3000000000000000444": "0.3000000000000000444",
}  # fmt: skip


def test_the_text_of_a_number(spark: SparkSession) -> None:
    others = {"A-1.0": "A-1.0", "1E": "1E", "": "", "E5": "E5", ".5": ".5", "NaN": "NaN", "007": "007"}
    texts = {number: text for number, text in NUMBERS.items() if number != "-0"} | others
    rows = spark.createDataFrame([(text,) for text in texts], "t string")
    assert [row[0] for row in rows.select(number_text(F.col("t"))).collect()] == list(texts.values())
    numbers = {
        1e-7: "0.0000001", 1.25e-20: "0." + "0" * 19 + "125", -4.9e-324: "-0." + "0" * 323 + "49",
        1e300: "1" + "0" * 300,
        12345678.0: "12345678", 12345678.25: "12345678.25", -123456789.5: "-123456789.5", -0.0: "0", 0.0001: "0.0001",
        2e23: "2" + "0" * 23, 8.41e21: "841" + "0" * 19, 0.1 + 0.2: "0.30000000000000004", 2e-3: "0.002",
        float("inf"): "Infinity", 24.9: "24.9", 1.7976931348623157e308: "17976931348623157" + "0" * 292,
    }  # fmt: skip
    rows = spark.createDataFrame([(number,) for number in numbers], "d double")
    assert [row[0] for row in rows.select(float_text(F.col("d"), T.DoubleType())).collect()] == list(numbers.values())
    assert [r[0] for r in rows.limit(1).select(float_text(F.lit(1.5e-7).cast("float"), T.FloatType())).collect()] == [
        "0.00000015"
    ]


def test_numbers_keep_their_characters_at_every_depth_of_json(spark: SparkSession) -> None:
    text = mapping(
        "jsonl", "t string, o struct<id: string, p: struct<id: string, n: bigint, d: decimal(20,4)>>, "
        "a array<string>, m map<string, array<string>>", item_id="o.id", category="o.p.id", brand="a[0]",
        session_id="m['k'][0]", query="t", value="o.p.n", text="string(o.p.d)",
    )  # fmt: skip
    lines = [
        f'{{"t":{n},"o":{{"id": {n} ,"p":{{"id":{n},"n":2.0e1,"d":12345678901234.5678}}}},"a":[{n}],"m":{{"k":[{n}]}},'
        f'"x":{n},"y":{{"z":[{n},"1.0"]}}}}'
        for n in NUMBERS
    ]
    source = capture_source(text)
    rows = evaluate(source, parse(spark, source, lines))
    columns = ("item_id", "category", "brand", "session_id", "query")
    for (number, expected), row in zip(NUMBERS.items(), rows, strict=True):
        is_unknown = expected == "0"  # a placeholder
        assert [row[c] for c in columns] == [*[None if is_unknown else expected] * 4, expected], number
        assert row.extra["x"] == expected and (row.value, row.text) == (20.0, "12345678901234.5678"), number
        if number != "-0":
            assert row.extra["y"] == f'{{"z":[{number},"1.0"]}}', number
    strings = [f'{{"t":"{n}","o":{{"id":"{n}"}},"a":["{n}"],"m":{{"k":["{n}"]}}}}' for n in NUMBERS]
    for number, row in zip(NUMBERS, evaluate(source, parse(spark, source, strings)), strict=True):
        if NUMBERS[number] != "0":
            assert [row[c] for c in (*columns[:1], *columns[2:])] == [number] * 4
    invalid = ['{1.5:2}', '{"t":007.5}', '{"t":1.5 "a":2}', '{"t":1.}', '{"t":.5}', '{"t":+1.5}', '{"t":1.5.5}',
               '{"t":1.5e}', '{"t":1.5', '{"t":"1.5}']  # fmt: skip
    assert {row.rule for row in evaluate(source, parse(spark, source, invalid))} == {"unparseable"}
    long_lines = [f'{{"t":1.50,"x":[{",".join(["1.5"] * 50_000)}]}}', '{"x":"' + 'a\\"' * 100_000 + '","t":1.50}',
                  "{'t':1.50,\"x\":'a\"1.0'}", '{"x":-Infinity,"t":1.50}']  # fmt: skip
    assert {row.query for row in evaluate(source, parse(spark, source, long_lines))} == {"1.50"}


def test_numbers_and_strings_that_look_alike_in_one_line_keep_their_own_text(spark: SparkSession) -> None:
    text = mapping("jsonl", "t string, q string, o struct<id: string>, n decimal(30,12)", query="t", text="q",
                   channel="o.id", region="string(n)")  # fmt: skip
    lines: dict[str, tuple[str | None, ...]] = {  # t, q, o.id, n, x
        '{"t":1.10,"q":1.1,"x":"1.10","n":1.1}': ("1.10", "1.1", None, "1.100000000000", "1.10"),
        '{"t":3.0,"q":"3.0"}': ("3", "3.0", None, None, None),
        '{"t":"3.0","q":3.0,"x":3.0}': ("3.0", "3", None, None, "3"),
        r'{"t":3.0,"q":"3\u002e0"}': ("3", "3.0", None, None, None),
        r'{"t":3.0,"q":"3.\u0030"}': ("3", "3.0", None, None, None),
        """{"t":3.0,"q":'3.0'}""": ("3", "3.0", None, None, None),
        """{"t":3.0,"q":"it's","x":4.0}""": ("3", "it's", None, None, "4"),
        '{"t":-0.0,"x":"-0.0","o":{"id":2.0}}': ("0", None, "2", None, "-0.0"),
        '{"t":-0.0,"x":2.0,"o":{"id":"2.0"}}': ("0", None, "2.0", None, "2"),
        '{"t":1e400,"q":"Infinity"}': ("1" + "0" * 400, "Infinity", None, None, None),
        '{"t":"1.10","q":"1e5","x":"5.00","o":{"id":"1E5"}}': ("1.10", "1e5", "1E5", None, "5.00"),
        '{"t":2.0,"q":{"a":3.0,"b":"3.0"},"x":[4.0]}': ("2", '{"a":3.0,"b":"3.0"}', None, None, "[4.0]"),
        '{"t":1.123456789,"n":123456789012.123456789,"x":0.00012}': (
            "1.123456789", None, None, "123456789012.123456789000", "0.00012"),
        '{"t": 1E+5 , "q": [1e5 ], "o": {"id": 1.50 }}': ("100000", "[1e5]", "1.50", None, None),
        '{"t":"at 1.10, 2","q":24.9,"x":"2026-01-01T10:00:00.000"}': (
            "at 1.10, 2", "24.9", None, None, "2026-01-01T10:00:00.000"),
    }  # fmt: skip
    source = capture_source(text)
    for (line, expected), row in zip(lines.items(), evaluate(source, parse(spark, source, list(lines))), strict=True):
        assert (row["query"], row.text, row.channel, row.region, (row.extra or {}).get("x")) == expected, line


def test_no_number_that_from_json_changes_is_overlooked(spark: SparkSession) -> None:
    draw = random.Random(1)

    def digits(most: int) -> str:
        return "".join(draw.choices("0000123456789", k=draw.randint(1, most)))

    numbers = []
    for _ in range(3000):
        point = f".{digits(draw.choice((2, 12, 22)))}" if draw.random() < 0.8 else ""
        exponent = f"{draw.choice('eE')}{draw.choice(('', '+', '-'))}{digits(3)}" if draw.random() < 0.2 else ""
        sign, whole = draw.choice(("", "-")), int(digits(draw.choice((1, 10, 20))))
        numbers.append(f"{sign}{whole}{point or '.0'}{exponent}")
    rows = spark.createDataFrame([(number,) for number in numbers], "number string")
    json_text = F.concat(F.lit('{"t":'), "number", F.lit("}"))
    rows = rows.select("number", changes_number(json_text).alias("changes"),
                       F.from_json(json_text, "t string")["t"].alias("parsed"))  # fmt: skip
    found = rows.collect()
    assert [row.number for row in found if not row.changes and row.parsed != row.number] == []
    assert 500 < sum(row.changes for row in found) < 2900


def test_numbers_in_json_text_keep_their_characters_in_every_format(spark: SparkSession, tmp_path: Path) -> None:
    columns = "who string, o struct<id: string, n: array<string>>, z string"
    expressions = {"user_id": "who", "item_id": "o.id", "query": "o.n[1]", "text": "z"}
    texts = [f'{{"id": {n},"n":["{n}",{n}]}}' for n in NUMBERS]
    found: dict[str, list[tuple[Any, ...]]] = {}
    for form in ("jsonl", "csv", "parquet", "delta"):
        home, source_text = tmp_path / form, mapping(form, columns, **expressions)
        table = pa.table({"who": [f"u{n}" for n in range(len(texts))], "o": texts})
        if form in ("parquet", "delta"):
            shop = captured(spark, home, source_text, table, "stream.local_max_rows=0")
        else:
            shop = Shop(home, source_text)
            lines = table.to_pylist()
            if form == "jsonl":
                shop.write("a.jsonl", "".join(json.dumps(row) + "\n" for row in lines))
            else:
                cells = [row["o"].replace('"', '""') for row in lines]
                shop.write("a.csv", "who,o\n" + "".join(f'u{n},"{cell}"\n' for n, cell in enumerate(cells)))
            shop.capture(spark)
        found[form] = [(r.user_id, r.item_id, r.query, r.event_id) for r in events(spark, shop)]
        found[form].sort(key=lambda row: int(row[0][1:]))
    expected = list(NUMBERS.values())
    assert [row[2] for row in found["jsonl"]] == expected
    assert [row[1] for row in found["jsonl"]] == [None if text == "0" else text for text in expected]
    for form, rows in found.items():
        assert rows == found["jsonl"], form


def test_binary_numbers_are_texts_by_the_same_rule_at_every_depth(spark: SparkSession, tmp_path: Path) -> None:
    doubles = [12345678.0, 1e-7, 24.9, 1e300, -0.0]
    texts = ["12345678", "0.0000001", "24.9", "1" + "0" * 300, "0"]
    floats = pa.array([12345678.0, 1e-7, 24.9, 1e30, -0.0], pa.float32())
    table = pa.table({
        "d": doubles, "o": [{"id": x, "l": [x]} for x in doubles],
        "m": pa.array([[("k", x)] for x in doubles], pa.map_(pa.string(), pa.float64())),
        "f": floats, "n": floats, "whole": [{"x": x, "b": b"\xff"} for x in doubles],
    })  # fmt: skip
    columns = ("d string, o struct<id: string, l: array<string>>, m map<string,string>, f string, n bigint, "
               "whole string")  # fmt: skip
    text = mapping("parquet", columns, item_id="d", text="o.id", channel="o.l[0]", device="m['k']", region="f",
                   attributes="map('a', double(d), 'b', double(1))", query="whole")  # fmt: skip
    shop = captured(spark, tmp_path, text, table)
    rows = events(spark, shop)
    for row, expected in zip(rows, (texts[0], texts[4]), strict=True):
        assert [row.text, row.channel, row.device, row.region] == [expected] * 4
        assert row.item_id == (None if expected == "0" else expected)
        assert row.attributes == {"a": expected, "b": "1"}
        assert row.query == f'{{"x":{expected},"b":"ff"}}'
    rejected = shop.read(spark, tables.REJECTED_EVENTS).collect()
    assert [row.rule for row in rejected] == ["wrong_type"] * 3  # 1e-7, 24.9 and 1e30 are no bigint
    as_text = captured(spark, tmp_path / "b", text.replace("n bigint", "n double"), table, "stream.local_max_rows=0")
    rows = events(spark, as_text)
    assert [row.text for row in rows] == texts
    assert [row.region for row in rows] == [*texts[:3], "1" + "0" * 30, "0"]


@pytest.mark.parametrize(("form", "local_max_rows"), [("parquet", 10_000), ("delta", 0)])
def test_declared_bytes_are_bytes_at_every_depth(
    spark: SparkSession, tmp_path: Path, form: str, local_max_rows: int
) -> None:
    values = [UUID, b"\x00\xff\x80", b"tea", b""]
    table = pa.table({
        "what": pa.array(values, pa.binary()), "o": [{"id": v, "s": "a"} for v in values], "a": [[v] for v in values],
        "m": pa.array([[("k", v)] for v in values], pa.map_(pa.string(), pa.binary())),
        "text": pa.array(values, pa.binary()), "u": [{"b": v} for v in values],
    })  # fmt: skip
    columns = "what binary, o struct<id: binary, s: string>, a array<binary>, m map<string, binary>"
    text = mapping(form, columns, item_id="what", query="o.id", text="a[0]", attributes="m", channel="o.s")
    shop = captured(spark, tmp_path, text, table, f"stream.local_max_rows={local_max_rows}")
    rows = events(spark, shop)
    assert shop.counts(spark) == (4, 4, 0, 0)
    for value, row in zip(values, rows, strict=True):
        assert row.item_id == (value.hex() or None)
        assert [row.query, row.text, row.attributes["k"]] == [value.hex()] * 3
        assert (row.channel, row.extra["u"]) == ("a", f'{{"b":"{value.hex()}"}}')
    # The same bytes where a text is declared.
    for column, declared in {
        "what": "what string", "o": "o struct<id: string>", "a": "a array<string>", "m": "m map<string,string>",
    }.items():  # fmt: skip
        if local_max_rows and form == "parquet":
            home = tmp_path / column
            as_text = captured(spark, home, mapping(form, declared, channel=f"string(size(array({column})))"), table)
            rejected = as_text.read(spark, tables.REJECTED_EVENTS).collect()
            assert [row.rule for row in rejected] == ["not_utf8"] * 2, column


@pytest.mark.parametrize("local_max_rows", [0, 10_000])
def test_times_in_nanoseconds_are_read_at_every_depth(spark: SparkSession, tmp_path: Path, local_max_rows: int) -> None:
    nanos = [1772359200_123456789, -1, 0]
    moments = [datetime(2026, 3, 1, 10, 0, 0, 123456), datetime(1969, 12, 31, 23, 59, 59, 999999), datetime(1970, 1, 1)]
    for zone in ("UTC", None):
        times = pa.array(nanos, pa.int64()).cast(pa.timestamp("ns", tz=zone))
        struct = pa.StructArray.from_arrays([times, pa.array(["x"] * 3)], ["at", "s"])
        offsets: Any = pa.array([0, 1, 2, 3], pa.int32())
        table = pa.table({
            "o": struct, "a": pa.ListArray.from_arrays(offsets, times),
            "l": pa.ListArray.from_arrays(offsets, struct),
            "m": pa.MapArray.from_arrays(offsets, pa.array(["k"] * 3), times),
            "d": pa.StructArray.from_arrays([struct], ["in ner"]), "n": pa.array(nanos), "seen": struct,
        })  # fmt: skip
        columns = ("o struct<at: timestamp>, a array<timestamp>, l array<struct<at: timestamp>>, "
                   "m map<string, timestamp>, d struct<`in ner`: struct<at: timestamp>>, n bigint")  # fmt: skip
        others = ["a[0]", "l[0].at", "m['k']", "d.`in ner`.at"]
        text = mapping("parquet", columns, event_time="o.at", value="abs(n % 1000)", rating=" + ".join(
            f"int(o.at = {other})" for other in others))  # fmt: skip
        shop = captured(spark, tmp_path / str(zone), text, table, f"stream.local_max_rows={local_max_rows}",
                        "capture.min_event_date=1960-01-01")  # fmt: skip
        rows = events(spark, shop)
        assert [row.event_time for row in rows] == moments
        assert [(row.rating, row.value) for row in rows] == [(4.0, 789.0), (4.0, 1.0), (4.0, 0.0)]
        ends = "Z" if zone else ""
        assert json.loads(rows[0].extra["seen"])["at"] == f"2026-03-01T10:00:00.123456{ends}"


# -- rows that are reprocessed ----------------------------------------------------------------------------

KINDS = "CASE kind WHEN 'peek' THEN 'view' ELSE kind END"
MOMENT = datetime(2026, 3, 1, 10, 0, 0, 123456, tzinfo=UTC)
# Values by column, and the type that a mapping declares for the column (null: it declares none).
TYPED: dict[str, tuple[Any, str | None]] = {
    "tiny": (pa.array([1e-7, 12345678.0, -0.0, 1e300]), "string"),
    "single": (pa.array([24.9, 1e-7, 12345678.0, 1e30], pa.float32()), "string"),
    "plain": (pa.array([1e-7, 1.1, 1e22, -0.0]), "double"),
    "at": (pa.array([MOMENT] * 4, pa.timestamp("us", tz="UTC")), "string"),
    "local": (pa.array([MOMENT.replace(tzinfo=None)] * 4, pa.timestamp("us")), "string"),
    "day": (pa.array([date(2026, 3, 1), date(1500, 1, 1), date(9999, 12, 31), None]), "string"),
    "cents": (pa.array([Decimal("5.00"), Decimal("1.10"), Decimal("-0.05"), None], pa.decimal128(9, 2)), "string"),
    "bytes": (pa.array([UUID, b"", b"tea", None], pa.binary()), "binary"),
    "inside": (
        pa.array([{"b": UUID, "t": MOMENT, "d": 1e-7, "s": 'q"\\\u0001é'}] * 4,
                 pa.struct([("b", pa.binary()), ("t", pa.timestamp("us")), ("d", pa.float64()), ("s", pa.string())])),
        "struct<b: binary, t: string, d: string, s: string>",
    ),
    "map": (pa.array([[(1, b"\xff"), (2, None)]] * 4, pa.map_(pa.int32(), pa.binary())), "map<int, binary>"),
    "times": (pa.array([[(MOMENT, [1.5, None])]] * 4, pa.map_(pa.timestamp("us", tz="UTC"), pa.list_(pa.float64()))),
              "map<timestamp, array<string>>"),
    "other_bytes": (pa.array([[UUID, None]] * 4, pa.list_(pa.binary())), None),
    "other_time": (pa.array([MOMENT] * 4, pa.timestamp("us", tz="UTC")), None),
    "other": (pa.array([{"x": 1e-7, "größe": 2.0, "y": [Decimal("1.00")]}] * 4), None),
    "_corrupt_record": (pa.array(["a", "1.0", "", None]), "string"),
    "tags": (pa.array([["a", "1E5"], [], None, [None]], pa.list_(pa.string())), "array<string>"),
}  # fmt: skip


@pytest.mark.parametrize(("form", "local_max_rows"), [("parquet", 10_000), ("delta", 0)])
def test_a_row_that_is_reprocessed_is_the_row_that_is_captured_directly(
    spark: SparkSession, tmp_path: Path, form: str, local_max_rows: int
) -> None:
    table = pa.table({"kind": ["peek"] * 4, "who": [f"u{n}" for n in range(4)],
                      **{name: values for name, (values, _) in TYPED.items()}})  # fmt: skip
    declared = ["kind string", "who string", *[f"`{name}` {t}" for name, (_, t) in TYPED.items() if t]]
    text = mapping(form, ", ".join(declared), event_type="kind", user_id="who", item_id="bytes", text="inside.d",
                   query="at", region="source_file")  # fmt: skip
    corrected = text.replace('event_type = "kind"', f'event_type = "{KINDS}"')
    limit = f"stream.local_max_rows={local_max_rows}"
    shop = captured(spark, tmp_path / "a", text, table, limit)
    assert shop.counts(spark) == (4, 0, 4, 0)
    shop.mapping = corrected
    assert reprocess.run(spark, shop.settings(), "shop", None).rows_out == 4
    direct = captured(spark, tmp_path / "b", corrected, table, limit)
    columns = [c for c in tables.EVENTS.names if c not in ("ingest_time", "epoch", "batch_id")]
    for one, other in zip(events(spark, shop), events(spark, direct), strict=True):
        assert {c: one[c] for c in columns} == {c: other[c] for c in columns}


def test_a_row_with_bytes_that_are_not_utf8_is_reprocessed_as_bytes(spark: SparkSession, tmp_path: Path) -> None:
    invalid = pa.array([b'a"\xff\\\n', "größe".encode(), b"ok"], pa.binary())
    strings = pa.Array.from_buffers(pa.string(), 3, invalid.buffers())
    struct = pa.StructArray.from_arrays([strings], ["s 茶"])
    offsets: Any = pa.array([0, 1, 2, 3], pa.int32())
    table = pa.table({
        "who": ["u0", "u1", "u2"], "what": strings, "o": struct,
        "m": pa.MapArray.from_arrays(offsets, strings, strings),
    })  # fmt: skip
    text = mapping("parquet", "who string, what string, o struct<`s 茶`: string>, m map<string,string>", user_id="who",
                   item_id="what", query="o.`s 茶`", attributes="m")  # fmt: skip
    as_bytes = text.replace("what string, o struct<`s 茶`: string>, m map<string,string>",
                            "what binary, o struct<`s 茶`: binary>, m map<binary,binary>")  # fmt: skip
    shop = captured(spark, tmp_path / "a", text, table)
    (rejected,) = shop.read(spark, tables.REJECTED_EVENTS).collect()
    assert (rejected.rule, rejected.payload_encoding) == ("not_utf8", "base64")
    assert b'"what":"a\\"\xff\\\\\\n"' in base64.b64decode(rejected.payload)
    shop.mapping = as_bytes
    assert reprocess.run(spark, shop.settings(), "shop", None).rows_out == 1
    direct = captured(spark, tmp_path / "b", as_bytes, table)
    assert direct.counts(spark) == (3, 3, 0, 0)
    (one,) = [row for row in events(spark, shop) if row.user_id == "u0"]
    (other,) = [row for row in events(spark, direct) if row.user_id == "u0"]
    assert one.item_id == b'a"\xff\\\n'.hex() == one.query
    assert (one.event_id, one.attributes, one.extra) == (other.event_id, other.attributes, other.extra)


def test_a_payload_contains_every_value_of_a_row(spark: SparkSession) -> None:
    times = ["timestamp_micros(9223372036854775807)", "timestamp_micros(-9223372036000000000)",
             "timestamp'0000-01-01 00:00:00'", "timestamp_seconds(-99999999999)", f"timestamp'{TIME}'"]  # fmt: skip
    values = [*times, *[f"to_date({t})" for t in times], *[f"cast({t} as timestamp_ntz)" for t in times],
              "float('1e-45')", "4.9e-324D", "double('NaN')", "float('-Infinity')", "-0.0D", "9223372036854775807",
              "tinyint(-3)", "true", "X'ff00'", "X''", "'\\uFDD01.5'", "array(1, null)", "array()",
              "cast('99999999999999999999.000000000000000001' as decimal(38,18))",
              "cast('0.000000000000000001' as decimal(38,18))", "map('a', null, '', X'ff')", "map(1.5D, 'a')",
              "map(named_struct('k', 1), map(date'2026-01-01', 0.1D))",
              "named_struct('x', null, '`y`,', map(true, 'é'))",
              "cast(null as struct<a: int>)", "cast(X'74ff61' as string)"]  # fmt: skip
    fields = ", ".join(f"'c{n}', {value}" for n, value in enumerate(values))
    frame = spark.sql(f"SELECT named_struct({fields}) AS row")
    for columns in (values, values[:-1]):
        stored = frame.schema["row"].dataType
        assert isinstance(stored, T.StructType)
        stored = T.StructType(stored.fields[: len(columns)])
        payload = row_payload.encode(F.struct(*[F.col("row")[name].alias(name) for name in stored.names]), stored)
        encoded = frame.select("row", payload.text.alias("text"), payload.encoding.alias("encoding"))
        row_type = row_payload.row_type(payload.header)
        decoded = row_payload.decode(F.col("text"), F.col("encoding"), row_type)
        (row,) = encoded.withColumn("again", decoded).select(
            *[F.hex(F.col(part)[n].cast("string")).alias(f"{part}{n}")
              for part in ("row", "again") for n in stored.names]
        ).collect()  # fmt: skip
        different = [columns[n] for n in range(len(columns)) if row[f"rowc{n}"] != row[f"againc{n}"]]
        assert different == [], different
