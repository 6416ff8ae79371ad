"""The path of a session: how often each state follows another, by event type and by category.

A path starts in START and ends in END, so bounces and exits are transitions too. Every state between them is entered as
often as it is left.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

START, END, OTHER = "(start)", "(end)", "(other)"
TYPE, CATEGORY = "type", "category"
TRANSITION = ("level", "from_state", "to_state")
_MAX_LENGTH = 64


def category(sql: str) -> Column:
    """The state of an event in the category path, cut to 64 characters; null if the event is not part of the path.

    Args:
        sql: over the event.
    """
    return F.substring(F.expr(sql), 1, _MAX_LENGTH).alias(CATEGORY)


def with_transitions(sessions: DataFrame, max_categories: int) -> DataFrame:
    """Sessions with `transitions` instead of `steps`.

    Spark interprets lambdas and evaluates every expression in them for each element. So arrays are separate columns,
    and transitions are counted by sorting them and comparing positions.

    Args:
        sessions: `steps` contains the events in order, with event type and category. Events without a category are not
            part of the category path.
        max_categories: the first categories of a session that are states of their own; later ones become OTHER.
    """
    sessions = sessions.withColumn("categories", F.array_compact(F.col("steps")[CATEGORY]))
    sessions = sessions.withColumn("states", F.slice(F.array_distinct("categories"), 1, max_categories))
    limited = F.transform(
        "categories", lambda name: F.when(F.array_contains("states", name), name).otherwise(F.lit(OTHER))
    )
    is_within_limit = F.size(F.array_distinct("categories")) <= max_categories
    category_path = F.when(is_within_limit, F.col("categories")).otherwise(limited)
    transitions = F.concat(_transitions(TYPE, F.col("steps")["event_type"]), _transitions(CATEGORY, category_path))
    sessions = sessions.withColumn("sorted", F.sort_array(transitions))
    sessions = sessions.withColumn("distinct", F.array_distinct("sorted"))
    counted = sessions.withColumn("transitions", F.transform("distinct", _with_count))
    return counted.drop("steps", "categories", "states", "sorted", "distinct")


def _transitions(level: str, states: Column) -> Column:
    """The transitions of a path as structs; empty if the path has no states."""
    sources, targets = F.concat(F.array(F.lit(START)), states), F.concat(states, F.array(F.lit(END)))
    transitions = F.arrays_zip(
        F.array_repeat(F.lit(level), F.size(sources)).alias(TRANSITION[0]),
        sources.alias(TRANSITION[1]),
        targets.alias(TRANSITION[2]),
    )
    return F.when(F.size(states) > 0, transitions).otherwise(F.array())


def _with_count(transition: Column, n: Column) -> Column:
    """The n-th distinct transition with its count: the distance to the position of the next one in `sorted`."""
    next_position = F.coalesce(F.array_position("sorted", F.get("distinct", n + 1)), F.size("sorted") + 1)
    count = (next_position - F.array_position("sorted", transition)).cast("bigint")
    return F.struct(*[transition[name].alias(name) for name in TRANSITION], count.alias("count"))
