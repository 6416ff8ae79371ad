"""Topics of a real broker as a source: equal tables, rejected records, gaps, transactions, compaction and secrets."""

import json
import logging
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.cimpl import NewPartitions
from kafka_broker import Broker
from profilestream.base import settings as settings_module
from profilestream.base import tables
from profilestream.base.checkpoints import Checkpoint
from profilestream.base.errors import BadSettings, Refused, SourceMissing, SourceUnavailable
from profilestream.capture import capture_checks, ingest, reprocess
from profilestream.capture.sources import kafka_client, kafka_records, kafka_source
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from tests.builders import SHOP, Shop, event
from tests.fault_injection import Crashes, append_fails

BY_SPARK = "[stream]\nlocal_max_rows = 0\n"
KAFKA_COLUMNS = SHOP.replace(
    'quantity string"',
    "quantity string, kafka_key string, kafka_timestamp timestamp, kafka_headers map<string,string>, "
    'kafka_topic string, kafka_partition int, kafka_offset bigint"',
) + (
    'session_id = "kafka_key"\nquery = "kafka_headers[\'source\']"\n'
    "text = \"concat_ws(' ', kafka_topic, kafka_partition, kafka_offset, kafka_timestamp)\"\n"
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker, shared by the tests of this module; each test has a topic of its own."""
    with Broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@dataclass
class TopicShop(Shop):
    """A source that reads a topic, with its broker."""

    broker: Broker | None = None
    kafka: str = ""

    @property
    def topic(self) -> str:
        """A topic that other tests do not use."""
        return f"topic-{abs(hash(self.home)):x}"

    @property
    def source_settings(self) -> str:
        """The settings of the source, except its mapping."""
        assert self.broker is not None
        servers = "" if "bootstrap_servers" in self.kafka else f'bootstrap_servers = "{self.broker.servers}"\n'
        return f'[capture.sources.{self.name}.kafka]\ntopics = ["{self.topic}"]\n{servers}{self.kafka}\n'

    def create(self, partitions: int = 1, **options: str) -> "TopicShop":
        """Create its topic."""
        assert self.broker is not None
        self.broker.create_topic(self.topic, partitions, **options)
        return self

    def send(self, values: Sequence[Any], partition: int = 0, **record: Any) -> None:
        """Send records: dicts as JSON, other values as they are."""
        assert self.broker is not None
        producer = self.broker.producer()
        for value in values:
            data = json.dumps(value) if isinstance(value, dict) else value
            producer.produce(self.topic, data, partition=partition, **record)
        producer.flush()

    def delete_before(self, offset: int, partition: int = 0) -> None:
        """Delete records as retention does."""
        assert self.broker is not None
        for future in self.broker.admin.delete_records([TopicPartition(self.topic, partition, offset)]).values():
            future.result()

    def delete(self) -> None:
        """Delete the topic."""
        assert self.broker is not None
        for future in self.broker.admin.delete_topics([self.topic]).values():
            future.result()

    def ids(self, spark: SparkSession) -> list[str]:
        """Ids of its events."""
        return sorted(row["event_id"] for row in self.read(spark, tables.EVENTS).collect())

    def gaps(self, spark: SparkSession) -> list[tuple[Any, ...]]:
        """Partition, first and last offset, reason and action of its gaps."""
        columns = ("partition", "first_offset", "last_offset", "reason", "action")
        return sorted(tuple(row) for row in self.read(spark, tables.CAPTURE_GAPS).select(*columns).collect())

    def rejected(self, spark: SparkSession) -> dict[str, str]:
        """Rules of the rejected records by partition and offset."""
        rows = self.read(spark, tables.REJECTED_EVENTS).collect()
        return {row["position"].removeprefix(f"{self.topic}/"): row["rule"] for row in rows}


@pytest.fixture
def shop(tmp_path: Path, broker: Broker) -> TopicShop:
    return TopicShop(tmp_path, broker=broker)


def poison() -> list[Any]:
    """Records of every kind: clean, duplicate, reused id, and values that cannot be parsed."""
    return [
        *[event(n) for n in range(6)],
        event(2),
        event(3, price="7"),
        "not json",
        b"\xff\xfe",
        event(7, kind="peek"),
        json.dumps(event(8), indent=1),
        '{"id": "e9"} {"id": "e10"}',
        event(11, who="null", more={"a": [1, 2.50]}),
    ]


@pytest.mark.parametrize("more", ["", BY_SPARK], ids=["driver", "Spark"])
def test_a_log_through_files_and_through_a_topic_gives_equal_tables(
    spark: SparkSession, tmp_path: Path, broker: Broker, more: str
) -> None:
    shop = TopicShop(tmp_path / "topic", broker=broker, extra_settings=more).create()
    files = Shop(tmp_path / "files", extra_settings=more)
    records = [json.dumps(r).encode() if isinstance(r, dict) else r.encode() if isinstance(r, str) else r
               for r in poison() if not isinstance(r, str) or "\n" not in r]  # fmt: skip
    for number, part in enumerate((records[:5], records[5:])):
        files.write(f"{number}.jsonl", b"\n".join(part))
        shop.send(part)
        shop.capture(spark)
    files.capture(spark)

    def content(of: Shop, table: Any) -> list[Any]:
        names = ("position", "payload_header", "files", "fingerprint", "measures")
        rows = [json.loads(row) for row in of.content(spark, table)]
        return sorted(json.dumps({k: v for k, v in row.items() if k not in names}, sort_keys=True) for row in rows)

    for table in (tables.EVENTS, tables.REJECTED_EVENTS, tables.CAPTURE_BATCHES):
        assert content(shop, table) == content(files, table), table.name
    assert shop.counts(spark) == (13, 6, 6, 1)


@pytest.mark.parametrize("more", ["", BY_SPARK], ids=["driver", "Spark"])
def test_poison_records_are_rejected_with_their_position_and_reprocessed(
    spark: SparkSession, shop: TopicShop, more: str
) -> None:
    shop.extra_settings = more
    shop.create(partitions=2)
    shop.send([*poison(), None, b""])
    shop.send([event(20, kind="peek")], partition=1, key="k")
    shop.capture(spark)
    assert shop.rejected(spark) == {
        "0/7": "id_reused", "0/8": "unparseable", "0/9": "not_utf8", "0/10": "event_type_unknown",
        "0/12": "unparseable", "0/13": "user_id_placeholder", "0/14": "tombstone", "0/15": "unparseable",
        "1/0": "event_type_unknown",
    }  # fmt: skip
    assert shop.counts(spark) == (17, 7, 9, 1)
    assert shop.ids(spark) == ["e0", "e1", "e2", "e3", "e4", "e5", "e8"]
    shop.mapping = KAFKA_COLUMNS.replace('event_type = "kind"', "event_type = \"replace(kind, 'peek', 'view')\"")
    shop.delete()  # reprocessing needs no topic
    result = reprocess.run(spark, shop.settings(), shop.name, ["event_type_unknown", "tombstone", "not_utf8"])
    assert (result.rows_in, result.rows_out) == (4, 2)
    added = shop.read(spark, tables.EVENTS).where("event_id IN ('e7', 'e20')").orderBy("position")
    assert [(row["position"].rsplit("/", 2)[1:], row["session_id"]) for row in added.collect()] == [
        (["0", "10"], None),
        (["1", "0"], "k"),
    ]


@pytest.mark.parametrize("more", ["", BY_SPARK], ids=["driver", "Spark"])
def test_key_headers_time_and_place_are_columns(spark: SparkSession, shop: TopicShop, more: str) -> None:
    shop.mapping, shop.extra_settings = KAFKA_COLUMNS, more
    shop.create(partitions=2)
    shop.send([event(0)], 1, key="session 1", headers=[("source", b"web"), ("source", b"app")], timestamp=86_400_000)
    shop.send([event(1)], 1)
    shop.send([event(2)], 1, headers=[("source", b"\xff")])
    shop.send([event(3)], 1, key=b"\xff")
    shop.capture(spark)
    first, second = shop.read(spark, tables.EVENTS).orderBy("event_id").collect()
    assert (first["session_id"], first["query"]) == ("session 1", "app")
    assert first["text"] == f"{shop.topic} 1 0 1970-01-02 00:00:00"
    assert (second["session_id"], second["query"]) == (None, None)
    assert second["text"].startswith(f"{shop.topic} 1 1 20") and first["extra"] is None
    assert shop.rejected(spark) == {"1/2": "not_utf8", "1/3": "not_utf8"}


@pytest.mark.parametrize("more", ["", BY_SPARK], ids=["driver", "Spark"])
def test_records_of_aborted_transactions_are_not_delivered(spark: SparkSession, shop: TopicShop, more: str) -> None:
    shop.extra_settings = more
    shop.create()
    assert shop.broker is not None
    producer = shop.broker.producer(transactional_id=shop.topic)
    producer.init_transactions()
    for number, is_committed in enumerate((True, False, True, False)):
        producer.begin_transaction()
        producer.produce(shop.topic, json.dumps(event(number)))
        producer.flush()
        producer.commit_transaction() if is_committed else producer.abort_transaction()
    shop.capture(spark)
    assert (shop.ids(spark), shop.counts(spark)) == (["e0", "e2"], (2, 2, 0, 0))
    producer.begin_transaction()
    producer.produce(shop.topic, json.dumps(event(4)))
    producer.flush()
    shop.capture(spark)
    assert shop.ids(spark) == ["e0", "e2"]
    producer.commit_transaction()
    shop.capture(spark)
    assert (shop.ids(spark), shop.counts(spark)) == (["e0", "e2", "e4"], (3, 3, 0, 0))


def test_offsets_that_compaction_removed_are_no_gap(spark: SparkSession, shop: TopicShop) -> None:
    shop.create(
        cleanup_policy="compact", min_cleanable_dirty_ratio="0.01", segment_ms="100", delete_retention_ms="0",
        max_compaction_lag_ms="100",
    )  # fmt: skip
    for n in range(5):
        shop.send([event(n), event(10 + n)], key=str(n % 2))
    shop.send([None], key="0")
    time.sleep(0.2)
    shop.send([event(20)], key="active segment")

    def records() -> int:
        frame = spark.read.format("kafka").option("kafka.bootstrap.servers", shop.broker.servers)  # type: ignore[union-attr]
        return frame.option("subscribe", shop.topic).load().count()

    deadline = time.monotonic() + 30
    while records() > 4 and time.monotonic() < deadline:
        time.sleep(0.5)
    delivered = records()
    assert delivered < 12
    shop.capture(spark)
    shop.capture(spark)
    assert shop.counts(spark)[0] == delivered
    # Compaction keeps the last record of each key; the tombstone removes those of key 0, such as e14, sooner or later.
    assert {"e13", "e20"} <= {*shop.ids(spark)}


def test_an_empty_topic_has_no_batch_and_later_records_are_read(spark: SparkSession, shop: TopicShop) -> None:
    shop.create(partitions=2)
    shop.capture(spark)
    assert shop.counts(spark) == (0, 0, 0, 0)
    shop.send([event(1)], partition=1)
    shop.capture(spark)
    shop.capture(spark)
    assert (shop.ids(spark), shop.counts(spark)) == (["e1"], (1, 1, 0, 0))


def test_records_that_were_deleted_before_the_first_batch_of_an_empty_topic_are_a_gap(
    spark: SparkSession, shop: TopicShop
) -> None:
    shop.create()
    shop.capture(spark)
    shop.send([event(1), event(2)])
    shop.delete_before(1)
    with pytest.raises(Refused, match="from 0 to 0 \\(retention\\)"):
        shop.capture(spark)
    shop.capture(spark, accept_gaps=True)
    assert shop.ids(spark) == ["e2"]


@pytest.mark.parametrize(
    ("offsets", "ids"),
    [
        ('"latest"', []),
        ('{ TOPIC = { "0" = 2 } }', ["e10", "e11", "e2"]),
        ('{ TOPIC = { "0" = 3, "1" = 1 } }', ["e11"]),
    ],
)
def test_a_new_checkpoint_starts_at_the_requested_offsets(
    spark: SparkSession, shop: TopicShop, offsets: str, ids: list[str]
) -> None:
    shop.create(partitions=2)
    shop.send([event(n) for n in range(3)])
    shop.send([event(10), event(11)], partition=1)
    shop.kafka = f"starting_offsets = {offsets}".replace("TOPIC", f'"{shop.topic}"')
    shop.capture(spark)
    shop.send([event(20)])
    shop.capture(spark)
    assert shop.ids(spark) == sorted([*ids, "e20"])


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ('{ TOPIC = { "0" = 4 } }', "/0/4 (available: 0 to 1)"),
        ('{ TOPIC = { "3" = 0 } }', "/3 (no such partition)"),
        ('{ other = { "0" = 0 } }', "other"),
    ],
)
def test_starting_offsets_that_are_not_available_are_an_error(
    spark: SparkSession, shop: TopicShop, offsets: str, message: str
) -> None:
    shop.create()
    shop.send([event(0)])
    shop.kafka = f"starting_offsets = {offsets}".replace("TOPIC", f'"{shop.topic}"')
    with pytest.raises(BadSettings) as raised:
        shop.capture(spark)
    assert message in raised.value.what


def test_a_batch_has_at_most_the_offsets_of_the_setting(spark: SparkSession, shop: TopicShop) -> None:
    shop.kafka = "max_offsets_per_trigger = 4"
    shop.create(partitions=2)
    shop.send([event(n) for n in range(6)])
    shop.send([event(n) for n in range(6, 12)], partition=1)
    shop.capture(spark)
    batches = shop.read(spark, tables.CAPTURE_BATCHES).orderBy("batch_id").collect()
    assert [row["rows_in"] for row in batches] == [4, 4, 4]
    assert len(shop.ids(spark)) == 12


@pytest.mark.parametrize("more", ["", BY_SPARK], ids=["driver", "Spark"])
def test_crashes_lose_and_repeat_no_record(
    spark: SparkSession, shop: TopicShop, monkeypatch: pytest.MonkeyPatch, at_length: bool, more: str
) -> None:
    shop.extra_settings = more
    shop.create()
    shop.send(poison())
    settings = shop.settings()
    Crashes(spark, monkeypatch, at_length).run_through([ingest.query(settings, shop.name)], settings, batch_id=0)
    assert shop.counts(spark) == (14, 7, 6, 1)
    assert len(shop.ids(spark)) == len({*shop.ids(spark)}) == 7
    assert len(shop.rejected(spark)) == shop.read(spark, tables.REJECTED_EVENTS).count() == 6


def test_records_of_an_added_partition_are_read_also_after_a_crash(
    spark: SparkSession, shop: TopicShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.create()
    shop.send([event(0)])
    with append_fails(monkeypatch, tables.CAPTURE_BATCHES):
        shop.capture(spark)
    add_partitions(shop, 2)
    shop.send([event(1)], partition=1)
    shop.capture(spark)
    shop.send([event(2)], partition=1)
    shop.capture(spark)
    assert (shop.ids(spark), shop.counts(spark)) == (["e0", "e1", "e2"], (3, 3, 0, 0))


def add_partitions(shop: TopicShop, count: int) -> None:
    assert shop.broker is not None
    for future in shop.broker.admin.create_partitions([NewPartitions(shop.topic, count)]).values():
        future.result()
    deadline = time.monotonic() + 10
    while len(shop.broker.admin.list_topics(shop.topic).topics[shop.topic].partitions) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_deleted_records_are_a_gap_and_reading_continues_after_it_if_it_is_accepted(
    spark: SparkSession, shop: TopicShop
) -> None:
    shop.create(partitions=2)
    shop.send([event(0)])
    shop.send([event(10), event(11)], partition=1)
    shop.capture(spark)
    shop.send([event(n) for n in range(1, 6)])
    shop.delete_before(3)
    shop.delete_before(1, partition=1)  # was read
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            shop.capture(spark)
        assert refused.value.exit_code == 3 and f"{shop.topic}/0 from 1 to 2 (retention)" in refused.value.what
    assert shop.gaps(spark) == [(0, 1, 2, "retention", "refused")]
    shop.capture(spark, accept_gaps=True)
    shop.send([event(12)], partition=1)
    shop.capture(spark)
    assert shop.ids(spark) == ["e0", "e10", "e11", "e12", "e3", "e4", "e5"]
    assert shop.gaps(spark) == [(0, 1, 2, "retention", "accepted"), (0, 1, 2, "retention", "refused")]
    assert shop.counts(spark) == (7, 7, 0, 0)


def test_a_gap_in_an_added_partition_is_refused(spark: SparkSession, shop: TopicShop) -> None:
    shop.create()
    shop.send([event(0)])
    shop.capture(spark)
    add_partitions(shop, 2)
    shop.send([event(1), event(2)], partition=1)
    shop.delete_before(1, partition=1)
    with pytest.raises(Refused, match="/1 from 0 to 0"):
        shop.capture(spark)
    shop.capture(spark, accept_gaps=True)
    assert shop.ids(spark) == ["e0", "e2"]


@pytest.mark.parametrize("records", [1, 3], ids=["fewer records", "more records"])
def test_a_topic_that_was_created_again_is_a_gap(spark: SparkSession, shop: TopicShop, records: int) -> None:
    shop.create()
    shop.send([event(0), event(1, kind="peek")])
    shop.capture(spark)
    recreate(shop)
    shop.send([event(10, kind="peek"), event(11, kind="peek"), event(12)][:records])
    with pytest.raises(Refused, match="from 2 to unknown \\(recreated\\)"):
        shop.capture(spark)
    shop.capture(spark, accept_gaps=True)
    shop.send([event(20)])
    shop.capture(spark)
    # Positions repeat, but in another epoch: every rejected record is reprocessed.
    rejected = shop.read(spark, tables.REJECTED_EVENTS)
    assert rejected.count() == 1 + min(records, 2)
    assert rejected.select("epoch").distinct().count() == 2
    shop.mapping = SHOP.replace('event_type = "kind"', "event_type = \"replace(kind, 'peek', 'view')\"")
    reprocess.run(spark, shop.settings(), shop.name, None)
    assert shop.ids(spark) == sorted(["e0", "e1", "e20", *["e10", "e11", "e12"][:records]])


def recreate(shop: TopicShop) -> None:
    shop.delete()
    deadline = time.monotonic() + 20
    while True:
        try:
            shop.create()
            return
        except Exception:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.parametrize("more", ["", BY_SPARK], ids=["driver", "Spark"])
@pytest.mark.parametrize("change", ["delete_before", "recreate"])
def test_records_that_are_lost_while_a_query_runs_are_a_gap(
    spark: SparkSession, shop: TopicShop, monkeypatch: pytest.MonkeyPatch, more: str, change: str
) -> None:
    shop.extra_settings = more
    shop.create()
    shop.send([event(n) for n in range(4)])
    lose: Callable[[], None] = (
        (lambda: shop.delete_before(2)) if change == "delete_before" else (lambda: recreate(shop))
    )
    lines_of, ids = kafka_records.lines_of, kafka_client.topic_ids

    def losing(*args: Any) -> Any:
        monkeypatch.undo()
        lose()
        return lines_of(*args) if change == "delete_before" else ids(*args)

    if change == "delete_before":
        monkeypatch.setattr(kafka_records, "lines_of", losing)
    else:
        monkeypatch.setattr(kafka_client, "topic_ids", losing)
    with pytest.raises(Refused, match="retention" if change == "delete_before" else "recreated"):
        shop.capture(spark)
    expected = (0, 0, 1, "retention", "refused") if change == "delete_before" else (0, 0, None, "recreated", "refused")
    assert shop.gaps(spark) == [expected]
    assert shop.ids(spark) == []
    shop.capture(spark, accept_gaps=True)
    assert shop.ids(spark) == (["e2", "e3"] if change == "delete_before" else [])


def test_an_unfinished_batch_with_a_gap_is_read_again_in_a_new_epoch(
    spark: SparkSession, shop: TopicShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.create()
    shop.send([event(0)])
    shop.capture(spark)
    shop.send([event(1), event(2)])
    with append_fails(monkeypatch, tables.CAPTURE_BATCHES):
        shop.capture(spark)
    shop.delete_before(2)
    with pytest.raises(Refused, match="from 1 to 1"):
        shop.capture(spark)
    shop.capture(spark, accept_gaps=True)
    assert shop.ids(spark) == ["e0", "e1", "e2"]  # the batch had stored e1 and e2


def test_a_restart_that_was_interrupted_is_finished(
    spark: SparkSession, shop: TopicShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.create()
    shop.send([event(0)])
    shop.capture(spark)
    shop.send([event(1), event(2)])
    shop.delete_before(2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoint, "finish_restart", _interrupted_after(Checkpoint.finish_restart))
        shop.capture(spark, accept_gaps=True)
    shop.capture(spark)
    assert shop.ids(spark) == ["e0", "e2"]


def _interrupted_after(finish: Callable[[Checkpoint], None]) -> Callable[[Checkpoint], None]:
    calls: list[int] = []

    def interrupted(checkpoint: Checkpoint) -> None:
        calls.append(1)
        if len(calls) > 1:  # of `restart`
            raise KeyboardInterrupt
        finish(checkpoint)

    return interrupted


def test_a_topic_that_does_not_exist_is_reported(spark: SparkSession, shop: TopicShop) -> None:
    with pytest.raises(SourceMissing, match=f"there is no topic {shop.topic}"):
        capture_checks.check_sources(spark, shop.settings())
    with pytest.raises(SourceMissing, match=f"there is no topic {shop.topic}"):
        shop.capture(spark)


def test_brokers_that_do_not_answer_are_reported(
    spark: SparkSession, shop: TopicShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_client, "_TIMEOUTS", {"default.api.timeout.ms": "1000", "request.timeout.ms": "900"})
    shop.kafka = 'bootstrap_servers = "127.0.0.1:1"'
    with pytest.raises(SourceUnavailable, match="the brokers 127.0.0.1:1 do not answer"):
        shop.capture(spark)
    shop.kafka = 'options = { "security.protocol" = "NONE" }'
    with pytest.raises(BadSettings, match="Kafka does not accept the options security.protocol"):
        shop.capture(spark)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('format = "jsonl"', 'format = "parquet"'), "records of Kafka have no format parquet"),
        (('format = "jsonl"', 'format = "csv"'), "records of Kafka have no header line"),
        (('format = "jsonl"', 'format = "jsonl"\nencoding = "GBK"'), "records of Kafka are read as UTF-8"),
    ],
)
def test_a_mapping_that_does_not_fit_a_topic_is_refused(
    spark: SparkSession, shop: TopicShop, change: tuple[str, str], message: str
) -> None:
    shop.mapping = SHOP.replace(*change)
    with pytest.raises(BadSettings, match=message):
        capture_checks.check_sources(spark, shop.settings())


def test_two_sources_with_the_same_topic_are_refused(spark: SparkSession, shop: TopicShop) -> None:
    config = shop.config()
    text = config.read_text()
    config.write_text(text + text[text.index("[capture") : text.index("[learn")].replace("sources.shop", "sources.b"))
    with pytest.raises(BadSettings, match="sources 'shop' and 'b' read the same topics"):
        capture_checks.check_sources(spark, settings_module.load(str(config), []))


@pytest.mark.parametrize("more", ["", BY_SPARK], ids=["driver", "Spark"])
def test_values_are_csv_lines_and_texts(spark: SparkSession, shop: TopicShop, more: str) -> None:
    shop.extra_settings = more
    shop.mapping = SHOP.replace('format = "jsonl"', 'format = "csv"\nheader = false')
    shop.create()
    shop.send(["e1,view,2026-01-01T10:00:00Z,u1,i1,2.5,1", 'e2,view,2026-01-01T10:00:00Z,"u,2",i1,2.5', "", '"a\nb",x'])
    shop.capture(spark)
    assert (shop.ids(spark), shop.counts(spark)) == (["e1"], (4, 1, 3, 0))


def test_a_long_value_of_a_small_batch_is_processed_by_spark(
    spark: SparkSession, shop: TopicShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_source, "_MAX_LOCAL_BYTES", 1000)
    shop.create()
    shop.send([event(0), event(1, note="x" * 5000)])
    shop.capture(spark)
    assert shop.ids(spark) == ["e0", "e1"]
    (row,) = shop.read(spark, tables.EVENTS).where("event_id = 'e1'").select(F.length(F.col("extra")["note"])).collect()
    assert row[0] == 5000


PASSWORD = "correct-horse-battery"


def test_a_secret_is_in_no_setting_file_log_or_error(
    spark: SparkSession,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    broker: Broker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    shop = TopicShop(tmp_path, broker=broker).create()
    shop.kafka = (
        f'bootstrap_servers = "{broker.sasl_servers}"\n'
        'options = { "security.protocol" = "SASL_PLAINTEXT", "sasl.mechanism" = "PLAIN" }\n'
        'secrets = { "sasl.jaas.config" = "env:TOPIC_JAAS" }'
    )
    jaas = f'org.apache.kafka.common.security.plain.PlainLoginModule required username="user" password="{PASSWORD}";'
    shop.send([event(0)])
    monkeypatch.setenv("TOPIC_JAAS", jaas)
    with pytest.raises(SourceMissing, match="refuse the request \\(SaslAuthenticationException\\)") as raised:
        shop.capture(spark)
    assert PASSWORD not in str(raised.value)
    monkeypatch.setenv("TOPIC_JAAS", jaas.replace(PASSWORD, "secret"))
    shop.capture(spark)
    assert shop.ids(spark) == ["e0"]
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(texts) > 10 and not any(b'="secret"' in text or PASSWORD.encode() in text for text in texts)
    output = "".join(capfd.readouterr()) + caplog.text
    assert PASSWORD not in output and '="secret"' not in output


def avro_long(number: int) -> bytes:
    """A long in Avro's encoding."""
    value, data = (number << 1) ^ (number >> 63), b""
    while value > 127:
        data, value = data + bytes([value & 127 | 128]), value >> 7
    return data + bytes([value])


def avro_text(text: str) -> bytes:
    return avro_long(len(text.encode())) + text.encode()


AVRO = """
user_namespace = "shop"
item_namespace = "shop"
[input]
format = "avro"
schema_file = "event.avsc"
columns = "id string, kind string, at timestamp, who string, what struct<item: string, price: double>"
[columns]
event_id = "id"
event_type = "kind"
event_time = "at"
user_id = "who"
item_id = "what.item"
price = "what.price"
"""
WHAT = {
    "type": "record",
    "name": "What",
    "fields": [{"name": "item", "type": "string"}, {"name": "price", "type": "double"}],
}
FIELDS: list[dict[str, Any]] = [
    {"name": "id", "type": "string"},
    {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["view", "purchase", "peek"]}},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "who", "type": ["null", "string"], "default": None},
    {"name": "what", "type": WHAT},
    {"name": "note", "type": ["null", "string"], "default": None},
]


