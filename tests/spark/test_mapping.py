"""Every feature of a mapping on a few lines; its checks at start; and the preview."""

import json
from pathlib import Path
from typing import Any

import pytest
from profilestream.base.errors import BadSettings, SourceMissing, SourceUnreadable
from profilestream.capture import capture_checks, ingest, preview
from pyspark.sql import SparkSession

from tests.builders import SHOP, Shop, event
from tests.rule_results import FILE, capture_source, evaluate, parse, rule_results


def lines_of(*changes: dict[str, Any]) -> list[str]:
    return [json.dumps(event(n + 1, **change)) for n, change in enumerate(changes)]


def shop(head: str = "", tail: str = "") -> str:
    return f"{head}\n{SHOP}\n{tail}\n"


def test_each_element_of_an_exploded_array_is_a_record(spark: SparkSession) -> None:
    source = capture_source("""
        input.format = "jsonl"
        input.columns = "s bigint, events array<struct<t: string, i: bigint>>"
        input.explode = "events"
        columns = { event_type = "element.t", event_time = "'2026-01-01'", item_id = "element.i", session_id = "s" }
        [reject.bad_item]
        when = "raw.element.i < 0"
    """)
    lines = [
        '{"s":1,"events":[{"t":"view","i":5},{"t":"cart","i":-1},{"t":"buy"},null],"more":1}',
        '{"s":2,"events":[]}', '{"s":3}', "{", '{"s":5,"events":[{"t":"view","i":"x"}]}',
    ]  # fmt: skip
    rows = evaluate(source, parse(spark, source, lines))
    empty, unparseable = "events is empty or missing", "not one JSON object"
    columns = "s bigint, events array<struct<t: string, i: bigint>>"
    wrong_type = f"a value does not have the type that the mapping declares: {columns}"
    by_position = {position: (rule, reason) for position, rule, reason in rule_results(rows)}
    assert by_position == {
        "1#1": (None, None), "1#2": ("bad_item", "bad_item: raw.element.i < 0"),
        "1#3": ("event_type_unknown", "event type 'buy' is not known"),
        "1#4": ("event_type_missing", "there is no event type"),
        "2": ("nothing_to_explode", empty), "3": ("nothing_to_explode", empty),
        "4": ("unparseable", unparseable), "5": ("wrong_type", wrong_type),
    }  # fmt: skip
    (good,) = [row for row in rows if row.rule is None]
    assert (good.item_id, good.session_id, good.extra) == ("5", "1", {"more": "1"})
    # The payload of a rejected element is the complete line, so that it can be reprocessed.
    assert {row.payload for row in rows if row.rule and row.position.startswith("1#")} == {lines[0]}


