"""Mean and variance of a vector over all users, kept as new minus old of the rows that a batch touched; no full scan.

And the profile vector of the literature. Its rule P <- P + eta W (X - mu), with X an event's vector, mu the mean of the
population, W weights, and eta the event's weight over the decayed sum of weights so far, makes P the decayed mean of
W (X - mu). So it is read from a row's mean vector: P = W (mean of the row - mu), where W is the configured weight over
the population's standard deviation. A row counts as much as any other, however many events it has.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.commits import Txn
from profilestream.derive.fold import WAS
from profilestream.derive.table_declaration import Derived

_EACH = "MAP<STRING, DOUBLE>"


def after_batch(stored: DataFrame, touched: DataFrame, derived: Derived, txn: Txn) -> DataFrame:
    """The row of `population_stats` for a batch: the row before it, and the touched rows' new values minus their old.

    Args:
        stored: the table; only rows of earlier batches of this epoch are looked at.
        touched: rows as merged, with the column `WAS` (fold.py).
    """
    earlier = stored.where((F.col("epoch") == txn.epoch) & (F.col("batch_id") < txn.batch_id))
    before = earlier.orderBy(F.desc("batch_id")).limit(1)
    names = list(derived.vector.dimensions)
    parts = ["as_of", "users", *[f"{sums}_{n}" for sums in ("sum", "square") for n in range(len(names))]]
    kept = before.select(
        "as_of",
        "users",
        *[F.col("sums")[name].alias(f"sum_{n}") for n, name in enumerate(names)],
        *[F.col("squares")[name].alias(f"square_{n}") for n, name in enumerate(names)],
    )
    assert derived.population is not None
    vector = derived.vector
    new, old = vector.means(F.col(derived.population.of)), vector.means(F.col(WAS))
    came = touched.select("as_of", new.alias("new"), old.alias("old")).select(
        "as_of",
        (F.col("new").isNotNull().cast("bigint") - F.col("old").isNotNull().cast("bigint")).alias("users"),
        *[_more(n, 1).alias(f"sum_{n}") for n in range(len(names))],
        *[_more(n, 2).alias(f"square_{n}") for n in range(len(names))],
    )
    total = kept.unionByName(came).agg(
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


def newest(stored: DataFrame) -> DataFrame:
    """The newest row of `population_stats`; none before the first batch."""
    return stored.orderBy(F.desc("batch_id")).limit(1)


def vectors(said: DataFrame, population: DataFrame, derived: Derived, *more: str) -> DataFrame:
    """Keys and `vector`, a MAP<STRING, DOUBLE> in standard deviations: how a row differs from the population.

    Null for a row without weight; 0 in a dimension that does not vary.

    Args:
        said: rows as fold.Fold.read gives them.
        population: one row of population_stats.
        more: columns of the rows that are kept.
    """
    assert derived.population is not None
    weights = derived.population.weights

    def apart(mean: Column, name: str) -> Column:
        deviation = F.sqrt(F.col("_population.variances")[name])
        scale = F.when(deviation > 0, weights.get(name, 1.0) / deviation).otherwise(0.0)
        return (mean[name] - F.col("_population.means")[name]) * scale

    stats = F.broadcast(population.select(F.struct("means", "variances").alias("_population")))
    mean = F.col(derived.population.of)
    vector = _map({name: apart(mean, name) for name in derived.vector.dimensions})
    return said.crossJoin(stats).select(*derived.keys, *more, F.when(mean.isNotNull(), vector).alias("vector"))


def _more(n: int, power: int) -> Column:
    return _power("new", n, power) - _power("old", n, power)


def _power(side: str, n: int, power: int) -> Column:
    return F.coalesce(F.col(side)[n] ** power, F.lit(0.0))


def _map(values: dict[str, Column]) -> Column:
    names = F.array(*[F.lit(name) for name in values])
    return F.map_from_arrays(names, F.array(*[F.coalesce(v, F.lit(0.0)) for v in values.values()])).cast(_EACH)
