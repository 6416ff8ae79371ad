"""A Kafka broker on 127.0.0.1, for tests and for users who want to try a topic.

reads: conf/broker_jars.xml, conf/broker_jars.sha256   writes: .venv/broker_jars, the folder of the broker

`make kafka` starts one and prints how to write the log of the demo into a topic and how to capture it.
"""

import argparse
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq
import set_up
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

ROOT = Path(__file__).resolve().parent.parent
JARS = ROOT / ".venv" / "broker_jars"
LOG = ROOT / "data" / "online_retail" / "online_retail_2010_2011.parquet"
MAPPING = ROOT / "conf" / "sources" / "online_retail.toml"
TOPIC = "online_retail"
PORT = 9092
_START_SECONDS = 60
_JAVA_OPTIONS = ["-Xmx384m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
# One node with small internal topics. The cleaner compacts topics after half a second instead of 15.
_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{sasl},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{sasl}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
  user_{user}="{password}";
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
log.cleaner.backoff.ms=500
log.segment.delete.delay.ms=0
"""


class BrokerFailed(Exception):
    """The broker does not start; the message contains the end of its output."""


def download_jars(target: Path = JARS) -> Path:
    """The folder of the broker's jars, downloaded when it does not exist."""
    if not target.exists():
        part = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        set_up.download_jars(str(ROOT), str(part), set_up.java_path(dict(os.environ)), dict(os.environ), "broker_jars")
        with contextlib.suppress(OSError):  # another process was faster
            part.rename(target)
        shutil.rmtree(part, ignore_errors=True)
    return target


def free_port() -> int:
    """A port of 127.0.0.1 that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """A broker in a process of its own.

    Args:
        folder: of its topics and its output; a folder of an earlier broker has its topics.
        port: of the listener without authentication; null: a free one.
        user, password: of the listener `sasl_servers`, with SASL PLAIN.
    """

    def __init__(self, folder: Path, port: int | None = None, user: str = "user", password: str = "secret") -> None:
        self.folder = folder
        plain, sasl = port or free_port(), free_port()
        self.servers, self.sasl_servers = f"127.0.0.1:{plain}", f"127.0.0.1:{sasl}"
        self._ports = {"plain": plain, "sasl": sasl, "controller": free_port()}
        self._account = {"user": user, "password": password}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the broker, and wait until it answers.

        Raises:
            BrokerFailed: it ended, or does not answer.
        """
        classes = f"{download_jars()}/*"
        java = [set_up.java_path(dict(os.environ)), *_JAVA_OPTIONS, "-cp", classes]
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self.folder / "server.properties"
        properties.write_text(_PROPERTIES.format(folder=self.folder.resolve(), **self._ports, **self._account))
        if not (self.folder / "data").exists():
            cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            command = [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(self.folder / "output", "wb") as output:
            command = [*java, "kafka.Kafka", str(properties)]
            # A session of its own: Ctrl-C in the terminal of a test run does not reach it before the tests end.
            self._process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BrokerFailed((self.folder / "output").read_text(errors="replace")[-2000:])
            time.sleep(0.2)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self._ports["plain"])):
                return False
        with contextlib.suppress(KafkaException):
            return bool(self.admin.list_topics(timeout=2).brokers)
        return False

    @cached_property
    def admin(self) -> AdminClient:
        """A client that creates topics and partitions; one without a reference ends before it has an answer."""
        return AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

    def create_topic(self, name: str, partitions: int = 1, **options: str) -> None:
        """Create a topic.

        Args:
            options: of the topic, with _ instead of a dot.
        """
        config = {key.replace("_", "."): value for key, value in options.items()}
        for future in self.admin.create_topics([NewTopic(name, partitions, 1, config=config)]).values():
            future.result()

    def producer(self, **options: Any) -> Producer:
        """A producer; options with _ instead of a dot."""
        return Producer(
            {
                "bootstrap.servers": self.servers,
                "log_level": 0,
                **{key.replace("_", "."): value for key, value in options.items()},
            }
        )

    def stop(self) -> None:
        """End the process of the broker."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def json_mapping(mapping: Path) -> str:
    """The text of a mapping of CSV or Parquet files, for rows that are JSON objects with the same columns."""
    return re.sub(r'^format = "\w+"', 'format = "jsonl"', mapping.read_text(), count=1, flags=re.M)


def write_log(servers: str, topic: str, rows: int) -> int:
    """Write the first rows of the demo's log into a topic, as JSON objects with the invoice as key."""
    producer, written = Producer({"bootstrap.servers": servers}), 0
    for row in pq.read_table(LOG).slice(0, rows).to_pylist():
        while True:
            with contextlib.suppress(BufferError):
                producer.produce(topic, json.dumps(row), key=row["InvoiceNo"])
                break
            producer.poll(1)
        written += 1
    producer.flush()
    return written


_SETTINGS = """
[paths]
warehouse = "{folder}/warehouse"
checkpoints = "{folder}/checkpoints"
[spark]
properties = "{root}/conf/spark-local.conf"
[derive]
profiles = ["{root}/conf/derive/user_profiles.toml"]
[derive.sessions]
enabled = true
[capture.sources.online_retail]
mapping = "{folder}/mapping.toml"
[capture.sources.online_retail.kafka]
bootstrap_servers = "{servers}"
topics = ["{topic}"]
"""


def run(folder: Path) -> None:
    """Start a broker with a topic, print what to do with it, and wait for Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    broker = Broker(folder, PORT)
    try:
        broker.start()
        with contextlib.suppress(KafkaException):  # the topic of an earlier run
            broker.create_topic(TOPIC, partitions=2)
        (folder / "mapping.toml").write_text(json_mapping(MAPPING))
        settings = folder / "settings.toml"
        settings.write_text(_SETTINGS.format(folder=folder.resolve(), root=ROOT, servers=broker.servers, topic=TOPIC))
        print(f"a Kafka broker is at {broker.servers}, with the topic {TOPIC}; Ctrl-C stops it. In other terminals:")
        print(f"  .venv/bin/python {Path(__file__).relative_to(ROOT)} --write 10000")
        print(f"  .venv/bin/python jobs/run_pipeline.py --config {settings} continuous --every 1s")
        print(f"  .venv/bin/python jobs/steward_status.py --config {settings}", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        broker.stop()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("artifacts/kafka"), help="of topics and settings")
    parser.add_argument("--write", type=int, metavar="N", help="write the first N rows of the demo's log, and end")
    args = parser.parse_args(argv)
    try:
        if args.write is not None:
            print(f"{write_log(f'127.0.0.1:{PORT}', TOPIC, args.write):,} records written into {TOPIC}")
        else:
            run(args.folder)
    except (BrokerFailed, set_up.SetUpFailed) as error:
        print(f"kafka: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
