"""The mapping that capture_init proposes for logs of public shapes, in English, German and Chinese; no Spark."""

import gzip
import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from profilestream.base.errors import BadSettings, SourceMissing, SourceUnreadable
from profilestream.capture.detection import (
    charset,
    column_names,
    event_type_values,
    mapping_lines,
    number_formats,
    partition_length,
    proposal,
    propose_source,
    questions,
    sample_files,
    time_formats,
    write_files,
)
from profilestream.capture.detection.column_roles import Roles
from profilestream.capture.detection.proposal import Proposal
from profilestream.capture.preview import PreviewCounts
from pyspark.sql import SparkSession
from rich.prompt import Prompt

ROOT = Path(__file__).parent.parent.parent
DAY = datetime(2026, 3, 1, 9)


def proposed(path: Path, **options: str) -> dict[str, Any]:
    """The proposed mapping of a log, as read from its TOML."""
    detected = propose_source.detect(str(path))
    return tomllib.loads(
        write_files.mapping_text(proposal.propose(detected.sample, detected.roles, "shop", **options), "log")
    )


def csv_lines(header: str, row: Callable[[int], str], rows: int = 240, end: str = "\n") -> str:
    return end.join([*([header] if header else []), *[row(i) for i in range(rows)]]) + end


def json_lines(row: Callable[[int], dict[str, Any]], rows: int = 120) -> str:
    return "".join(json.dumps(row(i), ensure_ascii=False) + "\n" for i in range(rows))


@dataclass(frozen=True)
class Log:
    """A log of a public shape, and what the proposal must contain.

    Args:
        content: text of the file.
        columns: expected expressions.
        input: expected keys of [input]; a null value: the key is absent.
        general: expected keys at the top level.
    """

    name: str
    content: str
    columns: dict[str, str]
    input: dict[str, Any] = field(default_factory=dict)
    general: dict[str, Any] = field(default_factory=dict)
    encoding: str = "utf-8"


def epoch(i: int, factor: int = 1) -> int:
    return (1_511_544_070 + 97 * i) * factor


def cycle(i: int, *values: str) -> str:
    """A value by its number in the log; the first value is more frequent than the others."""
    return values[i % (2 * len(values)) % len(values) if i % 3 == 0 else 0]


def cases(column: str, types: dict[str, str]) -> str:
    whens = " ".join(f"WHEN '{value}' THEN '{event_type}'" for value, event_type in types.items())
    return f"CASE {column} {whens} ELSE {column} END"


