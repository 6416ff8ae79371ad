"""learn_segments: users in k groups that move with every micro-batch, by incremental k-means over profile vectors.

The state is the rows of the newest batch in `segments`; each user's last contribution is its row in `user_segments`, so
a user counts once, however many batches touched its profile. Passes over rows are crowd.py, the arithmetic kmeans.py.
"""

import json
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits, tables
from profilestream.base.errors import BadSettings
from profilestream.base.session import made_of, sent
from profilestream.base.settings import Settings, fingerprint
from profilestream.base.stream import Batch, Done, Query
from profilestream.base.tables import Table
from profilestream.derive import profiles, stage
from profilestream.derive.declaration import Derived
from profilestream.learn import crowd, kmeans, tracking
from profilestream.learn.als import Floats
from profilestream.learn.descriptions import Space
from profilestream.learn.kmeans import Delta, Move, Params, State, Sums

STAGE, LEARNER = "learn_segments", "segments"
_GONE = "_gone"


def users_table(settings: Settings) -> Table:
    """`user_segments`: a row a user: its segment, and the last contribution, which counts once.

    `point` is the profile vector in the scaling of the model, `distance` that to its segment's centre (an outlier
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
        properties={"delta.enableDeletionVectors": "true", "delta.enableChangeDataFeed": "true"},
        declaration=_declaration(settings),
    )


def table(settings: Settings) -> Table:
    """`segments`: the segments after every batch, a row each; those of the newest batch are the state.

    `users` is how many users are in it; `weight`, `sums` and `scatter` are the decayed sums of 1, x and x xT (by rows)
    over their points as of `as_of`. `centre` is sums / weight by dimension: how many times `scale` it lies from
    `location`, which never change within an epoch. `cost` is the mean squared distance to the centre. `parent` names
    the segment that it was split from in this batch, `absorbed` those that became part of it in this batch; `next_id` is
    an id that no segment has had.
    """
    return Table(
        name="segments",
        ddl="""
            segment_id BIGINT NOT NULL,
            users BIGINT NOT NULL,
            weight DOUBLE NOT NULL,
            sums ARRAY<DOUBLE> NOT NULL,
            scatter ARRAY<DOUBLE> NOT NULL,
            centre MAP<STRING, DOUBLE> NOT NULL,
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
        stage.check_names(STAGE, (users_table(settings), table(settings), descriptions_table()), settings)


def queries(settings: Settings) -> list[Query]:
    """The one query of the stage; none when it is not enabled."""
    if not settings.learn.segments.enabled:
        return []
    derived, users, segments = profile(settings), users_table(settings), table(settings)

    def versions(spark: SparkSession, *_: object) -> dict[str, int]:
        return {users.name: commits.version(spark, users, settings.paths)}

    def write(changes: DataFrame, batch: Batch) -> Done:
        with batch.kept(said := _said(changes, derived)) as rows:
            before = _before(said, batch, settings)
            kept = users.read(batch.spark, batch.paths, version=batch.plan.versions[users.name])
            with batch.kept(changed := _changed(said, rows, kept, before.space)):
                others = kept.join(sent(said.select("user_id"), rows), "user_id", "left_anti")
                learned = _learned(changed, others, before.state, batch, params(settings))
                batch.append(_quality(before.state, learned, batch), tables.MODEL_QUALITY)
                batch.merge(commits.stamped(learned.users, users, batch.txn, _GONE), users, gone=_GONE)
            batch.append(_rows(learned, before.space, batch, segments), segments)
        return Done(rows_in=rows)

    return [
        Query(
            stage=STAGE,
            source="",
            lock=STAGE,
            tables=(tables.MODEL_QUALITY, users, segments),
            shared=(tables.MODEL_QUALITY,),
            settings=_course(settings),
            read=lambda spark: stage.changes(
                spark, derived.table, profiles.STAGE, settings, settings.learn.max_files_per_trigger
            ),
            write=write,
            versions=versions,
            follows=derived.table,
            told=tracking.Teller(settings, LEARNER, settings.learn.segments.model_dump(exclude={"enabled", "words"})),
        )
    ]


def _course(settings: Settings) -> str:
    """All that changes what is learned, in readable form."""
    made = settings.learn.segments.model_dump(exclude={"enabled", "words"})
    return json.dumps({"segments": made, "weights": _weights(profile(settings))}, sort_keys=True)


def _declaration(settings: Settings) -> str:
    """What rows go together by."""
    made = settings.learn.segments.model_dump(include={"k", "half_life_days"})
    return fingerprint(json.dumps({"segments": made, "weights": _weights(profile(settings))}, sort_keys=True))


def _weights(derived: Derived) -> dict[str, float]:
    """By dimension of the profile vector."""
    assert derived.population is not None
    return {name: derived.population.weights.get(name, 1.0) for name in derived.vector.dimensions}


@dataclass(frozen=True)
class Model:
    """What was learned, and what its numbers mean."""

    space: Space
    state: State


