"""Sections about capture and the stages."""

from collections.abc import Sequence

from profilestream.base.language import join_sentences, translate, translate_count
from profilestream.serve.report import charts_pipeline, value_axis
from profilestream.serve.report.report_elements import Chart, Section, TextTable
from profilestream.serve.report.view_model import format_utc
from profilestream.serve.report.view_pipeline import CaptureBatch, PipelineView, RejectedByRule


def captured_rows(pipeline: PipelineView) -> Section:
    """Row accounting, rows and lateness per batch, rejected rows and alarms."""
    name, title = "rows", translate("Captured rows")
    if not pipeline.sources:
        return Section(name, title, hint=translate("No batch was captured yet: run jobs/capture_events.py."))
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
            translate("{source} (reprocessed)", source=source.source) if source.kind == "reprocess" else source.source,
            f"{source.batches:,}",
            f"{source.rows_in:,}",
            f"{source.rows_clean:,}",
            f"{source.rows_rejected:,}",
            f"{source.rows_duplicate:,}",
        )
        for source in pipeline.sources
    )
    title = translate("Row accounting is balanced: rows in = clean + rejected + duplicate")
    if missing:
        title = translate("Row accounting is not balanced: {missing:,} rows are missing", missing=missing)
    columns = (
        translate("source"), translate("batches"), translate("rows in"), translate("clean"), translate("rejected"),
        translate("duplicate"),
    )  # fmt: skip
    return TextTable(title, columns, rows)


def _batch_charts(batches: Sequence[CaptureBatch]) -> list[Chart | TextTable]:
    maximum = max((batch.lateness or 0 for batch in batches), default=0)
    unit, seconds = charts_pipeline.lateness_unit(maximum)
    names = [charts_pipeline.batch_name(batch) for batch in batches]
    rows = [batch.rows_clean + batch.rows_rejected + batch.rows_duplicate for batch in batches]
    lateness = [(batch.lateness or 0.0) / seconds for batch in batches]
    row_axis, late_axis = value_axis.choose_axis(rows), value_axis.choose_axis(lateness)
    return [
        Chart(
            translate_count("Rows of the newest {number} batch", "Rows of the newest {number} batches", len(batches)),
            join_sentences(
                translate("One bar per batch, in order of capture."),
                value_axis.note(row_axis, names, [f"{n:,}" for n in rows]),
            ),
            charts_pipeline.capture_rows(batches, row_axis),
        ),
        Chart(
            translate("Lateness"),
            join_sentences(
                translate(
                    "Time from the oldest event of a batch to its capture; maximum {maximum:,.1f} {unit}. The lateness "
                    "is high when old logs are captured.",
                    maximum=maximum / seconds,
                    unit=translate(unit),
                ),
                value_axis.note(late_axis, names, [f"{value:,.1f}" for value in lateness]),
            ),
            charts_pipeline.lateness(batches, late_axis),
        ),
    ]


def _rejected_rows(rejected: Sequence[RejectedByRule]) -> Chart:
    rows = tuple((entry.source, entry.rule, f"{entry.rows:,}", entry.reason) for entry in rejected)
    return Chart(
        translate("Rejected rows by rule"),
        translate(
            "A row counts for the first rule that rejects it. The most frequent rule is {rule}: {reason}.",
            rule=rejected[0].rule,
            reason=rejected[0].reason,
        ),
        charts_pipeline.rejected_rows(rejected),
        TextTable(
            translate("Rules and reasons"),
            (translate("source"), translate("rule"), translate("rows"), translate("reason")),
            rows,
        ),
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
    title = translate("Alarms: newest {shown} of {count:,}", shown=len(rows), count=pipeline.alarm_count)
    columns = (
        translate("source"), translate("batch"), translate("newest event"), translate("measure"),
        translate("message"),
    )  # fmt: skip
    return TextTable(title, columns, rows)


def stages(pipeline: PipelineView) -> Section:
    """Batch durations and costs of the stages."""
    name, title = "stages", translate("Stage durations")
    if not pipeline.stages:
        hint = translate("No stage has finished a batch yet: run jobs/run_pipeline.py.")
        return Section(name, title, hint=hint)
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
    caption = translate_count(
        "One dot per batch, newest batches only, logarithmic scale. {stage} has the highest total: {seconds:,.0f} s in "
        "{number} batch.",
        "One dot per batch, newest batches only, logarithmic scale. {stage} has the highest total: {seconds:,.0f} s in "
        "{number} batches.",
        slowest.batches,
        stage=slowest.stage,
        seconds=slowest.seconds,
    )
    costs = (translate("core-seconds per million rows"), translate("MB written per million rows"))
    columns = (
        translate("stage"), translate("batches"), translate("rows"),
        translate("total, s"), translate("median batch, s"), *costs,
    )  # fmt: skip
    table = TextTable(translate("Durations by stage"), columns, rows)
    figure = charts_pipeline.stage_durations(pipeline.stages)
    return Section(name, title, (Chart(translate("Batch durations"), caption, figure, table),))
