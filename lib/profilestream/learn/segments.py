"""learn_segments: users in k groups that move with every micro-batch, by incremental k-means over profile vectors."""

import json

from profilestream.base.settings import Settings, fingerprint
from profilestream.base.tables import Table

STAGE, LEARNER = "learn_segments", "segments"


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

    `users` is how many users are in it, `weight`, `sums` and `square` are the decayed sums of 1, x and |x|^2 over
    their points as of `as_of`; `centre` is sums / weight by dimension, in standard deviations of `location` and
    `scale`, which never change within an epoch; `cost` the mean squared distance to the centre. `parent` names the
    segment that it was split from in this batch, `absorbed` those that became part of it in this batch.
    """
    return Table(
        name="segments",
        ddl="""
            segment_id BIGINT NOT NULL,
            users BIGINT NOT NULL,
            weight DOUBLE NOT NULL,
            sums ARRAY<DOUBLE> NOT NULL,
            square DOUBLE NOT NULL,
            centre MAP<STRING, DOUBLE> NOT NULL,
            location MAP<STRING, DOUBLE> NOT NULL,
            scale MAP<STRING, DOUBLE> NOT NULL,
            cost DOUBLE NOT NULL,
            parent BIGINT,
            absorbed ARRAY<BIGINT>,
            as_of TIMESTAMP NOT NULL,
            epoch STRING NOT NULL,
            batch_id BIGINT NOT NULL
        """,
        key=("epoch", "batch_id", "segment_id"),
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


def _declaration(settings: Settings) -> str:
    made = settings.learn.segments.model_dump(include={"k", "half_life_days"})
    return fingerprint(json.dumps(made, sort_keys=True))
