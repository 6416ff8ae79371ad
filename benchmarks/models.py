"""Compares models of the shipped outcomes on the shipped logs, and writes docs/models.md. `make models` starts it.

python benchmarks/models.py [--page]
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / ".ci")]

from profilestream.base.session import open_session  # noqa: E402
from profilestream.learn.outcomes.kernels.first_order_rules import FirstOrder  # noqa: E402
from profilestream.learn.outcomes.kernels.model_inputs import InputFeature, ModelInputs  # noqa: E402

from benchmarks import machine, markdown, outcomes  # noqa: E402
from benchmarks.outcomes import Scored, StoredExamples  # noqa: E402

RESULTS, PAGE = ROOT / "benchmarks" / "results" / "models.json", ROOT / "docs" / "models.md"
BINARY = {
    "online_retail": ("purchase_7d", "purchase_28d", "churn_60d", "churn_90d", "return_28d"),
    "complete_journey": ("purchase_7d", "purchase_28d"),
}
TITLES = {"online_retail": "Online Retail 2010-12 to 2011-12", "complete_journey": "Complete Journey, a fifth of 2017"}
DEFAULT = "Newton sums (default)"
BOOTSTRAP_SAMPLES = 100


@dataclass(frozen=True)
class ModelResult:
    """Metrics of a model on the reported weeks of an outcome.

    Args:
        auc_difference: AUC minus that of the default, with its 95 % interval over users: (value, low, high).
    """

    model: str
    auc: float
    auc_difference: tuple[float, float, float]
    log_loss: float
    ece: float
    lift: float
    cpu_seconds: float


@dataclass(frozen=True)
class OutcomeResults:
    """All models of an outcome of a log, on the same rows."""

    log: str
    outcome: str
    rows: int
    weeks: int
    base_rate: float
    models: tuple[ModelResult, ...]


def compare(examples: StoredExamples, log: str, name: str) -> OutcomeResults:
    """Learn and score all models of an outcome."""
    recency = ModelInputs((InputFeature("recency", is_log=True),))
    all_scored = {
        "class rate": _class_rate(examples, name),
        "recency only": outcomes.learned_and_scored(examples, name, inputs=recency),
        DEFAULT: outcomes.learned_and_scored(examples, name),
        "FTRL-Proximal, 10 shards": outcomes.learned_and_scored(
            examples, name, rule=FirstOrder("ftrl", 0.3, "logistic", 182.0, l2=0.01, shards=10)
        ),
        "boosting, every week": outcomes.boosted(examples, name),
    }
    times = outcomes.reported_times(list(all_scored.values()))
    reported = {model: scored.of_times(times) for model, scored in all_scored.items()}
    default = reported[DEFAULT]
    models = tuple(
        ModelResult(
            model, scored.auc(), _difference(scored, default), scored.log_loss, scored.ece, scored.lift,
            scored.cpu_seconds,
        )
        for model, scored in reported.items()
    )  # fmt: skip
    return OutcomeResults(log, name, len(default.labels), len(times), float(default.labels.mean()), models)


def _class_rate(examples: StoredExamples, name: str) -> Scored:
    """The mean label of all rows that have matured."""
    weeks, scored = examples.weeks(name), []
    for week in weeks:
        known = [one.labels for one in weeks if one.matures_at <= week.at]
        if known:
            scored.append(week.scored(np.full(len(week.labels), np.concatenate(known).mean())))
    return Scored(tuple(scored))


def _difference(scored: Scored, default: Scored) -> tuple[float, float, float]:
    """Difference of AUC, and its 2.5 and 97.5 % quantiles over Poisson bootstrap samples of the users."""
    random = np.random.default_rng(outcomes.SEED)
    users = 1 + max(int(week.users.max()) for week in default.weeks)
    differences = []
    for _ in range(BOOTSTRAP_SAMPLES):
        weights = random.poisson(1.0, users).astype(float)
        differences.append(scored.auc(weights) - default.auc(weights))
    low, high = np.quantile(differences, [0.025, 0.975])
    return scored.auc() - default.auc(), float(low), float(high)


def page(results: list[OutcomeResults], computer: str) -> str:
    """The page, in Markdown."""
    parts = [_INTRODUCTION.format(machine=computer, samples=BOOTSTRAP_SAMPLES, seed=outcomes.SEED)]
    for log, title in TITLES.items():
        parts.append(f"## {title}\n")
        for one in [one for one in results if one.log == log]:
            parts.append(
                f"`{one.outcome}`: {one.rows:,} rows in {one.weeks} weeks, {one.base_rate:.1%} with the outcome.\n"
            )
            parts.append(markdown.table(_HEADER, [_row(model) for model in one.models]) + "\n")
    return "\n".join(parts)


def _row(result: ModelResult) -> list[str]:
    value, low, high = result.auc_difference
    difference = "" if result.model == DEFAULT else f"{value:+.4f} ({low:+.4f} to {high:+.4f})"
    return [
        result.model, f"{result.auc:.4f}", difference, f"{result.log_loss:.4f}", f"{result.ece:.4f}",
        f"{result.lift:.2f}", f"{result.cpu_seconds:.2f}",
    ]  # fmt: skip


_HEADER = ("model", "AUC", "AUC minus that of the default", "log loss", "ECE", "lift at 10 %", "CPU s")
_INTRODUCTION = """# Models of outcomes, compared

