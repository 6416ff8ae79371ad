"""learn_segments: users in k groups that move with every micro-batch, by incremental k-means over profile vectors.

The state is the rows of the newest batch in `segments`; each user's last contribution is its row in `user_segments`, so
a user counts once, however many batches touched its profile. A batch over frames is grouping.py.
"""

import json
from dataclasses import asdict, dataclass, fields

import numpy as np
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, tables
from profilestream.base.errors import BadSettings
from profilestream.base.queries import Batch, BatchResult, Query, changed_rows, stage_query
from profilestream.base.session import broadcast_if_small, frame_of_dicts
from profilestream.base.settings import Settings, fingerprint
from profilestream.base.tables import Table
from profilestream.derive import fold_stage, profiles
from profilestream.derive.table_declaration import Derived
from profilestream.learn import segments_batch, tracking
from profilestream.learn.cluster_sums import Sums
from profilestream.learn.kmeans import Delta, Params, State
from profilestream.learn.segment_rules import Space
from profilestream.learn.segments_batch import GONE, Learned

STAGE, LEARNER = "learn_segments", "segments"


def users_table(settings: Settings) -> Table:
    """`user_segments`: a row a user: its segment, and the last contribution, which counts once.

    `point` is the profile vector in the scaling of the model, `distance` that to its segment's center (an outlier
    score, in standard deviations), `as_of` the newest event of the profile that it was made of, `since` when the user
    came into the segment.
    """
    return Table(
        name="user_segments",
        ddl="""
            user_id STRING NOT NULL,
            segment_id BIGINT NOT NULL,
            distance DOUBLE NOT NULL,
            point ARRAY<DOUBLE> NOT NULL,
            as_of TIMESTAMP NOT NULL,
            since TIMESTAMP NOT NULL,
            epoch STRING NOT NULL,
            batch_id BIGINT NOT NULL
        """,
        key=("user_id",),
        properties={"delta.enableDeletionVectors": "true"},
        declaration=_declaration(settings),
    )


def table(settings: Settings) -> Table:
    """`segments`: the segments after every batch, a row each; those of the newest batch are the state.

    `users` is how many users are in it; `weight`, `sums` and `scatter` are the decayed sums of 1, x and x xT (by rows)
    over their points as of `as_of`. `center` is sums / weight by dimension: how many times `scale` it lies from
    `location`, which never change within an epoch. `cost` is the mean squared distance to the center. `parent` names
    the segment that it was split from in this batch, `absorbed` those that became part of it in this batch; `next_id`
    is an id that no segment has had.
    """
    return Table(
        name="segments",
        ddl="""
            segment_id BIGINT NOT NULL,
            users BIGINT NOT NULL,
            weight DOUBLE NOT NULL,
            sums ARRAY<DOUBLE> NOT NULL,
            scatter ARRAY<DOUBLE> NOT NULL,
            center MAP<STRING, DOUBLE> NOT NULL,
            location MAP<STRING, DOUBLE> NOT NULL,
            scale MAP<STRING, DOUBLE> NOT NULL,
            cost DOUBLE NOT NULL,
            parent BIGINT,
            absorbed ARRAY<BIGINT> NOT NULL,
            next_id BIGINT NOT NULL,
            as_of TIMESTAMP NOT NULL,
            epoch STRING NOT NULL,
            batch_id BIGINT NOT NULL
        """,
        key=("epoch", "batch_id", "segment_id"),
        properties={"delta.dataSkippingStatsColumns": "batch_id"},
        declaration=_declaration(settings),
    )


def descriptions_table() -> Table:
    """`segment_descriptions`: what sets each segment of the newest batch apart, in words; replaced as a whole.

    `description` names its most distinguishing dimensions, `rule` the way to it in a shallow decision tree, `precision`
    the share of the users on that way who are in it, `recall` the share of its users who are on it.
    """
    return Table(
        name="segment_descriptions",
        ddl="""
            segment_id BIGINT NOT NULL,
            description STRING NOT NULL,
            rule STRING NOT NULL,
            precision DOUBLE,
            recall DOUBLE,
            users BIGINT NOT NULL,
            share DOUBLE NOT NULL,
            tree STRING NOT NULL,
            as_of TIMESTAMP NOT NULL,
            epoch STRING NOT NULL,
            batch_id BIGINT NOT NULL
        """,
        key=("segment_id",),
    )


