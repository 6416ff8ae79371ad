"""The stages and steps in flow order, and the functions that check, run and rebuild them. Add new ones here."""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from profilestream.base import console, job, streaming, tables
from profilestream.base.delta_table import Table
from profilestream.base.errors import BadSettings, NothingToDo, Refused
from profilestream.base.observe.operation_metrics import step_metrics
from profilestream.base.queries import Query, RunOptions
from profilestream.base.schedule import Schedule, ScheduledStep
from profilestream.base.session import open_session
from profilestream.base.settings import Settings
from profilestream.base.streaming import prefix_errors
from profilestream.capture import capture_checks, ingest
from profilestream.derive import compact_tiles, profiles, sessions, tiles, transitions, user_features
from profilestream.learn import learners, publication
from profilestream.learn import stage as learner_stage
from profilestream.learn.examples import training_examples
from profilestream.learn.learner_spec import LearnerSpec
from profilestream.learn.outcomes import batch_models, matured_examples
from profilestream.learn.outcomes.outcomes_spec import OutcomesSpec
from profilestream.learn.segments import describe_segments
from profilestream.serve.audiences import export_audience
from profilestream.serve.plain_tables import write_plain_tables
from profilestream.serve.report import write_report
from profilestream.serve.scores import recommend, unusual_activity, user_scores
from profilestream.serve.tags import assign_tags, tag_checks
from profilestream.steward import maintain


@dataclass(frozen=True)
class Stage:
    """A stage: streaming queries with checkpoints.

    Args:
        queries: returns its queries; empty when the settings do not enable the stage.
        check: raises an error when settings, mappings or paths are invalid; writes nothing.
    """

    name: str
    queries: Callable[[Settings], list[Query]]
    check: Callable[[SparkSession, Settings], None]


def _capture_queries(settings: Settings) -> list[Query]:
    return [ingest.query(settings, name) for name in settings.capture.sources]


def _learner_stage(learner: type[LearnerSpec]) -> Stage:
    return Stage(learner.stage_name(), partial(learner_stage.queries, learner), partial(learner_stage.check, learner))


CAPTURE = Stage(ingest.STAGE, _capture_queries, capture_checks.check_sources)
# Groups in flow order. The stages of a group run at the same time: none reads what another one of the group writes.
DERIVED = (
    (
        Stage(tiles.STAGE, tiles.queries, tiles.check),
        Stage(profiles.STAGE, profiles.queries, profiles.check),
        Stage(sessions.STAGE, sessions.queries, sessions.check),
    ),
    (
        Stage(transitions.STAGE, transitions.queries, transitions.check),
        Stage(user_features.STAGE, user_features.queries, user_features.check),
        # A learner of `events` runs here because this group leaves processors idle.
        *(_learner_stage(learner) for learner in learners.LEARNERS if learner != OutcomesSpec),
    ),
    (_learner_stage(OutcomesSpec),),
)
STAGES = (CAPTURE, *(stage for group in DERIVED for stage in group))


@dataclass(frozen=True)
class Step:
    """A step: a batch computation over the tables, after all stages have ended or, in a continuous run, beside them.

    Args:
        every: its schedule in a continuous run, unless the settings have another one (schedule.Schedule).
        is_enabled: whether the settings enable it.
        run: computes and writes its tables or files.
        check: as the check of a stage.
        before: the stage that reads what it writes. Such a step runs before this stage, and also at the start of a
            continuous run. Empty: it runs after all stages.
    """

    name: str
    every: str
    is_enabled: Callable[[Settings], bool]
    run: Callable[[SparkSession, Settings], object]
    check: Callable[[SparkSession, Settings], None] = lambda spark, settings: None
    before: str = ""


def _maintain(spark: SparkSession, settings: Settings) -> None:
    console.line(f"{maintain.STEP}: {maintain.run(spark, settings, datetime.now(UTC)).summary()}")


