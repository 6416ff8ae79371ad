"""DemandSpec: units by item and week and by category and day, and forecasts when a period is complete."""

from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import runner, tables
from profilestream.base.passes import Pass, run_pass
from profilestream.base.queries import QueryInput, appended_rows
from profilestream.base.runner import Rows
from profilestream.base.settings import Demand
from profilestream.learn.demand.kernels import demand_tasks
from profilestream.learn.demand.kernels.demand_models import FEATURES, DemandParams, ErrorSums, RidgeSums
from profilestream.learn.demand.kernels.demand_tasks import (
    CHANGED,
    FORECAST,
    ITEM,
    LEVELS,
    SALE,
    SERIES,
    DayCounts,
    Level,
    Span,
)
from profilestream.learn.kernels.evaluation_times import EvaluationTimes
from profilestream.learn.kernels.sums import MICROS_PER_DAY
from profilestream.learn.learner_spec import Learned, LearnerBatch, LearnerSpec, StateTables
from profilestream.learn.metrics import Evaluation, Metric

_KEYS = {"stored": "key", "changed": "key"}
_INPUTS = {"stored": SERIES, "changed": CHANGED}
ADD_UNITS = Pass(
    demand_tasks.add_units,
    inputs={"sales": SALE, "stored": SERIES},
    keys={"sales": "key", "stored": "key"},
    outputs={"series": CHANGED},
    results=("counts",),
)
SUM_RIDGE = Pass(demand_tasks.sum_ridge, inputs=_INPUTS, keys=_KEYS, results=("ridge",))
SCORE = Pass(demand_tasks.score_forecasts, inputs=_INPUTS, keys=_KEYS, results=("errors",))
FORECAST_NEXT = Pass(demand_tasks.forecast_next, inputs=_INPUTS, keys=_KEYS, outputs={"forecasts": FORECAST})
# Name of the metric, and of the naive model, by level.
_METRICS = {"item": ("item_week_wape", "last_week"), "category": ("category_day_wape", "seasonal_naive")}


