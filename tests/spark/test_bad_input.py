"""Bad input is stored as data: each bad line is a row with rule, reason, verbatim text and position."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from profilestream.base import files, tables
from profilestream.base.errors import SourceUnreadable
from profilestream.capture.mapping import InputSpec
from profilestream.capture.sources import record_source
from profilestream.capture.sources.delta_source import DeltaSource
from profilestream.capture.sources.file_source import FileSource, reading_files
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from tests.builders import SHOP, Shop, event
from tests.rule_results import capture_source, evaluate, parse, rule_results

NOT_JSON = "not one JSON object"
PLACEHOLDER = "is a placeholder, not a user"
CSV_SHOP = SHOP.replace('"jsonl"', '"csv"')
NOT_FINITE = "a number is NaN or infinite"


def line(**changes: Any) -> str:
    return json.dumps(event(1, **changes))


def without(*names: str) -> str:
    return json.dumps({name: value for name, value in event(1).items() if name not in names})


GOOD_LINE = line()
# line, rule, reason
JSON_LINES: list[tuple[str, str | None, str | None]] = [
    (GOOD_LINE, None, None),
    ("no json at all", "unparseable", NOT_JSON),
    (GOOD_LINE[:-5], "unparseable", NOT_JSON),
    (GOOD_LINE[:-1], "unparseable", NOT_JSON),
    (GOOD_LINE[:8], "unparseable", NOT_JSON),
    (GOOD_LINE + GOOD_LINE, "unparseable", NOT_JSON),
    (GOOD_LINE + " " + GOOD_LINE, "unparseable", NOT_JSON),
    (GOOD_LINE + "," + GOOD_LINE, "unparseable", NOT_JSON),
    (GOOD_LINE + " x", "unparseable", NOT_JSON),
    (GOOD_LINE + "] x", "unparseable", NOT_JSON),
    (GOOD_LINE + "]", "unparseable", NOT_JSON),
    (GOOD_LINE + ",null", "unparseable", NOT_JSON),
    ("[" + GOOD_LINE + "]", "unparseable", NOT_JSON),
    ("null", "unparseable", NOT_JSON),
    ("17", "unparseable", NOT_JSON),
    ("\x00", "unparseable", NOT_JSON),
    ("[" * 3000, "unparseable", NOT_JSON),
    ('{"id":' + "9" * 2000 + "}", "unparseable", NOT_JSON),
    ("{}", "event_id_missing", "there is no event id, or a placeholder"),
    (without("id"), "event_id_missing", "there is no event id, or a placeholder"),
    (line(id=" "), "event_id_missing", "there is no event id, or a placeholder"),
    (without("kind"), "event_type_missing", "there is no event type"),
    (line(kind=None), "event_type_missing", "there is no event type"),
    (line(kind=" "), "event_type_missing", "there is no event type"),
    (line(kind="buy"), "event_type_unknown", "event type 'buy' is not known"),
    (line(kind="VIEW"), "event_type_unknown", "event type 'VIEW' is not known"),
    (without("at"), "event_time_unreadable", "event time (none) is missing or not a time"),
    (line(at="2026-02-30"), "event_time_unreadable", "event time '2026-02-30' is missing or not a time"),
    (line(at="now"), "event_time_unreadable", "event time 'now' is missing or not a time"),
    (line(at="10:30:00"), "event_time_unreadable", "event time '10:30:00' is missing or not a time"),
    (line(at=1767261600), "event_time_unreadable", "event time '1767261600' is missing or not a time"),
    (line(at="1994-12-31T23:59:59Z"), "event_time_before_min_date", "'1994-12-31 23:59:59' is before 1995-01-01"),
    (line(at="1995-01-01T00:00:00Z"), None, None),
    (line(at="2027-01-01T00:10:00Z"), None, None),
    (line(at="2027-01-01T00:10:01Z"), "event_time_in_future",
     "'2027-01-01 00:10:01' is later than the time of capture"),
    (line(who="null"), "user_id_placeholder", f"user id 'null' {PLACEHOLDER}"),
    (line(who=" UnDefined "), "user_id_placeholder", f"user id 'UnDefined' {PLACEHOLDER}"),
    (line(who="0"), "user_id_placeholder", f"user id '0' {PLACEHOLDER}"),
    (line(who=-1), "user_id_placeholder", f"user id '-1' {PLACEHOLDER}"),
    (line(who=""), "user_id_placeholder", f"user id '' {PLACEHOLDER}"),
    (line(who=" \t\u00a0"), "user_id_placeholder", f"user id '' {PLACEHOLDER}"),
    (without("who"), None, None),
    (line(price="abc"), "price_unreadable", "price 'abc' is not a number"),
    (line(price="5d"), "price_unreadable", "price '5d' is not a number"),
    (line(price="1,5"), "price_unreadable", "price '1,5' is not a number"),
    (line(quantity="two"), "quantity_unreadable", "quantity 'two' is not a number"),
    (line(price=" "), None, None),
    (line(price=-0.5), "price_negative", "price '-0.5' is negative"),
    (line(quantity="-2"), "quantity_negative", "quantity '-2.0' is negative"),
    (line(price=float("nan")), "price_unreadable", "price '\"NaN\"' is not a number"),
    (line(price=float("inf")), "price_unreadable", "price '\"Infinity\"' is not a number"),
    (line(price="NaN"), "price_unreadable", "price 'NaN' is not a number"),
    (line(price="Infinity"), "price_unreadable", "price 'Infinity' is not a number"),
    (line(price="1e400"), "number_not_finite", NOT_FINITE),
    (line(price="1e300", quantity="1e300"), "number_not_finite", NOT_FINITE),
    (line(who="'; DROP TABLE events; --"), None, None),
]  # fmt: skip


def test_every_bad_json_line_is_rejected_with_rule_reason_and_verbatim_text(spark: SparkSession) -> None:
    source = capture_source(SHOP)
    rows = evaluate(source, parse(spark, source, [text for text, *_ in JSON_LINES]))
    assert rule_results(rows) == [(str(n + 1), rule, reason) for n, (_, rule, reason) in enumerate(JSON_LINES)]
    payloads = [(text if rule else None, "utf8" if rule else None) for text, rule, _ in JSON_LINES]
    assert [(row.payload, row.payload_encoding) for row in rows] == payloads


def test_sql_in_a_value_remains_text(spark: SparkSession) -> None:
    source = capture_source(SHOP)
    text = "'; DROP TABLE events; --"
    row = evaluate(source, parse(spark, source, [line(who=text, what="`" + text, id='x" OR 1=1')]))[0]
    assert (row.user_id, row.item_id, row.event_id) == (f"shop:{text}", f"shop:`{text}", 'x" OR 1=1')


def test_a_value_of_another_type_than_declared_is_rejected(spark: SparkSession) -> None:
    columns = "at string, p double, n bigint, tags array<string>, e struct<x: bigint, y: string>"
    source = capture_source(f"""
        input = {{ format = "jsonl", columns = "{columns}" }}
        columns = {{ event_type = "'view'", event_time = "at", price = "p", quantity = "n", item_id = "e.x" }}
    """)
    good: list[dict[str, Any]] = [
        {"p": 1.5, "n": 2, "tags": ["a"], "e": {"x": 7, "y": "z", "more": 1}},
        {"p": "1.5", "n": "2", "tags": [], "e": {"x": None}},
        {"p": None, "tags": None},
        {"p": "", "n": "\u00a0"},
    ]
    bad: list[dict[str, Any]] = [
        {"p": "abc"}, {"p": True}, {"p": {"x": 1}}, {"n": 1.5}, {"n": 10**20}, {"tags": "a"},
        {"tags": {"a": 1}}, {"e": "7"}, {"e": [7]}, {"e": {"x": "seven"}}, {"e": {"x": [7]}},
    ]  # fmt: skip
    lines = [json.dumps({"at": "2026-01-01", **values}) for values in (*good, *bad)]
    rows = evaluate(source, parse(spark, source, lines))
    reason = f"a value does not have the type that the mapping declares: {columns}"
    assert rule_results(rows) == [
        *[(str(n), None, None) for n in (1, 2, 3, 4)],
        *[(str(n + 5), "wrong_type", reason) for n in range(len(bad))],
    ]
    assert [row.payload for row in rows] == [None] * 4 + lines[4:]
    assert [(row.price, row.quantity, row.item_id) for row in rows[:4]] == [
        (1.5, 2, "7"), (1.5, 2, None), (None,) * 3, (None,) * 3,
    ]  # fmt: skip


def test_every_bad_csv_line_is_rejected_with_rule_reason_and_verbatim_text(spark: SparkSession) -> None:
    header = "id,kind,at,who,what,price,quantity"
    good = "e1,view,2026-01-01,u1,i1,2.5,1"
    not_seven, is_open = "not a CSV line of 7 cells", "the line ends inside a quoted cell"
    lines: list[tuple[str, str | None, str | None]] = [
        (good, None, None),
        (good[:-2], "unparseable", not_seven),
        (good + ",x", "unparseable", not_seven),
        (good + "\x00x", "quantity_unreadable", "quantity '1\x00x' is not a number"),
        ("e1", "unparseable", not_seven),
        ('{"id":"e1"}', "unparseable", not_seven),
        (good.replace("u1", '"u1'), "unparseable", is_open),
        (good[:-1] + '"1', "unparseable", is_open),
        (good[:-1] + '"', "unparseable", is_open),
        (good[:-1] + '"1""', "unparseable", is_open),
        (good.replace("u1", '"u,1"'), None, None),
        (good.replace("u1", 'u"1'), None, None),
        ("," * 50_000, "unparseable", not_seven),
        (good.replace("2.5", "'2.5'"), "price_unreadable", "price ''2.5'' is not a number"),
        (good.replace("u1", ""), None, None),
        (good.replace("view", ""), "event_type_missing", "there is no event type"),
    ]
    source = capture_source(CSV_SHOP)
    rows = evaluate(source, parse(spark, source, [text for text, *_ in lines], header))
    assert rule_results(rows) == [(str(n + 1), rule, reason) for n, (_, rule, reason) in enumerate(lines)]
    assert [row.payload for row in rows] == [text if rule else None for text, rule, _ in lines]
    assert {(row.rule is None, row.payload_header) for row in rows} == {(True, None), (False, header)}
    assert [rows[n].user_id for n in (10, 11, 14)] == ["shop:u,1", 'shop:u"1', None]


def test_no_cell_is_lost_under_a_header_with_repeated_and_special_names(spark: SparkSession) -> None:
    header = 'kind,ID,id,at,_corrupt,"a `b`, c",kind,'
    source = capture_source(CSV_SHOP)
    row = evaluate(source, parse(spark, source, ["view,E1,e1,2026-01-01,c,d,cart,g"], header))[0]
    assert (row.event_id, row.event_type, row.rule) == ("e1", "view", None)
    assert row.extra == {"ID": "E1", "_corrupt": "c", "a `b`, c": "d", "_column_7": "cart", "_column_8": "g"}


def test_fields_that_the_mapping_does_not_name_are_stored_in_extra(spark: SparkSession) -> None:
    lines = [line(page=3, who=None), '{"new":{"a":[1]},"z":null,' + GOOD_LINE[1:], json.dumps(event(1), sort_keys=True)]
    source = capture_source(SHOP)
    rows = evaluate(source, parse(spark, source, lines))
    assert [(row.rule, row.user_id, row.extra) for row in rows] == [
        (None, None, {"page": "3"}), (None, "shop:u1", {"new": '{"a":[1]}'}), (None, "shop:u1", None),
    ]  # fmt: skip


def test_bytes_that_are_not_utf8_are_stored_as_base64(spark: SparkSession) -> None:
    source = capture_source(SHOP)
    bad = [b'{"id":"caf\xe9"}', b"\xff\xfe\x00", GOOD_LINE.encode()[:-9] + b"\xc3"]
    rows = evaluate(source, parse(spark, source, bad))
    expected = ("not_utf8", "the line contains bytes that are not UTF-8", "base64")
    assert [(row.rule, row.reason, row.payload_encoding) for row in rows] == [expected] * 3
    assert [base64.b64decode(row.payload) for row in rows] == bad


def test_a_line_of_ten_megabytes_is_rejected_and_stored_completely(spark: SparkSession) -> None:
    source = capture_source(SHOP)
    text = line(what="x" * 10_000_000)
    (row,) = evaluate(source, parse(spark, source, [text]))
    assert rule_results([row]) == [("1", "line_too_long", "the line is longer than 1000000 bytes")]
    assert row.payload == text


def test_a_nonexistent_local_time_is_rejected_and_an_ambiguous_one_gets_a_warning(spark: SparkSession) -> None:
    source = capture_source('timezone = "Europe/London"\n' + SHOP)
    times = [
        "2026-03-29 00:59:59",
        "2026-03-29 01:30:00",
        "2026-03-29 02:00:00",
        "2026-10-25 01:30:00",
        "2026-10-25 02:00:00",
    ]
    rows = evaluate(source, parse(spark, source, [line(at=time) for time in times]))
    skipped = "local time '2026-03-29 01:30:00' does not exist in Europe/London: the clocks were set forward"
    assert [(row.rule, row.reason, row.warnings) for row in rows] == [
        (None, None, []), ("event_time_nonexistent", skipped, None), (None, None, []),
        (None, None, ["event_time_ambiguous"]), (None, None, []),
    ]  # fmt: skip
    assert [str(row.event_time)[5:16] for row in rows if row.rule is None] == [
        "03-29 00:59", "03-29 01:00", "10-25 00:30", "10-25 02:00",
    ]  # fmt: skip


def test_anonymous_events_are_rejected_if_the_mapping_rejects_them(spark: SparkSession) -> None:
    source = capture_source('anonymous = "reject"\n' + SHOP)
    rows = evaluate(source, parse(spark, source, [GOOD_LINE, line(who=None), line(who="null")]))
    assert rule_results(rows) == [
        ("1", None, None),
        ("2", "user_missing", "there is no user, and the mapping rejects anonymous events"),
        ("3", "user_id_placeholder", f"user id 'null' {PLACEHOLDER}"),
    ]


# -- files -----------------------------------------------------------------------------------------


def source(folder: Path, spec: InputSpec) -> FileSource:
    """The files of a folder as a source."""
    return FileSource("shop", str(folder), spec, ("maxFilesPerTrigger", 1), max_line_bytes=1000)


def read(spark: SparkSession, folder: Path, spec: InputSpec) -> list[tuple[Any, ...]]:
    """Position, payload, fault, raw values and extra of the records of all files in a folder."""
    frame = source(folder, spec).records(spark, list(files.file_stats(spark, str(folder))))
    with reading_files(spark, []):
        rows: list[Row] = frame.collect()
    return sorted((r.position, r.payload, r.fault, tuple(r.raw), r.extra) for r in rows)


def test_a_file_larger_than_one_split_has_positions_by_offset(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        record_source,
        "_READ_SETTINGS",
        {**record_source._READ_SETTINGS, **dict.fromkeys(list(record_source._READ_SETTINGS)[:2], "100")},
    )
    lines = [f'{{"a":"{number:011}"}}' for number in range(12)]  # 20 bytes each with its end
    (tmp_path / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
    rows = read(spark, tmp_path, InputSpec(format="jsonl", columns="a string"))
    by_position = {position: payload for position, payload, *_ in rows}
    assert sorted(by_position.values()) == lines
    assert by_position["log.jsonl:1"] == lines[0]
    # A line belongs to the split that contains its first byte; if it starts at a boundary, to the split before it.
    assert {position: payload for position, payload in by_position.items() if "+" in position} == {
        **{f"log.jsonl:100+{n}": lines[n + 5] for n in range(1, 6)},
        "log.jsonl:200+1": lines[11],
    }


def test_positions_are_correct_for_all_line_ends_blank_lines_and_names(spark: SparkSession, tmp_path: Path) -> None:
    spec = InputSpec(format="jsonl", columns="a string")
    one, two = '{"a":1}', '{"a":2}'
    texts: dict[str, bytes] = {
        "crlf.jsonl": f"{one}\r\n{two}\r\n".encode(),
        "bom.jsonl": f"\ufeff{one}\n{two}".encode(),
        "blank lines.jsonl": f"\n{one}\n   \n\r\n{two}\n\n".encode(),
        "no#1 50%.jsonl": one.encode(),
        "log[1].jsonl": one.encode(),
        "log1.jsonl": two.encode(),
        "packed.jsonl.gz": gzip.compress(f"{one}\n{two}\n".encode()),
        "empty.jsonl": b"",
        "only blank.jsonl": b"\n \n",
        "sub/deep.jsonl": one.encode(),
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text)
    places = {
        "crlf.jsonl:1": 1, "crlf.jsonl:2": 2, "bom.jsonl:1": 1, "bom.jsonl:2": 2, "blank lines.jsonl:2": 1,
        "blank lines.jsonl:5": 2, "no#1 50%.jsonl:1": 1, "log1.jsonl:1": 2, "log[1].jsonl:1": 1,
        "packed.jsonl.gz:1": 1, "packed.jsonl.gz:2": 2, "sub/deep.jsonl:1": 1,
    }  # fmt: skip
    assert read(spark, tmp_path, spec) == sorted((p, f'{{"a":{n}}}', None, (str(n),), None) for p, n in places.items())


def test_each_csv_file_of_a_folder_is_read_by_its_own_header(spark: SparkSession, tmp_path: Path) -> None:
    texts: dict[str, bytes] = {
        "1.csv": b"a,b\n1,2\n",
        "2.csv": b"b,a\r\n2,1\r\n\r\n4,3\r\n",
        "3.csv": b"a\n1\n",
        "4.csv": b"\xef\xbb\xbfa,new,b\n1,9,2\n1,9\n",
        "5.csv.gz": gzip.compress(b'"a","b"\n1,"x ""y"", z"\n'),
        "header only.csv": b"a,b\n",
        "header without line end.csv": b"a,b",
        "empty.csv": b"",
        "no header.csv": b"\n1,2\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    assert read(spark, tmp_path, InputSpec(format="csv", columns="a string, b string")) == [
        ("1.csv:2", "1,2", None, ("1", "2"), None),
        ("2.csv:2", "2,1", None, ("1", "2"), None),
        ("2.csv:4", "4,3", None, ("3", "4"), None),
        ("3.csv:2", "1", None, ("1", None), None),
        ("4.csv:2", "1,9,2", None, ("1", "2"), {"new": "9"}),
        ("4.csv:3", "1,9", "unparseable", ("1", "."), {"new": "9"}),
        ("5.csv.gz:2", '1,"x ""y"", z"', None, ("1", 'x "y", z'), None),
        ("no header.csv:2", "1,2", "header_unknown", (None, None), {"1": "1", "2": "2"}),
    ]


def test_a_latin_1_csv_without_header_and_with_other_separators_is_read(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("café;'x;y'\nü;\n".encode("latin-1"))
    spec = InputSpec(
        format="csv", columns="a string, b string", header=False, separator=";", quote="'", encoding="ISO-8859-1"
    )
    assert read(spark, tmp_path, spec) == [
        ("a.csv:1", "café;'x;y'", None, ("café", "x;y"), None), ("a.csv:2", "ü;", None, ("ü", None), None),
    ]  # fmt: skip


def test_each_parquet_file_is_read_by_its_own_schema(spark: SparkSession, tmp_path: Path) -> None:
    def write(name: str, sql: str) -> None:
        pq.write_table(spark.sql(sql).toArrow(), tmp_path / name)

    write("1.parquet", "SELECT 'x' AS a, 1.5D AS n UNION ALL SELECT null, null")
    write("2.parquet", "SELECT 'abc' AS n, 7 AS a")
    write("3 [c].parquet", "SELECT 'x' AS a, true AS more, array(1, 2) AS list")
    write("4.parquet", "SELECT array(1, 2) AS n")
    rows = read(spark, tmp_path, InputSpec(format="parquet", columns="a string, n double"))
    assert rows == [
        ("1.parquet:1", '{"a":"x","n":1.5}', None, ("x", 1.5), None),
        ("1.parquet:2", "{}", None, (None, None), None),
        ("2.parquet:1", '{"n":"abc","a":7}', "wrong_type", ("7", None), None),
        (
            "3 [c].parquet:1",
            '{"a":"x","more":true,"list":[1,2]}',
            None,
            ("x", None),
            {"more": "true", "list": "[1,2]"},
        ),
        ("4.parquet:1", '{"n":[1,2]}', "wrong_type", (None, None), None),
    ]


def test_positions_of_delta_rows_are_batch_and_row_number(spark: SparkSession) -> None:
    rows = spark.sql("SELECT 'abc' AS n, 7 AS a, 1 AS more").coalesce(1)
    spec = InputSpec(format="delta", columns="a string, n double")
    batch = DeltaSource("shop", "", spec, "stop", ("maxFilesPerTrigger", 1)).read_batch(
        rows.withColumn("ingest_time", F.current_timestamp()), 3, []
    )
    (record,) = batch.records.collect()
    assert (record.position, record.payload, record.fault, tuple(record.raw), record.extra) == (
        "3:1", '{"n":"abc","a":7,"more":1}', "wrong_type", ("7", None), {"more": "1"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "spec", "why"),
    [
        ("cut.csv.gz", InputSpec(format="csv", columns="id string"), "FAILED_READ_FILE"),
        ("cut it.jsonl.gz", InputSpec(format="jsonl", columns="id string"), "FAILED_READ_FILE"),
        ("cut.parquet", InputSpec(format="parquet", columns="id string"), "is not a Parquet file"),
        ("no.csv.gz", InputSpec(format="csv", columns="id string"), "incorrect header check"),
    ],
)
def test_an_unreadable_file_is_named_with_the_option_to_skip_it(
    spark: SparkSession, tmp_path: Path, name: str, spec: InputSpec, why: str
) -> None:
    if name.startswith("no"):
        content = b"id\n" + b"1\n" * 100
    elif name.endswith("parquet"):
        pq.write_table(spark.range(100).toArrow(), tmp_path / name)
        content = (tmp_path / name).read_bytes()[:-20]
    else:
        content = gzip.compress(b"".join(b'"%d"\n' % (n**9) for n in range(50_000)))[:-2000]
    (tmp_path / "good").write_text("")
    (tmp_path / name).write_bytes(content)
    path = f"file:{tmp_path}/{name}"
    with pytest.raises(SourceUnreadable) as raised, reading_files(spark, [path]):
        source(tmp_path, spec).records(spark, [path]).collect()
    assert why in raised.value.what
    assert raised.value.where == path
    assert raised.value.do == f"repair or remove the file, or skip it: --skip-file {path}"


# -- a complete batch ------------------------------------------------------------------------------


def test_rejected_rows_are_stored_with_everything_that_reprocessing_needs(spark: SparkSession, tmp_path: Path) -> None:
    negative = line(id="e2", price=-1)
    shop = Shop(tmp_path, overrides=["capture.sources.shop.max_files_per_trigger=2"])
    shop.write("a.jsonl", "\n".join([line(), line(), line(price="3"), "", negative, "{"]))
    shop.write("b.jsonl", b"\xff\n" + line(who="u9").encode())
    shop.capture(spark)
    (batch,) = shop.read(spark, tables.CAPTURE_BATCHES).collect()
    assert (batch.files, batch.rows_in, batch.rows_clean, batch.rows_rejected, batch.rows_duplicate) == (2, 7, 1, 5, 1)
    assert {rule: n for rule, n in batch.rejected_by_rule.items() if n} == {
        "id_reused": 2, "price_negative": 1, "unparseable": 1, "not_utf8": 1,
    }  # fmt: skip
    not_utf8 = "the line contains bytes that are not UTF-8"
    reused = "another event with different content has the id e1"
    columns = (
        "source",
        "position",
        "rule",
        "reason",
        "payload",
        "payload_encoding",
        "payload_header",
        "batch_id",
        "reprocessed_from",
    )
    rows = shop.read(spark, tables.REJECTED_EVENTS).orderBy("position").select(*columns).collect()
    assert [tuple(row) for row in rows] == [
        ("shop", "a.jsonl:3", "id_reused", reused, line(price="3"), "utf8", None, 0, None),
        ("shop", "a.jsonl:5", "price_negative", "price '-1.0' is negative", negative, "utf8", None, 0, None),
        ("shop", "a.jsonl:6", "unparseable", NOT_JSON, "{", "utf8", None, 0, None),
        ("shop", "b.jsonl:1", "not_utf8", not_utf8, "/w==", "base64", None, 0, None),
        ("shop", "b.jsonl:2", "id_reused", reused, line(who="u9"), "utf8", None, 0, None),
    ]  # fmt: skip
    (event_row,) = shop.read(spark, tables.EVENTS).collect()
    assert (event_row.event_id, event_row.position, event_row.user_id) == ("e1", "a.jsonl:1", "shop:u1")
