"""Partition folders, charsets, and options of text files that were corrected after rows were rejected."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from profilestream.base import tables
from profilestream.base.errors import Refused, SourceUnreadable
from profilestream.base.jvm import java_class
from profilestream.capture import ingest, preview, reprocess, side_tables
from profilestream.capture.mapping import InputSpec, Lookup
from profilestream.capture.sources.file_source import FileSource, reading_files
from pyspark.sql import SparkSession

from tests.builders import Shop
from tests.fault_injection import append_fails

T = "2026-03-01T10:00:00Z"
ONE_BATCH = "capture.sources.shop.max_files_per_trigger=20"
# The driver processes a small batch, and Spark any other one.
WAYS = ("stream.local_max_rows=1000", "stream.local_max_rows=0")


# -- partition folders ---------------------------------------------------------------------------------


FOLDERS = """
[input]
format = "FORMAT"
columns = "at string, who string, country string"
[columns]
event_type = "'view'"
event_time = "at"
user_id = "who"
region = "country"
"""


def _write(shop: Shop, form: str, folder: str, rows: list[dict[str, Any]]) -> None:
    name = f"{folder}a.{form}"
    if form == "jsonl":
        shop.write(name, "".join(json.dumps(row) + "\n" for row in rows))
    elif form == "csv":
        lines = [rows[0], *[row.values() for row in rows]]
        shop.write(name, "".join(",".join(line) + "\n" for line in lines))
    else:
        pq.write_table(pa.Table.from_pylist(rows), shop.write(name, b""))


@pytest.mark.parametrize(
    ("form", "way"),
    [
        pytest.param(
            form, way, id=f"{form}-{name}", marks=() if (form == "csv") == (name == "spark") else pytest.mark.long
        )
        for form in ("jsonl", "csv", "parquet")
        for name, way in zip(("driver", "spark"), WAYS, strict=True)
    ],
)
def test_the_value_of_a_folder_replaces_the_column_of_the_file_in_every_format(
    spark: SparkSession, tmp_path: Path, form: str, way: str
) -> None:
    shop = Shop(tmp_path, FOLDERS.replace("FORMAT", form), overrides=[ONE_BATCH, way])
    rows = [{"at": at, "who": f"u{n}", "country": "FR", "shop": "x"} for n, at in enumerate((T, "later"))]
    _write(shop, form, "country=DE/shop=a%20b/", rows)
    _write(shop, form, "country=__HIVE_DEFAULT_PARTITION__/", rows)
    _write(shop, form, "", rows)
    shop.capture(spark)
    shop.mapping = shop.mapping.replace('"at"', f"\"replace(at, 'later', '{T}')\"")
    assert reprocess.run(spark, shop.settings(), "shop", None).rows_out == 3
    events = shop.read(spark, tables.EVENTS).orderBy("position").collect()
    expected = [("FR", {"shop": "x"}), ("DE", {"shop": "a b"}), (None, {"shop": "x"})]
    assert [(row.region, row.extra) for row in events] == [pair for pair in expected for _ in range(2)]
    source, lines = ingest.load_source(shop.settings(), "shop"), list[str]()
    elsewhere = tmp_path / "elsewhere" / "country=DE" / f"a.{form}"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes((shop.input / f"a.{form}").read_bytes())
    for path in (elsewhere, elsewhere.parent, shop.input / "country=DE" / "shop=a%20b"):
        preview.show(spark, source, 5, str(path), lines.append)
    assert sum('"region":"DE"' in line for line in lines) == 6


# -- options that were corrected -----------------------------------------------------------------------

BASE = """
[input]
format = "csv"
KEY
columns = "id string, kind string, at string, who string, note string"
[columns]
event_type = "CASE kind WHEN 'geöffnet' THEN 'view' ELSE kind END"
event_time = "at"
user_id = "who"
text = "note"
"""
HEADER = "id,kind,at,who,note\n"
ONE, TWO, THREE = (f"{n},view,{T},u{n},{note}\n" for n, note in enumerate(("tea", "milk", "rum"), 1))
OPENED = f"4,geöffnet,{T},u4,süß\n"
# By name: keys of [input] before and after the correction, the file, the texts of the events after it, and those if
# the file was removed in between.
CORRECTIONS: dict[str, tuple[str, str, bytes, set[str], set[str]]] = {
    "lines to skip": ("", "skip_lines = 2", f"export of\na tool, version 2\n{HEADER}{ONE}{TWO}".encode(),
                      {"tea", "milk"}, {"tea", "milk"}),
    "too many lines to skip": ("skip_lines = 2", "", (HEADER + ONE + TWO + THREE).encode(),
                               {"tea", "milk", "rum"}, set()),
    "lines to skip, and a comment": ("", 'skip_lines = 1\ncomment = "#"', f"sep=,\n# x\n{HEADER}{ONE}# y\n".encode(),
                                     {"tea"}, {"tea"}),
    "a comment": ("", 'comment = "#"', f"{HEADER}# a, b\n{ONE}".encode(), {"tea"}, {"tea"}),
    "UTF-8": ('encoding = "windows-1252"', "", (HEADER + ONE + OPENED).encode(), {"tea", "süß"}, {"tea"}),
    "windows-1252": ("", 'encoding = "windows-1252"', (HEADER + ONE + OPENED).encode("cp1252"), {"tea", "süß"},
                     {"tea", "süß"}),
    "UTF-16": ("", 'encoding = "UTF-16"', (HEADER + ONE + OPENED).replace("\n", "\r\n").encode("utf-16"),
               {"tea", "süß"}, set()),
    "UTF-32LE": ('encoding = "windows-1252"', 'encoding = "UTF-32LE"', (HEADER + ONE).encode("utf-32-le"),
                 {"tea"}, set()),
    "a quote": ("", "quote = \"'\"", f'{HEADER}{ONE}5,view,{T},u5,"a\n{TWO}{THREE}6,view,{T},u6,b"\n'.encode(),
                {"tea", '"a', "milk", "rum", 'b"'}, {"tea", '"a'}),
    "a separator": ('separator = ";"', "", (HEADER + ONE + TWO).encode(), {"tea", "milk"}, {"tea", "milk"}),
    "no header": ("", "header = false", (ONE + TWO).encode(), {"tea", "milk"}, {"tea", "milk"}),
    "a header": ("header = false", "", ("note,id,kind,at,who\n" + f"tea,1,view,{T},u1\n").encode(), {"tea"}, {"tea"}),
}  # fmt: skip


# Without the file, one correction of each kind: of lines, bytes and cells.
NORMAL = {(name, False) for name in CORRECTIONS} | {(name, True) for name in ("lines to skip", "UTF-8", "a quote")}


@pytest.mark.parametrize(
    ("name", "is_removed"),
    [
        pytest.param(
            name, is_removed, id=f"{name}-{'no file' if is_removed else 'file'}",
            marks=() if (name, is_removed) in NORMAL else pytest.mark.long,
        )
        for name in CORRECTIONS
        for is_removed in (False, True)
    ],
)  # fmt: skip
def test_rejected_rows_are_read_again_with_corrected_options(
    spark: SparkSession, tmp_path: Path, name: str, is_removed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    wrong, right, content, texts, stored_texts = CORRECTIONS[name]
    shop = Shop(tmp_path, BASE.replace("KEY", wrong))
    file = shop.write("a.csv", content)
    shop.capture(spark)
    rejected = shop.counts(spark)[2]
    assert rejected
    if is_removed:
        file.rename(tmp_path / "a.csv")
    shop.mapping = BASE.replace("KEY", right)
    with caplog.at_level(logging.WARNING):
        reprocess.run(spark, shop.settings(), "shop", None)
    found = [row.text for row in shop.read(spark, tables.EVENTS).collect()]
    assert sorted(found) == sorted(stored_texts if is_removed else texts)
    assert ("cannot be read again" in caplog.text) == is_removed
    batch = shop.read(spark, tables.CAPTURE_BATCHES).where("kind = 'reprocess'").collect()[0]
    assert batch.rows_in == batch.rows_clean + batch.rows_rejected + batch.rows_duplicate
    again = shop.read(spark, tables.REJECTED_EVENTS).where("reprocessed_from IS NOT NULL").count()
    assert again == batch.rows_rejected
    assert reprocess.run(spark, shop.settings(), "shop", None).rows_in == 0


def test_a_line_in_a_quoted_cell_is_no_event_by_corrected_options(spark: SparkSession, tmp_path: Path) -> None:
    shop = Shop(tmp_path, BASE.replace("KEY", 'quote = "\'"'))
    shop.write("a.csv", f'{HEADER}1,view,{T},u1,"nice\n9,purchase,bad,u2,x"\n{TWO}')
    shop.capture(spark)
    shop.mapping = BASE.replace("KEY", "").replace('event_time = "at"', f"event_time = \"'{T}'\"")
    reprocess.run(spark, shop.settings(), "shop", None)
    assert {row.user_id for row in shop.read(spark, tables.EVENTS).collect()} == {"u1", "u2"}
    (row,) = shop.read(spark, tables.REJECTED_EVENTS).where("reprocessed_from IS NOT NULL").collect()
    assert row.position == "a.csv:3"


def test_a_file_that_changes_before_a_batch_is_finished_stops_the_reprocessing(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, right, content, texts, _ = CORRECTIONS["lines to skip"]
    shop = Shop(tmp_path, BASE.replace("KEY", wrong))
    file = shop.write("a.csv", content)
    shop.capture(spark)
    shop.mapping = BASE.replace("KEY", right)
    with append_fails(monkeypatch, tables.CAPTURE_BATCHES):
        reprocess.run(spark, shop.settings(), "shop", None)
    file.rename(tmp_path / "a.csv")
    with pytest.raises(Refused, match="changed after the batch was started"):
        reprocess.run(spark, shop.settings(), "shop", None)
    (tmp_path / "a.csv").rename(file)
    reprocess.run(spark, shop.settings(), "shop", None)
    assert sorted(row.text for row in shop.read(spark, tables.EVENTS).collect()) == sorted(texts)


# -- charsets ------------------------------------------------------------------------------------------


def java_bytes(spark: SparkSession, text: str, charset: str) -> bytes:
    """The text in a charset of Java."""
    buffer = java_class(spark, "java.nio.charset.Charset").forName(charset).encode(text)
    return bytes(buffer.array())[: int(buffer.limit())]


def test_side_tables_are_read_in_any_charset_of_java(spark: SparkSession, tmp_path: Path) -> None:
    words = {
        "IBM1047": "Käse", "x-MacCyrillic": "сыр", "x-windows-949": "치즈", "x-SJIS_0213": "\u8336",
        "x-Big5-Solaris": "\u8336", "UTF-16": "\u8336", "UTF-16LE": "\u8336", "UTF-32": "\u8336",
        "x-UTF-16LE-BOM": "\u8336", "GB18030": "\u8336", "ISO-2022-KR": "치즈", "windows-1252": "Käse €",
        "UTF-8": "\u8336",
    }  # fmt: skip
    for charset, word in words.items():
        files = {"csv": f'sku,name\n1,"{word}\nx"\n', "json": json.dumps({"sku": "1", "name": word}) + "\n"}
        for form, text in files.items():
            path = tmp_path / f"{charset}.{form}"
            path.write_bytes(java_bytes(spark, text, charset))
            lookup = Lookup.model_validate(
                {"path": str(path), "format": form, "key": "sku", "on": "what", "encoding": charset}
            )
            rows = [(row.sku, row.name) for row in side_tables.read_checked(spark, lookup, "m").collect()]
            assert rows == [("1", f"{word}\nx" if form == "csv" else word)], (charset, form)
    bad = tmp_path / "bad.csv"
    for charset, content in {
        "UTF-8": b"sku\n\xff\n",
        "GBK": b"sku\n\xff\n",
        "x-windows-949": b"sku\n\xc9\xff\n",
    }.items():
        bad.write_bytes(content)
        lookup = Lookup(path=str(bad), format="csv", key="sku", on="what", encoding=charset)
        with pytest.raises(SourceUnreadable, match="bytes that are not"):
            side_tables.read_checked(spark, lookup, "m")


def test_blank_lines_and_comments_are_skipped_in_every_charset(spark: SparkSession, tmp_path: Path) -> None:
    text = "C1\r\n\r\nid,note\r\n \r\nC x\r\n1,a\r\n   \r\nC" + "y" * 300 + "\r\n2,b\r\n\r\n"
    comments = {
        "UTF-16": "#", "UTF-16LE": "#", "UTF-16BE": "#", "x-UTF-16LE-BOM": "#", "UTF-32": "#", "UTF-32LE": "§",
        "IBM1047": "#", "windows-1252": "§", "GB18030": "茶", "ISO-2022-KR": "#", "UTF-8": "§", "Big5": "#",
    }  # fmt: skip
    contents = {name: (name, java_bytes(spark, text.replace("C", c), name)) for name, c in comments.items()}
    contents["mark LE"] = ("UTF-16", b"\xff\xfe" + text.replace("C", "#").encode("utf-16-le"))
    contents["mark BE of UTF-16BE"] = ("UTF-16BE", b"\xfe\xff" + text.replace("C", "#").encode("utf-16-be"))
    contents["mark of GB18030"] = ("GB18030", ("\ufeff" + text.replace("C", "茶")).encode("gb18030"))
    contents["a.gz"] = ("UTF-16", gzip.compress(b"\xff\xfe" + text.replace("C", "#").encode("utf-16-le")))
    contents["a.zst"] = ("GBK", pa.compress(text.replace("C", "#").encode("gbk"), "zstd", asbytes=True))
    for name, (charset, content) in contents.items():
        path = tmp_path / f"in {name}" / (name if name.startswith("a.") else "a.csv")
        path.parent.mkdir()
        path.write_bytes(content)
        spec = InputSpec(
            format="csv", columns="id string, note string", encoding=charset, comment=comments.get(charset, "#")
        )
        source = FileSource("shop", str(path.parent), spec, ("maxFilesPerTrigger", 1), max_line_bytes=1000)
        with reading_files(spark, []):
            rows = source.records(spark, [f"file:{path}"]).collect()
        found = sorted((row.position.split(":")[1], row.fault, *row.raw) for row in rows)
        assert found == [("6", None, "1", "a"), ("9", None, "2", "b")], name


@pytest.mark.parametrize("way", WAYS, ids=["driver", "spark"])
@pytest.mark.parametrize(("charset", "comment"), [("UTF-16", "#"), ("windows-1252", "§"), ("UTF-8", "§")])
def test_both_ways_of_capture_skip_blank_lines_and_comments(
    spark: SparkSession, tmp_path: Path, charset: str, comment: str, way: str
) -> None:
    text = BASE.replace("KEY", f'encoding = "{charset}"\ncomment = "{comment}"')
    shop = Shop(tmp_path, text, overrides=[way])
    shop.write("a.csv", java_bytes(spark, f"{comment} a\n\n{HEADER}{comment}\n  \n{ONE}{TWO}", charset))
    shop.capture(spark)
    assert shop.counts(spark) == (2, 2, 0, 0)
    assert {row.position for row in shop.read(spark, tables.EVENTS).collect()} == {"a.csv:6", "a.csv:7"}