class DemandSpec(LearnerSpec):
    """Forecasts of units (kernels/demand_models.py). The sums are exact; forecasts are computed from them."""

    name = "demand"
    metrics = tuple(
        Metric(
            name, "ratio", "units",
            f"Sum of |units - forecast| over the sum of the units, of each {period} that the batch completes; the "
            f"forecast uses earlier {period}s only.",
            is_lower_better=True,
        )
        for name, period in (("item_week_wape", "item and week"), ("category_day_wape", "category and day"))
    )  # fmt: skip
    state_tables = (tables.DEMAND_UNITS, tables.DEMAND_FORECASTS)
    limits = (
        "Days and weeks are those of UTC; holidays, prices and stock are not used.",
        "Returns do not reduce demand, and an item without an earlier sale has no forecast.",
    )

    @property
    def config(self) -> Demand:
        return self.settings.learn.demand

    @property
    def params(self) -> DemandParams:
        """The parameters of the models in the settings."""
        return self.config.params_of(DemandParams)

    def check(self, spark: SparkSession) -> None:
        """All settings are checked when they are read."""

    def reads(self) -> QueryInput:
        max_files = self.settings.learn.max_files_per_trigger
        return appended_rows(tables.EVENTS, "capture_events", self.settings.paths, max_files)

    def select(self, frame: DataFrame) -> DataFrame:
        """A row with SALE per level of each event of the types; a missing quantity is 1, and 0 is no sale."""
        units = F.coalesce("quantity", F.lit(1.0))
        sold = frame.where(F.col("event_type").isin(*self.config.event_types) & F.col("item_id").isNotNull())
        keys = F.create_map(F.lit("item"), "item_id", F.lit("category"), "category")
        time = F.unix_micros("event_time").alias("time_micros")
        rows = sold.where(units > 0).select(
            "user_id", time, units.alias("units"), F.explode(keys).alias("level", "key")
        )
        return rows.select("user_id", *SALE.names).dropna(subset=["key"])

    def learn(self, batch: LearnerBatch[Rows]) -> Learned:
        before = self._counts(batch.stored)
        with batch.phase("units"):
            changed, counts = self._add(batch.stored, batch.rows, 1)
        after = sum(counts, before).merged(self.params.history_days)
        old, new = before.complete_until(), after.complete_until()
        levels = [one for one in LEVELS if new is not None and (old is None or one.period(new) != one.period(old))]
        with batch.phase("forecasts"):
            forecasts, errors = self._forecasts(batch.stored, changed, after, levels)
        evaluation = self._evaluation(errors, old, sum(counts, DayCounts())) if counts else Evaluation()
        return self._learned(changed, after if counts else None, forecasts, evaluation)

    def remove(self, stored: StateTables[Rows], keys: Rows, events: Rows) -> Learned:
        """Subtract the units of the users, and forecast again; the newest event time remains."""
        changed, counts = self._add(stored, events, -1)
        after = sum(counts, self._counts(stored)).merged(self.params.history_days)
        forecasts, _ = self._forecasts(stored, changed, after, list(LEVELS) if counts else [])
        return self._learned(changed, after if counts else None, forecasts)

    def _add(self, stored: StateTables[Rows], sales: Rows, sign: int) -> tuple[Rows, list[DayCounts]]:
        """The changed rows, with CHANGED, and numbers of events."""
        keys = runner.renamed(sales, {"level": "level", "key": "key"})
        inputs = {"sales": sales, "stored": stored.rows(self.tables[0], SERIES.names, keys)}
        outputs, results = run_pass(ADD_UNITS, inputs, sign=sign)
        return outputs["series"], results["counts"]

    def _counts(self, stored: StateTables[Rows]) -> DayCounts:
        """The number of events by day, from the row of the level `all`."""
        return DayCounts.of(runner.collected(stored.rows(self.tables[0], SERIES.names, level="all")))

    def _forecasts(
        self, stored: StateTables[Rows], changed: Rows, counts: DayCounts, levels: list[Level]
    ) -> tuple[list[Rows], dict[Level, tuple[Span, ErrorSums]]]:
        """Rows with FORECAST of levels with new complete periods, and the errors of all complete periods."""
        params, forecasts, errors = self.params, list[Rows](), {}
        for level in levels:
            span = counts.span(level)
            rows = {"stored": stored.rows(self.tables[0], SERIES.names, level=level.name), "changed": changed}
            coefficients = np.zeros((0, FEATURES))
            if level == ITEM:
                _, results = run_pass(SUM_RIDGE, rows, span=span)
                empty = RidgeSums(np.zeros((span.end - span.begin, FEATURES, FEATURES + 1)))
                coefficients = sum(results["ridge"], empty).coefficients(params.half_life_weeks)
            arguments: dict[str, Any] = {"span": span, "coefficients": coefficients, "params": params}
            _, results = run_pass(SCORE, rows, **arguments)
            errors[level] = span, sum(results["errors"], ErrorSums.empty(span.end - span.begin))
            groups = errors[level][1].error_of_groups(params.error_days // level.days)
            outputs, _ = run_pass(FORECAST_NEXT, rows, **arguments, errors=groups, as_of=counts.newest)
            forecasts.append(outputs["forecasts"])
        return forecasts, errors

    def _evaluation(self, errors: dict[Level, tuple[Span, ErrorSums]], old: int | None, batch: DayCounts) -> Evaluation:
        """WAPE of the periods that the batch completes.

        Args:
            old: the first day that was not complete before the batch, null without a state.
            batch: events of the batch.
        """
        values: dict[str, dict[str, tuple[float, float]]] = {"forecast": {}}
        days: list[int] = []
        for level, (span, sums) in errors.items():
            count = span.end - max(span.begin, span.begin if old is None else level.period(old))
            error, naive_error, units = sums.last(count) if count > 0 else np.zeros(3)
            if units:
                metric, naive = _METRICS[level.name]
                values["forecast"][metric] = float(error / units), float(units)
                values[naive] = {metric: (float(naive_error / units), float(units))}
                days += [level.day(span.end - count), level.day(span.end)]
        late = 0 if old is None else int(batch.counts[batch.days < old].sum())
        if not days:
            return Evaluation({}, EvaluationTimes(late_rows=late), 0)
        begin, end = (int(day) * MICROS_PER_DAY for day in (min(days), max(days)))
        return Evaluation(values, EvaluationTimes(begin, end - 1, late), begin - 1)

    def _learned(
        self, changed: Rows, counts: DayCounts | None, forecasts: list[Rows], evaluation: Evaluation | None = None
    ) -> Learned:
        units, next_units = self.tables
        total = [] if counts is None else [counts.row()]
        empty = runner.without_rows(changed, FORECAST)
        return Learned(
            {units.name: runner.union(changed, *total), next_units.name: runner.union(empty, *forecasts)},
            evaluation or Evaluation(),
        )
