"""The case of `learn_demand` for the laws."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis.strategies import SearchStrategy
from profilestream.learn.demand.demand_spec import DemandSpec
from profilestream.learn.demand.kernels.demand_tasks import CATEGORY, ITEM, LEVELS, SALE
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.memory_tables import MemoryTables

from tests import laws
from tests.builders import Shop
from tests.laws import LearnerCase, Numbers
from tests.naive_als import DAY, Event
from tests.naive_demand import NaiveDemand, Sale

_NAIVE_MODELS = {ITEM: ("item_week_wape", "last_week"), CATEGORY: ("category_day_wape", "seasonal_naive")}


def demand_case(home: Path, logs: SearchStrategy[list[Event]], settings: str = "") -> LearnerCase:
    spec = DemandSpec(Shop(home, extra_settings=f"[learn.demand]\n{settings}\n").settings())
    return LearnerCase(
        spec=spec,
        logs=logs,
        to_rows=lambda tables, batch: sale_rows(batch),
        score=lambda tables, rows: _forecasts_of(spec, tables, rows),
        user_of=lambda event: event.user,
        unseen=lambda event: replace(event, user=f"new {event.user}", item=f"new {event.item}", category="new"),
        later=lambda event: replace(event, time=event.time + 60 * DAY),
        decayed_weights=lambda tables: unit_sums(spec, tables),
        evaluate=lambda tables, rows: _evaluated(spec, tables, rows),
        compare_with_reference=lambda batches, states: _compare_with_naive(spec, batches, states),
        stores_users=False,
    )


def sale_rows(batch: Sequence[Event]) -> pa.Table:
    """Rows as from DemandSpec.select; the weight of an event is its quantity."""
    rows = [
        {"user_id": one.user, "level": level, "key": key, "time_micros": one.time, "units": one.weight}
        for one in batch
        for level, key in (("item", one.item), ("category", one.category))
        if key is not None
    ]
    return pa.Table.from_pylist(rows, SALE.append(pa.field("user_id", pa.string())))


def unit_sums(spec: DemandSpec, tables: MemoryTables) -> Numbers:
    """Units by level, key and day, and the number of events by day."""
    return {
        f"{row['level']} {row['key']} {day}": np.array(units)
        for row in tables.all_rows(spec.tables[0]).to_pylist()
        for day, units in zip(row["days"], row["units"], strict=True)
    }


def forecast_rows(spec: DemandSpec, tables: MemoryTables) -> dict[tuple[str, str, int], float]:
    """Forecast units by level, key and periods ahead."""
    rows = tables.all_rows(spec.tables[1]).to_pylist()
    return {(row["level"], row["key"], row["ahead"]): row["units"] for row in rows}


def _forecasts_of(spec: DemandSpec, tables: MemoryTables, rows: pa.Table) -> Floats:
    """The next forecast of the key of each row; 0 without one."""
    forecasts = forecast_rows(spec, tables)
    return np.array([forecasts.get((row["level"], row["key"], 1), 0.0) for row in rows.to_pylist()])


def stored_sales(spec: DemandSpec, tables: MemoryTables) -> list[Sale]:
    """A sale per stored sum."""
    return [
        (row["level"], row["key"], (day - type(day)(1970, 1, 1)).days * DAY, units)
        for row in tables.all_rows(spec.tables[0]).to_pylist()
        for day, units in zip(row["days"], row["units"], strict=True)
        if row["level"] != "all"
    ]


def _sales(rows: pa.Table) -> list[Sale]:
    return [(row["level"], row["key"], row["time_micros"], row["units"]) for row in rows.to_pylist()]


def _until(spec: DemandSpec, tables: MemoryTables, level: str) -> int:
    """The first period that is not complete; the state has the number of events of each day, fewer than 1,000."""
    (days,) = _event_days(tables, spec)
    return NaiveDemand([("item", "", max(days) * DAY, 1.0)]).until(level)


def _event_days(tables: MemoryTables, spec: DemandSpec) -> list[list[int]]:
    """The days with events, in one list; no list without a state."""
    rows = [row for row in tables.all_rows(spec.tables[0]).to_pylist() if row["level"] == "all"]
    return [[(day - type(day)(1970, 1, 1)).days for day in row["days"]] for row in rows]


def _evaluated(spec: DemandSpec, tables: MemoryTables, rows: pa.Table) -> dict[tuple[str, str], tuple[float, float]]:
    """WAPE of the periods that the batch completes, from the sums of all earlier periods."""
    first_days = [min(days) for days in _event_days(tables, spec)] + [
        min(_sales(rows), key=lambda one: one[2])[2] // DAY
    ]
    naive = NaiveDemand([*stored_sales(spec, tables), *_sales(rows)], min(first_days))
    newest = NaiveDemand([("item", "", max(_sales(rows), key=lambda one: one[2])[2], 1.0)])
    values = {}
    for level in LEVELS:
        begin = _until(spec, tables, level.name)
        error, naive_error, units = naive.errors(
            level.name, range(begin, newest.until(level.name)), level.naive_periods
        )
        if units:
            metric, model = _NAIVE_MODELS[level]
            values["forecast", metric] = error / units, units
            values[model, metric] = naive_error / units, units
    return values


def _compare_with_naive(spec: DemandSpec, batches: list[list[Event]], states: list[MemoryTables]) -> None:
    """Sums are those of all sales; forecasts are those of the sales when a period was last completed."""
    naive, expected, until = NaiveDemand(), dict[tuple[str, str, int], float](), dict[str, int]()
    for batch, state in zip(batches, states[1:], strict=True):
        naive.sales += _sales(sale_rows(batch))
        counted = {f"{level} {key}": sum(units.values()) for level, key, units in _all_units(naive)}
        actual: dict[str, float] = {}
        for name, key, _, units in stored_sales(spec, state):
            actual[f"{name} {key}"] = actual.get(f"{name} {key}", 0.0) + units
        assert actual == counted
        for level in LEVELS:
            if until.get(level.name) != (now := naive.until(level.name)):
                until[level.name] = now
                for ahead in range(level.ahead):
                    units_of = naive.forecasts(level.name, now, ahead)
                    expected |= {(level.name, key, ahead + 1): units for key, units in units_of.items()}
        forecasts = forecast_rows(spec, state)
        numbers = [{str(key): np.array(value) for key, value in one.items()} for one in (forecasts, expected)]
        laws.assert_close(numbers[0], numbers[1], 1e-9)


def _all_units(naive: NaiveDemand) -> list[tuple[str, str, dict[int, float]]]:
    return [(level.name, key, units) for level in LEVELS for key, units in naive.units(level.name).items()]
