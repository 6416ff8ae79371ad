"""Customer value on CDNOW, against BG/NBD and Gamma-Gamma: 39 weeks are learned, and the next 39 weeks are predicted.

Ours: the kernels of outcomes learn rows of weekly times whose labels of 137 days end within the 39 weeks. Any order is
predicted by a logistic model with the shipped features that CDNOW has inputs for; the others are null. Number of orders
and spend are predicted by Poisson models with the inputs of the shipped customer value, times 273 / 137. An order
contains all purchases of a customer and day; exact copies of lines are left out, and nothing is random.

BG/NBD (Fader, Hardie and Lee, 2005) and Gamma-Gamma (Fader and Hardie, 2013) are fitted by maximum likelihood.
"""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np
from profilestream.base.settings import ORDER_SQL
from profilestream.derive import table_declaration
from profilestream.learn.kernels.arrays import Bools, Floats, Longs
from profilestream.learn.kernels.sums import MICROS_PER_DAY
from profilestream.learn.outcomes.kernels import outcome_model, outcome_scores
from profilestream.learn.outcomes.kernels.outcome_model import LabeledRows, OutcomeRule, OutcomeState, States
from profilestream.learn.outcomes.kernels.outcome_sums import OutcomeSums
from profilestream.learn.outcomes.outcome_declaration import DeclaredOutcomes
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.special import gammaln, hyp2f1  # type: ignore[import-untyped]
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from benchmarks.result import Result

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "data" / "cdnow"
# Days since 1997-01-01, a Wednesday: the first Monday, and the end of 39 weeks. The log ends after 78 weeks.
FIRST_MONDAY, SPLIT = 5, 273
HORIZON = 137
_NEVER = 10_000


@dataclass(frozen=True)
class Purchases:
    """Lines in any order: number of the customer, day and value; and the distinct orders."""

    customers: int
    customer: Longs
    day: Longs
    value: Floats
    order_customer: Longs
    order_day: Longs

    def lines(self, weights: Floats | Bools, customer: Longs | None = None) -> Floats:
        """Sum of the weights of lines, or of other rows, by customer."""
        rows = self.customer if customer is None else customer
        return np.asarray(np.bincount(rows, weights, self.customers), float)

    def orders(self, is_counted: Floats | Bools) -> Floats:
        """Number of orders by customer."""
        return self.lines(is_counted, self.order_customer)


def purchases(*, is_sample: bool) -> Purchases:
    """The published 1/10 sample, or all customers."""
    lines = sorted(set(gzip.decompress((FOLDER / "CDNOW_master.txt.gz").read_bytes()).decode().splitlines()[1:]))
    sample = set(gzip.decompress((FOLDER / "sample_ids.txt.gz").read_bytes()).decode().split())
    rows = [row for row in (line.split() for line in lines) if row and (not is_sample or row[0] in sample)]
    first = date(1997, 1, 1).toordinal()
    days = [date(int(row[1][:4]), int(row[1][4:6]), int(row[1][6:])).toordinal() - first for row in rows]
    ids, customer = np.unique([row[0] for row in rows], return_inverse=True)
    day = np.array(days, np.int64)
    order_customer, order_day = np.unique(np.stack([customer, day]), axis=1)
    return Purchases(len(ids), customer, day, np.array([float(row[3]) for row in rows]), order_customer, order_day)


