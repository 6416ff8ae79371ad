"""DemandSpec: units by item and week and by category and day, and forecasts when a period is complete."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import runner, tables
from profilestream.base.language import message
from profilestream.base.passes import Pass, run_pass
from profilestream.base.queries import QueryInput, appended_rows
from profilestream.base.runner import Rows
from profilestream.base.settings import UNITS_SQL, Demand
from profilestream.learn.demand.kernels import demand_tasks
from profilestream.learn.demand.kernels.demand_models import FEATURES, DemandParams, ErrorSums
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
from profilestream.learn.metrics import RATIO, Evaluation, Metric

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
            name, RATIO, "units",
            f"Sum of the absolute errors of {forecasts} that the batch completes, each forecast from earlier ones, "
            "divided by the sum of the units.",
            is_lower_better=True,
        )
        for name, forecasts in (("item_week_wape", "items in weeks"), ("category_day_wape", "categories on days"))
    )  # fmt: skip
    state_tables = (tables.DEMAND_UNITS, tables.DEMAND_FORECASTS)
    limits = (
        message("Days and weeks are those of UTC; holidays, prices and stock are not used."),
        message("Returns do not reduce demand, and an item without an earlier sale has no forecast."),
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
        units = F.expr(UNITS_SQL)
        sold = frame.where(F.col("event_type").isin(*self.config.event_types) & F.col("item_id").isNotNull())
        keys = F.create_map(F.lit("item"), "item_id", F.lit("category"), "category")
        time = F.unix_micros("event_time").alias("time_micros")
        rows = sold.where(units > 0).select(
            "user_id", time, units.alias("units"), F.explode(keys).alias("level", "key")
        )
        return rows.select("user_id", *SALE.names).dropna(subset=["key"])

    def learn(self, batch: LearnerBatch[Rows]) -> Learned:
        before, history_days = self._counts(batch.stored), self.params.history_days
        with batch.phase("units"):
            changed, counts = self._add(batch.stored, batch.rows, 1)
        after = (before + counts).by_day()
        old, new = before.complete_until(history_days), after.complete_until(history_days)
        levels = [one for one in LEVELS if new is not None and (old is None or one.period(new) != one.period(old))]
        with batch.phase("forecasts"):
            forecasts, errors = self._forecasts(batch.stored, changed, after, levels)
        return self._learned(changed, after, forecasts, self._evaluation(errors, old, counts))

    def remove(self, stored: StateTables[Rows], keys: Rows, events: Rows) -> Learned:
        """Subtract the units of the users, and forecast again; the newest event time remains."""
        changed, counts = self._add(stored, events, -1)
        after = (self._counts(stored) + counts).by_day()
        forecasts, _ = self._forecasts(stored, changed, after, LEVELS)
        return self._learned(changed, after, forecasts, Evaluation())

    def _add(self, stored: StateTables[Rows], sales: Rows, sign: int) -> tuple[Rows, DayCounts]:
        """The changed rows, with CHANGED, and numbers of events."""
        keys = runner.renamed(sales, {"level": "level", "key": "key"})
        inputs = {"sales": sales, "stored": stored.rows(self.tables[0], SERIES.names, keys)}
        outputs, results = run_pass(ADD_UNITS, inputs, sign=sign)
        return outputs["series"], sum(results["counts"], DayCounts())

    def _counts(self, stored: StateTables[Rows]) -> DayCounts:
        """The number of events by day, from the row of the level `all`."""
        return DayCounts.of(runner.collected(stored.rows(self.tables[0], SERIES.names, level="all")))

    def _forecasts(
        self, stored: StateTables[Rows], changed: Rows, counts: DayCounts, levels: Sequence[Level]
    ) -> tuple[list[Rows], dict[Span, ErrorSums]]:
        """Rows with FORECAST of these levels, and the errors of all complete periods."""
        params, forecasts, errors = self.params, list[Rows](), {}
        for level in levels:
            span = counts.span(level, params.history_days)
            rows = {"stored": stored.rows(self.tables[0], SERIES.names, level=level.name), "changed": changed}
            coefficients = np.zeros((0, FEATURES))
            if level == ITEM:
                _, results = run_pass(SUM_RIDGE, rows, span=span)
                coefficients = sum(results["ridge"][1:], results["ridge"][0]).coefficients(params.half_life_weeks)
            arguments: dict[str, Any] = {"span": span, "coefficients": coefficients, "params": params}
            _, results = run_pass(SCORE, rows, **arguments)
            errors[span] = sum(results["errors"][1:], results["errors"][0])
            groups = errors[span].error_of_groups(params.error_days // level.days)
            outputs, _ = run_pass(FORECAST_NEXT, rows, **arguments, errors=groups, as_of=counts.newest)
            forecasts.append(outputs["forecasts"])
        return forecasts, errors

    def _evaluation(self, errors: dict[Span, ErrorSums], old: int | None, batch: DayCounts) -> Evaluation:
        """WAPE of the periods that the batch completes.

        Args:
            old: the first day that was not complete before the batch, null without a state.
            batch: events of the batch.
        """
        values: dict[str, dict[str, tuple[float, float]]] = {"forecast": {}}
        days: list[int] = []
        for span, sums in errors.items():
            begin = span.begin if old is None else max(span.begin, span.level.period(old))
            error, naive_error, units = sums.last(span.end - begin)
            if units:
                metric, naive = _METRICS[span.level.name]
                values["forecast"][metric] = float(error / units), float(units)
                values[naive] = {metric: (float(naive_error / units), float(units))}
                days += [span.level.day(begin), span.level.day(span.end)]
        late = 0 if old is None else int(batch.counts[batch.days < old].sum())
        if not days:
            return Evaluation({}, EvaluationTimes(late_rows=late), 0)
        begin, end = (day * MICROS_PER_DAY for day in (min(days), max(days)))
        return Evaluation(values, EvaluationTimes(begin, end - 1, late), begin - 1)

    def _learned(self, changed: Rows, counts: DayCounts, forecasts: list[Rows], evaluation: Evaluation) -> Learned:
        """Both tables; a batch that completes no period changes no forecast."""
        units, next_units = self.tables
        rows = runner.union(*forecasts) if forecasts else FORECAST.empty_table()
        return Learned({units.name: runner.union(changed, counts.row()), next_units.name: rows}, evaluation)
