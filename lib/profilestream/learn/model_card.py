"""Model cards: data, metrics, parameters and known limits of a published version (Mitchell et al., 2019)."""

from dataclasses import asdict, dataclass
from datetime import datetime

import numpy as np
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from profilestream.base.language import translate
from profilestream.base.settings import Settings
from profilestream.base.tables import MODEL_METRICS
from profilestream.learn import evaluated_batches, metric_drift
from profilestream.learn.kernels.arrays import Floats
from profilestream.learn.kernels.batch_intervals import Interval, mean_interval
from profilestream.learn.metrics import ALL_MODELS
from profilestream.learn.publication import Publication
from profilestream.learn.version_aliases import VersionTags


@dataclass(frozen=True)
class CardMetric:
    """A metric of a model over the last evaluated batches.

    Args:
        difference: the published model minus this one, over the same batches; null for the published model.
    """

    metric: str
    unit: str
    model: str
    value: Interval
    difference: Interval | None


@dataclass(frozen=True)
class ModelCard:
    """What is known about a version.

    Args:
        model: the registered model.
        published: the ranker or model that was published, as in `model_metrics`.
        data_from, data_to: event times of the rows that were learned; null if unknown.
        row_count: number of these rows.
        batches: number of evaluated batches behind the metrics.
        parameters: as JSON.
        limits: one sentence each.
        drift: changes of the metrics, one sentence each.
    """

    model: str
    number: int
    published: str
    data_from: datetime | None
    data_to: datetime | None
    row_count: int
    batches: int
    metrics: tuple[CardMetric, ...]
    parameters: str
    limits: tuple[str, ...]
    drift: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Model and version, and what it has learned."""
        rows = translate("an unknown number of rows")
        if self.row_count >= 0:
            rows = translate("{count:,} rows", count=self.row_count)
        period = translate("at unknown times")
        if self.data_from is not None and self.data_to is not None:
            first, last = f"{self.data_from:%Y-%m-%d}", f"{self.data_to:%Y-%m-%d}"
            period = translate("{first} to {last} UTC", first=first, last=last)
        values = {"model": self.model, "number": self.number, "rows": rows, "period": period}
        return translate("{model}, version {number}: learned from {rows}, {period}", **values)

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of `rows`."""
        difference = translate("{published} minus model", published=self.published)
        return (
            translate("metric"),
            translate("unit"),
            translate("model"),
            translate("mean and 90 % interval"),
            difference,
        )

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """The metrics as text."""
        return tuple(
            (
                one.metric,
                translate(one.unit),
                one.model,
                _interval_text(one.value),
                "–" if one.difference is None else _interval_text(one.difference),
            )
            for one in self.metrics
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """How the metrics were measured, their drift, the known limits, and the parameters; one sentence each."""
        measured = translate(
            "The metrics are means over the last {batches} evaluated batches, each scored before it was learned; the "
            "intervals are a bootstrap over these batches.",
            batches=self.batches,
        )
        parameters = translate("Parameters: {parameters}", parameters=self.parameters)
        return measured, *self.drift, *map(translate, self.limits), parameters

    def markdown(self) -> str:
        """The card as text for the description of the version in MLflow."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        table = [f"| {' | '.join(line)} |" for line in lines]
        return "\n".join([f"**{self.title}**", "", *table, "", *[f"- {note}" for note in self.notes]])


def _interval_text(interval: Interval) -> str:
    return translate("{mean:.4f} ({low:.4f} to {high:.4f})", **asdict(interval))


def create(
    spark: SparkSession, settings: Settings, publication: Publication, number: int, tags: VersionTags
) -> ModelCard:
    """The card of a version, from its tags and the metrics until its last batch."""
    is_of_version = (F.col("learner") == publication.learner) & (F.col("epoch") == tags.epoch)
    rows = MODEL_METRICS.read(spark, settings.paths).where(
        is_of_version & (F.col("batch_id") <= tags.batch_id) & (F.col("model") != ALL_MODELS) & (F.col("weight") > 0)
    )
    last = [row[0] for row in rows.select("batch_id").distinct().orderBy(F.desc("batch_id")).limit(
        publication.gate_metric.gate.eval_batches
    ).collect()]  # fmt: skip
    measured = rows.where(F.col("batch_id").isin(last)).collect() if last else []
    gate_metric = publication.gate_metric
    history = evaluated_batches.collect(spark, settings, publication.learner, gate_metric.metrics, [tags.epoch])
    return ModelCard(
        model=publication.model_name,
        number=number,
        published=tags.model,
        data_from=_time(tags.data_from),
        data_to=_time(tags.data_to),
        row_count=tags.row_count,
        batches=len(last),
        metrics=_card_metrics(publication, tags.model, measured, sorted(last)),
        parameters=tags.params,
        limits=publication.limits,
        drift=tuple(metric_drift.find_drift(gate_metric, history, tags.epoch, tags.batch_id)),
    )


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _card_metrics(
    publication: Publication, published: str, rows: list[Row], batches: list[int]
) -> tuple[CardMetric, ...]:
    """The metrics in the order of their declarations, the published model first."""
    series: dict[tuple[str, str], tuple[Floats, Floats]] = {}
    for row in rows:
        new = np.zeros(len(batches)), np.zeros(len(batches))
        values, weights = series.setdefault((row["metric"], row["model"]), new)
        n = batches.index(row["batch_id"])
        values[n], weights[n] = row["value"], row["weight"]
    names = {metric.name: metric for metric in publication.metrics}
    order = sorted(series, key=lambda key: (list(names).index(key[0]), key[1] != published, key[1]))
    return tuple(
        CardMetric(
            metric,
            names[metric].unit,
            model,
            mean_interval(*series[metric, model]),
            None
            if model == published or (metric, published) not in series
            else _difference(series[metric, published], series[metric, model]),
        )
        for metric, model in order
    )


def _difference(published: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> Interval | None:
    """The difference over batches in which both have a value; null without such a batch."""
    weights = np.where(other[1] > 0, published[1], 0.0)
    return mean_interval(published[0] - other[0], weights) if weights.any() else None
