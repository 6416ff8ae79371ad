"""The stages in flow order. A stage that comes later adds one line here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark.sql import SparkSession

from profilestream.base import stream, tables
from profilestream.base.errors import ProfilestreamError
from profilestream.base.settings import Settings
from profilestream.base.stream import Options, Query
from profilestream.base.tables import Table
from profilestream.capture import check as capture_check
from profilestream.capture import ingest
from profilestream.derive import days, profiles, sessions, tiles, user_features
from profilestream.learn import examples, factors
from profilestream.serve import scores


@dataclass(frozen=True)
class Stage:
    """One stage of the flow.

    Args:
        queries: its streaming queries, by the settings.
        check: raises when settings, mappings or paths cannot work; writes nothing.
    """

    name: str
    queries: Callable[[Settings], list[Query]]
    check: Callable[[SparkSession, Settings], None]


def _capture_queries(settings: Settings) -> list[Query]:
    return [ingest.query(settings, name) for name in settings.capture.sources]


STAGES = (
    Stage(ingest.STAGE, _capture_queries, capture_check.all_sources),
    Stage(tiles.STAGE, tiles.queries, tiles.check),
    Stage(profiles.STAGE, profiles.queries, profiles.check),
    Stage(sessions.STAGE, sessions.queries, sessions.check),
    Stage(user_features.STAGE, user_features.queries, user_features.check),
    Stage(factors.STAGE, factors.queries, lambda spark, settings: None),
)


def derived_stages() -> list[str]:
    """Stages whose tables can be made again from `events`: all but capture."""
    return [stage.name for stage in STAGES if stage.name != ingest.STAGE]


def written_tables(settings: Settings) -> list[Table]:
    """Every table that the flow writes, in flow order."""
    found = [table for stage in STAGES for query in stage.queries(settings) for table in query.tables]
    found.insert(found.index(tables.CAPTURE_BATCHES) + 1, tables.CAPTURE_ALARMS)
    found += [examples.table(settings)] if settings.learn.examples.enabled else []
    found += [tables.RECOMMENDATIONS] if settings.serve.scores.enabled else []
    return list({table.name: table for table in [*found, tables.STAGE_BATCHES]}.values())


def check(spark: SparkSession, settings: Settings) -> None:
    """Check every stage; writes nothing."""
    for stage in STAGES:
        with _named(stage.name):
            stage.check(spark, settings)
    if settings.learn.examples.enabled:
        with _named(examples.STAGE):
            examples.check(spark, settings)


def run(spark: SparkSession, settings: Settings, options: Options) -> None:
    """Run the stages in order, each to its end, then days, training rows and lists are made; or all stages at once.

    Raises:
        ProfilestreamError: a stage failed; the message begins with its name, and later stages did not run.
    """
    if options.continuous is not None:
        stream.run(spark, [query for stage in STAGES for query in stage.queries(settings)], settings, options)
        return
    for stage in STAGES:
        with _named(stage.name):
            stream.run(spark, stage.queries(settings), settings, options)
    with _named(days.STEP):
        days.run(spark, settings)
    if settings.learn.examples.enabled:
        with _named(examples.STAGE):
            examples.run(spark, settings)
    if settings.serve.scores.enabled:
        with _named(scores.STAGE):
            scores.run(spark, settings)


@contextmanager
def _named(stage: str) -> Iterator[None]:
    try:
        yield
    except ProfilestreamError as error:
        raise type(error)(f"stage {stage}: {error.what}", where=error.where, do=error.do) from error
