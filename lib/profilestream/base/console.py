"""The console: one owner of standard error, so that progress bars, log lines and Java's output do not interleave.

On a terminal there are live progress bars, and log lines scroll above them. Elsewhere (a file, CI) every line is plain
text with a time stamp. With the format `json`, every line is a JSON object: `time` (UTC), `level`, `logger`, `message`.
"""

import codecs
import functools
import io
import json
import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

from pyspark.logger import PySparkLogger
from rich.console import Console

# Lines of the JVM that are not shown, because a user cannot act on them: pattern and reason.
JAVA_NOISE = {
    r"^WARNING: Using incubator modules": "Spark itself adds jdk.incubator.vector to the command line",
    r"^WARNING: .*(sun\.misc\.Unsafe|restricted method|native-access|final field)": "libraries of Spark on newer Java",
    r"^WARNING: .* will be (removed|blocked) in a future release": "the second half of the same warnings",
    r"^Warning: Java versions > Java 11 can only operate in restricted mode": "DataSketches, without off-heap memory",
    r"Unable to load native-hadoop library": "Hadoop's optional native code; Java's own is used",
    r"^Using Spark's default log4j profile": "Spark reads conf/log4j2.properties later",
    r"^Setting default log level to": "the level is set in conf/log4j2.properties",
    r"^To adjust logging level use sc\.setLogLevel": "the level is set in conf/log4j2.properties",
    r"^:: loading settings :: ": "Ivy's banner when spark.jars.packages is used",
}
# Python loggers (with their children) whose records are not shown: name and reason.
QUIET_LOGGERS = {
    "py4j": "the job reports a failed call, in plain words",
    "pyspark": "the job reports a failed query, in plain words",
    "DataFrameQueryContextLogger": "PySpark's copy of the same error as JSON, with its stack trace",
    "SQLQueryContextLogger": "the same for SQL texts",
    "alembic": "MLflow creates its database schema",
    "mlflow": "each retry of an unreachable server; the job reports it once",
    "urllib3": "the same retries, logged by the HTTP client",
}
# Python warnings that are not shown, since one library warns about another: category and module.
QUIET_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    (DeprecationWarning, "(pyspark|mlflow|delta)"),
    (FutureWarning, "(pyspark|mlflow|delta|pandas)"),
    (UserWarning, "(pyspark|mlflow)"),
)

_ESCAPES = "profilestream.escapes"
_JAVA_LEVELS = {"WARN": "warning", "ERROR": "error"}
_is_json = threading.Event()


@functools.cache
def console() -> Console:
    """The console on standard error."""
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def use_format(log_format: Literal["text", "json"]) -> None:
    """The format of all later lines (setting `observe.log_format`)."""
    _is_json.clear()
    if log_format == "json":
        _is_json.set()


def has_bars() -> bool:
    """Whether there are live progress bars."""
    return console().is_terminal and not _is_json.is_set()


def line(text: str, level: str = "info", logger: str = "profilestream") -> None:
    """Print one line, with the time first unless standard error is a terminal."""
    if _is_json.is_set():
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        text = json.dumps({"time": now, "level": level, "logger": logger, "message": text})
    elif not console().is_terminal:
        text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
    console().print(text, markup=False)


def failure(text: str, trace: str = "") -> None:
    """Print why a job failed, after the stack trace if there is one."""
    if _is_json.is_set():
        line(f"{trace}{text}", "error")
    else:
        print(f"{trace}\n{text}", file=sys.stderr)  # noqa: T201


def escape_output() -> None:
    """Print characters that the encoding of standard output lacks as escapes that JSON also uses, such as \\u2026."""
    codecs.register_error(_ESCAPES, _escape)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_ESCAPES)


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # Libraries reset the levels of their loggers, and Py4J also uses the root logger.
        package = os.path.basename(os.path.dirname(record.pathname))
        if not {record.name.split(".")[0], package} & QUIET_LOGGERS.keys():
            line(self.format(record), record.levelname.lower(), record.name)


def configure_logging() -> None:
    """Send log records to the console; turn off QUIET_LOGGERS and QUIET_WARNINGS."""
    root = logging.getLogger()
    if not any(isinstance(handler, _ConsoleHandler) for handler in root.handlers):
        root.addHandler(_ConsoleHandler())
        root.setLevel(logging.INFO)
    for name in QUIET_LOGGERS:
        # A logger that PySpark uses must be of PySpark's class, which has its own handler.
        logger = PySparkLogger.getLogger(name) if name.endswith("ContextLogger") else logging.getLogger(name)
        logger.setLevel(logging.CRITICAL)
    for category, module in QUIET_WARNINGS:
        warnings.filterwarnings("ignore", category=category, module=module)


@contextmanager
def java_output() -> Iterator[None]:
    """Send the standard error of a JVM that the block starts to the console, without the lines of JAVA_NOISE."""
    read_end, write_end = os.pipe()
    threading.Thread(target=_forward, args=(read_end,), daemon=True).start()
    sys.stderr.flush()
    standard_error = os.dup(2)
    os.dup2(write_end, 2)
    os.close(write_end)
    try:
        yield
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)


def _forward(read_end: int) -> None:
    noise = re.compile("|".join(JAVA_NOISE))
    with open(read_end, errors="replace") as output:
        for text in output:
            if not noise.search(text) and _is_json.is_set():
                level = re.search(r"\b(WARN|ERROR)\b", text)
                line(text.rstrip("\n"), "info" if level is None else _JAVA_LEVELS[level[1]], "java")
            elif not noise.search(text):
                console().print(text.rstrip("\n"), markup=False)
