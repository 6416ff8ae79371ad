"""Mean and variance of a vector over all users, and the profile vector.

A batch adds the new values of its rows and subtracts their old values; there is no full scan.

The profile rule of the literature is P <- P + eta W (X - mu), with X an event's vector, mu the mean of the population,
W weights, and eta the event's weight over the decayed sum of weights. It makes P the decayed mean of W (X - mu). So P
is read from the mean vector of a row: P = W (mean of the row - mu), where W is the configured weight over the
population's standard deviation. Every row has the same weight in the population, however many events it has.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from profilestream.base.commits import Txn
from profilestream.base.runner import Rows
from profilestream.derive.table_declaration import DerivedTable

_MAP_TYPE = "MAP<STRING, DOUBLE>"
# A variance that is a smaller part of the mean square is a rounding error of the difference.
_ROUNDING = 1e-12
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class PopulationSums:
    """The sums over all rows, or what a batch adds to them.

    Args:
        as_of: newest event time of the rows; null without rows.
        users: number of rows with a vector.
        sums, squares: sums of the vectors and of their squares, by dimension.
    """

    as_of: datetime | None
    users: int
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]

    def plus(self, other: "PopulationSums") -> "PopulationSums":
        """The sums over the rows of both."""
        as_of = max(filter(None, (self.as_of, other.as_of)), default=None)
        return PopulationSums(as_of, self.users + other.users, self.sums + other.sums, self.squares + other.squares)

    def row(self, derived: DerivedTable, txn: Txn) -> pa.Table:
        """The row of the population table."""
        count = max(self.users, 1)
        means, mean_squares = self.sums / count, self.squares / count
        variances = mean_squares - means**2
        variances[variances <= _ROUNDING * mean_squares] = 0.0
        vectors = {"sums": self.sums, "squares": self.squares, "means": means, "variances": variances}
        maps = {
            name: list(zip(derived.vector.dimensions, values.tolist(), strict=True)) for name, values in vectors.items()
        }
        batch = {"epoch": txn.epoch, "batch_id": txn.batch_id}
        return derived.population_table.arrow_rows([{"as_of": self.as_of, "users": self.users, **maps, **batch}])


def before_batch(history: DataFrame, derived: DerivedTable, txn: Txn) -> PopulationSums:
    """The population after the earlier batches of the epoch.

    Args:
        history: the population table.
    """
    names = list(derived.vector.dimensions)
    earlier = history.where((F.col("epoch") == txn.epoch) & (F.col("batch_id") < txn.batch_id))
    row: Any = earlier.orderBy(F.desc("batch_id")).select(_micros("as_of"), "users", "sums", "squares").head()
    if row is None:
        return _population(None, 0, np.zeros(len(names)), np.zeros(len(names)))
    return _population(
        row["as_of"], row["users"], *([row[kind][name] for name in names] for kind in ("sums", "squares"))
    )


def change(rows: Rows, rows_before: Rows, derived: DerivedTable) -> PopulationSums:
    """The new minus the old vectors of the rows that a batch wrote.

    Args:
        rows_before: the rows of the same keys before the batch; new keys have none.
    """
    if not isinstance(rows, DataFrame):
        new, old = (_vectors(one, derived) for one in (rows, rows_before))
        latest = pc.max(rows["as_of"]).cast(pa.int64()).as_py()
        sums = [(new**power).sum(axis=0) - (old**power).sum(axis=0) for power in (1, 2)]
        return _population(latest, len(new) - len(old), *sums)
    vector = means_of(F.col(derived.vector_state))
    signed = [
        frame.select(vector.alias("vector"), F.lit(sign).alias("sign"), time.alias("as_of"))
        for frame, sign, time in ((rows, 1, F.col("as_of")), (rows_before, -1, F.lit(None).cast("timestamp")))
    ]

    def total(power: int) -> Column:
        parts = [F.sum(F.col("sign") * F.col("vector")[n] ** power) for n in range(len(derived.vector.dimensions))]
        return F.array(*[F.coalesce(part, F.lit(0.0)) for part in parts])

    users = F.coalesce(F.sum(F.when(F.col("vector").isNotNull(), F.col("sign"))), F.lit(0))
    totals = reduce(DataFrame.unionByName, signed).agg(_micros(F.max("as_of")), users, total(1), total(2))
    return _population(*totals.collect()[0])


def _vectors(rows: pa.Table, derived: DerivedTable) -> NDArray[np.float64]:
    """The vectors of the rows that have one, a row each."""
    column, *fields = derived.vector_state.split(".")
    states = pc.struct_field(rows[column], fields).to_pylist()
    vectors = [np.array(state["sums"]) / state["weight"] for state in states if state and (state["weight"] or 0) > 0]
    return np.array(vectors).reshape(-1, len(derived.vector.dimensions))


def _population(micros: int | None, users: int, sums: Any, squares: Any) -> PopulationSums:
    as_of = None if micros is None else _EPOCH + timedelta(microseconds=micros)
    return PopulationSums(as_of, users, np.array(sums, float), np.array(squares, float))


def _micros(time: Column | str) -> Column:
    """Microseconds since 1970: collected times would be in the time zone of the machine."""
    return F.unix_micros(time).alias("as_of")


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


def _map(values: dict[str, Column]) -> Column:
    names = F.array(*[F.lit(name) for name in values])
    return F.map_from_arrays(names, F.array(*[F.coalesce(v, F.lit(0.0)) for v in values.values()])).cast(_MAP_TYPE)