def profile(settings: Settings) -> Derived:
    """The declared table of profiles whose vectors are learned.

    Raises:
        BadSettings: there is none, or it keeps no vector.
    """
    derived = profiles.of_users(settings)
    if derived.population is None:
        raise BadSettings(
            f"{derived.name} declares no [population], so it has no profile vector",
            where="learn.segments.enabled",
            do="declare one, as conf/derive/user_profiles.toml does",
        )
    return derived


def params(settings: Settings) -> Params:
    """What the settings say of the arithmetic."""
    made = settings.learn.segments.model_dump()
    return Params(**{field.name: made[field.name] for field in fields(Params)})


def check(spark: SparkSession, settings: Settings) -> None:
    """Check that there are profile vectors, and that no declared table has the name of one of these; writes nothing.

    Raises:
        BadSettings: there are none, or one has.
    """
    if settings.learn.segments.enabled:
        fold_stage.check_names(STAGE, (users_table(settings), table(settings), descriptions_table()), settings)


def queries(settings: Settings) -> list[Query]:
    """The one query of the stage; none when it is not enabled."""
    if not settings.learn.segments.enabled:
        return []
    derived, users, segments = profile(settings), users_table(settings), table(settings)
    made = params(settings)

    def versions(spark: SparkSession, *_: object) -> dict[str, int]:
        return {users.name: commits.version(spark, users, settings.paths)}

    def write(changes: DataFrame, batch: Batch) -> BatchResult:
        with batch.cached(said := segments_batch.said(changes, derived)) as rows:
            before = _before(said, batch, segments, derived)
            kept = users.read(batch.spark, batch.paths, version=batch.plan.versions[users.name])
            changed = segments_batch.changed_users(said, rows, kept, before.space).persist()
            others = kept.join(broadcast_if_small(said.select("user_id"), rows), "user_id", "left_anti")
            found = segments_batch.assigned(changed, others, before.state, batch, made)
            with batch.in_background() as run:
                run(batch.append, _quality(before.state, found.judged, batch), tables.MODEL_METRICS)
                learned = segments_batch.learned(changed, found, batch, made)
            batch.merge(commits.stamped(learned.users, users, batch.txn, GONE), users, gone=GONE)
            batch.append(_rows(learned, before.space, batch, segments), segments)
            changed.unpersist()
        return BatchResult(rows_in=rows)

    return [
        stage_query(
            STAGE,
            changed_rows(derived.table, profiles.STAGE, settings.paths, settings.learn.max_files_per_trigger),
            (tables.MODEL_METRICS, users, segments),
            write,
            settings=_course(settings),
            shared=(tables.MODEL_METRICS,),
            versions=versions,
            on_progress=tracking.MetricsReporter(settings, LEARNER, asdict(made)),
        )
    ]


def _course(settings: Settings) -> str:
    """All that changes what is learned, in readable form."""
    return json.dumps({"segments": asdict(params(settings)), "weights": weights(profile(settings))}, sort_keys=True)


def _declaration(settings: Settings) -> str:
    """What rows go together by."""
    made = settings.learn.segments.model_dump(include={"k", "half_life_days"})
    return fingerprint(json.dumps({"segments": made, "weights": weights(profiles.of_users(settings))}, sort_keys=True))


def weights(derived: Derived) -> dict[str, float]:
    """By dimension of the profile vector; none where there is no such vector."""
    if derived.population is None:
        return {}
    return {name: derived.population.weights.get(name, 1.0) for name in derived.vector.dimensions}


@dataclass(frozen=True)
class Model:
    """What was learned, and what its numbers mean."""

    space: Space
    state: State


