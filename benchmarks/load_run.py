"""Runs the pipeline continuously while events arrive at given rates, and measures each window of constant rate."""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

import numpy as np
import psutil
from kafka_broker import Broker
from profilestream import flow
from profilestream.base import streaming, tables
from profilestream.base.observe.cpu_clock import ProcessTree
from profilestream.base.queries import RunOptions
from profilestream.base.settings import Settings
from pyspark.sql import Row, SparkSession

from benchmarks import derive, workloads
from benchmarks.load_writer import TOPIC
from benchmarks.timing import empty_folder

T = TypeVar("T")
EVENTS, PROFILES, TAGS = "events", "user_profiles", "user_tags"
# Lag grows if the latency of a window increases by more than this, or by this part of its seconds.
_STEADY_SECONDS, _STEADY_PART = 1.5, 0.01
_MAX_MISSING_SHARE = 0.05
_POLL_SECONDS = 0.2
_MAX_WAIT_SECONDS = 300
_PROCESSES = ProcessTree()


def cpu_seconds() -> float:
    """User and system seconds of this process and all its descendants, also of ended ones.

    Raises:
        OSError: the operating system does not report them.
    """
    if (seconds := _PROCESSES.seconds()) is None:
        raise OSError("CPU seconds are measured in /proc, which this machine does not have")
    return seconds


@dataclass(frozen=True)
class Input:
    """What arrives, and where.

    Args:
        folder: of the files.
        servers: of the broker, for records of the topic `shop`; empty: files.
        log: a log to replay instead of generated events.
        mapping: of the log, for JSON lines.
        seed: of generated events.
    """

    folder: Path
    servers: str = ""
    log: Path | None = None
    mapping: Path = Path(__file__).parent / "shop.toml"
    seed: int = 1

    @property
    def target(self) -> str:
        """The first argument of load_writer."""
        return self.servers or str(self.folder)

    @property
    def overrides(self) -> list[str]:
        """The settings of the source."""
        source = "capture.sources.shop"
        path = "" if self.servers else str(self.folder)
        kafka = [f'{source}.kafka={{ bootstrap_servers = "{self.servers}", topics = ["{TOPIC}"] }}']
        overrides = [f"{source}.path={json.dumps(path)}", f"{source}.mapping={json.dumps(str(self.mapping))}"]
        return overrides + (kafka if self.servers else [])


@dataclass
class Window:
    """Seconds of constant rate, and what was measured in them.

    Args:
        rate: events per second.
        seconds: that count, after the warm-up.
        started: when they began, in seconds since 1970.
        arrived: when the probes of these seconds arrived, by number of the second.
        visible: when they became visible, by table and number of the second.
        lines: that arrived in these seconds.
        cpu_cores: that the pipeline used.
        memory_mb: the most that the processes of the pipeline occupied.
        files: of the warehouse at the end.
        batches: rows of `stage_batches` that ended in these seconds.
    """

    rate: int
    seconds: int
    started: float = 0.0
    arrived: dict[int, float] = field(default_factory=dict)
    visible: dict[str, dict[int, float]] = field(default_factory=dict)
    lines: int = 0
    cpu_cores: float = 0.0
    memory_mb: float = 0.0
    files: int = 0
    batches: list[Row] = field(default_factory=list)

    def latencies(self, table: str) -> list[float]:
        """Seconds from arrival to visibility of each visible probe, in the order of arrival."""
        visible = self.visible.get(table, {})
        return [visible[second] - at for second, at in self.arrived.items() if second in visible]

    def percentiles(self, table: str) -> list[float] | None:
        """p50, p95 and p99 of the latency; null without a visible probe."""
        latencies = self.latencies(table)
        return [round(float(value), 2) for value in np.percentile(latencies, [50, 95, 99])] if latencies else None

    def missing(self, table: str) -> int:
        """Number of probes that did not become visible."""
        return len(self.arrived) - len(self.latencies(table))

    def is_steady(self, table: str) -> bool:
        """Whether the lag of the table is flat: almost all probes are visible, and their latency does not grow."""
        is_complete = self.missing(table) <= _MAX_MISSING_SHARE * len(self.arrived)
        return is_complete and growth(self.latencies(table)) <= max(_STEADY_SECONDS, _STEADY_PART * self.seconds)

    def lag_growth(self) -> dict[str, float]:
        """By stage: by how many seconds its lag behind its own source grew; capture: the latency of `events`."""
        lags = {"capture_events": self.latencies(EVENTS)}
        for batch in self.batches:
            if batch["lag_seconds"] is not None:
                lags.setdefault(batch["stage"], []).append(batch["lag_seconds"])
        return {stage: round(growth(values), 2) for stage, values in lags.items()}

    def costs(self) -> dict[str, float]:
        """Core-seconds per million rows by stage."""
        sums: dict[str, list[float]] = {}
        for batch in self.batches:
            if batch["cpu_seconds"] is not None:
                part = sums.setdefault(batch["stage"], [0.0, 0.0])
                part[0] += batch["cpu_seconds"]
                part[1] += batch["rows_in"]
        return {stage: round(cpu / rows * 1e6, 1) for stage, (cpu, rows) in sums.items() if rows}