@pytest.mark.parametrize("kind", ["csv", "parquet", "delta"])
def test_a_side_table_is_joined_and_a_missing_key_gives_null(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    side = f"{tmp_path}/side"
    # The key is a number (except in CSV); the raw column is a text that is not always a number.
    table = spark.sql("SELECT 1 AS sku, 'Tea' AS name UNION ALL SELECT 2, 'Jam'").coalesce(1)
    table.write.format(kind).option("header", True).save(side)
    lookup = f'[lookup.goods]\npath = "{side}"\nformat = "{kind}"\nkey = "sku"\non = "what"\n'
    mapping = SHOP.replace('item_id = "what"', 'item_id = "what"\nbrand = "goods.name"\nregion = "goods.sku"')
    source = capture_source(f"{mapping}\n{lookup}")
    rows = evaluate(
        source, parse(spark, source, lines_of({"what": "2"}, {"what": "9"}, {"what": "i1"}, {"what": None}))
    )
    assert [(row.rule, row.item_id, row.brand, row.region) for row in rows] == [
        (None, "shop:2", "Jam", "2"), (None, "shop:9", None, None), (None, "shop:i1", None, None),
        (None, None, None, None),
    ]  # fmt: skip
    capture_checks.check_mapping(spark, source)
    table.where("sku = 1").write.format(kind).option("header", True).mode("append").save(side)
    error = refused(spark, f"{mapping}\n{lookup}")
    key = "'1'" if kind == "csv" else "1"
    assert error.what == f"key {key} has 2 rows in the side table"
    assert (error.where, error.do) == (f"{FILE}, lookup.goods.key", "use a side table with one row per key")


def test_numbers_and_texts_are_cleaned_in_order_and_changes_are_noted_in_warnings(spark: SparkSession) -> None:
    mapping = SHOP.replace(
        'item_id = "what"', 'item_id = "what"\nbrand = "raw.what"\ntext = "who"\nchannel = "kind"'
    ).replace('columns = "id', 'columns = "region string, id')
    source = capture_source(
        shop().replace(SHOP, mapping)
        + """
        [text]
        brand = ["nfkc", "trim", "lower"]
        text = ["trim", "title"]
        channel = ["upper"]
        [scale]
        price = 0.01
        [fill]
        quantity = "1"
        currency = "CASE WHEN raw.region = 'UK' THEN 'GBP' END"
        rating = "raw.region"
        [clip.price]
        min = 0
        max = 100
        [clip.quantity]
        max = 10
        """
    )
    lines = lines_of(
        {"what": "\u00a0Ｃａｆｅ\u0301 ①\t", "who": "  ann LEE ", "price": 250, "quantity": None, "region": "UK"},
        {"what": " \u3000 ", "price": "12345678", "quantity": 50, "region": None, "page": "7"},
        {"what": "ok", "price": -3, "quantity": 10, "region": "4"},
        {"what": "ok", "price": "NaN", "quantity": 1},
    )
    rows = evaluate(source, parse(spark, source, lines))
    assert [row.rule for row in rows] == [None, None, None, "price_unreadable"]
    assert [(r.brand, r.text, r.channel, r.price, r.quantity, r.value, r.currency, r.rating) for r in rows[:3]] == [
        ("café 1", "Ann Lee", "VIEW", 2.5, 1.0, 2.5, "GBP", None),
        (None, "U2", "VIEW", 100.0, 10.0, 1000.0, None, None),
        ("ok", "U3", "VIEW", 0.0, 10.0, 0.0, None, 4.0),
    ]
    assert [(row.warnings, row.extra) for row in rows[:3]] == [
        (["filled_quantity", "filled_currency"], None),
        (
            ["placeholder_item_id", "clipped_price", "clipped_quantity"],
            {"page": "7", "price_before_clip": "123456.78", "quantity_before_clip": "50.0"},
        ),
        (["filled_rating", "clipped_price"], {"price_before_clip": "-0.03"}),
    ]


def test_times_are_parsed_by_pattern_and_time_zone(spark: SparkSession) -> None:
    def times(head: str, *texts: str) -> list[str | None]:
        source = capture_source(shop(head))
        rows = evaluate(source, parse(spark, source, lines_of(*[{"at": at} for at in texts])))
        return [None if row.rule else row.event_time.strftime("%Y-%m-%d %H:%M:%S.%f %j") for row in rows]

    iso = times("", "2026-01-02T03:04:05.678901Z", "2026-01-02 03:04:00+02:00", " 2026-01-02 ", "02/01/2026", "2026")
    assert iso == [
        "2026-01-02 03:04:05.678901 002", "2026-01-02 01:04:00.000000 002", "2026-01-02 00:00:00.000000 002",
        None, None,
    ]  # fmt: skip
    local = times(
        'timezone = "Asia/Tokyo"\ntime_format = "dd/MM/yyyy H:mm"',
        "01/07/2026 8:30",
        "2026-07-01 08:30",
        "31/02/2026 1:00",
    )
    assert local == ["2026-06-30 23:30:00.000000 181", None, None]


def test_ids_have_their_namespace_and_the_default_value_is_price_times_quantity(spark: SparkSession) -> None:
    mapping = SHOP.replace('item_id = "what"', 'item_id = "what"\ntarget_user_id = "what"\nvalue = "raw.what"')
    source = capture_source(mapping.replace('item_namespace = "shop"', 'item_namespace = ""'))
    rows = evaluate(
        source,
        parse(
            spark,
            source,
            lines_of({"what": "7", "quantity": "3"}, {"what": None, "quantity": "3"}, {"what": None, "price": None}),
        ),
    )
    assert [(row.user_id, row.item_id, row.target_user_id, row.value) for row in rows] == [
        ("shop:u1", "7", "shop:7", 7.0), ("shop:u2", None, None, 7.5), ("shop:u3", None, None, None),
    ]  # fmt: skip


def test_without_a_mapped_id_equal_rows_have_the_same_id_and_different_rows_different_ids(spark: SparkSession) -> None:
    source = capture_source(
        SHOP.replace('event_id = "id"\n', 'text = "id"\n').replace("id string", "id string, b string")
    )
    same = {"id": "x", "at": "2026-01-01", "who": "u", "what": "i"}
    changes: list[dict[str, Any]] = [
        same, same, {**same, "at": "2026-01-01T00:00:00Z"}, {**same, "id": ""}, {**same, "id": None},
        {**same, "price": 2.50},
        {**same, "price": None}, {**same, "page": ""}, {**same, "page": "1"}, {**same, "what": "i\u001f", "who": "u"},
        {**same, "at": "2026-01-01T00:00:00.000001Z"}, {**same, "b": "not mapped"},
    ]  # fmt: skip
    ids = [row.event_id for row in evaluate(source, parse(spark, source, lines_of(*changes)))]
    assert all(len(event_id) == 32 for event_id in ids)
    # The number 2.50 and the text 2.5 are the same text. Any other difference in the raw record is another event.
    first_rows = [ids.index(event_id) + 1 for event_id in ids]
    assert first_rows == [1, 1, 3, 4, 5, 1, 7, 8, 9, 10, 11, 12]


def test_rules_of_the_mapping_are_evaluated_first_and_the_first_true_rule_rejects(spark: SparkSession) -> None:
    source = capture_source(
        shop(
            'event_types = ["refer"]',
            """
            [reject.a_test_order]
            when = "raw.who LIKE 'test%'"
            reason = "orders of our own testers"
            [reject.expensive]
            when = "price > 100"
            [warn.big]
            when = "quantity >= 10"
            [warn.unsure]
            when = "item_id IS NULL"
            """,
        )
    )
    rows = evaluate(
        source,
        parse(
            spark,
            source,
            lines_of(
                {"kind": "refer", "quantity": 10, "what": None}, {"who": "test1", "price": 500, "kind": "odd"},
                {"price": 500, "kind": "odd"}, {"price": None, "who": None}, {"kind": "odd", "price": -1},
            ),
        ),
    )  # fmt: skip
    assert rule_results(rows) == [
        ("1", None, None), ("2", "a_test_order", "orders of our own testers"),
        ("3", "expensive", "expensive: price > 100"), ("4", None, None),
        ("5", "event_type_unknown", "event type 'odd' is not known"),
    ]  # fmt: skip
    assert [row.warnings for row in rows if row.rule is None] == [["big", "unsure"], []]


# -- check -----------------------------------------------------------------------------------------


def refused(spark: SparkSession, mapping: str) -> BadSettings:
    with pytest.raises(BadSettings) as raised:
        capture_checks.check_mapping(spark, capture_source(mapping))
    return raised.value


def test_an_invalid_expression_is_reported_with_file_and_key(spark: SparkSession) -> None:
    do = "correct it; raw columns are those of input.columns, and rules can use canonical columns and raw.<column>"
    cases = [
        (SHOP.replace('"price"', '"pryce"'), "columns.price", "pryce", "UNRESOLVED_COLUMN"),
        (SHOP.replace('"price"', '"price +"'), "columns.price", "price +", "PARSE_SYNTAX_ERROR"),
        (SHOP.replace('"price"', '"no_such(price)"'), "columns.price", "no_such(price)", "UNRESOLVED_ROUTINE"),
        (SHOP.replace("id string", "id strong"), "input.columns", None, "UNSUPPORTED_DATATYPE"),
        (shop("", "[fill]\nbrand = 'whot'"), "fill.brand", "whot", "UNRESOLVED_COLUMN"),
        (shop("", "[reject.x]\nwhen = 'raw.whot > 1'"), "reject.x.when", "raw.whot > 1", "FIELD_NOT_FOUND"),
        (shop("", "[warn.x]\nwhen = 'pryce > 1'"), "warn.x.when", "pryce > 1", "UNRESOLVED_COLUMN"),
        (SHOP.replace("[columns]", "explode = 'what'\n[columns]"), "input.explode", None, "DATATYPE_MISMATCH"),
        (shop('time_format = "yyyy-bb"'), "time_format", "yyyy-bb", "INVALID_DATETIME_PATTERN"),
    ]  # fmt: skip
    for mapping, key, sql, why in cases:
        error = refused(spark, mapping)
        assert error.what.startswith(f"{key} = " if sql is None else f"{key} = {sql!r} is not valid: "), error.what
        assert why in error.what
        assert (error.where, error.do) == (f"{FILE}, {key}", do)


def test_a_large_constant_is_refused_because_spark_would_compute_it_while_it_plans(spark: SparkSession) -> None:
    large = {
        "size(sequence(1, 2000000000))": 2_000_000_000,
        "concat(price, repeat('ab', 2000000000))": 2_000_000_000,
        "element_at(array_repeat('a', 1000001), 1)": 1_000_001,
        "length(lpad('a', 100000000, 'b')) + 1": 100_000_000,
        "sequence(10, -3000000, -3)[0]": 1_000_004,
    }
    for sql, size in large.items():
        error = refused(spark, SHOP.replace('"price"', f'"{sql}"'))
        assert error.what == f"columns.price = {sql!r} has a constant of {size:,} elements or characters"
        assert error.where == f"{FILE}, columns.price"
    for sql in (
        "size(sequence(1, 1000000))",
        "repeat(price, 2)",
        "rpad(price, 10, '0')",
        "size(sequence(1, int(price)))",
    ):
        capture_checks.check_mapping(spark, capture_source(SHOP.replace('"price"', f'"{sql}"')))


def test_a_rule_that_is_not_boolean_and_a_numeric_event_time_are_refused(spark: SparkSession) -> None:
    error = refused(spark, shop("", "[reject.x]\nwhen = 'price + 1'"))
    assert (error.what, error.where) == ("reject.x.when = 'price + 1' is a double", f"{FILE}, reject.x.when")
    assert error.do == "write a condition (boolean)"
    error = refused(spark, SHOP.replace("at string", "at bigint"))
    assert (error.what, error.where) == ("event_time = 'at' is a number (bigint)", f"{FILE}, columns.event_time")
    assert error.do == 'write timestamp_millis(x) or timestamp_seconds(x), and timezone = "UTC"'


def test_typed_csv_cells_and_repeated_or_reserved_names_are_refused(spark: SparkSession) -> None:
    csv = SHOP.replace('"jsonl"', '"csv"').replace("price string", "price double")
    error = refused(spark, csv)
    assert error.what == "CSV cells are text, but columns ['price'] have other types"
    assert error.where == f"{FILE}, input.columns"
    assert error.do == "declare them as string and cast in the column's expression: try_cast(x AS DOUBLE)"
    error = refused(spark, SHOP.replace("id string", "id string, Position string, ID string"))
    assert error.what == "column names that are repeated or reserved: ['id', 'position']"
    assert error.where == f"{FILE}, input.columns"


def test_a_side_table_that_is_missing_unreadable_or_without_key_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "side.csv").write_text("a,b\n1,2\n")
    lookup = f'[lookup.goods]\npath = "{tmp_path}/side.csv"\nformat = "csv"\nkey = "sku"\non = "what"\n'
    error = refused(spark, shop("", lookup))
    assert (error.what, error.where) == (
        "the side table has no column 'sku'; it has ['a', 'b']",
        f"{FILE}, lookup.goods.key",
    )
    with pytest.raises(SourceMissing) as raised:
        capture_checks.check_mapping(spark, capture_source(shop("", lookup.replace("side.csv", "none.csv"))))
    assert raised.value.what == f"there is no side table at {tmp_path}/none.csv"
    assert raised.value.where == f"{FILE}, lookup.goods.path"
    (tmp_path / "empty").mkdir()
    for name, kind in (("side.csv", "parquet"), ("side.csv", "delta"), ("empty", "parquet")):
        changed = lookup.replace("side.csv", name).replace('"csv"', f'"{kind}"')
        with pytest.raises(SourceUnreadable) as unreadable:
            capture_checks.check_mapping(spark, capture_source(shop("", changed)))
        assert unreadable.value.what.startswith(f"the side table at {tmp_path}/{name} cannot be read as {kind}: ")
        assert unreadable.value.where == f"{FILE}, lookup.goods.path"