STEPS = (
    Step(compact_tiles.STEP, "1d", lambda settings: True, compact_tiles.run),
    Step(describe_segments.STEP, "1h", lambda settings: settings.learn.segments.enabled, describe_segments.run),
    Step(
        matured_examples.STEP, "1h", lambda settings: settings.learn.outcomes.enabled, matured_examples.run,
        matured_examples.check, before=OutcomesSpec.stage_name(),
    ),
    Step(
        training_examples.STAGE, "1d", lambda settings: settings.learn.examples.enabled, training_examples.run,
        training_examples.check,
    ),
    Step(
        batch_models.STEP, "7d", lambda settings: settings.learn.batch_models.enabled, batch_models.run,
        batch_models.check,
    ),
    Step(
        user_scores.STEP, "1h", lambda settings: settings.serve.outcomes.enabled, user_scores.run, user_scores.check,
    ),
    Step(
        unusual_activity.STEP, "1h", lambda settings: settings.serve.anomalies.enabled, unusual_activity.run,
    ),
    Step(assign_tags.STEP, "5m", lambda settings: settings.serve.tags.enabled, assign_tags.run, tag_checks.check),
    Step(recommend.STEP, "1h", lambda settings: settings.serve.scores.enabled, recommend.run),
    Step(
        write_plain_tables.STEP, "1h", lambda settings: settings.serve.tables.enabled, write_plain_tables.run,
        write_plain_tables.check,
    ),
    Step(write_report.STEP, "1h", lambda settings: settings.serve.report.enabled, write_report.run),
    Step(
        maintain.STEP, "1h", lambda settings: settings.maintain.enabled, _maintain,
        lambda spark, settings: maintain.check(settings),
    ),
)  # fmt: skip


def lock_names(settings: Settings) -> list[str]:
    """The locks that the stages, steps, learn_publish and serve_audience hold with these settings while they write."""
    queries = [query.lock for stage in STAGES for query in stage.queries(settings)]
    return list(dict.fromkeys([*queries, *(step.name for step in STEPS), publication.STAGE, export_audience.STEP]))


def derived_stages() -> list[str]:
    """Names of the stages whose tables can be derived again from `events`: all but capture."""
    return [stage.name for stage in STAGES if stage is not CAPTURE]


def check(spark: SparkSession, settings: Settings, options: RunOptions) -> None:
    """Check every stage and step; writes nothing. Stored tables of stages that are rebuilt are not checked."""
    rebuild = _with_followers(settings, options).rebuild
    for stage in STAGES:
        with prefix_errors(stage.name):
            check_stage(spark, stage, settings, rebuild)
    for step in _enabled_steps(settings):
        with prefix_errors(step.name):
            step.check(spark, settings)
    scheduled_steps(settings)


def check_stage(spark: SparkSession, stage: Stage, settings: Settings, rebuild: tuple[str, ...]) -> None:
    """Check a stage's declarations, and its stored tables against them; writes nothing.

    Raises:
        BadSettings: a setting, mapping, name or expression is invalid.
        Refused: a stored table was derived by another declaration, or written by newer code.
    """
    stage.check(spark, settings)
    if stage.name not in rebuild:
        for table in dict.fromkeys(table for query in stage.queries(settings) for table in query.tables):
            if table.exists(spark, settings.paths):
                table.check_stored(spark, settings.paths)


def run(spark: SparkSession, settings: Settings, options: RunOptions) -> bool:
    """Run the stages in order, each to the end of its input, then the steps.

    A continuous run has all stages at once, and each step by its schedule. A requested stop takes effect after the
    batches in progress; later stages and steps do not run. A step that has nothing to do yet is skipped with a note.

    Returns:
        True when all stages and steps ended; false when a stop was requested.

    Raises:
        ProfilestreamError: a stage failed; the message starts with its name, and later stages did not run.
    """
    options = _with_followers(settings, options)
    steps = _enabled_steps(settings)
    if options.continuous is not None:
        _run_steps(spark, settings, [step for step in steps if step.before])
        queries = [query for stage in STAGES for query in stage.queries(settings)]
        return streaming.run(spark, queries, settings, options, together=True, steps=scheduled_steps(settings))
    with prefix_errors(CAPTURE.name):
        is_finished = streaming.run(spark, CAPTURE.queries(settings), settings, options)
    if not is_finished:
        return False
    for group in DERIVED:
        names = [stage.name for stage in group]
        _run_steps(spark, settings, [step for step in steps if step.before in names])
        queries = [query for stage in group for query in stage.queries(settings)]
        if not streaming.run(spark, queries, settings, options, together=True):
            return False
    _run_steps(spark, settings, [step for step in steps if not step.before])
    return True


def _run_steps(spark: SparkSession, settings: Settings, steps: list[Step]) -> None:
    for step in steps:
        started = time.monotonic()
        try:
            with prefix_errors(step.name):
                _run_step(step, settings, spark)
        except NothingToDo as error:
            console.line(f"{error.what}; skipped, to do: {error.do}")
        else:
            console.line(f"{step.name}: {time.monotonic() - started:.1f} s")


def run_with_summary(spark: SparkSession, settings: Settings, options: RunOptions) -> None:
    """`run`, then print the rows that were captured, the seconds, the path of the page, and the next command."""
    started, rows_before = time.monotonic(), _captured_rows(spark, settings)
    is_finished = run(spark, settings, options)
    captured = {name: rows - rows_before[name] for name, rows in _captured_rows(spark, settings).items()}
    parts = ", ".join(f"{captured[part]:,} {part}" for part in ("clean", "rejected", "duplicate"))
    state = "finished" if is_finished else "stopped as requested; the next run continues"
    console.line(f"{state}: {captured['in']:,} rows captured ({parts}), {time.monotonic() - started:.1f} s")
    if is_finished and options.continuous is None and settings.serve.report.enabled:
        console.line(f"page: open {write_report.path(settings)} in a browser")
    show_next(settings, [])


