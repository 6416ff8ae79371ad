"""A job submitted to a standalone cluster whose worker is killed: its tables equal those of a local run."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyspark
import pytest
from profilestream import flow
from profilestream.base import settings as settings_module
from profilestream.base import tables
from profilestream.base.queries import RunOptions
from pyspark.sql import SparkSession

from tests import table_snapshots
from tests.builders import USER_PROFILES, wait_until
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

    def submit(self, config: Path, job: str) -> subprocess.Popen[bytes]:
        """Start a job of the repository by spark-submit, with the package as a zip."""
        jars = ",".join(str(jar) for jar in sorted((Path(sys.prefix) / "jars").glob("*.jar")))
        properties = self.home / "cluster.conf"
        properties.write_text(CLUSTER.format(jars=jars))
        command = [
            str(SPARK / "bin" / "spark-submit"), "--master", self.url, "--properties-file", str(properties),
            "--py-files", str(self.home / "profilestream.zip"), str(ROOT / "jobs" / job), "--config", str(config),
        ]  # fmt: skip
        with (self.home / "job.log").open("ab") as output:
            process = subprocess.Popen(command, env=self.env, stdout=output, stderr=output, start_new_session=True)
        self.jobs.append(process)
        return process

    def stop(self) -> None:
        """Kill all processes."""
        for process in [*self.jobs, *self.workers, self.master]:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of a process and its children."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "cluster").mkdir()
    shutil.make_archive(str(tmp_path / "cluster" / "profilestream"), "zip", ROOT / "lib", "profilestream")
    cluster = Cluster(tmp_path / "cluster")
    yield cluster
    cluster.stop()


def test_a_cluster_with_a_killed_worker_writes_the_tables_of_a_local_run(
    spark: SparkSession, tmp_path: Path, cluster: Cluster, at_length: bool
) -> None:
    log = laws.seeded_log(tmp_path, 600, seed=3)
    local, remote = (_config(tmp_path / name, log, is_scored=at_length) for name in ("local", "remote"))
    job = cluster.submit(remote, "run_pipeline.py")
    started = tmp_path / "remote" / "checkpoints" / "derive_profiles" / "offsets" / "0"

    def kill_a_worker() -> bool:
        wait_until(lambda: started.exists() or job.poll() is not None, "derive_profiles", seconds=240)
        kill(cluster.workers[0])
        return job.poll() is None

    with ThreadPoolExecutor(1) as threads:
        is_killed = threads.submit(kill_a_worker)
        flow.run(spark, settings_module.load(str(local), []), RunOptions())
    assert is_killed.result(), _end_of(cluster.home / "job.log")
    assert job.wait(timeout=300) == 0, _end_of(cluster.home / "job.log")

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


def _config(home: Path, log: laws.Log, *, is_scored: bool) -> Path:
    """Settings over a copy of the log in two files, with all stages of the test enabled."""
    folder = home / "input"
    folder.mkdir(parents=True)
    size = len(log.lines) // 2
    for n in range(2):
        file = folder / f"{n}.jsonl"
        file.write_text("\n".join(log.lines[n * size : (n + 1) * size]) + "\n")
        os.utime(file, (1_700_000_000 + n, 1_700_000_000 + n))
    config = home / "settings.toml"
    (home / "hours.toml").write_text(HOURS)
    (home / "profiles.toml").write_text(PROFILES)
    config.write_text(
        f'[paths]\nwarehouse = "{home}/warehouse"\ncheckpoints = "{home}/checkpoints"\n'
        f'[capture.sources.{log.name}]\npath = "{folder}"\nmapping = "{log.mapping}"\nmax_files_per_trigger = 1\n'
        f'[derive]\nfeatures = ["{home}/hours.toml"]\nprofiles = ["{home}/profiles.toml"]\n'
        "[learn.factors]\nenabled = true\nk = 8\nfirst_full_passes = 1\n"
        f"[serve.scores]\nenabled = {str(is_scored).lower()}\n"
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
