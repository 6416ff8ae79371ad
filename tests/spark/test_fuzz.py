"""Randomly mutated records: none is lost, none is counted twice, none stops a batch.

5,000 records by default, 100,000 in the long form. Every rejected record has a rule, and a position that leads back to
its exact bytes.
"""

import base64
import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from profilestream.base import tables
from pyspark.sql import SparkSession

from tests.builders import SHOP, Shop, event

# Records per format: JSON lines, CSV, Parquet.
LINES, LONG_LINES = (2_000, 2_000, 1_000), (40_000, 40_000, 20_000)
# Expressions that raise on some values.
EXPRESSIONS = [
    "int(who)", "substring(at, int(quantity))", "parse_url(what, 'HOST')", "url_decode(what)", "split(at, '-')[3]",
    "element_at(split(what, ' '), int(quantity))", "timestamp_millis(bigint(price) * 1000000)", "1 / int(quantity)",
    "regexp_extract(what, who)", "to_date(at, 'yyyy')", "from_json(what, 'a int', map('mode', 'FAILFAST')).a",
    "make_date(int(price), int(quantity), 1)", "unhex(what)", "conv(what, 99, 10)",
    "decode(encode(what, 'UTF-8'), 'GBK')",
    "date_trunc('minute', to_timestamp(at))", "repeat(what, int(price))", "aes_decrypt(what, who)", "raise_error(kind)",
]  # fmt: skip
HEADER = b"id,kind,at,who,what,price,quantity"
INSERTS = [
    b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\n", b"\r", b"\r\n", b"\x00", b"\xff", b"\xef\xbb\xbf",
    b"\xc3\xa9", b"\xf0\x9f\x9b\x92", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\t", b"null", b"NaN", b"1e999", b"-", b"//",
    b"#", b'""', b"\\u0000", b"\\ud800", b"   ",
]  # fmt: skip


def mutated(line: bytes, generator: random.Random) -> bytes:
    """The line after up to three mutations: flip a bit, cut, repeat a part, insert bytes, append its own prefix."""
    for _ in range(generator.randrange(4)):
        at = generator.randrange(len(line) + 1)
        kind = generator.randrange(5)
        if kind == 0 and at < len(line):
            line = line[:at] + bytes([line[at] ^ 1 << generator.randrange(8)]) + line[at + 1 :]
        elif kind == 1:
            line = line[:at] if generator.random() < 0.5 else line[at:]
        elif kind == 2:
            line = line[:at] + line[at : at + generator.randrange(20)] + line[at:]
        elif kind == 3:
            line = line[:at] + generator.choice(INSERTS) + line[at:]
        else:
            line = line + line[: generator.randrange(len(line) + 1)]
    return line


def csv_line(number: int) -> bytes:
    row = event(number, what=f'i "{number % 5}", x')
    return ",".join(
        f'"{v}"'.replace('"i "', '"i ""').replace('", x', '"", x') if "," in v else v for v in row.values()
    ).encode()


def with_expression(mapping: str, generator: random.Random) -> str:
    """The mapping with a random expression for the search text."""
    sql = f"string({generator.choice(EXPRESSIONS)})"
    guarded = f"CASE WHEN hash(id) % 3 = 0 THEN {sql} END"
    return mapping.replace("[columns]", f"[columns]\nquery = {json.dumps(guarded)}")


def lines_of(text: bytes) -> list[bytes]:
    """The lines of a file; a line ends at LF, CR or CR LF."""
    return re.split(rb"\r\n|\r|\n", text.removeprefix(b"\xef\xbb\xbf"))


def records_in(text: bytes) -> dict[int, bytes]:
    """The lines that are not blank, by number."""
    return {number: line for number, line in enumerate(lines_of(text), 1) if line.strip(b" ")}


