"""The path of a session: how often a state followed another, by event type and by category.

A path begins in START and ends in END, so a bounce and an exit are transitions as any other, and each state in between
is entered as often as it is left.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

START, END, OTHER = "(start)", "(end)", "(other)"
TYPE, CATEGORY = "type", "category"
MOVE = ("level", "from_state", "to_state")
_MOST_LETTERS = 64


def category(sql: str) -> Column:
    """Of an event its state in the path of categories; null when it has none.

    Args:
        sql: over the event.
    """
    return F.substring(F.expr(sql), 1, _MOST_LETTERS).alias(CATEGORY)


def with_transitions(sessions: DataFrame, most_categories: int) -> DataFrame:
    """Sessions with `steps`, their events in order with type and category -> with `transitions`, in order, instead.

    The path of categories goes from one event that has a category to the next. Spark interprets what lambdas do, and
    works out whatever stands in them again at each step; so arrays are columns of their own, and moves are sorted to be
    counted by their places.
    """
    known = sessions.withColumn("met", F.array_compact(F.col("steps")[CATEGORY]))
    kept = known.withColumn("kept", F.slice(F.array_distinct("met"), 1, most_categories))
    few = F.transform("met", lambda one: F.when(F.array_contains("kept", one), one).otherwise(F.lit(OTHER)))
    is_few = F.size(F.array_distinct("met")) <= most_categories
    both = F.concat(
        _moves(TYPE, F.col("steps")["event_type"]), _moves(CATEGORY, F.when(is_few, F.col("met")).otherwise(few))
    )
    moves = kept.withColumn("moves", F.sort_array(both)).withColumn("found", F.array_distinct("moves"))
    counted = moves.withColumn("transitions", F.transform("found", _counted))
    return counted.drop("steps", "met", "kept", "moves", "found")


def _moves(level: str, states: Column) -> Column:
    """Each move of a path as a struct; none of a path without states."""
    since, until = F.concat(F.array(F.lit(START)), states), F.concat(states, F.array(F.lit(END)))
    moves = F.arrays_zip(
        F.array_repeat(F.lit(level), F.size(since)).alias(MOVE[0]), since.alias(MOVE[1]), until.alias(MOVE[2])
    )
    return F.when(F.size(states) > 0, moves).otherwise(F.array())


def _counted(move: Column, n: Column) -> Column:
    """A move with its number: how far the next one's place is from its own."""
    next_place = F.coalesce(F.array_position("moves", F.get("found", n + 1)), F.size("moves") + 1)
    count = (next_place - F.array_position("moves", move)).cast("bigint")
    return F.struct(*[move[name].alias(name) for name in MOVE], count.alias("count"))