def ga4(i: int) -> dict[str, Any]:
    name = ["page_view", "view_item", "add_to_cart", "purchase", "session_start"][i % 5]
    has_items = name in ("view_item", "add_to_cart", "purchase")
    return {
        "event_date": "20210131", "event_timestamp": str(epoch(i, 1_000_000)), "event_name": name,
        "event_params": [{"key": "ga_session_id", "value": {"int_value": str(100 + i // 9)}},
                         {"key": "page_location", "value": {"string_value": "https://shop.example/"}}],
        "user_id": f"u{i % 7}" if i % 4 == 0 else None, "user_pseudo_id": f"{i % 31}.16120{i % 31}",
        "device": {"category": "desktop"},
        "items": [{"item_id": f"G{(i + k) % 50}", "price": 9.5, "quantity": 1} for k in range(2)] if has_items else [],
    }  # fmt: skip


def segment(i: int) -> dict[str, Any]:
    at = (DAY + timedelta(minutes=i)).isoformat(timespec="milliseconds") + "Z"
    base = {"messageId": f"m{i}", "anonymousId": f"a{i % 20}", "userId": f"u{i % 9}" if i % 2 else None,
            "timestamp": at, "sentAt": at, "receivedAt": at}  # fmt: skip
    if i % 4 == 0:
        return base | {"type": "page", "properties": {"path": "/"}}
    if i % 4 == 1:
        products = [
            {"product_id": f"p{i % 30}", "price": 19, "quantity": 1},
            {"product_id": "p3", "price": 3, "quantity": 2},
        ]
        return base | {"type": "track", "event": "Order Completed",
                       "properties": {"order_id": f"o{i}", "total": 25, "products": products}}  # fmt: skip
    return base | {"type": "track", "event": ["Product Viewed", "Product Added"][i % 2],
                   "properties": {"product_id": f"p{i % 30}", "price": 18.5, "category": "Games"}}  # fmt: skip


def snowplow(i: int) -> dict[str, Any]:
    at = (DAY + timedelta(minutes=i)).isoformat(sep=" ", timespec="milliseconds")
    return {
        "event_id": f"{i:032x}", "collector_tstamp": at, "derived_tstamp": at, "etl_tstamp": at,
        "event": ["page_view", "unstruct"][i % 2], "event_name": ["page_view", "add_to_cart"][i % 2],
        "user_id": None, "domain_userid": f"d{i % 30}", "domain_sessionid": f"s{i // 4}",
        "unstruct_event": {"data": {"schema": "iglu:x", "data": {"sku": f"k{i % 40}", "unit_price": 3.5}}},
    }  # fmt: skip


RETAILROCKET = Log(
    "events.csv",
    csv_lines(
        "timestamp,visitorid,event,itemid,transactionid",
        lambda i: f"{epoch(i, 1000)},{i % 90 * 7},{['view', 'addtocart', 'transaction'][i % 3]},{i % 200},"
                  f"{i if i % 3 == 2 else ''}",
    ),
    {
        "event_type": cases("event", {"view": "view", "addtocart": "cart", "transaction": "purchase"}),
        "event_time": "timestamp_millis(try_cast(timestamp AS BIGINT))",
        "user_id": "visitorid", "item_id": "itemid", "order_id": "transactionid",
    },
    {"header": None, "separator": None},
    {"timezone": "UTC"},
)  # fmt: skip
TAOBAO = Log(
    "UserBehavior.csv",
    csv_lines("", lambda i: f"{i // 9 + 4},{i * 7 % 50 + 900},{i * 7 % 50 % 13 + 70},"
                            f"{['pv', 'fav', 'cart', 'buy'][i % 4]},{epoch(i)}"),
    {
        "event_type": cases("event_type", {"pv": "view", "fav": "favorite", "cart": "cart", "buy": "purchase"}),
        "event_time": "timestamp_seconds(try_cast(event_time AS BIGINT))",
        "user_id": "user_id", "item_id": "item_id", "category": "category",
    },
    {"header": False,
     "columns": "user_id string, item_id string, category string, event_type string, event_time string"},
)  # fmt: skip
LOGS = [
    RETAILROCKET,
    TAOBAO,
    Log(
        "tianchi.csv",
        csv_lines("user_id,item_id,behavior_type,user_geohash,item_category,time",
                  lambda i: f"{i % 30 + 5},{i % 99},{i % 4 + 1},{'94ek' if i % 2 else ''},{i % 9},"
                            f"2014-12-{i % 18 + 1:02d} {i % 24:02d}"),
        {"event_type": cases("behavior_type", {"1": "view", "2": "favorite", "3": "cart", "4": "purchase"}),
         "event_time": "time", "user_id": "user_id", "item_id": "item_id", "category": "item_category"},
        general={"time_format": "yyyy-MM-dd HH"},
    ),
    Log(
        "user_log.csv",
        csv_lines("user_id,item_id,cat_id,seller_id,time_stamp,action_type",
                  lambda i: f"{i % 30 + 5},{i % 99},{i % 9},{i % 7},2015-11-{i % 28 + 1:02d},{i % 4}"),
        {"event_type": cases("action_type", {"0": "click", "1": "cart", "2": "purchase", "3": "favorite"}),
         "event_time": "time_stamp"},
    ),
    Log("ga4.json", json_lines(ga4), {
        "event_time": "timestamp_micros(try_cast(event_timestamp AS BIGINT))",
        "user_id": "coalesce(user_id, user_pseudo_id)", "item_id": "item.item_id", "price": "item.price",
        "session_id": "get(filter(event_params, p -> p.key = 'ga_session_id'), 0).value.int_value",
        "device": "device.category",
    }, {"format": "jsonl", "explode": "if(size(items) > 0, items, array(NULL))", "explode_as": "item"},
        {"event_types": ["session_start"]}),
    Log("segment.jsonl", json_lines(segment), {
        "event_time": "timestamp", "user_id": "coalesce(userId, anonymousId)",
        "item_id": "coalesce(product.product_id, properties.product_id)", "order_id": "properties.order_id",
        "price": "coalesce(product.price, properties.price)", "value": "",
    }, {"explode": "if(size(properties.products) > 0, properties.products, array(NULL))", "explode_as": "product"}),
    Log("snowplow.jsonl", json_lines(snowplow), {
        "event_id": "event_id", "event_time": "derived_tstamp", "user_id": "domain_userid",
        "event_type": cases("event_name", {"page_view": "view", "add_to_cart": "cart"}),
        "item_id": "unstruct_event.data.data.sku", "session_id": "domain_sessionid",
    }),
    Log(
        "train-item-views.csv",
        csv_lines("sessionId;userId;itemId;timeframe;eventdate",
                  lambda i: f"{i // 4};{'NA' if i % 9 else i};{i % 99};{i % 4 * 30017};2016-05-{i % 28 + 1:02d}"),
        {"event_type": "'view'", "event_time": "eventdate", "user_id": "nullif(userId, 'NA')", "item_id": "itemId",
         "session_id": "sessionId"},
        {"separator": ";"},
    ),
    Log(
        "order_products.csv",
        csv_lines("order_id,user_id,product_id,order_date,order_hour_of_day,reordered",
                  lambda i: f"{i // 5},{i // 15 + 1},{i % 50},2017-03-{i // 10 + 1:02d},{i // 5 % 24:02d},{i % 2}"),
        {"event_type": "'purchase'", "event_time": "concat(order_date, ' ', order_hour_of_day)",
         "item_id": "product_id"},
        general={"time_format": "yyyy-MM-dd H"},
    ),
    Log(
        "transactions_train.csv",
        csv_lines("t_dat,customer_id,article_id,price,sales_channel_id",
                  lambda i: f"2018-09-{i % 9 + 20},{i % 60:064x},0{663713000 + i},{0.0508 + i / 9999:.12f},"
                            f"{i % 2 + 1}"),
        {"event_type": "'purchase'", "event_time": "t_dat", "user_id": "customer_id", "item_id": "article_id",
         "price": "price"},
    ),
    Log(
        "ratings.csv",
        csv_lines("userId,movieId,rating,timestamp", lambda i: f"{i // 20 + 1},{i % 77},{i % 9 / 2 + 0.5},"
                                                               f"{epoch(i)}"),
        {"event_type": "'rate'", "rating": "rating", "user_id": "userId", "item_id": "movieId"},
    ),
    Log(
        "u.data",
        csv_lines("", lambda i: f"{i * 37 % 90}\t{i * 13 % 71}\t{i % 5 + 1}\t{epoch(i)}"),
        {"event_type": "'rate'", "rating": "rating", "user_id": "user_id", "item_id": "item_id"},
        {"separator": "\t", "header": False},
    ),
    Log(
        "ratings.dat",
        csv_lines("", lambda i: f"{i // 20 + 1}::{i % 77}::{i % 5 + 1}::{epoch(i)}"),
        {"event_type": "'rate'", "user_id": "get(split(line, '::'), 0)", "item_id": "get(split(line, '::'), 1)",
         "event_time": "timestamp_seconds(try_cast(get(split(line, '::'), 3) AS BIGINT))"},
        {"format": "text", "columns": "line string"},
    ),
    Log(
        "行为.csv",
        csv_lines("用户ID,商品ID,商品类目,行为类型,行为时间,价格", end="\r\n",
                  row=lambda i: f"{i % 20 + 1},{i % 50},{['手机', '女装'][i % 2]},"
                                f"{['浏览', '收藏', '加购', '购买'][i % 4]},2026/3/{i % 28 + 1} {i % 24}:05,{i}.5"),
        {"event_type": cases("`行为类型`", {"浏览": "view", "收藏": "favorite", "加购": "cart", "购买": "purchase"}),
         "event_time": "`行为时间`", "user_id": "`用户ID`", "item_id": "`商品ID`", "price": "`价格`"},
        {"encoding": "GBK"},
        {"time_format": "yyyy/M/d H:mm"},
        encoding="gbk",
    ),
    Log(
        "verkauf.csv",
        csv_lines("Kundennummer;Artikelnummer;Bezeichnung;Vorgang;Datum;Uhrzeit;Einzelpreis;Menge;Währung", end="\r\n",
                  row=lambda i: f"K{i % 20};A{i % 50};Größe {i};"
                          f"{['angesehen', 'gekauft', 'storniert'][i % 3]};{i % 28 + 1:02d}.03.2026;"
f"{i % 24:02d}:15;1.2{i % 90 + 10},50 €;1;EUR"),
        {"event_type": cases("Vorgang", {"angesehen": "view", "gekauft": "purchase", "storniert": "return"}),
         "event_time": "concat(Datum, ' ', Uhrzeit)", "user_id": "Kundennummer", "item_id": "Artikelnummer",
         "price": "replace(regexp_replace(regexp_replace(Einzelpreis, '[^0-9.,-]', ''), '[. ]', ''), ',', '.')",
         "currency": "`Währung`"},
        {"separator": ";", "encoding": "windows-1252"},
        {"time_format": "dd.MM.yyyy HH:mm", "timezone": "UTC"},
        encoding="cp1252",
    ),
    Log(
        "invoices.csv",
        csv_lines("InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID",
                  lambda i: f"{'C' if i % 9 == 0 else ''}{536365 + i // 6},{10000 + i % 80}A,\"A \"\"B\"\", "
                            f"C\",{-3 if i % 9 == 0 else 3},{i % 12 + 1}/{i % 28 + 1}/2010 {i % 14 + 7}:05,"
f"2.55,{i % 20 + 17800}.0"),
        {"event_type": "CASE WHEN InvoiceNo LIKE 'C%' OR Quantity LIKE '-%' THEN 'return' ELSE 'purchase' END",
         "user_id": "regexp_replace(CustomerID, '[.]0$', '')", "quantity": "regexp_replace(Quantity, '^-', '')"},
        general={"time_format": "M/d/yyyy H:mm"},
    ),
    Log(
        "sessions.csv",
        csv_lines("session_id,item_id,date", lambda i: f"{i // 4 + 3},{i % 99},2020-12-18 21:{i % 60:02d}:51.203"),
        {"user_id": "concat('session-', session_id)", "session_id": "session_id", "event_time": "date"},
    ),
    Log(
        "clicks.dat",
        csv_lines(
            "", lambda i: f"{i // 4},2014-04-{i // 24 % 28 + 1:02d}T10:{i % 60:02d}:09.277Z,{i % 50 + 2145},{i % 3}"
        ),
        {"user_id": "concat('session-', session_id)", "session_id": "session_id", "item_id": "item_id",
         "event_type": "'view'"},
        {"header": False},
    ),
    Log(
        "utf16.csv",
        csv_lines("user_id,item_id,event,ts", lambda i: f"{i % 9 + 1},{i % 50},view,{epoch(i)}", end="\r\n"),
        {"event_type": "event", "event_time": "timestamp_seconds(try_cast(ts AS BIGINT))"},
        {"encoding": "UTF-16"},
        encoding="utf-16",
    ),
    Log(
        "export.tsv",
        csv_lines("# exported\nuid\tsku\tevt\twhen", lambda i: f"{i % 9}\tS{i % 50}\tview\t2024-03-01T10:00:"
                                                               f"{i % 60:02d}+01:00"),
        {"event_type": "evt", "event_time": "`when`", "user_id": "uid", "item_id": "sku"},
        {"comment": "#", "separator": "\t"},
    ),
    Log(
        "nested.jsonl",
        json_lines(lambda i: {"@timestamp": f"2026-03-01T10:{i % 60:02d}:00.000+08:00", "user": {"id": i % 50 + 1},
                              "event": {"action": ["view_product", "add_to_cart", "order"][i % 3]},
                              "product": {"id": f"p{i % 30}"}}),
        {"event_time": "`@timestamp`", "user_id": "`user`.id", "item_id": "product.id",
         "event_type": cases("event.action", {"view_product": "view", "add_to_cart": "cart", "order": "purchase"})},
        general={"timezone": "UTC"},
    ),
    Log(
        "orders.jsonl",
        json_lines(lambda i: {"orderId": f"o{i}", "customer": f"c{i % 40}", "at": f"2026-03-01T10:{i % 60:02d}:00Z",
                              "productIds": [f"p{i % 7}", f"p{i % 5}"], "total": 9.5}),
        {"event_type": "'purchase'", "item_id": "product", "order_id": "orderId", "value": ""},
        {"explode": "productIds", "explode_as": "product",
         "columns": "productIds array<string>, orderId string, customer string, at string"},
    ),
    Log(
        "refunds.csv",
        csv_lines("transaction_id,member_no,sku_code,txn_date,amount",
                  lambda i: f"t{i},{i % 30 + 2},{i % 20},{i % 28 + 1:02d}-Mar-2024,{-5.5 if i % 20 == 0 else 7.25}"),
        {"event_type": "CASE WHEN amount LIKE '-%' THEN 'return' ELSE 'purchase' END",
         "value": "regexp_replace(amount, '^-', '')"},
        general={"time_format": "dd-MMM-yyyy"},
    ),
    Log(
        "pairs.log",
        csv_lines("", lambda i: f"ts=2024-03-01T10:{i % 60:02d}:00Z user=u{i % 9} item=p{i % 20} "
                                f"action={['view', 'buy'][i % 2]}"),
        {"user_id": r"""trim(BOTH '"' FROM regexp_extract(line, '(^|[\\s,;&?|])user=("[^"]*"|[^\\s,;&|]*)', 2))"""},
        {"format": "text"},
    ),
]  # fmt: skip


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
def test_a_log_of_a_public_shape_gets_its_mapping(log: Log, tmp_path: Path) -> None:
    (tmp_path / log.name).write_bytes(log.content.encode(log.encoding))
    mapping = proposed(tmp_path / log.name)
    columns = {key: " ".join(sql.split()) for key, sql in mapping["columns"].items()}
    assert {key: columns.get(key, "") for key in log.columns} == log.columns
    spec = {key: " ".join(v.split()) if key == "columns" else v for key, v in mapping["input"].items()}
    assert {key: spec.get(key) for key in log.input} == log.input
    assert {key: mapping.get(key) for key in log.general} == log.general


def test_parquet_with_nested_items_and_typed_ids(tmp_path: Path) -> None:
    rows = [
        {"order_id": i, "customer": {"id": float(i % 9 + 1)}, "created_at": DAY + timedelta(minutes=i),
         "items": [{"sku": f"s{k}", "qty": k + 1, "unit_price": 1.5} for k in range(i % 3 + 1)]}
        for i in range(60)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "orders.parquet")
    mapping = proposed(tmp_path)
    assert mapping["input"]["explode"] == "items"
    declared = " ".join(mapping["input"]["columns"].split())
    assert declared == (
        "items array<struct<sku: string, qty: bigint, unit_price: double>>, order_id bigint, "
        "customer struct<id: double>, created_at timestamp"
    )
    assert mapping["columns"] | {"event_type": "'purchase'"} == mapping["columns"]
    assert mapping["columns"]["user_id"] == "try_cast(customer.id AS BIGINT)"
    assert mapping["columns"]["item_id"] == "item.sku"


def test_partition_folders_and_compressed_files(tmp_path: Path) -> None:
    for day in (1, 2, 3):
        folder = tmp_path / f"date=2026-03-0{day}"
        folder.mkdir()
        text = csv_lines(
            "user_id,item_id,action,time", lambda i: f"{i % 9 + 1},{i % 30},view,{i % 24:02d}:{i % 60:02d}:00"
        )
        (folder / "part-0.csv.gz").write_bytes(gzip.compress(text.encode()))
    mapping = proposed(tmp_path)
    assert mapping["columns"]["event_time"] == "concat(date, ' ', time)"
    assert "date string" in mapping["input"]["columns"]
    assert "time_format" not in mapping


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_the_value_of_a_folder_replaces_the_column_of_the_file(tmp_path: Path, form: str) -> None:
    for day in (1, 2, 3):
        rows = [
            {
                "date": 7, "user_id": f"{i % 9 + 1}", "item_id": f"{i % 30}", "action": "view",
                "time": f"{i % 24:02d}:{i % 60:02d}:00",
            }
            for i in range(240)
        ]  # fmt: skip
        file = tmp_path / f"date=2026-03-0{day}" / "hour%20zone=x%20y" / f"part-0.{form}"
        file.parent.mkdir(parents=True)
        if form == "csv":
            file.write_text(csv_lines(",".join(rows[0]), lambda i, rows=rows: ",".join(map(str, rows[i].values()))))  # type: ignore[misc]
        elif form == "jsonl":
            file.write_text(json_lines(lambda i, rows=rows: rows[i], 240))  # type: ignore[misc]
        else:
            pq.write_table(pa.Table.from_pylist(rows), file)
    mapping = proposed(tmp_path)
    assert mapping["columns"]["event_time"] == "concat(date, ' ', time)"
    assert "date string" in mapping["input"]["columns"]
    sample = propose_source.detect(str(tmp_path)).sample
    values = {column.name: set(column.values) for column in sample.columns}
    assert values["date"] == {"2026-03-01", "2026-03-02", "2026-03-03"} and values["hour%20zone"] == {"x y"}


def test_the_date_in_the_name_of_a_file_is_the_time_of_last_resort(tmp_path: Path) -> None:
    for day in (1, 2):
        text = csv_lines("user_id,item_id,action", lambda i: f"{i % 9 + 1},{i % 30},view")
        (tmp_path / f"events_2026030{day}.csv").write_text(text)
    mapping = proposed(tmp_path)
    assert mapping["columns"]["event_time"].startswith("regexp_extract(source_file, ")
    assert mapping["time_format"] == "yyyyMMdd"


def test_of_several_files_the_one_with_events_is_the_log(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(RETAILROCKET.content)
    (tmp_path / "item_properties.csv").write_text(
        csv_lines("timestamp,itemid,property,value", lambda i: f"{epoch(i, 1000)},{i},a,b", 999)
    )
    (tmp_path / "README.md").write_text("# A log\n")
    detected = propose_source.detect(str(tmp_path))
    assert [path.name for path in detected.sample.group.paths] == ["events.csv"]
    assert [group.paths[0].name for group in detected.others] == ["item_properties.csv"]
    assert proposed(tmp_path)["input"]["glob"] == "events.csv"


@pytest.mark.parametrize("name", ["online_retail", "otto", "rees46", "complete_journey"])
def test_the_shipped_logs_get_the_columns_of_their_mappings(name: str) -> None:
    mapping = proposed(ROOT / "data" / name)
    shipped = tomllib.loads((ROOT / "conf" / "sources" / f"{name}.toml").read_text())["columns"]
    same = ["event_time", "user_id", "item_id"] if name != "otto" else ["user_id", "session_id"]
    for column in same:
        allowed = (shipped[column], shipped[column].replace("upper(StockCode)", "StockCode"))
        assert mapping["columns"][column].removeprefix("nullif(").removesuffix(", '')") in allowed


def test_the_mapping_in_the_docs_is_the_proposal_for_the_example_log() -> None:
    detected = propose_source.detect(str(ROOT / "docs" / "examples" / "laden" / "log"))
    best = proposal.propose(detected.sample, detected.roles, "my_shop", timezone="Europe/Berlin")
    page = (ROOT / "docs" / "mappings.md").read_text()
    shown = page.split("```text\n[columns]\n", 1)[1].split("```", 1)[0]
    assert shown in write_files.mapping_text(best, "log")


TIMES = [
    ("2014-12-06 02", "yyyy-MM-dd HH"), ("2019-10-01 00:00:00 UTC", ""), ("2014-04-07T10:51:09.277Z", ""),
    ("2024-01-01 10:00", "yyyy-MM-dd HH:mm"), ("30.03.2025 01:12:05", "dd.MM.yyyy HH:mm:ss"), ("20141206", "yyyyMMdd"),
    ("20141206123000", "yyyyMMddHHmmss"), ("2014120602", "yyyyMMddHH"),
    ("10/Oct/2000:13:55:36 -0700", "d/MMM/yyyy:H:mm:ss XX"),
    ("2026年3月1日 10:05:00", "yyyy年M月d日 H:mm:ss"), ("Mar 5, 2024 1:31 PM", "MMM d, yyyy h:mm a"),
    ("13/4/10 8:26", "d/M/yy H:mm"), ("4/13/10 8:26", "M/d/yy H:mm"), ("2018-09-20", ""),
    ("2024-01-01T10:00:00+0800", ""), ("01.03.2026 09:15 Uhr", "dd.MM.yyyy HH:mm 'Uhr'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "pattern"), TIMES)
def test_time_patterns(text: str, pattern: str) -> None:
    detected = time_formats.detect([text] * 3)
    assert detected is not None and (detected.sql, detected.pattern) == ("{}", pattern)


@pytest.mark.parametrize(
    "text", ["12", "4711", "4006381333931", "10:30", "2026-13-01", "-", "A-2026-01-01", "+491701234567"]
)
def test_texts_that_are_not_times(text: str) -> None:
    assert time_formats.detect([text] * 3) is None


def test_optional_parts_of_times_are_optional_in_the_pattern() -> None:
    detected = time_formats.detect(["2026-01-01 10:00:00.5", "2026-01-01 10:00:00.123", "2026-01-01 10:00:00"])
    assert detected is not None and detected.pattern == ""
    detected = time_formats.detect(["01.02.2026 10:00", "13.02.2026 10:00:30"])
    assert detected is not None and detected.pattern == "dd.MM.yyyy HH:mm[:ss]"


def test_times_of_day() -> None:
    assert time_formats.time_of_day(["9:05 Uhr", "10:15 Uhr"], is_hour=False) == ("{}", "H:mm 'Uhr'")
    assert time_formats.time_of_day(["9:05:10 PM"], is_hour=False) == ("{}", "h:mm:ss a")
    assert time_formats.time_of_day(["0", "23"], is_hour=True) == ("{}", "H")
    assert time_formats.time_of_day(["5", "1631"], is_hour=True) == ("lpad({}, 4, '0')", "HHmm")
    assert time_formats.time_of_day(["0", "23"], is_hour=False) is None
    assert time_formats.time_of_day(["24:61x"], is_hour=True) is None


def test_weekdays_and_ambiguous_zones_are_removed_from_times() -> None:
    weekday = time_formats.detect(["Thu, 01 Dec 2011 16:00:00 GMT"] * 3)
    assert weekday is not None and (weekday.pattern, weekday.is_instant) == ("dd MMM yyyy H:mm:ss VV", True)
    assert weekday.sql.format("x") == "regexp_replace(x, '^[A-Z][a-z]{2},? ', '')"
    zone = time_formats.detect(["2026-07-01 10:00:00 CST"] * 3)
    assert zone is not None and (zone.pattern, zone.is_instant) == ("", False)
    assert zone.sql.format("x") == "regexp_replace(x, ' [A-Z]{3,4}$', '')"


def test_day_and_month_in_one_order_only() -> None:
    ambiguous = time_formats.detect(["3/4/2010 8:26", "3/5/2010 8:26"])
    assert ambiguous is not None and ambiguous.other_order is not None
    assert (ambiguous.pattern, ambiguous.other_order.pattern) == ("M/d/yyyy H:mm", "d/M/yyyy H:mm")
    clear = time_formats.detect(["3/4/2010 8:26", "13/4/2010 8:26"])
    assert clear is not None and (clear.pattern, clear.other_order) == ("d/M/yyyy H:mm", None)


def test_numbers_with_signs_and_separators() -> None:
    numbers = {
        "24,90": 24.9,
        "1.249,00": 1249.0,
        "1,249.50": 1249.5,
        "$12.50": 12.5,
        "12,50 €": 12.5,
        "-3": -3.0,
        "1e3": 1e3,
    }
    for text, number in numbers.items():
        detected = number_formats.detect([text])
        assert detected is not None and detected.numbers == (number,), text
    assert number_formats.detect(["sieben", "acht"]) is None


def test_encodings() -> None:
    texts = {
        "utf-8": ("UTF-8", "Größe 手机"),
        "gb18030": ("GBK", "用户浏览了商品"),
        "cp1252": ("windows-1252", "Größe für 5 €"),
    }
    for codec, (java, text) in texts.items():
        assert charset.detect([text.encode(codec)] * 9).java == java
    damaged = ["Größe".encode()] * 99 + [b"Gr\xf6\xdfe"]
    assert charset.detect(damaged).java == "UTF-8"


@pytest.mark.parametrize(
    ("value", "event_type"),
    [("Product Added", "cart"), ("REMOVE_FROM_CART", "uncart"), ("加入购物车", "cart"), ("Order Completed", "purchase"),
     ("order_refunded", "return"), ("begin_checkout", ""), ("purchase_failed", ""), ("in den Warenkorb", "cart"),
     ("Seitenaufruf", "view"), ("取消收藏", "unfavorite"), ("scroll", ""), ("view_cart", "")],
)  # fmt: skip
def test_values_of_event_types(value: str, event_type: str) -> None:
    assert event_type_values.canonical_type(value)[0] == event_type


@pytest.mark.parametrize(
    ("codec", "mark", "java"),
    [("utf-32-le", "\ufeff", "UTF-32"), ("utf-32-be", "\ufeff", "UTF-32"), ("utf-32-le", "", "UTF-32LE"),
     ("utf-32-be", "", "UTF-32BE"), ("utf-16-le", "\ufeff", "UTF-16"), ("utf-16-be", "", "UTF-16BE")],
)  # fmt: skip
def test_the_byte_order_of_a_log_is_detected(tmp_path: Path, codec: str, mark: str, java: str) -> None:
    text = mark + csv_lines("user_id,event,ts", lambda i: f"{i % 9 + 1},view,{epoch(i)}")
    (tmp_path / "log.csv").write_bytes(text.encode(codec))
    proposal = proposed(tmp_path)
    assert proposal["input"]["encoding"] == java
    assert proposal["columns"]["user_id"] == "user_id"


def test_names_inherit_from_their_parents_only_where_needed() -> None:
    assert column_names.scores(("device", "category")).get("category", 0) < 0.5
    assert column_names.scores(("properties", "product_id"))["item_id"] > 0.9
    assert column_names.scores(("customer", "id"))["user_id"] > 0.9
    assert column_names.normalize("CustomerID") == "customer_id"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32", "utf-32-be"])
def test_the_sample_of_a_large_file_has_complete_lines_from_all_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    lines = [f"{i},view,{'x' * (i % 40)}" for i in range(5000)]
    (tmp_path / "log.csv").write_bytes(("\r\n".join(lines) + "\r\n").encode(encoding))
    for suffix, pack in ((".csv", bytes), (".csv.gz", gzip.compress)):
        path = tmp_path / f"packed{suffix}"
        path.write_bytes(pack((tmp_path / "log.csv").read_bytes()))
        monkeypatch.setattr(sample_files, "MAX_BYTES", 16_000)
        (group,) = sample_files.list_groups(path)
        ((_, sample),) = sample_files.sample_lines(group)
        texts = [charset.decode(line, charset.detect(sample)) for line in sample]
        assert texts[0] == lines[0] and set(texts) <= set(lines)
        numbers = [int(text.split(",")[0]) for text in texts]
        assert numbers == sorted(numbers) and len({number // 700 for number in numbers}) >= 7


def test_files_with_other_columns_are_one_log(tmp_path: Path) -> None:
    (tmp_path / "log_1.csv").write_text(csv_lines("user_id,event,ts", lambda i: f"{i % 9 + 1},view,{epoch(i)}"))
    (tmp_path / "log_2.csv").write_text(
        csv_lines("ts,user_id,event,sku", lambda i: f"{epoch(i)},{i % 9 + 1},cart,s{i % 8}")
    )
    columns = proposed(tmp_path)["columns"]
    assert columns["event_time"] == "timestamp_seconds(try_cast(ts AS BIGINT))"
    assert columns["item_id"] == "sku" and "'cart'" not in columns["event_type"]


def test_a_title_above_the_header_is_skipped(tmp_path: Path) -> None:
    rows = csv_lines(
        "Kunden-Nr.;Art.-Nr.;Aktion;Datum/Uhrzeit", lambda i: f"K{i % 9};A{i % 7};gekauft;{i % 28 + 1:02d}.03.26 09:15"
    )
    (tmp_path / "bericht.csv").write_text(f"Bericht 2026;;;\n\n;;;\n{rows}")
    mapping = proposed(tmp_path)
    assert mapping["input"]["skip_lines"] == 3
    assert mapping["columns"]["user_id"] == "`Kunden-Nr.`" and mapping["columns"]["event_time"] == "`Datum/Uhrzeit`"


def test_a_negative_price_of_an_event_log_is_rejected_and_not_reversed(tmp_path: Path) -> None:
    row = lambda i: f"{i % 9 + 1},view,{-i if i % 9 == 0 else i},{epoch(i)}"  # noqa: E731
    (tmp_path / "log.csv").write_text(csv_lines("user_id,event,price,ts", row))
    assert proposed(tmp_path)["columns"]["price"] == "price"


def test_a_duration_is_not_the_time_of_day_of_a_date(tmp_path: Path) -> None:
    row = lambda i: f"{i % 9 + 1},{i % 30},2026-03-{i % 28 + 1:02d},00:{i % 60:02d}:10"  # noqa: E731
    (tmp_path / "log.csv").write_text(csv_lines("user_id,item_id,date,watched", row))
    assert proposed(tmp_path)["columns"]["event_time"] == "date"


def test_placeholders_of_users_are_anonymous(tmp_path: Path) -> None:
    row = lambda i: f"{['-1', 'guest', str(i)][i % 3]},{i % 30},view,{epoch(i)}"  # noqa: E731
    (tmp_path / "log.csv").write_text(csv_lines("user_id,item_id,event,ts", row))
    user = proposed(tmp_path)["columns"]["user_id"]
    assert user == "CASE WHEN user_id NOT IN ('-1', 'guest') THEN user_id END"


def test_names_that_cannot_be_declared_are_read_from_extra(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        csv_lines("user id,raw,event,ts,position", lambda i: f"{i % 9 + 1},x,view,{epoch(i)},{i}")
    )
    mapping = proposed(tmp_path)
    assert mapping["columns"]["user_id"] == "`user id`"
    assert "raw" not in mapping["input"]["columns"] and "position" not in mapping["input"]["columns"]


def test_an_id_of_repeated_records_is_an_event_id_but_one_of_different_records_is_not(tmp_path: Path) -> None:
    same = csv_lines("id,user_id,event,ts", lambda i: f"e{i - i % 2},{i // 2 % 9 + 1},view,{epoch(i // 2)}")
    (tmp_path / "log.csv").write_text(same)
    assert proposed(tmp_path)["columns"]["event_id"] == "id"
    (tmp_path / "log.csv").write_text(
        csv_lines("id,user_id,event,ts", lambda i: f"e{i // 2},{i % 9 + 1},view,{epoch(i)}")
    )
    assert "event_id" not in proposed(tmp_path)["columns"]


@pytest.mark.parametrize(
    ("rows", "days", "compressed", "expected"),
    [
        (240, 62, False, None),
        (240, 63, False, "month"),
        (240, 3000, False, "year"),
        (3000, 3000, True, "year"),
        (100_000, 3000, False, "month"),
        (100_000, 3000, True, "month"),
        (100_000, 90, False, None),
    ],
)
def test_the_partitions_of_a_log_with_few_records_per_day_are_months_or_years(
    tmp_path: Path, rows: int, days: int, compressed: bool, expected: str | None
) -> None:
    text = csv_lines("user_id,item_id,event,ts", lambda i: f"u{i % 9},p{i % 30},view,{epoch(i)}", rows)
    (tmp_path / ("log.csv.gz" if compressed else "log.csv")).write_bytes(
        gzip.compress(text.encode()) if compressed else text.encode()
    )
    sample = propose_source.detect(str(tmp_path)).sample
    assert partition_length.estimated_rows(sample) == pytest.approx(rows, rel=0.5 if compressed else 0.05)
    start = date(2020, 1, 1)
    line = partition_length.partition_line(sample, [start, start + timedelta(days=days - 1)])
    assert (line and line.value) == expected


def test_files_that_are_not_logs_are_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        propose_source.detect(str(tmp_path / "absent"))
    (tmp_path / "log.json").write_text('[\n{"a": 1},\n{"a": 2}\n]\n')
    with pytest.raises(SourceUnreadable, match="one JSON document"):
        propose_source.detect(str(tmp_path))
    (tmp_path / "log.json").write_text(csv_lines("user_id,item_id", lambda i: f"u{i},p{i}"))
    with pytest.raises(BadSettings, match="no column contains times"):
        propose_source.detect(str(tmp_path))
    with pytest.raises(BadSettings, match="not a local path"):
        propose_source.detect("s3://bucket/log")


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mapping.toml").write_text("x")
    with pytest.raises(BadSettings, match="does not overwrite") as error:
        write_files.check_absent(tmp_path)
    assert error.value.exit_code == 2


def detected_retailrocket(tmp_path: Path) -> propose_source.Detected:
    (tmp_path / "events.csv").write_text(RETAILROCKET.content)
    return propose_source.detect(str(tmp_path))


def test_a_column_that_is_rejected_wholesale_is_replaced_by_its_next_candidate(tmp_path: Path) -> None:
    text = csv_lines("user_id,cookie_id,event,ts", lambda i: f"x{i % 9},c{i % 40},view,{epoch(i)}")
    (tmp_path / "log.csv").write_text(text)
    detected = propose_source.detect(str(tmp_path))

    def propose(roles: Roles) -> Proposal:
        return proposal.propose(detected.sample, roles, "shop")

    def preview(candidate: Proposal) -> PreviewCounts:
        is_rejected = candidate.columns["user_id"].value == "user_id"
        rejected = {"user_id_placeholder": 200} if is_rejected else {}
        return PreviewCounts(240, 240 - sum(rejected.values()), 0, rejected, [], [])

    best, counts = propose_source.try_candidates(preview, propose, detected.roles)
    assert (best.columns["user_id"].value, counts.clean) == ("cookie_id", 240)


def test_the_other_order_of_day_and_month_is_the_next_candidate(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        csv_lines("user_id,event,at", lambda i: f"{i % 9 + 1},view,0{i % 9 + 1}/0{i % 7 + 1}/2026 10:00")
    )
    detected = propose_source.detect(str(tmp_path))
    patterns = []

    def preview(candidate: Proposal) -> PreviewCounts:
        patterns.append(candidate.general["time_format"].value)
        rejected = {"event_time_in_future": 100} if len(patterns) == 1 else {}
        return PreviewCounts(240, 240 - sum(rejected.values()), 0, rejected, [], [])

    propose_source.try_candidates(
        preview, lambda roles: proposal.propose(detected.sample, roles, "shop"), detected.roles
    )
    assert sorted(patterns) == ["MM/dd/yyyy HH:mm", "dd/MM/yyyy HH:mm"]


@pytest.mark.parametrize("options", [{"name": "my-shop"}, {"timezone": "Berlin"}, {"out": "s3://bucket/conf"}])
def test_a_wrong_option_is_refused_before_anything_is_written(tmp_path: Path, options: dict[str, str]) -> None:
    (tmp_path / "events.csv").write_text(RETAILROCKET.content)
    settings = {"name": "shop", "out": str(tmp_path / "out"), "timezone": ""} | options
    with pytest.raises(BadSettings, match=next(iter(options.values()))):
        propose_source.run(no_spark, str(tmp_path), print_line=print, **settings)
    assert not (tmp_path / "out").exists() and not Path("s3:").exists()


def no_spark() -> SparkSession:
    raise AssertionError("Spark is not needed")


def test_questions_have_defaults_and_there_are_at_most_five(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.csv").write_text(
        csv_lines("cookie_id,device_id,ref,at", lambda i: f"c{i % 9},d{i % 30},r{i},2026-03-01 10:00:{i % 60:02d}")
    )
    detected = propose_source.detect(str(tmp_path))
    prompts = []

    def answer(text: str, *, default: str, choices: list[str] | None = None) -> str:
        prompts.append(text)
        return "Europe/Berlin" if "zone" in text else choices[1] if choices and "user" in text else default

    monkeypatch.setattr(Prompt, "ask", answer)
    first = proposal.propose(detected.sample, detected.roles, "shop")
    answers = questions.ask(first, detected.roles, "")
    assert 1 < len(prompts) <= 5
    mapping = proposal.propose(
        detected.sample, answers.roles, "shop", timezone=answers.timezone, event_type=answers.event_type
    )
    assert mapping.general["timezone"].value == "Europe/Berlin"
    assert mapping.columns["user_id"].value == "device_id"


def test_the_report_names_the_line_to_edit(tmp_path: Path) -> None:
    detected = detected_retailrocket(tmp_path)
    best = proposal.propose(detected.sample, detected.roles, "shop")
    best = Proposal(
        best.general,
        best.input,
        best.columns | {"event_type": mapping_lines.Line("'view'", "unsure", "a guess")},
        best.sample,
    )
    write_files.write(best, tmp_path / "out", name="shop", source_path=str(tmp_path))
    printed: list[str] = []
    propose_source.report(best, PreviewCounts(10, 8, 2, {}, [], []), [], tmp_path / "out", printed.append)
    (line,) = [text for text in printed if "a guess" in text]
    number = int(line.split("mapping.toml:")[1].split()[0])
    assert (tmp_path / "out" / "mapping.toml").read_text().splitlines()[number - 1] == "event_type = \"'view'\""
    assert printed[-3:] == [
        f"  .venv/bin/python jobs/capture_events.py --config {tmp_path}/out/settings.toml --check",
        f"  .venv/bin/python jobs/capture_events.py --config {tmp_path}/out/settings.toml",
        f"  .venv/bin/python jobs/run_pipeline.py --config {tmp_path}/out/settings.toml",
    ]
