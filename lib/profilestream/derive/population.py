"""Mean and variance of a vector over all users, and the profile vector.

A batch adds the new values of its rows and subtracts their old values; there is no full scan.

The profile rule of the literature is P <- P + eta W (X - mu), with X an event's vector, mu the mean of the population,
W weights, and eta the event's weight over the decayed sum of weights. It makes P the decayed mean of W (X - mu). So P
is read from the mean vector of a row: P = W (mean of the row - mu), where W is the configured weight over the
population's standard deviation. Every row has the same weight in the population, however many events it has.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.commits import Txn
from profilestream.derive.table_declaration import DerivedTable

_MAP_TYPE = "MAP<STRING, DOUBLE>"


def after_batch(
    stored: DataFrame, rows: DataFrame, rows_before: DataFrame, derived: DerivedTable, txn: Txn
) -> DataFrame:
    """The population row of a batch: the row before it, plus new minus old vectors of the rows that the batch wrote.

    Args:
        stored: the population table; only rows of earlier batches of this epoch are read.
        rows_before: the rows of the same keys before the batch; new keys have none.
    """
    vector = means_of(F.col(derived.vector_state))
    old = rows_before.select(*derived.keys, vector.alias("old"))
    vectors = rows.select(*derived.keys, "as_of", vector.alias("new")).join(old, list(derived.keys), "left")
    earlier = stored.where((F.col("epoch") == txn.epoch) & (F.col("batch_id") < txn.batch_id))
    before = earlier.orderBy(F.desc("batch_id")).limit(1)
    names = list(derived.vector.dimensions)
    parts = ["as_of", "users", *[f"{sums}_{n}" for sums in ("sum", "square") for n in range(len(names))]]
    previous = before.select(
        "as_of",
        "users",
        *[F.col("sums")[name].alias(f"sum_{n}") for n, name in enumerate(names)],
        *[F.col("squares")[name].alias(f"square_{n}") for n, name in enumerate(names)],
    )
    change = vectors.select(
        "as_of",
        (F.col("new").isNotNull().cast("bigint") - F.col("old").isNotNull().cast("bigint")).alias("users"),
        *[_change(n, 1).alias(f"sum_{n}") for n in range(len(names))],
        *[_change(n, 2).alias(f"square_{n}") for n in range(len(names))],
    )
    total = previous.unionByName(change).agg(
        F.max("as_of").alias("as_of"), *[F.coalesce(F.sum(part), F.lit(0)).alias(part) for part in parts[1:]]
    )
    means = {name: F.try_divide(f"sum_{n}", "users") for n, name in enumerate(names)}
    spread = {name: F.try_divide(f"square_{n}", "users") - means[name] ** 2 for n, name in enumerate(names)}
    return total.select(
        "as_of",
        F.col("users").cast("bigint").alias("users"),
        _map({name: F.col(f"sum_{n}") for n, name in enumerate(names)}).alias("sums"),
        _map({name: F.col(f"square_{n}") for n, name in enumerate(names)}).alias("squares"),
        _map(means).alias("means"),
        _map({name: F.greatest(variance, F.lit(0.0)) for name, variance in spread.items()}).alias("variances"),
        F.lit(txn.epoch).alias("epoch"),
        F.lit(txn.batch_id).cast("bigint").alias("batch_id"),
    )


def means_of(state: Column) -> Column:
    """ARRAY<DOUBLE> of the means of a mean_vector, in the order of its dimensions; null without weight."""
    return F.when(state["weight"] > 0, F.transform(state["sums"], lambda x: x / state["weight"]))


def latest(stored: DataFrame) -> DataFrame:
    """The latest row of the population table; empty before the first batch."""
    return stored.orderBy(F.desc("batch_id")).limit(1)


def profile_vectors(profiles: DataFrame, population: DataFrame, derived: DerivedTable, *more: str) -> DataFrame:
    """Keys and `vector`, a MAP<STRING, DOUBLE>: the difference from the population in weighted standard deviations.

    Null for a row without weight; 0 in a dimension without variance.

    Args:
        profiles: rows returned by fold.Fold.read.
        population: one row of the population table.
        more: other columns of the result.
    """
    assert derived.population is not None
    weights = derived.population.weights

    def difference(mean: Column, name: str) -> Column:
        deviation = F.sqrt(F.col("_population.variances")[name])
        scale = F.when(deviation > 0, weights.get(name, 1.0) / deviation).otherwise(0.0)
        return (mean[name] - F.col("_population.means")[name]) * scale

    stats = F.broadcast(population.select(F.struct("means", "variances").alias("_population")))
    mean = F.col(derived.population.of)
    vector = _map({name: difference(mean, name) for name in derived.vector.dimensions})
    return profiles.crossJoin(stats).select(*derived.keys, *more, F.when(mean.isNotNull(), vector).alias("vector"))


def _change(n: int, power: int) -> Column:
    return _power("new", n, power) - _power("old", n, power)


def _power(side: str, n: int, power: int) -> Column:
    return F.coalesce(F.col(side)[n] ** power, F.lit(0.0))


def _map(values: dict[str, Column]) -> Column:
    names = F.array(*[F.lit(name) for name in values])
    return F.map_from_arrays(names, F.array(*[F.coalesce(v, F.lit(0.0)) for v in values.values()])).cast(_MAP_TYPE)
