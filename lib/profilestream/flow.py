"""The stages and steps in flow order. One that comes later adds a line here."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

from pyspark.sql import SparkSession

from profilestream.base import job, streaming, tables
from profilestream.base.errors import Refused
from profilestream.base.queries import Query, RunOptions
from profilestream.base.session import open_session
from profilestream.base.settings import Settings
from profilestream.base.streaming import named
from profilestream.base.tables import Table
from profilestream.capture import capture_checks as capture_check
from profilestream.capture import ingest
from profilestream.derive import compact_tiles, profiles, sessions, tiles, transitions, user_features
from profilestream.learn import describe_segments, factors, segments, training_examples
from profilestream.serve.report import write_report as report
from profilestream.serve.scores import recommend
from profilestream.serve.tags import assign_tags, tag_checks


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


CAPTURE = Stage(ingest.STAGE, _capture_queries, capture_check.all_sources)
# Groups in flow order: stages of a group read nothing that another one of it writes, and run at the same time.
DERIVED = (
    (
        Stage(tiles.STAGE, tiles.queries, tiles.check),
        Stage(profiles.STAGE, profiles.queries, profiles.check),
        Stage(sessions.STAGE, sessions.queries, sessions.check),
    ),
    (
        Stage(transitions.STAGE, transitions.queries, transitions.check),
        Stage(user_features.STAGE, user_features.queries, user_features.check),
        Stage(segments.STAGE, segments.queries, segments.check),
        # It follows nothing of the first group: here processors are free.
        Stage(factors.STAGE, factors.queries, factors.check),
    ),
)
STAGES = (CAPTURE, *(stage for group in DERIVED for stage in group))


@dataclass(frozen=True)
class Step:
    """What is made of the tables once all stages have come to their end.

    Args:
        is_on: whether the settings ask for it.
        run: makes it, from all that is there.
        tables: that it writes.
        check: as that of a stage.
    """

    name: str
    is_on: Callable[[Settings], bool]
    run: Callable[[SparkSession, Settings], object]
    tables: Callable[[Settings], list[Table]] = lambda settings: []
    check: Callable[[SparkSession, Settings], None] = lambda spark, settings: None


STEPS = (
    Step(compact_tiles.STEP, lambda settings: True, compact_tiles.run),
    Step(
        describe_segments.STEP, lambda settings: settings.learn.segments.enabled, describe_segments.run,
        lambda settings: [segments.descriptions_table()],
    ),
    Step(
        training_examples.STAGE, lambda settings: settings.learn.examples.enabled, training_examples.run,
        lambda settings: [training_examples.table(settings)], training_examples.check,
    ),
    Step(
        assign_tags.STAGE, lambda settings: settings.serve.tags.enabled, assign_tags.run,
        lambda settings: [tables.USER_GROUPS, tables.USER_TAGS], tag_checks.check,
    ),
    Step(
        recommend.STAGE, lambda settings: settings.serve.scores.enabled, recommend.run,
        lambda settings: [tables.RECOMMENDATIONS],
    ),
    Step(report.STAGE, lambda settings: settings.serve.report.enabled, report.run),
)  # fmt: skip


def derived_stages() -> list[str]:
    """Stages whose tables can be made again from `events`: all but capture."""
    return [stage.name for stage in STAGES if stage is not CAPTURE]


def written_tables(settings: Settings) -> list[Table]:
    """Every table that the flow writes, in flow order."""
    found = [table for stage in STAGES for query in stage.queries(settings) for table in query.tables]
    found.insert(found.index(tables.CAPTURE_BATCHES) + 1, tables.CAPTURE_ALARMS)
    found += [table for step in _steps(settings) for table in step.tables(settings)]
    return list({table.name: table for table in [*found, tables.STAGE_BATCHES]}.values())


def check(spark: SparkSession, settings: Settings, options: RunOptions) -> None:
    """Check every stage and step; writes nothing. Stored tables of stages that are rebuilt are not checked."""
    rebuild = _with_followers(settings, options).rebuild
    for stage in STAGES:
        with named(stage.name):
            check_stage(spark, stage, settings, rebuild)
    for step in _steps(settings):
        with named(step.name):
            step.check(spark, settings)


def _steps(settings: Settings) -> list[Step]:
    return [step for step in STEPS if step.is_on(settings)]


def run(spark: SparkSession, settings: Settings, options: RunOptions) -> None:
    """Run the stages in order, each to its end, then the steps over their tables; or all stages at once.

    Asked to stop, it stops after the batches that are under way, and stages that follow do not run.

    Raises:
        ProfilestreamError: a stage failed; the message begins with its name, and stages that follow did not run.
    """
    options = _with_followers(settings, options)
    if options.continuous is not None:
        every = [query for stage in STAGES for query in stage.queries(settings)]
        streaming.run(spark, every, settings, options, together=True)
        return
    with named(CAPTURE.name):
        goes_on = streaming.run(spark, CAPTURE.queries(settings), settings, options)
    if not goes_on:
        return
    for group in DERIVED:
        queries = [query for stage in group for query in stage.queries(settings)]
        if not streaming.run(spark, queries, settings, options, together=True):
            return
    for step in _steps(settings):
        with named(step.name):
            step.run(spark, settings)


def check_stage(spark: SparkSession, stage: Stage, settings: Settings, rebuild: tuple[str, ...]) -> None:
    """Check a stage's declarations, and its stored tables against them; writes nothing.

    Raises:
        BadSettings: a setting, mapping, name or expression does not fit.
        Refused: a stored table was derived by another declaration, or written by newer code.
    """
    stage.check(spark, settings)
    if stage.name not in rebuild:
        for table in {table for query in stage.queries(settings) for table in query.tables}:
            if table.exists(spark, settings.paths):
                table.check_stored(spark, settings.paths)


def run_stage(
    args: argparse.Namespace, name: str, afterwards: Callable[[SparkSession, Settings], None] = lambda *_: None
) -> None:
    """The body of the job of a derive or learn stage: check it, then run it with the stages that a rebuild cascades to.

    Args:
        args: of job.stage_parser; with --check nothing is run.
        afterwards: called when the stage has run.
    """
    settings, options = job.load(args), job.options(args)
    options = _with_followers(settings, options)
    chosen = [stage for stage in STAGES if stage.name in (name, *options.rebuild)]
    spark = open_session(name, settings.spark.properties)
    for stage in chosen:
        check_stage(spark, stage, settings, options.rebuild)
    queries = [query for stage in chosen for query in stage.queries(settings)]
    if args.check:
        return
    if not queries:
        print(f"{name} is not enabled in {settings.config_file}: nothing to run")  # noqa: T201
        return
    streaming.run(spark, queries, settings, options)
    afterwards(spark, settings)


def _with_followers(settings: Settings, options: RunOptions) -> RunOptions:
    """The options with every stage to rebuild that follows a table which is made anew.

    Raises:
        Refused: there are such stages, and no cascade was asked for.
    """
    names, anew = list(options.rebuild), set[str]()
    for stage in STAGES:
        queries = stage.queries(settings)
        if (
            any(query.reads.follows and query.reads.follows.name in anew for query in queries)
            and stage.name not in names
        ):
            names.append(stage.name)
        if stage.name in names:
            anew |= {table.name for query in queries for table in query.tables if table not in query.shared}
    if (others := names[len(options.rebuild) :]) and not options.cascade:
        raise Refused(
            f"{others} follow what {list(options.rebuild)} would make anew",
            where="--rebuild",
            do="rebuild them too: --cascade",
        )
    return replace(options, rebuild=tuple(names))