def test_null_keys_match_nothing_and_may_be_repeated_in_a_side_table(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "side.csv").write_text("sku,name\n,Tea\n,Jam\ni1,Salt\n")
    lookup = f'[lookup.goods]\npath = "{tmp_path}/side.csv"\nformat = "csv"\nkey = "sku"\non = "what"\n'
    source = capture_source(SHOP.replace('item_id = "what"', 'item_id = "what"\nbrand = "goods.name"') + lookup)
    capture_checks.check_mapping(spark, source)
    rows = evaluate(source, parse(spark, source, lines_of({"what": "i1"}, {"what": None})))
    assert [row.brand for row in rows] == ["Salt", None]


# -- preview and bots ------------------------------------------------------------------------------


def test_a_preview_prints_rows_and_counts_and_writes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    shop_files = Shop(tmp_path)
    good = lines_of({}, {}, {})
    path = shop_files.write(
        "a b.jsonl", "\n".join([*good, good[0], "{", "[", good[1].replace("2.5", "9"), good[2].replace("view", "v")])
    )
    printed: list[str] = []
    source = ingest.load_source(shop_files.settings(), "shop")
    preview.show(spark, source, 2, str(path), printed.append)
    assert printed[0] == f"first 2 clean rows of {path} (mapped columns):"
    rows = [json.loads(line[4:]) for line in printed[1:3]]
    assert [line[:6] for line in printed[1:3]] == ["   1  ", "   2  "]
    assert [(row["event_id"], row["user_id"], row["event_time"], row["value"]) for row in rows] == [
        ("e1", "shop:u1", "2026-01-01T10:01:00.000Z", 2.5), ("e2", "shop:u2", "2026-01-01T10:02:00.000Z", 2.5),
    ]  # fmt: skip
    assert printed[3] == "8 rows = 3 clean + 4 rejected + 1 duplicate"
    assert printed[4] == "  rejected 2 by unparseable: not one JSON object\n      such as {"
    assert set(printed[5:7]) == {
        "  rejected 1 by event_type_unknown: event type 'v' is not known\n      such as "
        + good[2].replace("view", "v")[:120],
        "  rejected 1 by id_reused: an earlier row has this id and different content",
    }
    assert printed[7:] == ["nothing was written"]
    assert not (tmp_path / "warehouse").exists() and not (tmp_path / "checkpoints").exists()
    with pytest.raises(SourceMissing, match="there is no file /none"):
        preview.show(spark, source, 2, "/none", printed.append)


