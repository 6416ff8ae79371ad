"""Exported metrics of steps, of published models, and of stages that cannot start. Errors of writing are logged."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from profilestream.base.errors import NothingToDo, ProfilestreamError
from profilestream.base.observe import exported_metrics as m
from profilestream.base.observe.metrics_file import MetricsFile, metrics_path
from profilestream.base.settings import Settings

log = logging.getLogger(__name__)


@contextmanager
def step_metrics(step: str, settings: Settings) -> Iterator[None]:
    """Export the duration and the end of a step that the block runs, or its failure."""
    started = time.monotonic()
    try:
        yield
    except NothingToDo:
        raise
    except BaseException:
        with _written(settings) as file:
            file.set(m.STEP_FAILED, 1, step)
            file.add(m.STEP_FAILURES, 1, step)
        raise
    with _written(settings) as file:
        file.set(m.STEP_FAILED, 0, step)
        file.set(m.STEP_SECONDS, time.monotonic() - started, step)
        file.set(m.STEP_LAST_SUCCESS, time.time(), step)


@contextmanager
def failed_start(stage: str, source: str, settings: Settings) -> Iterator[None]:
    """Export that the stage failed if the block, which prepares its start, raises an error."""
    try:
        yield
    except Exception:
        with _written(settings) as file:
            file.set(m.STAGE_FAILED, 1, stage, source)
        raise


def export_champion(settings: Settings, model: str, version: int, *, is_rollback: bool = False) -> None:
    """Export the version of a model that is the champion now, and whether it was rolled back to this version."""
    with _written(settings) as file:
        file.set(m.MODEL_CHAMPION, version, model)
        file.set(m.MODEL_ROLLED_BACK, float(is_rollback), model)


def export_labels(settings: Settings, model: str, *, is_drought: bool, is_drifting: bool) -> None:
    """Export whether the labels of a model are missing, and whether they or the gate metric have changed."""
    with _written(settings) as file:
        file.set(m.MODEL_LABEL_DROUGHT, float(is_drought), model)
        file.set(m.MODEL_DRIFT, float(is_drifting), model)


@contextmanager
def _written(settings: Settings) -> Iterator[MetricsFile]:
    try:
        file = MetricsFile(metrics_path(settings))
        yield file
        file.write()
    except (OSError, ProfilestreamError) as error:
        log.warning("metrics are not exported: %s", error)