def capture_and_count(spark: SparkSession, shop: Shop, name: str, expected: Mapping[int, bytes | str]) -> None:
    """Capture the one file of the shop, and assert that every record is accounted for.

    Args:
        expected: payload of each record by number; bytes for lines, JSON text for rows.
    """
    shop.capture(spark)
    rows_in, clean, rejected, duplicate = shop.counts(spark)
    assert rows_in == len(expected)
    assert rows_in == clean + rejected + duplicate
    # The mutations must produce rows of every kind, otherwise the test proves nothing.
    assert min(clean, rejected, duplicate) > len(expected) // 50
    clean_positions = [row.position for row in shop.read(spark, tables.EVENTS).select("position").collect()]
    rejected_rows = shop.read(spark, tables.REJECTED_EVENTS).collect()
    positions = clean_positions + [row.position for row in rejected_rows]
    assert len(clean_positions) == clean and len(rejected_rows) == rejected
    assert len(set(positions)) == len(positions)
    assert set(positions) <= {f"{name}:{number}" for number in expected}
    assert len(expected) - len(positions) == duplicate
    for row in rejected_rows:
        assert row.rule and row.reason
        is_text = row.payload_encoding == "utf8"
        payload = row.payload.encode() if is_text else base64.b64decode(row.payload)
        original = expected[int(row.position.rsplit(":", 1)[1])]
        if isinstance(original, bytes):
            assert payload == original, row.position
        else:
            assert json.loads(payload) == json.loads(original), row.position


# hypothesis chooses the seed. One example per format: an example takes a complete run of capture.
one_example = settings(
    max_examples=1, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@one_example
@given(seed=st.integers(1, 2**32))
def test_no_mutated_json_line_is_lost(spark: SparkSession, tmp_path: Path, at_length: bool, seed: int) -> None:
    generator, count = random.Random(seed), (LONG_LINES if at_length else LINES)[0]
    lines = [mutated(json.dumps(event(generator.randrange(count // 3))).encode(), generator) for _ in range(count)]
    shop = Shop(tmp_path, with_expression(SHOP, generator))
    text = b"\n".join(lines)
    shop.write("fuzz.jsonl", text)
    capture_and_count(spark, shop, "fuzz.jsonl", records_in(text))


@one_example
@given(seed=st.integers(1, 2**32))
def test_no_mutated_csv_line_is_lost(spark: SparkSession, tmp_path: Path, at_length: bool, seed: int) -> None:
    generator, count = random.Random(seed), (LONG_LINES if at_length else LINES)[1]
    text = b"\n".join([HEADER, *[mutated(csv_line(generator.randrange(count // 3)), generator) for _ in range(count)]])
    shop = Shop(tmp_path, with_expression(SHOP.replace('"jsonl"', '"csv"'), generator))
    shop.write("fuzz.csv", text)
    records = records_in(text)
    del records[1]
    capture_and_count(spark, shop, "fuzz.csv", records)


def random_row(number: int, generator: random.Random) -> dict[str, Any]:
    """An event with values of other types, and with unknown and missing columns."""
    row: dict[str, Any] = event(number)
    for name in list(row):
        change = generator.randrange(12)
        if change == 0:
            row[name] = None
        elif change == 1:
            row[name] = generator.choice(
                ["", " ", "null", "\u0007", "1e400", "99999-01-01", "NaN", "\U0001f6d2", "0x1"]
            )
    row["nested"] = generator.choice([None, {"a": "1"}, {"a": None}])
    row["more"] = generator.choice([None, number])
    return row


@one_example
@given(seed=st.integers(1, 2**32))
def test_no_random_parquet_row_is_lost(spark: SparkSession, tmp_path: Path, at_length: bool, seed: int) -> None:
    generator, count = random.Random(seed), (LONG_LINES if at_length else LINES)[2]
    rows = [random_row(generator.randrange(count // 3), generator) for _ in range(count)]
    mapping = SHOP.replace('"jsonl"', '"parquet"').replace("id string,", "id string, nested struct<a: int, b: string>,")
    shop = Shop(tmp_path, with_expression(mapping, generator))
    shop.input.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), shop.input / "fuzz.parquet")
    stored = spark.read.parquet(str(shop.input / "fuzz.parquet")).toJSON().collect()
    capture_and_count(spark, shop, "fuzz.parquet", {number: str(row) for number, row in enumerate(stored, 1)})
