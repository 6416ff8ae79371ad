"""Jobs on a standalone cluster that read a topic: a worker and a driver are killed, and another driver continues.

The tables equal those of a local run over files.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyspark
import pytest
from kafka_broker import Broker
from profilestream import flow
from profilestream.base import settings as settings_module
from profilestream.base import tables
from profilestream.base.queries import RunOptions
from pyspark.sql import SparkSession

from tests import table_snapshots
from tests.builders import USER_PROFILES, VECTOR_PROFILES, kill, wait_until
from tests.flow import laws

ROOT = Path(__file__).parent.parent.parent
SPARK = Path(pyspark.__file__).parent
CLUSTER = """
spark.executor.cores 1
spark.executor.memory 1g
spark.driver.memory 1g
spark.cores.max 2
spark.driver.host 127.0.0.1
spark.driver.bindAddress 127.0.0.1
spark.ui.enabled false
spark.sql.shuffle.partitions 2
spark.sql.adaptive.enabled false
spark.databricks.delta.snapshotPartitions 1
spark.jars {jars}
"""
ALL_STAGES = """
[serve.scores]
enabled = true
[derive.sessions]
enabled = true
[derive.transitions]
enabled = true
[learn.rankers]
enabled = true
[learn.segments]
enabled = true
"""

HOURS = """
name = "item_hours"
write = "append"
where = "item_id IS NOT NULL"
partitioned_by = ["date"]
[keys]
item_id = { of = "item_id" }
date = { of = "event_date", type = "date" }
[statistics]
value = { kind = "sum", of = "value", half_life_days = 7 }
"""
PROFILES = (
    USER_PROFILES
    + """
[statistics]
events = { kind = "count" }
types = { kind = "top", of = "event_type", n = 32, half_life_days = 30 }
"""
)


class Cluster:
    """A master and two workers with one core each, in separate process groups."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = _free_port()
        self.jobs: list[subprocess.Popen[bytes]] = []
        self.env = {
            **os.environ, "SPARK_HOME": str(SPARK), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_MEMORY": "256m",
            "PYSPARK_PYTHON": sys.executable, "SPARK_WORKER_DIR": str(home / "work"),
            "SPARK_LOCAL_DIRS": str(home / "local"), "JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1",
        }  # fmt: skip
        self.master = self._start("master.Master", "--port", str(self.port), "--webui-port", str(_free_port()))
        self.url = f"spark://127.0.0.1:{self.port}"
        wait_until(lambda: _listens(self.port), "the master", seconds=240)
        self.workers = [
            self._start(
                "worker.Worker", "--cores", "1", "--memory", "1100m", "--webui-port", str(_free_port()), self.url
            )
            for _ in range(2)
        ]

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [
            str(SPARK / "bin" / "spark-class"),
            f"org.apache.spark.deploy.{name}",
            "--host",
            "127.0.0.1",
            *arguments,
        ]
        with (self.home / f"{name}.log").open("ab") as output:
            return subprocess.Popen(command, env=self.env, stdout=output, stderr=output, start_new_session=True)

    def submit(self, config: Path, job: Path) -> subprocess.Popen[bytes]:
        """Start a job by spark-submit, with the package as a zip."""
        jars = ",".join(str(jar) for jar in sorted((Path(sys.prefix) / "jars").glob("*.jar")))
        properties = self.home / "cluster.conf"
        properties.write_text(CLUSTER.format(jars=jars))
        command = [
            str(SPARK / "bin" / "spark-submit"), "--master", self.url, "--properties-file", str(properties),
            "--py-files", str(self.home / "profilestream.zip"), str(job), "--config", str(config),
        ]  # fmt: skip
        with (self.home / "job.log").open("ab") as output:
            process = subprocess.Popen(command, env=self.env, stdout=output, stderr=output, start_new_session=True)
        self.jobs.append(process)
        return process

    def stop(self) -> None:
        """Kill all processes."""
        for process in [*self.jobs, *self.workers, self.master]:
            kill(process)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "cluster").mkdir()
    shutil.make_archive(str(tmp_path / "cluster" / "profilestream"), "zip", ROOT / "lib", "profilestream")
    cluster = Cluster(tmp_path / "cluster")
    yield cluster
    cluster.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as broker:
        yield broker