def avro_schema(fields: list[dict[str, Any]]) -> str:
    return json.dumps({"type": "record", "name": "Event", "fields": fields})


def avro_event(number: int, kind: int = 0, *, has_note: bool = True) -> bytes:
    data = avro_text(f"e{number}") + avro_long(kind) + avro_long(1_767_261_600_000) + avro_long(1) + avro_text("u1")
    data += avro_text("i1") + struct.pack("<d", 2.5)
    return data + (avro_long(1) + avro_text("gift") if has_note else b"")


@pytest.mark.parametrize("more", ["", BY_SPARK], ids=["driver", "Spark"])
def test_values_are_avro(spark: SparkSession, shop: TopicShop, more: str) -> None:
    shop.extra_settings, shop.mapping = more, AVRO
    (shop.home / "event.avsc").write_text(avro_schema(FIELDS))
    shop.create()
    shop.send([avro_event(1), avro_event(2, kind=2), avro_event(3)[:-9], b"", None])
    capture_checks.check_sources(spark, shop.settings())
    shop.capture(spark)
    assert shop.rejected(spark) == {
        "0/1": "event_type_unknown", "0/2": "unparseable", "0/3": "unparseable", "0/4": "tombstone",
    }  # fmt: skip
    (row,) = shop.read(spark, tables.EVENTS).collect()
    assert (row["event_id"], row["user_id"], row["price"], row["extra"]) == ("e1", "shop:u1", 2.5, {"note": "gift"})
    shop.mapping = AVRO.replace('event_type = "kind"', "event_type = \"replace(kind, 'peek', 'view')\"")
    assert reprocess.run(spark, shop.settings(), shop.name, None).rows_out == 1
    assert shop.ids(spark) == ["e1", "e2"]