def growth(values: list[float]) -> float:
    """The median of the last third of the values minus that of the first third; 0 for fewer than three values."""
    third = len(values) // 3
    return statistics.median(values[-third:]) - statistics.median(values[:third]) if third else 0.0


def slowest_stage(lag_growth: dict[str, float]) -> str:
    """The stage whose lag grows most; empty without stages."""
    return max(lag_growth, key=lambda stage: lag_growth[stage], default="")


def load_settings(
    home: Path, source: Input, *, features: bool = True, sessions: bool = True, learners: bool = False,
    learner_share: float = 1.0, tags_seconds: int = 0,
) -> Settings:  # fmt: skip
    """Settings of a warehouse in a folder with capture, profiles and the other stages.

    Args:
        learner_share: setting `learn.max_busy_share`.
        tags_seconds: interval of the step serve_tags; 0: never.
    """
    overrides = [
        *source.overrides,
        "stream.stage_batches_every_seconds=10",
        *([] if features else ["derive.features=[]"]),
        f"derive.sessions.enabled={str(sessions).lower()}",
        *[f"learn.{learner}.enabled={str(learners).lower()}" for learner in ("factors", "segments")],
        f"learn.max_busy_share={learner_share}",
        "learn.tracking.enabled=false",
    ]
    home.mkdir(parents=True, exist_ok=True)
    if tags_seconds:
        file = workloads.write_tags(home)
        overrides += ["serve.tags.enabled=true", f"serve.tags.file={json.dumps(str(file))}"]
        overrides.append(f'schedule.steps.serve_tags="{tags_seconds}s"')
    return derive.derive_settings(home, overrides)


def stages_text(settings: Settings) -> str:
    """Names of the stages and steps that run, separated by commas."""
    stages = [stage.name for stage in flow.STAGES if stage.queries(settings)]
    tags = [f"serve_tags every {settings.schedule.steps['serve_tags']}"] if settings.serve.tags.enabled else []
    return ", ".join([*stages, *tags])


@contextmanager
def started_broker(folder: Path, partitions: int = 2) -> Iterator[str]:
    """The servers of a broker with the topic `shop` during the block."""
    with Broker(folder) as broker:
        broker.create_topic(TOPIC, partitions)
        yield broker.servers


def run_continuously(
    spark: SparkSession, settings: Settings, work: Callable[[], T], *, every_seconds: float = 0.0
) -> T:
    """Run the pipeline while `work` runs in another thread; returns its result.

    Args:
        every_seconds: the trigger; 0: a batch starts when the last one has ended.

    Raises:
        ProfilestreamError: a stage failed.
    """
    work_ended = threading.Event()

    @contextmanager
    def stop_event() -> Iterator[threading.Event]:
        yield work_ended

    with ThreadPoolExecutor(1) as pool, patch.object(streaming, "_stop_signals", stop_event):
        result = pool.submit(work)
        result.add_done_callback(lambda _: work_ended.set())
        try:
            flow.run(spark, settings, RunOptions(accept_new_epoch=True, continuous=every_seconds))
        except Exception as error:
            print(f"the pipeline ended: {error}", file=sys.stderr, flush=True)  # `work` may wait for minutes
            raise
    return result.result()


