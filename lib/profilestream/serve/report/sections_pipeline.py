"""Sections about capture, stages, model quality and published versions."""

from collections.abc import Sequence

from profilestream.serve.report import charts, value_axis, view_model
from profilestream.serve.report.report_elements import Chart, Section, TextTable
from profilestream.serve.report.view_model import MetricPoint, ReportView, format_utc
from profilestream.serve.report.view_pipeline import CaptureBatch, PipelineView, RejectedByRule


def captured_rows(pipeline: PipelineView) -> Section:
    """Row accounting, rows and lateness per batch, rejected rows and alarms."""
    name, title = "rows", "Captured rows"
    if not pipeline.sources:
        return Section(name, title, hint="No batch was captured yet: run jobs/capture_events.py.")
    parts: list[Chart | TextTable] = [_row_accounting(pipeline)]
    if pipeline.capture_batches:
        parts += _batch_charts(pipeline.capture_batches)
    if pipeline.rejected:
        parts.append(_rejected_rows(pipeline.rejected))
    if pipeline.alarms:
        parts.append(_alarms(pipeline))
    return Section(name, title, tuple(parts))


def _row_accounting(pipeline: PipelineView) -> TextTable:
    missing = sum(
        source.rows_in - source.rows_clean - source.rows_rejected - source.rows_duplicate for source in pipeline.sources
    )
    rows = tuple(
        (
            source.source + (" (reprocessed)" if source.kind == "reprocess" else ""),
            f"{source.batches:,}",
            f"{source.rows_in:,}",
            f"{source.rows_clean:,}",
            f"{source.rows_rejected:,}",
            f"{source.rows_duplicate:,}",
        )
        for source in pipeline.sources
    )
    title = "Row accounting is balanced: rows in = clean + rejected + duplicate"
    if missing:
        title = f"Row accounting is not balanced: {missing:,} rows are missing"
    return TextTable(title, ("source", "batches", "rows in", "clean", "rejected", "duplicate"), rows)


def _batch_charts(batches: Sequence[CaptureBatch]) -> list[Chart | TextTable]:
    maximum = max((batch.lateness or 0 for batch in batches), default=0)
    unit, seconds = charts.lateness_unit(maximum)
    names = [f"{batch.source} batch {batch.batch_id}" for batch in batches]
    rows = [batch.rows_clean + batch.rows_rejected + batch.rows_duplicate for batch in batches]
    lateness = [(batch.lateness or 0.0) / seconds for batch in batches]
    row_axis, late_axis = value_axis.choose_axis(rows), value_axis.choose_axis(lateness)
    return [
        Chart(
            f"Rows of the newest {_count(len(batches), 'batch', 'batches')}",
            "One bar per batch, in order of capture." + value_axis.note(row_axis, names, [f"{n:,}" for n in rows]),
            charts.capture_rows(batches, row_axis),
        ),
        Chart(
            "Lateness",
            f"{unit.capitalize()} from the oldest event of a batch to its capture; maximum {maximum / seconds:,.1f}. "
            "The lateness is high when old logs are captured."
            + value_axis.note(late_axis, names, [f"{value:,.1f}" for value in lateness]),
            charts.lateness(batches, late_axis),
        ),
    ]


def _rejected_rows(rejected: Sequence[RejectedByRule]) -> Chart:
    rows = tuple((entry.source, entry.rule, f"{entry.rows:,}", entry.reason) for entry in rejected)
    return Chart(
        "Rejected rows by rule",
        "A row counts for the first rule that rejects it. "
        f"The most frequent rule is {rejected[0].rule}: {rejected[0].reason}.",
        charts.rejected_rows(rejected),
        TextTable("Rules and reasons", ("source", "rule", "rows", "reason"), rows),
        is_wide=True,
    )


def _alarms(pipeline: PipelineView) -> TextTable:
    rows = tuple(
        (
            alarm.source,
            f"{alarm.batch_id:,}",
            "" if alarm.event_time_max is None else format_utc(alarm.event_time_max),
            alarm.measure,
            alarm.message,
        )
        for alarm in pipeline.alarms
    )
    title = f"Alarms: newest {len(rows)} of {pipeline.alarm_count:,}"
    return TextTable(title, ("source", "batch", "newest event", "measure", "message"), rows)


def stages(pipeline: PipelineView) -> Section:
    """Batch durations and costs of the stages."""
    name, title = "stages", "Stage durations"
    if not pipeline.stages:
        return Section(name, title, hint="No stage has finished a batch yet: run jobs/run_pipeline.py.")
    rows = tuple(
        (
            stage.stage,
            f"{stage.batches:,}",
            f"{stage.rows:,}",
            f"{stage.seconds:,.0f}",
            f"{stage.median:,.1f}",
            "–" if stage.cpu_per_million is None else f"{stage.cpu_per_million:,.1f}",
            "–" if stage.bytes_per_million is None else f"{stage.bytes_per_million / 1e6:,.1f}",
        )
        for stage in pipeline.stages
    )
    slowest = max(pipeline.stages, key=lambda stage: stage.seconds)
    caption = (
        f"One dot per batch, newest batches only, logarithmic scale. {slowest.stage} has the highest total: "
        f"{slowest.seconds:,.0f} s in {_count(slowest.batches, 'batch', 'batches')}."
    )
    costs = ("core-seconds per million rows", "MB written per million rows")
    columns = ("stage", "batches", "rows", "total, s", "median batch, s", *costs)
    table = TextTable("Durations by stage", columns, rows)
    return Section(name, title, (Chart("Batch durations", caption, charts.stage_durations(pipeline.stages), table),))