@pytest.mark.parametrize("more", ["", BY_SPARK], ids=["driver", "Spark"])
def test_avro_values_name_their_schema_in_the_wire_format_of_confluent(
    spark: SparkSession, shop: TopicShop, more: str
) -> None:
    shop.extra_settings = more
    shop.mapping = AVRO.replace("[input]", '[input]\nschema_folder = "schemas"')
    schemas = shop.home / "schemas"
    schemas.mkdir()
    (shop.home / "event.avsc").write_text(avro_schema(FIELDS))
    (schemas / "300.avsc").write_text(avro_schema(FIELDS[:-1]))

    def framed(schema_id: int, data: bytes) -> bytes:
        return b"\x00" + schema_id.to_bytes(4, "big") + data

    shop.create()
    shop.send(
        [framed(300, avro_event(1, has_note=False)), framed(7, avro_event(2)), avro_event(3), framed(300, b"\x80")]
    )
    shop.capture(spark)
    rows = shop.read(spark, tables.REJECTED_EVENTS).orderBy("position").collect()
    assert [row["reason"] for row in rows] == [
        "there is no Avro schema with the id 7",
        "not in the wire format of Confluent",
        "not a value of the Avro schema with the id 300",
    ]
    assert shop.ids(spark) == ["e1"]
    (schemas / "7.avsc").write_text(avro_schema(FIELDS))
    assert reprocess.run(spark, shop.settings(), shop.name, None).rows_out == 1
    assert shop.ids(spark) == ["e1", "e2"]
