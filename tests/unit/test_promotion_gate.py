"""The promotion gate as functions of collected rows of `model_metrics`: promotion, rollback and label drought."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from profilestream.base.settings import Gate
from profilestream.learn import promotion_gate
from profilestream.learn.evaluated_batches import EvaluatedBatches
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.metrics import Metric
from profilestream.learn.model_registry import RegisteredVersion
from profilestream.learn.promotion_gate import Decision, GateMetric, GroupLosses, PairedLosses

from tests.metric_rows import metric_rows

DAY = 86_400_000_000
RECALL = Metric("recall_20", "share", "users", "Recall.", can_gate=True)
GATE = Gate(eval_batches=20, min_weight=100)
NOISE = np.random.default_rng(0).normal(0, 0.02, 200)


def gate_metric(**changes: Any) -> GateMetric:
    """recall_20 of the model `m`, or another metric."""
    fields: dict[str, Any] = {"learner": "learner", "metric": RECALL, "model": "m", "gate": GATE}
    return GateMetric(**(fields | changes))


def version(number: int, epoch: str, batch_id: int, valid_from: int = -1, model: str = "m") -> RegisteredVersion:
    tags: dict[str, object] = {"epoch": epoch, "batch_id": batch_id, "model": model, "valid_from": valid_from}
    return RegisteredVersion(number, (), {f"profilestream.{name}": str(value) for name, value in tags.items()})


def decide(gate_metric: GateMetric, rows: pa.Table, champion: RegisteredVersion, up_to: int = 10**6) -> Decision:
    """The decision about a version of the epoch `new`."""
    candidate = gate_metric.batches(rows, "new").until(up_to).last(gate_metric.gate.eval_batches)
    return promotion_gate.compare(gate_metric, rows, champion, candidate, "new")


def of_epochs(old: Floats, new: Floats, **fields: Any) -> pa.Table:
    return pa.concat_tables([metric_rows("old", "m", old, **fields), metric_rows("new", "m", new, **fields)])


def test_common_batches_are_compared_in_pairs_so_that_their_noise_does_not_count() -> None:
    """The batches differ by .2, and the new epoch is better by .02 in each: only pairs can show that."""
    hard = np.tile([0.2, 0.4], 10)
    rows = of_epochs(hard, hard + 0.02)
    passes, reason = decide(gate_metric(), rows, version(1, "old", 19))
    assert passes
    assert reason == (
        "recall_20 of m is 0.3200 (version 1: 0.3000 over 20 common batches); "
        "better by 0.0200 (0.0200 to 0.0200), needed more than 0.0030"
    )
    # The new epoch has other batches of the same period.
    other_rows = rows.set_column(7, "rows_from", pa.array([n % 20 * DAY + n // 20 for n in range(40)]))
    passes, reason = decide(gate_metric(), other_rows, version(1, "old", 19))
    assert not passes and "0.3000 over the same period); better by 0.0200 (-0.0" in reason


@pytest.mark.parametrize(("gain", "passes"), [(-0.05, False), (0.0, False), (0.01, False), (0.05, True)])
def test_another_epoch_must_be_better_by_the_margin_at_the_lower_end(gain: float, passes: bool) -> None:
    """The lower end is .006 below the mean, so a gain of .01 is not significantly more than the margin of .005."""
    noise = np.random.default_rng(1).normal(0, 0.03, 20)
    noise -= noise.mean()
    rows = of_epochs(0.5 + NOISE[:20], 0.5 + NOISE[:20] + noise + gain)
    assert decide(gate_metric(), rows, version(1, "old", 19)).passes == passes


def test_a_lower_metric_is_better_and_is_divided_by_that_of_the_baseline() -> None:
    cost = gate_metric(metric=Metric("cost", "", "", "", is_lower_better=True), baseline="mean")
    values = {("old", "m"): 0.6, ("old", "mean"): 1.0, ("new", "m"): 1.7, ("new", "mean"): 3.0}
    rows = pa.concat_tables([metric_rows(*key, np.full(9, value), metric="cost") for key, value in values.items()])
    passes, reason = decide(cost, rows, version(1, "old", 8))
    assert passes
    assert reason.startswith("cost/mean of m is 0.5667 (version 1: 0.6000 over 9 common batches); better by 0.0333")
    assert decide(cost, rows, version(1, "new", 8)).reason.endswith("needed at most 0.5950 (version 1: 0.5667)")


@pytest.mark.parametrize(("recall", "passes"), [(0.474, False), (0.476, True), (0.6, True)])
def test_the_same_epoch_may_be_worse_by_the_tolerance(recall: float, passes: bool) -> None:
    rows = metric_rows("new", "m", np.repeat([0.5, recall], [20, 20]))
    decision = decide(gate_metric(), rows, version(1, "new", 19))
    assert decision == Decision(passes, f"recall_20 of m is {recall:.4f}, needed at least 0.4750 (version 1: 0.5000)")


def test_a_version_with_few_evaluated_rows_replaces_no_champion_and_such_a_champion_is_replaced() -> None:
    few, many = metric_rows("new", "m", [0.9] * 3, weight=33), metric_rows("new", "m", [0.1] * 3, first=3, weight=34)
    passes, reason = decide(gate_metric(), few, version(1, "new", 0))
    assert not passes and "3 evaluated batches with weight 99 for this version" in reason
    passes, reason = decide(gate_metric(), pa.concat_tables([few, many]), version(1, "new", 2))
    assert passes and reason.endswith("version 1 has 3 evaluated batches with weight 99")
    passes, reason = decide(gate_metric(), many, version(1, "new", 2))
    assert passes and reason.endswith("version 1 has no value")
    # An interval needs more batches.
    rows = of_epochs(np.full(4, 0.1), np.full(4, 0.9), weight=1000.0)
    assert not decide(gate_metric(), rows, version(1, "old", 3)).passes
    assert decide(gate_metric(gate=Gate(eval_batches=4)), rows, version(1, "old", 3)).passes
    assert not decide(gate_metric(), metric_rows("new", "m", [0.9] * 20), version(1, "lost", 3)).passes


def test_a_nan_in_the_metric_replaces_no_champion() -> None:
    rows = metric_rows("new", "m", [0.1] * 20 + [np.nan])
    assert not decide(gate_metric(), rows, version(1, "new", 19)).passes
    assert not decide(gate_metric(), of_epochs(np.full(20, 0.1), np.full(20, np.nan)), version(1, "old", 19)).passes


def test_a_champion_whose_other_epoch_continues_is_compared_over_the_same_period_only() -> None:
    rows = pa.concat_tables([
        metric_rows("old", "m", np.repeat([0.1, 0.6, 0.1], [30, 20, 10])),
        metric_rows("new", "m", np.full(20, 0.5), first=30),
    ])  # fmt: skip
    passes, reason = decide(gate_metric(), rows, version(1, "old", 59))
    assert not passes and "(version 1: 0.6000 over 20 common batches)" in reason
    ended = rows.filter(pc.field("batch_id") < 40)
    new = metric_rows("new", "m", np.full(20, 0.5), first=40)
    passes, reason = decide(gate_metric(), pa.concat_tables([ended, new]), version(1, "old", 29))
    assert passes and "(version 1: 0.1000 at its publication)" in reason


def deterioration(values: Floats, champion: RegisteredVersion, previous: RegisteredVersion, **changes: Any) -> str:
    rows = metric_rows("new", "m", values)
    return promotion_gate.find_deterioration(gate_metric(**changes), rows, champion, previous)


def test_a_champion_is_worse_when_its_metric_fell_by_more_than_the_tolerance_since_its_publication() -> None:
    champion, previous = version(2, "new", 39), version(1, "new", 19)
    noise = NOISE[:60]
    before = np.full(40, 0.5)
    assert deterioration(np.append(before, np.full(20, 0.5)) + noise, champion, previous) == ""
    assert deterioration(np.append(before, np.full(20, 0.459)) + noise, champion, previous) == ""
    text = deterioration(np.append(before, np.full(20, 0.4)) + noise, champion, previous)
    assert text.startswith("recall_20 of m since version 2 is 0.4") and "(version 1: 0.4963 at" in text
    # Four batches are too few, and a champion that a user promoted again is older than `previous`.
    assert deterioration(np.append(before, np.full(4, 0.4)), champion, previous) == ""
    assert deterioration(np.append(before, np.full(20, 0.4)), version(1, "new", 39), version(2, "new", 19)) == ""
    assert deterioration(np.append(before, [np.nan]), champion, previous) == "recall_20 of m since version 2 is nan"
    assert deterioration(before, champion, previous) == ""


def test_rows_from_before_the_version_do_not_count_against_it() -> None:
    """Labels are late: batches 40 to 49 evaluate scores of the time before the champion."""
    values = np.repeat([0.5, 0.1, 0.5], [40, 10, 20])
    previous = version(1, "new", 19)
    whole = Gate(eval_batches=40)
    assert deterioration(values, version(2, "new", 39, valid_from=50 * DAY), previous, gate=whole) == ""
    assert deterioration(values, version(2, "new", 39, valid_from=0), previous, gate=whole) != ""


LOSS = Metric("log_loss", "nats", "rows", "", is_lower_better=True)
# Means by group of users, which differ more than versions do.
GROUPS = np.random.default_rng(2).uniform(0.2, 1.4, 50)


def paired(champion: Floats, previous: Floats, rows: float = 10.0) -> PairedLosses:
    """Groups of users with these mean losses and numbers of rows."""
    sides = (GroupLosses(rows * means, np.full(len(means), rows)) for means in (champion, previous))
    return PairedLosses("log loss of m", *sides)


def deterioration_in_pairs(pairs: PairedLosses, metric: Floats, previous: int = 1) -> str:
    rows, champion = metric_rows("new", "m", metric, metric="log_loss"), version(2, "new", 39)
    one = gate_metric(metric=LOSS)
    return promotion_gate.find_deterioration(one, rows, champion, version(previous, "new", 19), pairs)


def test_a_champion_that_is_worse_on_the_same_rows_is_too_bad_whatever_its_metric_was_in_other_periods() -> None:
    text = deterioration_in_pairs(paired(GROUPS + 0.1, GROUPS), np.full(60, 0.5))
    mean = GROUPS.mean()
    assert text == (
        f"log loss of m in 500 rows after version 2 is {mean + 0.1:.4f} (version 1: {mean:.4f} in the same rows); "
        f"worse by 0.1000 (0.1000 to 0.1000), allowed {0.05 * mean:.4f}"
    )
    # Within the tolerance, or not at the better end of the interval.
    assert deterioration_in_pairs(paired(1.04 * GROUPS, GROUPS), np.full(60, 0.5)) == ""
    few = np.where(np.arange(50) < 2, GROUPS + 2, GROUPS)
    assert few.mean() > 1.05 * mean and deterioration_in_pairs(paired(few, GROUPS), np.full(60, 0.5)) == ""


def test_a_period_that_is_hard_for_both_versions_is_no_deterioration() -> None:
    hard = np.repeat([0.5, 1.5], [40, 20])
    rows, champion, previous = (
        metric_rows("new", "m", hard, metric="log_loss"),
        version(2, "new", 39),
        version(1, "new", 19),
    )
    assert promotion_gate.find_deterioration(gate_metric(metric=LOSS), rows, champion, previous) != ""
    assert deterioration_in_pairs(paired(GROUPS + 1, GROUPS + 1), hard) == ""


def test_pairs_need_enough_rows_and_groups_and_a_loss_that_is_not_finite_is_too_bad() -> None:
    metric, worse = np.full(60, 0.5), GROUPS + 1
    assert deterioration_in_pairs(paired(worse, GROUPS, rows=1.9), metric) == ""
    assert deterioration_in_pairs(paired(worse, GROUPS, rows=2.1), metric) != ""
    assert deterioration_in_pairs(paired(worse[:4], GROUPS[:4], rows=100), metric) == ""
    assert deterioration_in_pairs(paired(worse[:0], GROUPS[:0]), metric) == ""
    assert deterioration_in_pairs(paired(worse, GROUPS), metric, previous=3) == ""
    assert deterioration_in_pairs(paired(worse * np.nan, GROUPS), metric).endswith("after version 2 is nan")


def drought(batches: EvaluatedBatches, batch_id: int, newest_day: int | None, **changes: Any) -> str:
    return promotion_gate.find_drought(gate_metric(**changes), batches, batch_id, newest_day)


def test_a_label_drought_depends_on_event_time_the_delay_of_the_label_and_batches_without_rows() -> None:
    evaluated = gate_metric().batches(metric_rows("new", "m", np.full(10, 0.5)), "new")
    assert drought(evaluated, 9, 37) == drought(evaluated, 9, None) == ""
    text = "label drought: the newest evaluated rows are 29 days older than the newest events, allowed 28"
    assert drought(evaluated, 9, 38) == text
    assert drought(evaluated, 9, 66, label_days=29) == ""
    assert drought(evaluated, 9, 67, label_days=29) != ""
    assert drought(evaluated, 28, 10) == ""
    assert drought(evaluated, 29, 10) == "label drought: the last 20 batches have no evaluated rows"
    none = evaluated.last(0)
    assert drought(none, 18, 1000) == "" and drought(none, 19, 0) != ""