class Load:
    """Events that arrive, and the probes among them: a writer and a reader in processes of their own.

    Args:
        settings: of the pipeline that runs meanwhile.
    """

    def __init__(self, settings: Settings, source: Input) -> None:
        self.windows: list[Window] = []
        self._warehouse = Path(settings.paths.warehouse)
        self._has_log = source.log is not None
        has_tags = settings.serve.tags.enabled and not self._has_log
        self.tables = [EVENTS, PROFILES, *([TAGS] if has_tags else [])]
        log = ["--log", str(source.log)] if self._has_log else []
        self._writer = _start("load_writer", source.target, "--seed", str(source.seed), *log)
        self._reader = _start("probe_reader", str(self._warehouse), *self.tables)
        self._visible: dict[str, dict[int, float]] = {table: {} for table in self.tables}
        self._collector = threading.Thread(target=self._collect)
        self._collector.start()

    def _collect(self) -> None:
        assert self._reader.stdout is not None
        for line in self._reader.stdout:
            probe = json.loads(line)
            self._visible[probe["table"]].setdefault(probe["second"], probe["at"])

    def start(self, rate: int, seconds: int) -> None:
        """Let events arrive until the pipeline works; not a window. A new process compiles its code meanwhile.

        Raises:
            TimeoutError: no row of user_profiles is visible.
        """
        window = self.run_window(rate, 1, max(seconds - 1, 0))
        self.windows.pop()
        self.wait_for(window, PROFILES, _MAX_WAIT_SECONDS)
        if window.missing(PROFILES):
            raise TimeoutError(
                f"no event is visible in {PROFILES} after {_MAX_WAIT_SECONDS} s; look at the log lines above"
            )

    def run_window(self, rate: int, seconds: int, warm_up: int) -> Window:
        """Let events arrive, then wait until the last ones are visible in user_profiles, at most as long again.

        A log may end before; then the window has fewer probes than seconds.
        """
        window = Window(rate, seconds, visible=self._visible)
        self.windows.append(window)
        _send(self._writer, f"{rate} {warm_up + seconds}\n")
        cpu = 0.0
        for number in range(warm_up + seconds):
            assert self._writer.stdout is not None
            if not (line := self._writer.stdout.readline()):
                if not self._has_log:
                    raise RuntimeError("load_writer ended; its error is above")
                break  # the log has ended
            _send(self._reader, line)
            if number == warm_up:
                window.started, cpu = time.time(), cpu_seconds()
            if number >= warm_up:
                arrival = json.loads(line)
                window.arrived[arrival["second"]] = arrival["at"]
                window.lines += arrival["lines"]
                window.memory_mb = max(window.memory_mb, _memory_mb())
        window.cpu_cores = (cpu_seconds() - cpu) / max(time.time() - window.started, 1.0)
        window.files = sum(not file.name.startswith(".") for file in self._warehouse.rglob("*.*"))
        self.wait_for(window, PROFILES, seconds=max(30, warm_up + seconds))
        return window

    def wait_for(self, window: Window, table: str, seconds: float) -> None:
        """Wait until the last probe of the window is visible in the table, at most some seconds."""
        deadline, last = time.monotonic() + seconds, max(window.arrived, default=None)
        while last is not None and last not in self._visible[table] and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """End the processes, and wait for their last reports."""
        for process in (self._writer, self._reader):
            assert process.stdin is not None
            process.stdin.close()
        self._collector.join()


def _start(module: str, *args: str) -> subprocess.Popen[str]:
    """Start a module; it is no descendant of this process, whose CPU time and memory are those of the pipeline."""
    command = ["sh", "-c", 'exec 3<&0; "$@" <&3 3<&- &', "sh", sys.executable, "-m", f"benchmarks.{module}", *args]
    return subprocess.Popen(command, cwd=workloads.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _send(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def _memory_mb() -> float:
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sizes = []
    for process in processes:
        try:
            sizes.append(process.memory_info().rss)
        except psutil.NoSuchProcess:
            continue
    return sum(sizes) / 1e6


def measure(spark: SparkSession, settings: Settings, source: Input, script: Callable[[Load], object]) -> list[Window]:
    """Run the pipeline while a script lets events arrive; returns its windows."""
    empty_folder(source.folder)

    def work() -> list[Window]:
        load = Load(settings, source)
        try:
            script(load)
            if TAGS in load.tables and load.windows:
                load.wait_for(load.windows[-1], TAGS, _MAX_WAIT_SECONDS)
        finally:
            load.close()
        return load.windows

    windows = run_continuously(spark, settings, work)
    batches = tables.STAGE_BATCHES.read(spark, settings.paths).orderBy("started_at").collect()
    for window in windows:
        until = window.started + window.seconds
        window.batches = [row for row in batches if window.started <= _end(row) <= until]
    return windows


def _end(batch: Row) -> float:
    return float(batch["started_at"].timestamp() + batch["seconds"])


def steady_rate(is_steady: Callable[[int], bool], first: int, last: int, steps: int) -> int:
    """The highest rate that is steady: double the first one until it is not, then bisect.

    Args:
        last: the highest rate that is tried.
        steps: of the bisection.

    Returns:
        0 if the first rate is not steady.
    """
    low, high = 0, 0
    rate = first
    while rate <= last and not high:
        low, high = (rate, 0) if is_steady(rate) else (low, rate)
        rate *= 2
    for _ in range(steps if low and high else 0):
        middle = (low + high) // 2
        low, high = (middle, high) if is_steady(middle) else (low, middle)
    return low
