"""The exported metrics: the only declaration of their names, labels and meanings.

The text file, the endpoint, steward_status, alert rules, the dashboard, docs/running.md and their tests use it. Names
follow the conventions of Prometheus: base units, and `_total` for counters.
"""

from dataclasses import dataclass
from typing import Literal

PREFIX = "profilestream_"


@dataclass(frozen=True)
class ExportedMetric:
    """A metric.

    Args:
        name: with prefix and unit.
        labels: names of its labels.
        help: one sentence.
    """

    name: str
    kind: Literal["gauge", "counter"]
    labels: tuple[str, ...]
    help: str


def _gauge(name: str, labels: tuple[str, ...], text: str) -> ExportedMetric:
    return ExportedMetric(f"{PREFIX}{name}", "gauge", labels, text)


def _counter(name: str, labels: tuple[str, ...], text: str) -> ExportedMetric:
    return ExportedMetric(f"{PREFIX}{name}", "counter", labels, text)


_STAGE, _STEP, _SOURCE, _MODEL = ("stage", "source"), ("step",), ("source",), ("model",)

STAGE_BATCHES = _counter("stage_batches_total", _STAGE, "Finished micro-batches.")
STAGE_ROWS = _counter("stage_rows_total", _STAGE, "Rows read by finished micro-batches.")
STAGE_SECONDS = _counter("stage_batch_seconds_total", _STAGE, "Duration of finished micro-batches.")
STAGE_COMMIT_SECONDS = _counter("stage_commit_seconds_total", _STAGE, "Seconds in which batches wrote tables.")
STAGE_CPU_SECONDS = _counter(
    "stage_cpu_seconds_total", _STAGE, "CPU time of the driver's processes during batches (stage_batches.cpu_seconds)."
)
STAGE_BYTES = _counter("stage_written_bytes_total", _STAGE, "Size of the files that batches added.")
STAGE_RESTARTS = _counter("stage_restarts_total", _STAGE, "Restarts of the stage after a failure.")
STAGE_FAILED = _gauge("stage_failed", _STAGE, "1 if the stage failed and has finished no batch since; otherwise 0.")
STAGE_LAG_ROWS = _gauge("stage_lag_rows", _STAGE, "Rows of the source that the stage has not read yet.")
STAGE_LAG_FILES = _gauge("stage_lag_files", _STAGE, "Input files that the run has not read yet.")
STAGE_LAG_SECONDS = _gauge(
    "stage_lag_seconds", _STAGE, "Seconds since the oldest commit of the source table that the stage has not read."
)
STAGE_EVENT_TIME = _gauge(
    "stage_newest_event_timestamp_seconds", _STAGE, "Newest event time that the stage has read, in seconds since 1970."
)
STAGE_LAST_BATCH = _gauge(
    "stage_last_batch_timestamp_seconds", _STAGE, "End of the last finished batch, in seconds since 1970."
)
STAGE_LAST_BATCH_SECONDS = _gauge("stage_last_batch_seconds", _STAGE, "Duration of the last finished batch.")
CAPTURE_ROWS = _counter("capture_rows_total", ("source", "outcome"), "Captured rows: clean, rejected or duplicate.")
CAPTURE_REJECT_RATIO = _gauge(
    "capture_reject_ratio", _SOURCE, "Share of rejected rows in about the last 10,000 rows of the run."
)
STEP_SECONDS = _gauge("step_last_run_seconds", _STEP, "Duration of the last successful run of the step.")
STEP_LAST_SUCCESS = _gauge(
    "step_last_success_timestamp_seconds", _STEP, "End of the last successful run of the step, in seconds since 1970."
)
STEP_FAILED = _gauge("step_failed", _STEP, "1 if the last run of the step failed; otherwise 0.")
STEP_FAILURES = _counter("step_failures_total", _STEP, "Failed runs of the step.")
MODEL_CHAMPION = _gauge("model_champion_version", _MODEL, "Version of the registered model that is the champion.")
MODEL_ROLLED_BACK = _gauge("model_rolled_back", _MODEL, "1 if the champion was rolled back; 0 after a promotion.")
MODEL_LABEL_DROUGHT = _gauge(
    "model_label_drought", _MODEL, "1 if the last learn_publish found no recent evaluated rows; otherwise 0."
)
MODEL_DRIFT = _gauge(
    "model_drift",
    _MODEL,
    "1 if the last learn_publish detected a drift of the gate metric or of the labels; otherwise 0.",
)
LAST_UPDATE = _gauge("last_update_timestamp_seconds", (), "When a run wrote metrics last, in seconds since 1970.")
ALERT_ACTIVE = _gauge("alert_active", ("alert", "severity"), "1 if the alert is active; otherwise 0.")

ALL = {
    metric.name: metric
    for metric in (
        STAGE_BATCHES, STAGE_ROWS, STAGE_SECONDS, STAGE_COMMIT_SECONDS, STAGE_CPU_SECONDS, STAGE_BYTES, STAGE_RESTARTS,
        STAGE_FAILED, STAGE_LAG_ROWS, STAGE_LAG_FILES, STAGE_LAG_SECONDS, STAGE_EVENT_TIME, STAGE_LAST_BATCH,
        STAGE_LAST_BATCH_SECONDS, CAPTURE_ROWS, CAPTURE_REJECT_RATIO, STEP_SECONDS, STEP_LAST_SUCCESS, STEP_FAILED,
        STEP_FAILURES, MODEL_CHAMPION, MODEL_ROLLED_BACK, MODEL_LABEL_DROUGHT, MODEL_DRIFT, LAST_UPDATE, ALERT_ACTIVE,
    )
}  # fmt: skip


def markdown() -> str:
    """A table of all metrics, for the documents."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(metric.labels) or '-'} | {metric.help} |"
        for metric in ALL.values()
    ]
    return "\n".join(["| metric | kind | labels | meaning |", "|---|---|---|---|", *rows])
