"""Sections about model quality and published versions."""

from collections.abc import Sequence

from profilestream.base.language import join_list, join_sentences, translate
from profilestream.serve.report import charts, value_axis, view_model
from profilestream.serve.report.report_elements import Chart, Section, TextTable
from profilestream.serve.report.view_model import MetricPoint, ReportView, format_utc


def model_quality(view: ReportView) -> Section:
    """Metrics of the rankers and of the segments, each batch evaluated before it is learned."""
    name, title = "quality", translate("Model quality")
    parts: list[Chart | TextTable] = []
    if view.recall:
        model, recall = best_model(view.recall)
        caption = translate(
            "Share of the items that users chose next that are in the top 20 of each ranker. Every batch is evaluated "
            "before it is learned. Higher is better. {model} is best over the batches shown: {recall:.1%}.",
            model=model,
            recall=recall,
        )
        figure = charts.metric_lines(view.recall, translate("recall@20"))
        parts.append(Chart(translate("Recall@20"), caption, figure, _weighted_means(view.recall)))
    if view.cost:
        caption = translate(
            "Mean squared distance of a batch's users to the nearest segment center, before the batch is learned. "
            "'mean' is the distance to a single center for all users. Lower is better."
        )
        axis = value_axis.choose_axis([point.value for point in view.cost])
        labels = [f"{point.model}, {format_utc(point.state_as_of)}" for point in view.cost]
        outside = value_axis.note(axis, labels, [f"{point.value:,.4g}" for point in view.cost])
        caption = join_sentences(caption, outside)
        figure = charts.metric_lines(view.cost, translate("cost"), axis)
        parts.append(Chart(translate("Segment cost"), caption, figure, _weighted_means(view.cost)))
    return Section(name, title, tuple(parts), hint="" if parts else _quality_hint(view))


def _quality_hint(view: ReportView) -> str:
    """Why there is no metric, and what to do."""
    learners = view.enabled & {"learn_factors", "learn_segments"}
    if not learners:
        return translate("Set learn.factors.enabled or learn.segments.enabled = true and run the pipeline.")
    if not any(stage.stage in learners and stage.rows for stage in view.pipeline.stages):
        return translate("No events were learned yet. Capture events with a user id, and run jobs/run_pipeline.py.")
    return translate(
        "Models are evaluated from the second batch on; the first batch is only learned. The next run with new events "
        "is evaluated. To evaluate events that are already captured, learn them in smaller batches: set "
        "learn.max_files_per_trigger to a lower number of files of the table events, and run "
        "jobs/learn_factors.py --rebuild. Capture writes one file per day and batch, so a lower "
        "stream.max_files_per_trigger gives more files."
    )


def published_versions(view: ReportView) -> Section:
    """Published versions of the models, and the model cards of the champions."""
    name, title = "versions", translate("Published versions")
    if not view.versions:
        return Section(name, title, hint=translate("No version is published yet: run jobs/learn_publish.py."))
    rows = tuple(
        (
            version.model,
            str(version.number),
            join_list(version.aliases) or "–",
            version.metric,
            translate("unknown") if version.value is None else f"{version.value:.4f}",
            translate("unknown") if version.learned_until is None else format_utc(version.learned_until),
            translate("stored") if version.has_rows else translate("removed"),
        )
        for version in view.versions
    )
    champions = [f"{version.model} {version.number}" for version in view.versions if "champion" in version.aliases]
    columns = (
        translate("model"), translate("version"), translate("aliases"), translate("metric"), translate("value"),
        translate("evaluated as of"), translate("rows"),
    )  # fmt: skip
    names = join_list(champions) or translate("none")
    heading = translate("Newest version first; champions: {names}", names=names)
    cards = [
        part
        for card in view.cards
        for part in (
            TextTable(card.title, card.columns, card.rows),
            TextTable(
                translate("About {model} {number}", model=card.model, number=card.number),
                ("",),
                tuple((note,) for note in card.notes),
            ),
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
    columns = (translate("model"), translate("weighted mean"), translate("newest batch"), translate("batches"))
    return TextTable(translate("Means over the batches shown"), columns, rows)