def model_quality(view: ReportView) -> Section:
    """Metrics of the rankers and of the segments, each batch evaluated before it is learned."""
    name, title = "quality", "Model quality"
    parts: list[Chart | TextTable] = []
    if view.recall:
        model, recall = best_model(view.recall)
        caption = (
            "Share of the items that users chose next that are in the top 20 of each ranker. "
            "Every batch is evaluated before it is learned. Higher is better. "
            f"{model} is best over the batches shown: {recall:.1%}."
        )
        figure = charts.metric_lines(view.recall, "recall@20")
        parts.append(Chart("Recall@20", caption, figure, _weighted_means(view.recall)))
    if view.cost:
        caption = (
            "Mean squared distance of a batch's users to the nearest segment center, before the batch is learned. "
            "'mean' is the distance to a single center for all users. Lower is better."
        )
        axis = value_axis.choose_axis([point.value for point in view.cost])
        labels = [f"{point.model}, {format_utc(point.state_as_of)}" for point in view.cost]
        caption += value_axis.note(axis, labels, [f"{point.value:,.4g}" for point in view.cost])
        figure = charts.metric_lines(view.cost, "cost", axis)
        parts.append(Chart("Segment cost", caption, figure, _weighted_means(view.cost)))
    return Section(name, title, tuple(parts), hint="" if parts else _quality_hint(view))


def _quality_hint(view: ReportView) -> str:
    """Why there is no metric, and what to do."""
    learners = view.enabled & {"learn_factors", "learn_segments"}
    if not learners:
        return "Set learn.factors.enabled or learn.segments.enabled = true and run the pipeline."
    if not any(stage.stage in learners and stage.rows for stage in view.pipeline.stages):
        return "No events were learned yet. Capture events with a user id, and run jobs/run_pipeline.py."
    return (
        "Models are evaluated from the second batch on; the first batch is only learned. The next run with new events "
        "is evaluated. To evaluate events that are already captured, learn them in smaller batches: set "
        "learn.max_files_per_trigger to a lower number of files of the table events, and run "
        "jobs/learn_factors.py --rebuild. Capture writes one file per day and batch, so a lower "
        "stream.max_files_per_trigger gives more files."
    )


def published_versions(view: ReportView) -> Section:
    """Published versions of the models, and the model cards of the champions."""
    name, title = "versions", "Published versions"
    if not view.versions:
        return Section(name, title, hint="No version is published yet: run jobs/learn_publish.py.")
    rows = tuple(
        (
            version.model,
            str(version.number),
            ", ".join(version.aliases) or "–",
            version.metric,
            "unknown" if version.value is None else f"{version.value:.4f}",
            "unknown" if version.learned_until is None else format_utc(version.learned_until),
            "stored" if version.has_rows else "removed",
        )
        for version in view.versions
    )
    champions = [f"{version.model} {version.number}" for version in view.versions if "champion" in version.aliases]
    columns = ("model", "version", "aliases", "metric", "value", "evaluated as of", "rows")
    heading = f"Newest version first; champions: {', '.join(champions) or 'none'}"
    cards = [
        part
        for card in view.cards
        for part in (
            TextTable(card.title, card.columns, card.rows),
            TextTable(f"About {card.model} {card.number}", ("",), tuple((note,) for note in card.notes)),
        )
    ]
    return Section(name, title, (TextTable(heading, columns, rows), *cards))


def best_model(points: Sequence[MetricPoint]) -> tuple[str, float]:
    """The model with the highest weighted mean, and that mean."""
    means = {model: view_model.weighted_mean(series) for model, series in _by_model(points).items()}
    return max(means.items(), key=lambda item: item[1])


def _by_model(points: Sequence[MetricPoint]) -> dict[str, list[MetricPoint]]:
    by_model: dict[str, list[MetricPoint]] = {}
    for point in points:
        by_model.setdefault(point.model, []).append(point)
    return by_model


def _weighted_means(points: Sequence[MetricPoint]) -> TextTable:
    rows = tuple(
        (model, f"{view_model.weighted_mean(series):.4f}", f"{series[-1].value:.4f}", f"{len(series):,}")
        for model, series in sorted(_by_model(points).items())
    )
    return TextTable("Means over the batches shown", ("model", "weighted mean", "newest batch", "batches"), rows)


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number:,} {singular if number == 1 else plural}"