def _captured_rows(spark: SparkSession, settings: Settings) -> dict[str, int]:
    """Rows `in`, `clean`, `rejected` and `duplicate` of all batches of all sources."""
    parts = ("in", "clean", "rejected", "duplicate")
    if not tables.CAPTURE_BATCHES.exists(spark, settings.paths):
        return dict.fromkeys(parts, 0)
    batches = tables.CAPTURE_BATCHES.read(spark, settings.paths).where("kind = 'source'")
    row = batches.agg(*[F.sum(f"rows_{part}") for part in parts]).first()
    return {part: (row and row[number]) or 0 for number, part in enumerate(parts)}


def run_stage(
    args: argparse.Namespace, name: str, afterwards: Callable[[SparkSession, Settings], None] = lambda *_: None
) -> None:
    """The body of the job of a derive or learn stage: checks it, then runs it and the stages of a cascading rebuild.

    Args:
        args: parsed by job.stage_parser; --check runs nothing.
        afterwards: called after the stage has run.
    """
    settings, options = job.load(args), job.options(args)
    options = _with_followers(settings, options)
    stages = [stage for stage in STAGES if stage.name in (name, *options.rebuild)]
    spark = open_session(name, settings.spark.properties)
    if args.check:
        for stage in stages:
            check_stage(spark, stage, settings, options.rebuild)
        return
    for stage in stages:
        stage.check(spark, settings)  # QueryRunner checks the stored tables
    queries = [query for stage in stages for query in stage.queries(settings)]
    if not queries:
        console.line(f"{name} is not enabled in {settings.config_file}; nothing to run")
        return
    streaming.run(spark, queries, settings, options)
    afterwards(spark, settings)
    show_next(settings, [table for query in queries for table in query.tables if table not in query.shared])


def show_next(settings: Settings, written: list[Table]) -> None:
    """Print the paths of the written tables and the command that shows the state of the warehouse."""
    for table in written:
        console.line(f"table: {table.path(settings.paths)}")
    console.line(f"next: python jobs/steward_status.py --config {settings.config_file}")


def _enabled_steps(settings: Settings) -> list[Step]:
    return [step for step in STEPS if step.is_enabled(settings)]


def scheduled_steps(settings: Settings) -> list[ScheduledStep]:
    """The enabled steps with their schedules in a continuous run.

    Raises:
        BadSettings: the settings name an unknown step, or a schedule is invalid.
    """
    config, invalid = settings.schedule, []
    if unknown := config.steps.keys() - {step.name for step in STEPS}:
        invalid.append(f"unknown steps {sorted(unknown)}; the steps are {[step.name for step in STEPS]}")
    schedules = {}
    for step in STEPS:
        try:
            schedules[step.name] = Schedule(config.steps.get(step.name, step.every), config.timezone)
        except ValueError as error:
            invalid.append(f"{step.name}: {error}")
    if invalid:
        where = f"{settings.config_file}, [schedule.steps]"
        raise BadSettings("; ".join(invalid), where=where, do="correct the keys and schedules")
    return [
        ScheduledStep(step.name, schedules[step.name], partial(_run_step, step, settings))
        for step in _enabled_steps(settings)
    ]


def _run_step(step: Step, settings: Settings, spark: SparkSession) -> None:
    with step_metrics(step.name, settings):
        step.run(spark, settings)


def _with_followers(settings: Settings, options: RunOptions) -> RunOptions:
    """The options with all stages to rebuild: the requested ones, and those that read a table of a rebuilt stage.

    Raises:
        Refused: there are followers, and --cascade is not set.
    """
    rebuild, rebuilt_tables = list(options.rebuild), set[str]()
    for stage in STAGES:
        queries = stage.queries(settings)
        followed = {query.reads.source_table.name for query in queries if query.reads.source_table}
        if followed & rebuilt_tables and stage.name not in rebuild:
            rebuild.append(stage.name)
        if stage.name in rebuild:
            rebuilt_tables |= {table.name for query in queries for table in query.tables if table not in query.shared}
    if (followers := rebuild[len(options.rebuild) :]) and not options.cascade:
        raise Refused(
            f"{followers} read tables that {list(options.rebuild)} would rebuild",
            where="--rebuild",
            do="rebuild them too: --cascade",
        )
    return replace(options, rebuild=tuple(rebuild))
