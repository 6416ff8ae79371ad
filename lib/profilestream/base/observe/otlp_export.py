"""Sends the metrics of the text file to a collector of OpenTelemetry, by OTLP over HTTP."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from profilestream.base.errors import BadSettings
from profilestream.base.observe import exported_metrics
from profilestream.base.observe.exported_metrics import ExportedMetric
from profilestream.base.observe.metrics_file import metrics_path, read
from profilestream.base.settings import Settings

_SECONDS, _TIMEOUT = 10, 5


@contextmanager
def sent_by_otlp(settings: Settings) -> Iterator[None]:
    """Send all samples every ten seconds during the block, and at its end; nothing without `observe.otlp_endpoint`.

    A collector that does not answer is logged by the library, and delays the end of the block by five seconds at most.

    Raises:
        BadSettings: a package of the extra `otel` is missing.
    """
    if not settings.observe.otlp_endpoint:
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.metrics import CallbackOptions, Observation
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
    except ImportError as error:
        raise BadSettings(
            f"metrics cannot be sent: {error}",
            where="settings, observe.otlp_endpoint",
            do="install the extra: pip install 'profilestream[otel]', or make set-up in a checkout",
        ) from None

    def observations(metric: ExportedMetric, path: Path, _: CallbackOptions) -> Iterable[Observation]:
        samples = ((labels, value) for (name, labels), value in read(path).items() if name == metric.name)
        return [Observation(value, dict(zip(metric.labels, labels, strict=True))) for labels, value in samples]

    exporter = OTLPMetricExporter(settings.observe.otlp_endpoint, timeout=_TIMEOUT)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=_SECONDS * 1000)
    resource = Resource.create({"service.name": "profilestream"})
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    meter = provider.get_meter("profilestream")
    path = metrics_path(settings)
    for metric in exported_metrics.ALL.values():
        create = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
        callback: Callable[[CallbackOptions], Iterable[Observation]] = partial(observations, metric, path)
        create(metric.name, [callback], description=metric.help)
    try:
        yield
    finally:
        provider.shutdown(timeout_millis=_TIMEOUT * 1000)