def test_events_of_users_with_more_events_per_minute_than_the_bot_rule_allows_get_a_warning(
    spark: SparkSession, tmp_path: Path
) -> None:
    from profilestream.base import tables

    bot_shop = Shop(tmp_path, mapping=shop("", "[bots]\nmax_events_per_minute = 2"))
    fast = [{"who": "fast", "at": f"2026-01-01T10:00:{n:02d}Z"} for n in (1, 20, 59)]
    calm = [
        {"who": "calm", "at": at} for at in ("2026-01-01T10:00:01Z", "2026-01-01T10:00:59Z", "2026-01-01T10:01:00Z")
    ]
    guests = [{"who": None, "at": f"2026-01-01T10:00:{n:02d}Z"} for n in range(3)]
    bot_shop.write("a.jsonl", "\n".join(lines_of(*fast, *calm, {"who": "fast", "at": "2026-01-01T10:01:00Z"}, *guests)))
    bot_shop.capture(spark)
    rows = bot_shop.read(spark, tables.EVENTS).orderBy("event_time", "event_id").collect()
    warned = [(row.event_id, row.warnings) for row in rows if row.warnings]
    assert warned == [(f"e{n}", ["bot_suspected"]) for n in (1, 2, 3)]
    assert len(rows) == 10
    (batch,) = bot_shop.read(spark, tables.CAPTURE_BATCHES).collect()
    assert {name: n for name, n in batch.warned_by_rule.items() if n} == {"bot_suspected": 3}