def features_at(log: Purchases, at: int, names: list[str]) -> Floats:
    """The features of conf/derive/windows.toml, (customers, names), from the purchases before a day; else NaN.

    Those of customers without an earlier purchase are finite and have no meaning.
    """
    age, order_age = at - log.day, at - log.order_day
    is_past, is_past_order = age > 0, order_age > 0
    values: dict[str, Floats] = {}
    for days in (7, 28, 91, 182, _NEVER):
        window = "lifetime" if days == _NEVER else f"{days}d"
        is_in = is_past & (age <= days)
        values[f"orders_{window}"] = log.orders(is_past_order & (order_age <= days))
        values[f"lines_{window}"] = values[f"events_{window}"] = log.lines(is_in)
        values[f"value_{window}"] = log.lines(is_in * log.value)
    for days in (7, 28, 90, 365):
        weight = is_past * 2.0 ** (-np.maximum(age, 0) / days)
        values[f"recent_lines_{days}_lifetime"] = log.lines(weight)
        values[f"recent_value_{days}_lifetime"] = log.lines(weight * log.value)
    recency, tenure, highest = (np.full(log.customers, one) for one in (float(_NEVER), 0.0, 0.0))
    np.minimum.at(recency, log.customer[is_past], age[is_past])
    np.maximum.at(tenure, log.customer[is_past], age[is_past])
    np.maximum.at(highest, log.customer[is_past], log.value[is_past])
    orders, lines, value = (values[f"{name}_lifetime"] for name in ("orders", "lines", "value"))
    interval = (np.maximum(tenure - recency, 0) + 30) / np.maximum(orders, 1)
    overdue = recency / np.maximum(interval, 1)
    is_weekend = (log.day - FIRST_MONDAY) % 7 >= 5
    values |= {
        "recency": recency, "days_since_seen": recency, "tenure": tenure, "usual_interval": interval,
        "overdue": overdue, "exp_overdue": np.exp(-overdue), "order_rate": 28 * orders / np.maximum(tenure, 1),
        "lines_per_order": lines / np.maximum(orders, 1), "order_value": value / np.maximum(orders, 1),
        "max_value_lifetime": highest, "weekend_share": log.lines(is_past & is_weekend) / np.maximum(lines, 1),
        "has_one_order": np.equal(orders, 1), "is_buyer": np.greater(orders, 0),
        "bought_28d": np.greater(values["orders_28d"], 0), "bought_91d": np.greater(values["orders_91d"], 0),
        "purchase_weeks_lifetime": _purchase_weeks(log, is_past_order),
        "purchase_weeks_56d": _purchase_weeks(log, is_past_order & (order_age <= 56)),
        "orders_trend_28d": np.log1p(values["orders_28d"]) - np.log1p(values["orders_91d"] * 28 / 91),
        "orders_trend_91d": np.log1p(values["orders_91d"]) - np.log1p(values["orders_182d"] / 2),
        "value_trend_91d": np.log1p(values["value_91d"]) - np.log1p(values["value_182d"] / 2),
        "lines_trend": np.log(values["recent_lines_28_lifetime"] + 0.1)
        - np.log(values["recent_lines_365_lifetime"] * 28 / 365 + 0.1),
    }  # fmt: skip
    return np.column_stack([values.get(name, np.full(log.customers, np.nan)) for name in names])


