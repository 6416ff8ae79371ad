"""Change feed of `sessions` -> decayed counts of transitions, of all users together and of each; appended.

A change of a session takes the old row's transitions out and puts the new row's in, each at the end of its session. So
the tables hold the transitions of the sessions as they are, in whatever order the changes come, and a commit of
`sessions` may come in several batches.
"""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits
from profilestream.base.queries import Batch, BatchResult, Query, changed_rows, stage_query
from profilestream.base.settings import Settings
from profilestream.derive import fold_stage, sessions
from profilestream.derive.fold import Fold
from profilestream.derive.session_paths import MOVE
from profilestream.derive.table_declaration import Derived

STAGE = "derive_chains"
USERS, ALL = "user_transitions", "event_transitions"


def declared(settings: Settings, name: str) -> Derived:
    """The declaration of USERS or ALL.

    `transitions` is the exact number, `weight` the decayed one; both are 0 when all were taken out again, but only the
    number is so to the last bit.
    """
    keys = MOVE if name == ALL else ("user_id", *MOVE)
    half_life = settings.derive.chains.half_life_days
    return Derived.model_validate({
        "name": name,
        "write": "append",
        "keys": {key: {"of": key} for key in keys},
        "statistics": {
            "transitions": {"kind": "count", "weight": "more"},
            "weight": {"kind": "sum", "weight": "more", "half_life_days": half_life},
        },
    })  # fmt: skip


def check(spark: SparkSession, settings: Settings) -> None:
    """Check that no declared table has the name of one of these; writes nothing.

    Raises:
        BadSettings: one has.
    """
    if settings.derive.chains.enabled:
        fold_stage.check_names(STAGE, tuple(declared(settings, name).table for name in (USERS, ALL)), settings)


def queries(settings: Settings) -> list[Query]:
    """The one query of the stage; none when it is not enabled."""
    if not settings.derive.chains.enabled:
        return []
    files = settings.derive.max_files_per_trigger
    of_users, of_all = (Fold.of(declared(settings, name)) for name in (USERS, ALL))

    def write(changes: DataFrame, batch: Batch) -> BatchResult:
        with batch.cached(changes) as rows, batch.cached(by_user := of_users.partials(moves(changes))):
            # A partial a user first: few pairs of states hold most moves, and each pair is summed by one task.
            for derived, partials in ((of_users.derived, by_user), (of_all.derived, of_all.merged(by_user))):
                batch.append(commits.stamped(partials, derived.table, batch.txn), derived.table)
        return BatchResult(rows_in=rows)

    return [
        stage_query(
            STAGE,
            changed_rows(sessions.table(settings), sessions.STAGE, settings.paths, files),
            (of_users.derived.table, of_all.derived.table),
            write,
            settings="\n".join(fold.derived.settings for fold in (of_users, of_all)),
        )
    ]


def moves(changes: DataFrame) -> DataFrame:
    """Rows of the change feed of `sessions` -> a row a transition, as the fold engine takes events.

    `more` is how often more it happened: less than 0 in the row of a session that is no more.
    """
    came = F.when(F.col("_change_type").isin("insert", "update_postimage"), 1).otherwise(-1)
    taken = changes.select("user_id", "session_end", came.alias("sign"), F.inline("transitions"))
    return taken.select(
        "user_id",
        *MOVE,
        (F.col("sign") * F.col("count")).alias("more"),
        F.col("session_end").alias("event_time"),
        # Sums do not ask which of two moves at one time was first.
        F.lit("").alias("source"),
        F.lit("").alias("event_id"),
    )
