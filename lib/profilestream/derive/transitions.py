"""Change feed of `sessions` -> decayed counts of transitions, per user and over all users; appended.

Each change of a session subtracts the transitions of the old row and adds those of the new row, both at the end time of
their session. So the tables contain the transitions of the current sessions, whatever the order of the changes. The
changes of one commit of `sessions` may be in several batches.
"""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base.delta_table import Table
from profilestream.base.queries import Batch, BatchResult, Query, changed_rows, stage_query
from profilestream.base.settings import Settings
from profilestream.derive import fold_stage, sessions
from profilestream.derive.fold import Fold
from profilestream.derive.kernels.session_paths import TRANSITION
from profilestream.derive.table_declaration import DerivedTable

STAGE = "derive_transitions"
USERS, ALL = "user_transitions", "event_transitions"


def declaration(settings: Settings, name: str) -> DerivedTable:
    """The declaration of USERS or ALL.

    `transitions` is the exact count and `weight` the decayed one. If all sessions with a transition were deleted, both
    are 0, but `weight` only up to rounding errors.
    """
    keys = TRANSITION if name == ALL else ("user_id", *TRANSITION)
    half_life = settings.derive.transitions.half_life_days
    return DerivedTable.model_validate({
        "name": name,
        "write": "append",
        "keys": {key: {"of": key} for key in keys},
        "statistics": {
            "transitions": {"kind": "count", "weight": "delta"},
            "weight": {"kind": "sum", "weight": "delta", "half_life_days": half_life},
        },
    })  # fmt: skip


def tables(settings: Settings) -> tuple[Table, Table]:
    """`user_transitions` and `event_transitions`."""
    return declaration(settings, USERS).table, declaration(settings, ALL).table


def check(spark: SparkSession, settings: Settings) -> None:
    """Check the declared tables, whose names must differ from those of this stage; writes nothing.

    Raises:
        BadSettings: a declaration is invalid.
    """
    fold_stage.declared_tables(settings)


def queries(settings: Settings) -> list[Query]:
    """The query of the stage; empty if the stage is not enabled."""
    if not settings.derive.transitions.enabled:
        return []
    files = settings.derive.max_files_per_trigger
    user_fold, total_fold = (Fold(declaration(settings, name)) for name in (USERS, ALL))

    def write(frame: DataFrame, batch: Batch) -> BatchResult:
        with batch.cached(frame) as (changes, count):
            (events,) = batch.select(transition_events(changes), [user_fold.selection], count, tables(settings))
            with batch.phase("fold"):
                by_user = user_fold.fold_events(events)
            with batch.cached(by_user) as (partials, _):
                # Fold by user first: a few pairs of states have most transitions, and one task sums all rows of a pair.
                totals = total_fold.merge_rows(partials, order=("user_id",))
                fold_stage.append_partials([user_fold, total_fold], [partials, totals], batch)
        return BatchResult(rows_in=count)

    return [
        stage_query(
            STAGE,
            changed_rows(sessions.table(settings), sessions.STAGE, settings.paths, files),
            tables(settings),
            write,
            settings="\n".join(fold.derived.settings for fold in (user_fold, total_fold)),
        )
    ]


def transition_events(changes: DataFrame) -> DataFrame:
    """Rows of the change feed of `sessions` -> one row per session and transition, with the columns of an event.

    `delta` is the change of the count: negative for rows that were updated or deleted. `source` and `event_id` only
    order transitions with the same time.
    """
    is_new_row = F.col("_change_type").isin("insert", "update_postimage")
    sign = F.when(is_new_row, 1).otherwise(-1).alias("sign")
    order = ("session_end", "session_start", "_change_type", "_commit_version")
    transitions = changes.select("user_id", *order, sign, F.inline("transitions"))
    return transitions.select(
        "user_id",
        *TRANSITION,
        (F.col("sign") * F.col("count")).alias("delta"),
        F.col("session_end").alias("event_time"),
        F.col("_change_type").alias("source"),
        F.concat_ws(" ", "_commit_version", "session_start").alias("event_id"),
    )