@dataclass(frozen=True)
class Learned:
    """What a batch gives.

    Args:
        users: rows of `user_segments` that it changes, and `_GONE`, true of those that go.
        state: after it.
        moves: that it made.
        judged: what its points cost by the state before; null when there was none.
    """

    users: DataFrame
    state: State
    moves: list[Move]
    judged: Delta | None


def read(spark: SparkSession, settings: Settings, epoch: str, batch_id: int) -> Model | None:
    """The model after a batch; null when nothing was learned then."""
    rows = table(settings).read(spark, settings.paths)
    found = rows.where((F.col("epoch") == epoch) & (F.col("batch_id") == batch_id)).orderBy("segment_id").collect()
    return _model(found, tuple(profile(settings).vector.dimensions)) if found else None


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


def _said(changes: DataFrame, derived: Derived) -> DataFrame:
    """Rows of the change feed of the profiles -> the newest word on each user: `mean`, null when it is gone, and `at`.

    `mean` is the mean of what the user did, by dimension, in its own unit.
    """
    assert derived.population is not None
    is_there = F.col("_change_type") != "delete"
    mean = F.when(is_there, derived.vector.means(F.col(derived.population.of)))
    word = F.struct(mean.alias("mean"), F.unix_micros("as_of").alias("at"))
    newest = F.max_by(word, F.struct("_commit_version", is_there))
    said = changes.where("_change_type != 'update_preimage'").groupBy("user_id").agg(newest.alias("word"))
    return said.select("user_id", "word.mean", "word.at")


def _before(said: DataFrame, batch: Batch, settings: Settings) -> Model:
    """The model before the batch. Of the first one, its own users say where users lie and how far apart."""
    found = read(batch.spark, settings, batch.txn.epoch, batch.txn.batch_id - 1)
    if found is not None:
        return found
    space = _space(said, _weights(profile(settings)))
    return Model(space, State.founded(np.zeros((0, len(space.names)))))


def _space(said: DataFrame, weights: dict[str, float]) -> Space:
    """Mean of the users, and a standard deviation over the dimension's weight; where they do not differ, 1 over it."""
    parts = [part for n in range(len(weights)) for part in (F.avg(F.col("mean")[n]), F.stddev_pop(F.col("mean")[n]))]
    (row,) = said.agg(*parts).collect()
    location = np.array([value or 0.0 for value in row[0::2]])
    deviation = np.array([value or 1.0 for value in row[1::2]])
    weight = np.array(list(weights.values()))
    scale = np.divide(deviation, weight, out=np.zeros(len(weight)), where=weight != 0)
    return Space(tuple(weights), location, scale)


def point(mean: Column, space: Space) -> Column:
    """Means by dimension (an array) -> the point: how many times the scale they lie from the location; null of null.

    0 in a dimension without scale, whose weight is 0.
    """
    cells = [
        (mean[n] - F.lit(float(location))) / F.lit(float(scale)) if scale else F.lit(0.0)
        for n, (location, scale) in enumerate(zip(space.location, space.scale, strict=True))
    ]
    return F.when(mean.isNotNull(), F.array(*cells))


def _changed(said: DataFrame, count: int, kept: DataFrame, space: Space) -> DataFrame:
    """Users of the batch: what they say now (`point`, `at`), and what was kept of them (`old_*`); null what is not."""
    before = kept.join(sent(said.select("user_id"), count), "user_id", "left_semi").select(
        "user_id",
        F.col("segment_id").alias("old_id"),
        F.col("point").alias("old_point"),
        F.unix_micros("as_of").alias("old_at"),
        F.unix_micros("since").alias("old_since"),
    )
    now = said.select("user_id", point(F.col("mean"), space).alias("point"), "at")
    return now.join(before, "user_id", "left").where("point IS NOT NULL OR old_id IS NOT NULL")


def _learned(changed: DataFrame, others: DataFrame, before: State, batch: Batch, made: Params) -> Learned:
    """Judge the batch by the state before it, then learn from it.

    Args:
        changed: users of the batch, as `_changed` gives them.
        others: rows of `user_segments` of all others, before the batch.
    """
    is_first = not len(before.ids)
    with batch.phase("assign"):
        centres = _first_centres(changed, before, made) if is_first else before.centres
        state = State.founded(centres) if is_first else before
        judged = delta = _delta(changed, state, centres, made)
        for _ in range(1, made.first_passes if is_first else made.passes):
            centres = kmeans.new_centres(state, delta, centres, made)
            delta = _delta(changed, state, centres, made)
        new = changed.where("point IS NOT NULL").withColumn("segment_id", F.lit(None).cast("bigint"))
        assigned = _Assigned(new, others, state, centres)
    with batch.phase("move"):
        after, moves = _moved(kmeans.apply(state, delta, made), assigned, made)
    return Learned(_placed(changed, assigned, moves, after), after, moves, None if is_first else judged)


@dataclass(frozen=True)
class _Assigned:
    """Contributions with their segments, before moves.

    Args:
        new: of the batch; each goes to the nearest of the centres, which belong to the segments of `state`.
        others: kept ones of other users, which stay where they are.
    """

    new: DataFrame
    others: DataFrame
    state: State
    centres: Floats