def _purchase_weeks(log: Purchases, is_counted: Bools) -> Floats:
    rows = np.stack([log.order_customer, (log.order_day - FIRST_MONDAY) // 7])[:, is_counted]
    customer = np.unique(rows, axis=1)[0]
    return log.lines(np.ones(len(customer)), customer)


def labels_at(log: Purchases, at: int, days: int) -> dict[str, Floats]:
    """What customers do in `[at, at + days)`: any order, number of orders, spend."""
    is_in, is_order = (np.asarray((at <= day) & (day < at + days), float) for day in (log.day, log.order_day))
    orders = log.orders(is_order)
    return {"any": np.greater(orders, 0).astype(float), "orders": orders, "spend": log.lines(is_in * log.value)}


@dataclass(frozen=True)
class Predictions:
    """Of each customer for the second 39 weeks: a score of any order, number of orders and spend."""

    score: Floats
    orders: Floats
    spend: Floats


def ours(log: Purchases) -> Predictions:
    """By the kernels of outcomes, from rows whose labels have matured at the end of 39 weeks."""
    declared = table_declaration.load_as(
        DeclaredOutcomes, str(ROOT / "conf" / "outcomes.toml"),
        {"shop_timezone": "UTC", "event_weight": "1", "order": ORDER_SQL},
    )  # fmt: skip
    value_rule, rule = declared.rules["value_180d"], declared.rules["purchase_28d"]
    rules: dict[str, OutcomeRule] = {"any": rule, "orders": value_rule, "spend": value_rule}
    names, inputs = list(declared.features), declared.inputs
    states: States = {name: OutcomeState.empty(one, inputs.names) for name, one in rules.items()}
    for at in range(FIRST_MONDAY, SPLIT - HORIZON - declared.label_grace_days + 1, declared.interval_days):
        is_customer = log.lines(log.day < at) > 0
        x = inputs.matrix(features_at(log, at, names)[is_customer])
        rows = LabeledRows(x, np.zeros(0), np.full(len(x), at * MICROS_PER_DAY), np.zeros(len(x), np.int64))
        labels = {name: one[is_customer] for name, one in labels_at(log, at, HORIZON).items()}
        states = outcome_model.learn(rules, states, _summed(rules, rows, labels))
    x = inputs.matrix(features_at(log, SPLIT, names))
    scores = {
        name: outcome_scores.predictions(one, states[name], outcome_scores.etas(one, states[name], x))
        for name, one in rules.items()
    }
    factor = SPLIT / HORIZON
    return Predictions(scores["any"], scores["orders"] * factor, scores["spend"] * factor)


def _summed(
    rules: dict[str, OutcomeRule], rows: LabeledRows, labels: dict[str, Floats]
) -> Callable[[States], dict[str, OutcomeSums]]:
    """The pass over the rows of a time."""
    return lambda states: {
        name: outcome_model.sum_rows(rules[name], state, rows._replace(labels=labels[name]))
        for name, state in states.items()
    }


@dataclass(frozen=True)
class Repeats:
    """Per customer, in weeks: repeat orders x, time of the last one t_x, time since the first order T; and order value.

    `order_value` is the mean of the repeat orders, as in Gamma-Gamma; 0 without one.
    """

    x: Floats
    t_x: Floats
    T: Floats  # noqa: N815  (the letter of the papers)
    order_value: Floats


def repeats(log: Purchases) -> Repeats:
    """Of the first 39 weeks."""
    is_past = log.order_day < SPLIT
    first, last = np.full(log.customers, _NEVER), np.zeros(log.customers, np.int64)
    np.minimum.at(first, log.customer, log.day)
    np.maximum.at(last, log.order_customer[is_past], log.order_day[is_past])
    x = log.orders(is_past) - 1
    is_repeat = (log.day > first[log.customer]) & (log.day < SPLIT)
    return Repeats(x, (last - first) / 7, (SPLIT - 1 - first) / 7, log.lines(is_repeat * log.value) / np.maximum(x, 1))


@cache
def bg_nbd(is_sample: bool) -> tuple[float, float, float, float]:
    """r, alpha, a, b of BG/NBD with the highest likelihood (Fader, Hardie and Lee, 2005)."""
    data = repeats(_log(is_sample))
    x, t_x, total = data.x, data.t_x, data.T

    def loss(logs: Floats) -> float:
        r, alpha, a, b = np.exp(logs)
        common = gammaln(r + x) - gammaln(r) + r * np.log(alpha)
        common += gammaln(a + b) + gammaln(b + x) - gammaln(b) - gammaln(a + b + x)
        alive = -(r + x) * np.log(alpha + total)
        dead = np.log(a) - np.log(b + np.maximum(x, 1) - 1) - (r + x) * np.log(alpha + t_x)
        return -float((common + np.where(x > 0, np.logaddexp(alive, dead), alive)).sum())

    r, alpha, a, b = np.exp(minimize(loss, np.zeros(4), method="L-BFGS-B").x).tolist()
    return r, alpha, a, b


def expected_orders(data: Repeats, parameters: tuple[float, float, float, float], weeks: float) -> Floats:
    """Orders in the next weeks, by BG/NBD."""
    (r, alpha, a, b), x, total = parameters, data.x, data.T
    end = alpha + total + weeks
    series = hyp2f1(r + x, b + x, a + b + x - 1, weeks / end)
    orders = (a + b + x - 1) / (a - 1) * (1 - ((alpha + total) / end) ** (r + x) * series)
    odds = a / (b + np.maximum(x, 1) - 1) * ((alpha + total) / (alpha + data.t_x)) ** (r + x)
    return np.asarray(orders / (1 + (x > 0) * odds))


@cache
def gamma_gamma(is_sample: bool) -> tuple[float, float, float]:
    """p, q, gamma of Gamma-Gamma with the highest likelihood (Fader and Hardie, 2013), of repeat orders above 0."""
    data = repeats(_log(is_sample))
    is_used = (data.x > 0) & (data.order_value > 0)
    x, mean = data.x[is_used], data.order_value[is_used]

    def loss(logs: Floats) -> float:
        p, q, gamma = np.exp(logs)
        terms = gammaln(p * x + q) - gammaln(p * x) - gammaln(q) + q * np.log(gamma) + (p * x - 1) * np.log(mean)
        return -float((terms + p * x * np.log(x) - (p * x + q) * np.log(gamma + x * mean)).sum())

    p, q, gamma = np.exp(minimize(loss, np.array([1.0, 1.0, 2.0]), method="L-BFGS-B").x).tolist()
    return p, q, gamma


def expected_order_value(data: Repeats, parameters: tuple[float, float, float]) -> Floats:
    """Mean value of an order, by Gamma-Gamma."""
    p, q, gamma = parameters
    return np.asarray((gamma + data.x * data.order_value) * p / (p * data.x + q - 1))


def bought_until_death(is_sample: bool) -> Predictions:
    """By BG/NBD and Gamma-Gamma; any repeat is ranked by the expected number of orders."""
    data = repeats(_log(is_sample))
    orders = expected_orders(data, bg_nbd(is_sample), SPLIT / 7)
    return Predictions(orders, orders, orders * expected_order_value(data, gamma_gamma(is_sample)))


@cache
def _log(is_sample: bool) -> Purchases:
    return purchases(is_sample=is_sample)


def cdnow_auc_vs_bgnbd() -> Result:
    """The smaller difference of AUC of the 1/10 sample and of all customers."""
    differences, details = [], []
    for name, is_sample in (("1/10 sample", True), ("all", False)):
        log = _log(is_sample)
        labels, predicted = labels_at(log, SPLIT, SPLIT), {"ours": ours(log), "BG/NBD": bought_until_death(is_sample)}
        aucs = {model: roc_auc_score(labels["any"], one.score) for model, one in predicted.items()}
        differences.append(float(aucs["ours"] - aucs["BG/NBD"]))
        parameters = ", ".join(f"{one:.3f}" for one in bg_nbd(is_sample))
        details.append(f"{name}, {log.customers:,} customers, BG/NBD r, alpha, a, b {parameters}")
        for model, one in predicted.items():
            errors = [_errors(getattr(one, label), labels[label]) for label in ("orders", "spend")]
            details.append(f"{model} AUC {aucs[model]:.4f}, orders {errors[0]}, spend {errors[1]}")
    return Result(
        "cdnow_auc_vs_bgnbd", min(differences), "difference of AUC", 0.004, "higher",
        "BG/NBD and Gamma-Gamma, maximum likelihood", "; ".join(details) + "; no seed",
    )  # fmt: skip


def _errors(predicted: Floats, labels: Floats) -> str:
    return f"MAE {np.abs(predicted - labels).mean():.3f} bias {predicted.sum() / labels.sum():.3f}"