def test_a_cluster_with_a_killed_worker_and_a_moved_driver_writes_the_tables_of_a_local_run(
    spark: SparkSession, tmp_path: Path, cluster: Cluster, broker: Broker, at_length: bool
) -> None:
    log = laws.seeded_log(tmp_path, 600, seed=3)
    local = _config(tmp_path / "local", log, _files(tmp_path / "files", log), all_stages=at_length)
    remote = _config(tmp_path / "remote", log, _topic(broker, log), all_stages=at_length)
    checkpoints = tmp_path / "remote" / "checkpoints"
    other_machine = tmp_path / "other_machine"
    shutil.copytree(ROOT / "jobs", other_machine / "jobs")
    job = cluster.submit(remote, ROOT / "jobs" / "run_pipeline.py")

    def kill_a_worker_and_the_driver() -> bool:
        for stage, process in (("derive_profiles", cluster.workers[0]), ("learn_factors", job)):
            started = checkpoints / stage / "offsets" / "0"
            wait_until(lambda at=started: at.exists() or job.poll() is not None, stage, seconds=240)  # type: ignore[misc]
            is_running = job.poll() is None
            kill(process)
        return is_running

    with ThreadPoolExecutor(1) as threads:
        was_running = threads.submit(kill_a_worker_and_the_driver)
        flow.run(spark, settings_module.load(str(local), []), RunOptions())
    assert was_running.result(), _end_of(cluster.home / "job.log")
    second = cluster.submit(remote, other_machine / "jobs" / "run_pipeline.py")
    assert second.wait(timeout=300) == 0, _end_of(cluster.home / "job.log")

    settings = [settings_module.load(str(config), []) for config in (local, remote)]
    counts = [tables.CAPTURE_BATCHES.read(spark, one.paths).orderBy("batch_id").collect() for one in settings]
    assert [row["rows_clean"] for row in counts[0]] == [row["rows_clean"] for row in counts[1]]
    assert not table_snapshots.differences(*[table_snapshots.snapshot(spark, one) for one in settings])
    table_snapshots.assert_vectors_close(*[table_snapshots.factor_vectors(spark, one) for one in settings])
    if not at_length:
        return
    lists = [
        {
            (row["user_id"], row["rank"]): row["item_id"]
            for row in tables.RECOMMENDATIONS.read(spark, one.paths).collect()
        }
        for one in settings
    ]
    assert lists[0].keys() == lists[1].keys()
    assert sum(lists[0][key] == lists[1][key] for key in lists[0]) > 0.99 * len(lists[0])


def _files(folder: Path, log: laws.Log) -> str:
    """A source of the log in two files, one per batch."""
    folder.mkdir()
    for n, lines in enumerate(_halves(log)):
        file = folder / f"{n}.jsonl"
        file.write_text("\n".join(lines) + "\n")
        os.utime(file, (1_700_000_000 + n, 1_700_000_000 + n))
    return f'path = "{folder}"\nmax_files_per_trigger = 1\n'


def _topic(broker: Broker, log: laws.Log) -> str:
    """A source of the log in a topic, with the same batches."""
    broker.create_topic(log.name)
    producer = broker.producer()
    for line in log.lines:
        producer.produce(log.name, line)
    producer.flush()
    kafka = f'bootstrap_servers = "{broker.servers}"\ntopics = ["{log.name}"]\n'
    return f"[capture.sources.{log.name}.kafka]\n{kafka}max_offsets_per_trigger = {len(_halves(log)[0])}\n"


def _halves(log: laws.Log) -> list[list[str]]:
    size = len(log.lines) // 2
    return [log.lines[:size], log.lines[size:]]


def _config(home: Path, log: laws.Log, source: str, *, all_stages: bool) -> Path:
    home.mkdir()
    config = home / "settings.toml"
    (home / "hours.toml").write_text(HOURS)
    (home / "profiles.toml").write_text(VECTOR_PROFILES if all_stages else PROFILES)
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[derive]\nfeatures = ["{home}/hours.toml"]\nprofiles = ["{home}/profiles.toml"]\n'
        "[learn.factors]\nenabled = true\nk = 8\nfirst_full_passes = 1\n"
        f'[capture.sources.{log.name}]\nmapping = "{log.mapping}"\n{source}'
        + (ALL_STAGES if all_stages else "[serve.scores]\nenabled = false\n")
    )
    return config


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _end_of(file: Path) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-30:])
