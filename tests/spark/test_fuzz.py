"""100,000 randomly mutated lines: none is lost, none is counted twice, none stops a batch."""

import json
import random
import re
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from profilestream.base import tables
from pyspark.sql import SparkSession

from tests.builders import SHOP, Shop, event

LINES = 50_000
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


def records_in(text: bytes) -> list[int]:
    """Numbers of the lines that are not blank; a line ends at LF, CR or CR LF."""
    lines = re.split(rb"\r\n|\r|\n", text.removeprefix(b"\xef\xbb\xbf"))
    return [number + 1 for number, line in enumerate(lines) if line.strip(b" ")]


def capture_and_count(spark: SparkSession, shop: Shop, name: str, text: bytes, expected: list[int]) -> None:
    """Capture one file, and assert that every line is accounted for."""
    shop.write(name, text)
    shop.capture(spark)
    rows_in, clean, rejected, duplicate = shop.counts(spark)
    assert rows_in == len(expected)
    assert rows_in == clean + rejected + duplicate
    # The mutations must produce rows of every kind, otherwise the test proves nothing.
    assert min(clean, rejected, duplicate) > LINES // 50
    clean_positions = [row.position for row in shop.read(spark, tables.EVENTS).select("position").collect()]
    rejected_rows = shop.read(spark, tables.REJECTED_EVENTS).select("position").collect()
    rejected_positions = [row.position for row in rejected_rows]
    assert len(clean_positions) == clean and len(rejected_positions) == rejected
    positions = clean_positions + rejected_positions
    assert len(set(positions)) == len(positions)
    assert set(positions) <= {f"{name}:{number}" for number in expected}
    assert len(expected) - len(positions) == duplicate


# hypothesis chooses the seed. One example per format: an example takes a complete run of capture.
one_example = settings(
    max_examples=1, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@one_example
@given(seed=st.integers(1, 2**32))
def test_no_mutated_json_line_is_lost(spark: SparkSession, tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    lines = [mutated(json.dumps(event(generator.randrange(LINES // 3))).encode(), generator) for _ in range(LINES)]
    text = b"\n".join(lines)
    capture_and_count(spark, Shop(tmp_path), "fuzz.jsonl", text, records_in(text))


@one_example
@given(seed=st.integers(1, 2**32))
def test_no_mutated_csv_line_is_lost(spark: SparkSession, tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    text = b"\n".join([HEADER, *[mutated(csv_line(generator.randrange(LINES // 3)), generator) for _ in range(LINES)]])
    shop = Shop(tmp_path, mapping=SHOP.replace('"jsonl"', '"csv"'))
    capture_and_count(spark, shop, "fuzz.csv", text, records_in(text)[1:])