This page is generated: `make models` computes it from the shipped logs, with the defaults of
[conf/outcomes.toml](../conf/outcomes.toml). [learners.md](learners.md#outcomes) describes the outcomes.

The evaluation is prequential. In order of time, the rows of a week are scored by the model that was available then, and
a row is learned when its horizon and one day of grace have passed. The first third of the weeks that all models can
score is left out, because the settings were chosen on it. All models have the same rows and features.

- *Class rate*: the mean label of all rows that have matured.
- *Recency only*: the default learner with one feature, the days since the last purchase.
- *Boosting*: `HistGradientBoostingClassifier` of scikit-learn, fitted again every week from all rows that have matured:
  120 trees of 6 leaves with at least 300 rows, rate 0.05, l2 10.
- *AUC* and *lift* are means over weeks, weighted by rows; log loss and calibration error (ECE, 20 groups of equal size)
  are pooled. The interval of a difference of AUC is the middle 95 % of {samples} bootstrap samples of the users, seed
  {seed}.
- *CPU s* is the time of learning and scoring all weeks, without features. Measured on {machine}.
"""


def _compare_all() -> Iterator[OutcomeResults]:
    spark = open_session("models", str(ROOT / "conf" / "spark-local.conf"))
    for log, names in BINARY.items():
        examples = outcomes.stored(spark, log)
        for name in names:
            result = compare(examples, log, name)
            print(f"{log} {name}: " + ", ".join(f"{one.model} {one.auc:.4f}" for one in result.models), flush=True)
            yield result


def read() -> tuple[list[OutcomeResults], str]:
    """The stored results, and the machine on which they were measured."""
    stored = json.loads(RESULTS.read_text())
    results = []
    for one in stored["results"]:
        models = [ModelResult(**{**each, "auc_difference": tuple(each["auc_difference"])}) for each in one["models"]]
        results.append(OutcomeResults(**{**one, "models": tuple(models)}))
    return results, stored["machine"]


def write(results: list[OutcomeResults], computer: str) -> None:
    """Store the results and write the page."""
    RESULTS.write_text(json.dumps({"machine": computer, "results": [asdict(one) for one in results]}, indent=1) + "\n")
    PAGE.write_text(page(results, computer))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the page from the stored results")
    if parser.parse_args(argv).page:
        PAGE.write_text(page(*read()))
        return 0
    write(list(_compare_all()), machine.machine())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
