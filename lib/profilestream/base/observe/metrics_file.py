"""The text file with the metrics of a warehouse, in the format of Prometheus, which several processes update."""

import fcntl
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from profilestream.base import files
from profilestream.base.errors import BadSettings
from profilestream.base.observe import exported_metrics
from profilestream.base.observe.exported_metrics import ExportedMetric
from profilestream.base.settings import Settings

# Values of the labels of a metric in the order of its declaration.
Labels = tuple[str, ...]
Samples = dict[tuple[str, Labels], float]


class _Families(Collector):
    def __init__(self, samples: Mapping[tuple[str, Labels], float]) -> None:
        self._samples = samples

    def collect(self) -> Iterable[Metric]:
        for metric in exported_metrics.ALL.values():
            samples = sorted((labels, value) for (name, labels), value in self._samples.items() if name == metric.name)
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            if samples:
                result = family(metric.name, metric.help, labels=metric.labels)
                for labels, value in samples:
                    result.add_metric(labels, value)
                yield result


class _File(Collector):
    """The samples of a file at each request."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def collect(self) -> Iterable[Metric]:
        return _Families(read(self._path)).collect()


def read(path: Path) -> Samples:
    """The samples in a file of `MetricsFile`; none without the file. Metrics that are not declared are ignored."""
    samples: Samples = {}
    try:
        text = path.read_text()
    except FileNotFoundError:
        return samples
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            metric = exported_metrics.ALL.get(name)
            if metric is not None and labels.keys() == set(metric.labels):
                samples[name, tuple(labels[label] for label in metric.labels)] = value
    return samples


@dataclass
class MetricsFile:
    """The samples that this process writes, and the file that contains those of all processes.

    A process replaces only the samples that it has set. It continues the counters of the file. So the processes must
    have different labels, as stages that hold a lock have.
    """

    path: Path
    _own: Samples = field(default_factory=dict)
    _before: Samples | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def set(self, metric: ExportedMetric, value: float | None, *labels: str) -> None:
        """Set a gauge; null removes the sample."""
        assert metric.kind == "gauge" and len(labels) == len(metric.labels)
        with self._lock:
            self._own[metric.name, labels] = float("nan") if value is None else value

    def add(self, metric: ExportedMetric, value: float | None, *labels: str) -> None:
        """Increase a counter; null is ignored."""
        assert metric.kind == "counter" and len(labels) == len(metric.labels)
        with self._lock:
            key = metric.name, labels
            if self._before is None:
                self._before = read(self.path)
            self._own[key] = self._own.get(key, self._before.get(key, 0.0)) + (value or 0.0)

    def write(self) -> None:
        """Update the file atomically, also against other processes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, file_lock(self.path):
            samples = read(self.path) | self._own
            present = {key: value for key, value in samples.items() if value == value}
            registry = CollectorRegistry()
            registry.register(_Families(present))
            write_to_textfile(str(self.path), registry)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a lock of a file during the block; waits for other processes."""
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def metrics_path(settings: Settings) -> Path:
    """Path of the file: `observe.text_file`, or in the folder of the locks.

    Raises:
        BadSettings: that folder is not on this machine.
    """
    if settings.observe.text_file:
        return Path(settings.observe.text_file)
    return state_folder(settings) / "profilestream.prom"


def state_folder(settings: Settings) -> Path:
    """The folder of the locks, which also contains the metrics and the state of alerts.

    Raises:
        BadSettings: it is not on this machine.
    """
    folder = files.local_path(settings.paths.lock_folder)
    if folder is None:
        raise BadSettings(
            f"metrics cannot be stored at {settings.paths.lock_folder}: it is not on this machine",
            where="settings, paths.locks",
            do="set paths.locks to a folder of the machine that starts the jobs",
        )
    return Path(folder)


@contextmanager
def endpoint(settings: Settings) -> Iterator[None]:
    """Serve the samples of the file at `observe.port` during the block; nothing without a port.

    Raises:
        BadSettings: the port is in use.
    """
    config = settings.observe
    if config.port is None:
        yield
        return
    registry = CollectorRegistry()
    registry.register(_File(metrics_path(settings)))
    try:
        server, thread = start_http_server(config.port, config.address, registry)
    except OSError as error:
        raise BadSettings(
            f"the metrics cannot be served at {config.address}:{config.port}: {error.strerror}",
            where="settings, observe.port",
            do="choose another port, or stop the process that uses it",
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