def _first_centres(changed: DataFrame, nobody: State, made: Params) -> Floats:
    """Chosen by one task, among users that a hash draws."""
    d = nobody.sums.sums.shape[1]
    drawn = changed.where("point IS NOT NULL").orderBy(F.xxhash64("user_id", F.lit(made.seed)), "user_id")
    sample = drawn.limit(made.sample).select("point").coalesce(1)
    found = sample.mapInArrow(partial(crowd.chosen, d=d, params=made), "point array<double>").collect()
    return np.array([row["point"] for row in found]).reshape(-1, d)


def _delta(changed: DataFrame, state: State, centres: Floats, made: Params) -> Delta:
    rows = changed.select("point", "at", "old_point", "old_at", "old_id")
    step = partial(crowd.deltas, state=state, centres=centres, params=made)
    return crowd.together([tuple(row) for row in rows.mapInArrow(step, crowd.TOLD).collect()], state, made)


def _moved(after: State, assigned: _Assigned, made: Params) -> tuple[State, list[Move]]:
    """The state with the moves that pay, for which all users of the segments that may be split are asked."""
    axes = kmeans.promising(after, made)
    if not len(axes.ids):
        return after, []
    asked = assigned.others.where(F.col("segment_id").isin(axes.ids.tolist()))
    asked = asked.select("point", F.unix_micros("as_of").alias("at"), "segment_id")
    rows = asked.unionByName(assigned.new.select("point", "at", "segment_id"))
    step = partial(crowd.bins, axes=axes, ids=assigned.state.ids, centres=assigned.centres, params=made)
    told = [row["sums"] for row in rows.mapInArrow(step, "sums binary").collect()]
    return kmeans.moved(after, axes, crowd.binned(told, axes, made), made)


def _placed(changed: DataFrame, assigned: _Assigned, moves: list[Move], after: State) -> DataFrame:
    """Rows of `user_segments` that change: users of the batch, users whom a move took along, and those who are gone."""
    left = [segment for move in moves for segment in (move.parent, move.absorbed) if segment is not None]
    told = assigned.others.where(F.col("segment_id").isin(left)).select(
        "user_id", "point", F.unix_micros("as_of").alias("at"), "segment_id",
        F.col("segment_id").alias("old_id"), F.unix_micros("since").alias("old_since"), F.lit(False).alias("is_new"),
    )  # fmt: skip
    new = assigned.new.withColumn("is_new", F.lit(True)).select(*told.columns)
    step = partial(crowd.placed, ids=assigned.state.ids, centres=assigned.centres, moves=moves, after=after)
    rows = new.unionByName(told).mapInArrow(step, crowd.PLACED)
    came = F.when(F.col("is_new"), F.col("at")).otherwise(F.lit(after.sums.now))
    since = F.when(F.col("segment_id") == F.col("old_id"), F.col("old_since")).otherwise(came)
    there = rows.where("is_new OR segment_id != old_id").select(
        "user_id", "segment_id", "distance", "point", F.timestamp_micros("at").alias("as_of"),
        F.timestamp_micros(since).alias("since"), F.lit(False).alias(_GONE),
    )  # fmt: skip
    gone = changed.where("point IS NULL").select(
        "user_id", F.col("old_id").alias("segment_id"), F.lit(0.0).alias("distance"), F.col("old_point").alias("point"),
        F.timestamp_micros("old_at").alias("as_of"), F.timestamp_micros("old_since").alias("since"),
        F.lit(True).alias(_GONE),
    )  # fmt: skip
    return there.unionByName(gone)


def _quality(before: State, learned: Learned, batch: Batch) -> DataFrame:
    """What the batch's points cost on average, by the segments before it, and by one mean of all users."""
    found = learned.judged
    costs = {} if found is None or not found.points else {"kmeans": found.cost, "mean": found.cost_of_mean}
    points = 0 if found is None else found.points
    values = [{"candidate": name, "users": points, "cost": cost / points} for name, cost in costs.items()]
    own = {"learner": F.lit(LEARNER), "as_of": F.timestamp_micros(F.lit(before.sums.now))}
    rows = made_of(batch.spark, values, tables.MODEL_QUALITY.schema).withColumns(own)
    return commits.stamped(rows, tables.MODEL_QUALITY, batch.txn)


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
            "centre": dict(zip(space.names, sums.centres[n].tolist(), strict=True)),
            "location": dict(zip(space.names, space.location.tolist(), strict=True)),
            "scale": dict(zip(space.names, space.scale.tolist(), strict=True)),
            "cost": float(sums.cost[n] / sums.weight[n]),
            "parent": parents.get(segment),
            "absorbed": absorbed.get(segment, []),
            "next_id": learned.state.next_id,
        }
        for n, segment in enumerate(ids.tolist())
    ]
    rows = made_of(batch.spark, values, segments.schema).withColumn("as_of", F.timestamp_micros(F.lit(sums.now)))
    return commits.stamped(rows, segments, batch.txn)
