"""Kills the pipeline, the Kafka broker that it reads from, or both (kill -9) at random times, while a producer writes
and aborts transactions. Compares all tables with those of an undisturbed run over the same topic.

python tests/flow/kafka_chaos.py [--kills N] [--seed N]
"""

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
from confluent_kafka import KafkaException, Producer
from profilestream.base import settings as settings_module
from profilestream.base.session import open_session
from pyspark.sql import SparkSession

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / ".ci")]

from kafka_broker import LOG, MAPPING, Broker, json_mapping  # noqa: E402

from tests import table_snapshots  # noqa: E402
from tests.builders import kill, short_lived_env  # noqa: E402
from tests.flow import chaos  # noqa: E402

TOPIC, PARTITIONS = "online_retail", 2
SETTINGS = """
[paths]
warehouse = "{home}/warehouse"
checkpoints = "{home}/checkpoints"
[spark]
properties = "{root}/conf/spark-local.conf"
[stream]
restart_seconds = 1.0
restarts = 100
[derive]
features = ["{root}/conf/derive/user_hours.toml"]
profiles = ["{root}/conf/derive/user_profiles.toml"]
[derive.sessions]
enabled = true
[capture.sources.online_retail]
mapping = "{home}/mapping.toml"
[capture.sources.online_retail.kafka]
bootstrap_servers = "{servers}"
topics = ["{topic}"]
max_offsets_per_trigger = {batch}
"""
KILLED = ("both", "broker", "pipeline")
_RECORDS_PER_TRANSACTION, _SECONDS_BETWEEN = 25, 0.5
_ABORTED_SHARE = 0.2
_PROGRESS_SECONDS = 180


def run(spark: SparkSession, work: Path, *, kills: int, seed: int) -> str:
    """Run the pipeline with kills, then an undisturbed one over the same topic; returns a summary.

    Raises:
        AssertionError: a table differs, or the pipeline makes no progress after a kill.
    """
    dice = random.Random(seed)
    with Broker(work / "broker") as broker:
        broker.create_topic(TOPIC, PARTITIONS)
        with _transactions(broker, random.Random(seed + 1)) as counts:
            killed = _kill_repeatedly(_write_settings(work / "killed", broker, batch=100), kills, broker, dice)
        configs = [_write_settings(work / name, broker, batch=10_000) for name in ("killed", "undisturbed")]
        for config in configs:
            subprocess.run([*chaos.PIPELINE, "--config", str(config)], check=True, cwd=ROOT, env=short_lived_env())
    killed_rows, undisturbed_rows = map(_captured, configs)
    derived = [table_snapshots.snapshot(spark, settings_module.load(str(config), [])) for config in configs]
    chaos.assert_same_tables(undisturbed_rows, killed_rows, derived[1], derived[0])
    sizes = {table: frame.height for table, frame in killed_rows.items()}
    return f"kills {dict(killed)}, transactions {dict(counts)} (seed {seed}): all tables are equal: {sizes}"


def _write_settings(home: Path, broker: Broker, batch: int) -> Path:
    home.mkdir(exist_ok=True)
    (home / "mapping.toml").write_text(json_mapping(MAPPING))
    config = home / "settings.toml"
    config.write_text(SETTINGS.format(home=home, root=ROOT, servers=broker.servers, topic=TOPIC, batch=batch))
    return config


def _captured(config: Path) -> dict[str, pl.DataFrame]:
    """The captured rows, without the batches that they came in."""
    warehouse = config.parent / "warehouse"
    return {table: chaos.content(warehouse / table, without=("batch_id",)) for table in ("events", "rejected_events")}


@contextmanager
def _transactions(broker: Broker, dice: random.Random) -> Iterator[Counter[str]]:
    """Writes the demo's log in transactions during the block; their number by result."""
    counts: Counter[str] = Counter()
    stop = threading.Event()
    rows = pq.read_table(LOG).to_pylist()

    def write() -> None:
        producer = None
        for first in itertools.cycle(range(0, len(rows), _RECORDS_PER_TRANSACTION)):
            while not stop.is_set():
                try:
                    producer = producer or _transactional_producer(broker)
                    result = _write_transaction(producer, rows[first : first + _RECORDS_PER_TRANSACTION], dice)
                except KafkaException:  # without a broker, or the result is unknown: write the records again
                    producer, result = None, "failed"
                counts[result] += 1
                stop.wait(_SECONDS_BETWEEN)
                if result == "committed":
                    break
            if stop.is_set():
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield counts
    finally:
        stop.set()
        writer.join()


def _transactional_producer(broker: Broker) -> Producer:
    producer = broker.producer(transactional_id="shop", transaction_timeout_ms=10_000, message_timeout_ms=5_000)
    producer.init_transactions(10)
    return producer


def _write_transaction(producer: Producer, rows: list[dict[str, object]], dice: random.Random) -> str:
    producer.begin_transaction()
    for row in rows:
        producer.produce(TOPIC, json.dumps(row), key=str(row["InvoiceNo"]))
    producer.flush(5)
    if dice.random() < _ABORTED_SHARE:
        producer.abort_transaction(5)
        return "aborted"
    producer.commit_transaction(5)
    return "committed"


def _kill_repeatedly(config: Path, kills: int, broker: Broker, dice: random.Random) -> Counter[str]:
    """Run the pipeline continuously; kill it, the broker, or both, each time after some batches."""
    counts: Counter[str] = Counter()
    job = None
    try:
        for number in range(kills):
            job = job or _start(config, dice)
            _wait_for_progress(config, job, dice.randint(2, 8))
            time.sleep(dice.uniform(0.0, 2.0))
            target = KILLED[number % len(KILLED)]
            counts[target] += 1
            if target != "pipeline":
                broker.stop()
            if target != "broker":
                kill(job)
                job = None
            if target != "pipeline":
                time.sleep(dice.uniform(0.0, 5.0))
                broker.start()
        return counts
    finally:
        if job is not None:
            kill(job)


def _start(config: Path, dice: random.Random) -> subprocess.Popen[bytes]:
    limit = f"stream.local_max_rows={dice.choice((0, chaos.ROWS_PER_BATCH))}"
    command = [*chaos.PIPELINE, "--config", str(config), "--set", limit, "continuous", "--every", "1s"]
    with _log_file(config).open("ab") as output:
        return subprocess.Popen(
            command, cwd=ROOT, env=short_lived_env(), stdout=output, stderr=output, start_new_session=True
        )


def _log_file(config: Path) -> Path:
    return config.with_suffix(".log")


def _wait_for_progress(config: Path, job: subprocess.Popen[bytes], steps: int) -> None:
    """Wait until so many batches have started or ended."""
    until, deadline = chaos.steps(config.parent) + steps, time.monotonic() + _PROGRESS_SECONDS
    while chaos.steps(config.parent) < until:
        is_running = job.poll() is None and time.monotonic() < deadline
        assert is_running, f"no progress: {_log_file(config).read_text(errors='replace')[-2000:]}"
        time.sleep(0.05)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as work:
        spark = open_session("kafka_chaos", str(ROOT / "conf" / "spark-local.conf"))
        print(run(spark, Path(work), kills=args.kills, seed=args.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
