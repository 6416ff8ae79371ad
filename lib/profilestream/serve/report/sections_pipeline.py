"""How capture, stages and models did, as a person reads it."""

from collections.abc import Sequence

from profilestream.serve.report import charts, view_model
from profilestream.serve.report.components import Plot, Section, Table
from profilestream.serve.report.view_model import Judged, Numbers, utc


def rows(found: Numbers) -> Section:
    """What came in, what became of it, and what was odd."""
    name, heading, health = "rows", "Rows in, and what became of them", found.health
    if not health.accounts:
        return Section(name, heading, missing="There are no batches of capture: run jobs/capture_events.py.")
    lost = sum(one.rows_in - one.rows_clean - one.rows_rejected - one.rows_duplicate for one in health.accounts)
    columns = ("source", "batches", "rows in", "clean", "rejected", "duplicate")
    rows = tuple(
        (one.source + (" (put through again)" if one.kind == "replay" else ""),
         *(f"{count:,}" for count in (
             one.batches, one.rows_in, one.rows_clean, one.rows_rejected, one.rows_duplicate)))
        for one in health.accounts
    )  # fmt: skip
    adds_up = (
        "Nothing is missing: rows in = clean + rejected + duplicate." if not lost else f"{lost:,} rows are missing."
    )
    parts: list[Plot | Table] = [Table(adds_up, columns, rows)]
    if health.captured:
        late = max((one.lateness or 0 for one in health.captured), default=0)
        unit, size = charts.unit_of(late)
        parts.append(
            Plot(
                f"Rows of the newest {_count(len(health.captured), 'batch', 'batches')}",
                "One bar a batch, in order of capture; its parts are what became of the rows.",
                charts.batches(health.captured),
            )
        )
        parts.append(
            Plot(
                "Lateness",
                f"{unit.capitalize()} from the oldest event of a batch to its capture, at most {late / size:,.1f}. "
                "A log that is read long after it was written is as late as it is old.",
                charts.lateness(health.captured),
            )
        )
    if health.rejects:
        told = tuple((one.source, one.rule, f"{one.rows:,}", one.reason) for one in health.rejects)
        first = health.rejects[0]
        parts.append(
            Plot(
                "Rejected, by rule",
                "Each rejected row counts under the first rule that it broke; most often "
                f"{first.rule}: {first.reason}.",
                charts.rejects(health.rejects),
                Table("Rules and reasons", ("source", "rule", "rows", "reason"), told),
                is_wide=True,
            )
        )
    alarms = tuple(
        (one.source, f"{one.batch_id:,}", "" if one.until is None else utc(one.until), one.measure, one.message)
        for one in health.alarms
    )
    if alarms:
        heading_of = f"Alarms: the newest {len(alarms)} of {health.alarm_count:,}"
        parts.append(Table(heading_of, ("source", "batch", "events up to", "measure", "what was odd"), alarms))
    return Section(name, heading, tuple(parts))


def work(found: Numbers) -> Section:
    """How long batches took."""
    name, heading, paces = "work", "Seconds of the stages", found.health.paces
    if not paces:
        return Section(name, heading, missing="No stage has told of its batches yet: run jobs/run_pipeline.py.")
    columns = ("stage", "batches", "rows", "seconds in all", "middle batch, s")
    rows = tuple((p.stage, f"{p.batches:,}", f"{p.rows:,}", f"{p.seconds:,.0f}", f"{p.median:,.1f}") for p in paces)
    most = max(paces, key=lambda one: one.seconds)
    said = (
        f"One dot is one of the newest batches; further right is slower, and the scale has steps of ten times. "
        f"{most.stage} took the most, {most.seconds:,.0f} s in {_count(most.batches, 'batch', 'batches')}."
    )
    plot = Plot("Batches by stage", said, charts.paces(paces), Table("Seconds by stage", columns, rows))
    return Section(name, heading, (plot,))


def quality(found: Numbers) -> Section:
    """Models, judged before they learned."""
    name, heading = "quality", "How good the models are"
    parts: list[Plot | Table] = []
    if found.recall:
        first, value = best(found.recall)
        said = (
            "Of what users did next, the share that was among the first 20 of each ranking; each batch is judged "
            f"before it is learned from. Higher is better. Over the batches shown {first} is best with {value:.1%}."
        )
        parts.append(Plot("Recall at 20", said, charts.judged(found.recall, "recall at 20"), _means(found.recall)))
    if found.cost:
        said = (
            "Mean squared distance of a batch's users to the center nearest to them, before it is learned from; 'mean' "
            "is one center for all. Lower is better, and far below 'mean' is what segments are for."
        )
        parts.append(Plot("Cost of the segments", said, charts.judged(found.cost, "cost"), _means(found.cost)))
    missing = "" if parts else "Set learn.factors.enabled or learn.segments.enabled = true and run the pipeline."
    return Section(name, heading, tuple(parts), missing)


def champions(found: Numbers) -> Section:
    """What was published."""
    name, heading = "champions", "Champions"
    if not found.versions:
        return Section(name, heading, missing="No version was published yet: run jobs/learn_publish.py.")
    rows = tuple(
        (
            one.model,
            str(one.number),
            ", ".join(one.aliases) or "–",
            one.judged_by,
            "unknown" if one.value is None else f"{one.value:.4f}",
            "unknown" if one.learned_until is None else utc(one.learned_until),
            "kept" if one.has_rows else "removed",
        )
        for one in found.versions
    )
    named = ", ".join(f"{one.model} {one.number}" for one in found.versions if "champion" in one.aliases)
    columns = ("model", "version", "named", "judged by", "value", "last judged batch up to", "rows")
    table = Table(f"Published versions, newest first; champions now: {named or 'none'}", columns, rows)
    return Section(name, heading, (table,))


def best(rows: Sequence[Judged]) -> tuple[str, float]:
    """The ranker with the highest mean by users, and that mean."""
    by_name: dict[str, list[Judged]] = {}
    for row in rows:
        by_name.setdefault(row.ranker, []).append(row)
    return max(((name, view_model.mean(some)) for name, some in by_name.items()), key=lambda one: one[1])


def _means(rows: Sequence[Judged]) -> Table:
    names = sorted({row.ranker for row in rows})
    some = {name: [row for row in rows if row.ranker == name] for name in names}
    told = tuple(
        (name, f"{view_model.mean(of):.4f}", f"{of[-1].value:.4f}", f"{len(of):,}") for name, of in some.items()
    )
    return Table("Means over the batches shown", ("of", "mean by users", "newest", "batches"), told)


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
