"""Settings of operation: paths, Spark, streams, schedules, exported metrics and maintenance."""

import os
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from profilestream.base.settings.frozen_model import Frozen, TimeZone


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


class Paths(Frozen):
    """Paths of data. Relative paths are relative to the working directory of the job.

    Spark cannot use a warehouse with a backtick or a backslash in its path, so such a path is an error.

    Args:
        warehouse: folder of the Delta tables.
        checkpoints: folder of the checkpoints.
        locks: local folder of lock files; empty: the folder of the checkpoints.
        catalog: schema of Spark's catalog in which the tables are also registered; empty: path tables only.
    """

    warehouse: str
    checkpoints: str
    locks: str = ""
    catalog: str = ""

    @field_validator("warehouse")
    @classmethod
    def _check_characters(cls, warehouse: str) -> str:
        if invalid := sorted({"`", "\\"} & set(_absolute(warehouse))):
            raise ValueError(f"Spark cannot use a path with {' or '.join(invalid)}")
        return warehouse

    @property
    def reader_warnings(self) -> list[str]:
        """Why some readers cannot open the tables at this path; usually empty."""
        codes = sorted(set(re.findall("%[0-9A-Fa-f]{2}", _absolute(self.warehouse))))
        if not codes or "://" in self.warehouse:
            return []
        return [
            f"the path of the warehouse contains {', '.join(codes)}: DuckDB, Polars and deltalake decode it as another "
            f"character, so they cannot open the tables; Spark can ({_absolute(self.warehouse)})"
        ]

    @property
    def lock_folder(self) -> str:
        """Folder of lock files."""
        return self.locks or self.checkpoints

    def output(self, name: str) -> str:
        """The default path of a file that a step or job writes: in the folder that contains the warehouse."""
        folder, slash, _ = self.warehouse.rstrip("/").rpartition("/")
        return f"{folder}{slash}{name}"


class Spark(Frozen):
    """The Spark session.

    Args:
        properties: a file as for spark-submit's --properties-file; leave it empty under spark-submit.
    """

    properties: str = ""


class Stream(Frozen):
    """Size of a micro-batch, and progress.

    Args:
        max_files_per_trigger: input files per micro-batch.
        max_bytes_per_trigger: input bytes per micro-batch; null: no limit.
        stage_batches_every_seconds: interval between two appends to `stage_batches`.
        local_max_rows: micro-batches with at most this number of rows are folded and appended in the process of the
            driver, if the warehouse is in a local file system; 0: never.
        local_max_keys: number of keys that a query holds in memory for such micro-batches: those of a table that is
            updated by key (16 MB per million), or the event ids of the dates in use (8 MB per million). With more keys,
            Spark processes the batch.
        restarts: how often a continuous run starts a failed stage again without a completed batch in between; 0: never.
        restart_seconds: delay before the first of these restarts; it doubles with each one, up to five minutes.
    """

    max_files_per_trigger: int = Field(default=64, ge=1)
    max_bytes_per_trigger: int | None = Field(default=None, ge=1)
    stage_batches_every_seconds: float = Field(default=60.0, gt=0)
    local_max_rows: int = Field(default=50_000, ge=0)
    local_max_keys: int = Field(default=5_000_000, ge=0)
    restarts: int = Field(default=5, ge=0)
    restart_seconds: float = Field(default=10.0, gt=0)


class ScheduleSettings(Frozen):
    """When a continuous run of the pipeline runs the steps.

    Args:
        timezone: time zone of cron expressions.
        steps: by name of the step: an interval such as `5m`, a cron expression of five fields, or `never`; steps that
            are not named have the schedule that flow.py declares.
    """

    timezone: TimeZone = "UTC"
    steps: dict[str, str] = {}


class Observe(Frozen):
    """Exported metrics, alerts and log lines (docs/running.md#observability).

    Args:
        text_file: path of the file with the metrics; empty: `profilestream.prom` in the folder of the locks.
        port: port at which a continuous run serves the metrics; null: none.
        address: address of that port; `0.0.0.0` for all networks of the machine.
        otlp_endpoint: URL of a collector of OpenTelemetry that gets all metrics; empty: none.
        alerts: file of alert rules; empty: none.
        log_format: format of the lines on standard error.
    """

    text_file: str = ""
    port: int | None = Field(default=None, ge=1, le=65535)
    address: str = "127.0.0.1"
    otlp_endpoint: str = ""
    alerts: str = ""
    log_format: Literal["text", "json"] = "text"

    @field_validator("text_file")
    @classmethod
    def _check_name(cls, text_file: str) -> str:
        if text_file and not text_file.endswith(".prom"):
            raise ValueError("the node exporter reads files whose names end with .prom")
        if "://" in text_file or text_file.startswith("file:"):
            raise ValueError("not a path on this machine, such as /var/lib/node_exporter/profilestream.prom")
        return text_file


_MinFiles = Annotated[int, Field(ge=2)]
_SmallFileMb = Annotated[float, Field(gt=0)]
_KeepHours = Annotated[float, Field(ge=0)]


class Upkeep(Frozen):
    """How a table is maintained.

    Args:
        min_files: a partition with at least this number of small files is compacted.
        small_file_mb: files below this size in MB are small; combined ones have up to eight times this size.
        keep_hours: all versions of this many hours can be read; older ones only if a stage needs them. Must be longer
            than the longest batch, step or query.
    """

    min_files: _MinFiles = 20
    small_file_mb: _SmallFileMb = 16.0
    keep_hours: _KeepHours = 168.0


class UpkeepOfTable(Frozen):
    """Other values for one table; a value that is not set is that of all tables.

    Args:
        min_files, small_file_mb, keep_hours: as in `maintain`.
    """

    min_files: _MinFiles | None = None
    small_file_mb: _SmallFileMb | None = None
    keep_hours: _KeepHours | None = None


class Maintain(Upkeep):
    """Maintenance of the tables by `steward_maintain` (docs/running.md#maintenance).

    Args:
        enabled: whether `run_pipeline` runs it after its stages and steps.
        rejected_payload_days: payloads of rejected rows that were captured this many days ago become null, and the
            rows remain; null: never.
        tables: other values for some tables, by name of the table.
    """

    enabled: bool = False
    rejected_payload_days: float | None = Field(default=None, gt=0)
    tables: dict[str, UpkeepOfTable] = {}

    def of(self, table: str) -> Upkeep:
        """How a table is maintained, by its name."""
        own = self.tables.get(table, UpkeepOfTable()).model_dump(exclude_none=True)
        return Upkeep(**{name: own.get(name, getattr(self, name)) for name in Upkeep.model_fields})