def read(spark: SparkSession, settings: Settings, epoch: str, batch_id: int) -> Model | None:
    """The model after a batch; null when nothing was learned then."""
    return _read(table(settings).read(spark, settings.paths), profile(settings), epoch, batch_id)


def _read(rows: DataFrame, derived: Derived, epoch: str, batch_id: int) -> Model | None:
    found = rows.where((F.col("epoch") == epoch) & (F.col("batch_id") == batch_id)).collect()
    in_order = sorted(found, key=lambda row: int(row["segment_id"]))
    return _model(in_order, tuple(derived.vector.dimensions)) if found else None


def _model(rows: list[Row], names: tuple[str, ...]) -> Model:
    first, s, d = rows[0], len(rows), len(names)
    location, scale = (np.array([first[column][name] for name in names]) for column in ("location", "scale"))
    users, weight, sums, scatter = (
        np.array([row[column] for row in rows]) for column in ("users", "weight", "sums", "scatter")
    )
    now = int(first["as_of"].timestamp()) * 1_000_000 + first["as_of"].microsecond
    found = Sums(users, weight, sums, scatter.reshape(s, d, d), now)
    state = State(np.array([row["segment_id"] for row in rows]), found, first["next_id"])
    return Model(Space(names, location, scale), state)


def _before(said: DataFrame, batch: Batch, segments: Table, derived: Derived) -> Model:
    """The model before the batch. Of the first one, its own users say where users lie and how far apart."""
    rows = segments.read(batch.spark, batch.paths)
    found = _read(rows, derived, batch.txn.epoch, batch.txn.batch_id - 1)
    if found is not None:
        return found
    space = segments_batch.space_of(said, weights(derived))
    return Model(space, State.founded(np.zeros((0, len(space.names)))))


def _quality(before: State, found: Delta | None, batch: Batch) -> DataFrame:
    """What the batch's points cost on average, by the segments before it, and by one mean of all users."""
    costs = {} if found is None or not found.points else {"kmeans": found.cost, "mean": found.cost_of_mean}
    points = 0 if found is None else found.points
    values = [{"ranker": name, "users": points, "cost": cost / points} for name, cost in costs.items()]
    own = {"learner": F.lit(LEARNER), "as_of": F.timestamp_micros(F.lit(before.sums.now))}
    rows = frame_of_dicts(batch.spark, values, tables.MODEL_METRICS.schema).withColumns(own)
    return commits.stamped(rows, tables.MODEL_METRICS, batch.txn)


def _rows(learned: Learned, space: Space, batch: Batch, segments: Table) -> DataFrame:
    """The state as rows of `segments`."""
    sums, ids = learned.state.sums, learned.state.ids
    parents = {move.child: move.parent for move in learned.moves}
    absorbed: dict[int, list[int]] = {}
    for move in learned.moves:
        if move.absorbed is not None and move.into is not None:
            absorbed[move.into] = [*absorbed.get(move.into, []), *absorbed.pop(move.absorbed, []), move.absorbed]
    values = [
        {
            "segment_id": segment,
            "users": int(sums.users[n]),
            "weight": float(sums.weight[n]),
            "sums": sums.sums[n].tolist(),
            "scatter": sums.scatter[n].ravel().tolist(),
            "center": dict(zip(space.names, sums.centers[n].tolist(), strict=True)),
            "location": dict(zip(space.names, space.location.tolist(), strict=True)),
            "scale": dict(zip(space.names, space.scale.tolist(), strict=True)),
            "cost": float(sums.cost[n] / sums.weight[n]),
            "parent": parents.get(segment),
            "absorbed": absorbed.get(segment, []),
            "next_id": learned.state.next_id,
        }
        for n, segment in enumerate(ids.tolist())
    ]
    rows = frame_of_dicts(batch.spark, values, segments.schema).withColumn("as_of", F.timestamp_micros(F.lit(sums.now)))
    return commits.stamped(rows, segments, batch.txn)
