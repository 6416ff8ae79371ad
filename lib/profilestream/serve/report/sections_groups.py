"""Sections about segments, tags, unusual days and preferences of users."""

from profilestream.base.language import join_clauses, join_sentences, message, translate
from profilestream.learn.segments import segment_rules
from profilestream.serve.report import chart_elements, charts
from profilestream.serve.report.report_elements import Chart, Section, TextTable, missing_data
from profilestream.serve.report.view_model import format_utc
from profilestream.serve.report.view_users import (
    PreferencesView,
    SegmentsView,
    TagsView,
    UnusualDay,
)

_ATTRIBUTES = {
    "categories": (message("Categories"), message("Shares of categories"), message("category")),
    "brands": (message("Brands"), message("Shares of brands"), message("brand")),
    "items": (message("Items"), message("Shares of items"), message("item")),
}


def segments(segments: SegmentsView | None, *, is_enabled: bool) -> Section:
    """Sizes of the segments over time, descriptions, and split/merge moves."""
    name, title = "segments", translate("Segments")
    if segments is None:
        hint = missing_data(
            message("There are no segments. {do}, and run jobs/learn_segments.py."),
            enable=message("Set learn.segments.enabled = true"),
            capture=message("Capture events with a user id"),
            is_enabled=is_enabled,
        )
        return Section(name, title, hint=hint)
    largest = segments.current[0]
    caption = translate("Users per segment after each batch, by event time.")
    if len(segments.as_of) == 1:
        caption = translate("Users per segment as of {time}.", time=format_utc(segments.as_of[0]))
    largest_text = translate(
        "The largest is segment {number} with {users:,} users ({share:.1%}).",
        number=largest.segment_id,
        users=largest.users,
        share=largest.users / segments.users,
    )
    caption = join_sentences(caption, largest_text)
    parts: list[Chart | TextTable] = [
        Chart(
            translate("Segment sizes"), caption, charts.segment_sizes(segments), _segment_rules(segments), is_wide=True
        ),
        _current_segments(segments),
    ]
    if segments.moves:
        moves = tuple((format_utc(time), text) for time, text in segments.moves)
        columns = (translate("batch as of"), translate("move"))
        parts.append(TextTable(translate("Newest split/merge moves"), columns, moves))
    return Section(name, title, tuple(parts))


def _segment_rules(segments: SegmentsView) -> TextTable:
    rows = tuple(
        (
            str(segment.segment_id),
            segment.rule or translate(segment_rules.NO_RULE),
            _percent(segment.precision),
            _percent(segment.recall),
        )
        for segment in segments.current
    )
    columns = (translate("segment"), translate("decision tree rule"), translate("precision"), translate("recall"))
    return TextTable(translate("Rules of the segments"), columns, rows)


def _current_segments(segments: SegmentsView) -> TextTable:
    rows = tuple(
        (
            str(segment.segment_id),
            f"{segment.users:,}",
            f"{segment.users / segments.users:.1%}",
            segment.description,
            segment.rule_in_words or translate(segment_rules.NO_RULE),
        )
        for segment in segments.current
    )
    numbers = {segment_id: number for number, segment_id in enumerate(segments.sizes)}
    others = len(numbers) - 1
    colors = tuple(chart_elements.color(numbers.get(segment.segment_id, others)) for segment in segments.current)
    columns = (
        translate("segment"), translate("users"), translate("share"), translate("description"),
        translate("who is in it"),
    )  # fmt: skip
    return TextTable(translate("Segments after the newest batch"), columns, rows, colors)


def tags(tags: TagsView | None, *, is_enabled: bool) -> Section:
    """Users by tag, and recent changes."""
    name, title = "tags", translate("Tags")
    if tags is None:
        hint = missing_data(
            message("No user has tags. {do}, and run jobs/run_pipeline.py."),
            enable=message("Set serve.tags.enabled = true and serve.tags.file"),
            capture=message("Capture events with a user id"),
            is_enabled=is_enabled,
        )
        return Section(name, title, hint=hint)
    days = TagsView.CHANGE_PERIOD.days
    unknown_start = sum(tag.unknown_start for tag in tags.tags)
    caption = translate(
        "As of {time}; a user can have several tags. In the {days} days before, users gained {gained:,} and lost "
        "{lost:,} tags.",
        time=format_utc(tags.as_of),
        days=days,
        gained=sum(tag.gained for tag in tags.tags),
        lost=sum(tag.lost for tag in tags.tags),
    )
    if unknown_start:
        older = translate("{count:,} tags may be older: no earlier run evaluated their rules.", count=unknown_start)
        caption = join_sentences(caption, older)
    rows = tuple((tag.tag, f"{tag.users:,}", f"{tag.gained:,}", f"{tag.lost:,}") for tag in tags.tags)
    columns = (
        translate("tag"), translate("users"), translate("gained in {days} days", days=days),
        translate("lost in {days} days", days=days),
    )  # fmt: skip
    table = TextTable(translate("Tags and changes"), columns, rows)
    chart = Chart(translate("Users by tag"), caption, charts.tagged_users(tags.tags), table)
    return Section(name, title, (chart,))


def unusual_days(days: tuple[UnusualDay, ...], *, is_enabled: bool) -> Section:
    """The days of users that differ most from their earlier days, with reasons."""
    name, title = "unusual", translate("Unusual activity")
    if not days:
        hint = missing_data(
            message("No day is unusual. {do}, and run jobs/run_pipeline.py."),
            enable=message("Set serve.anomalies.enabled = true"),
            capture=message("Capture more days of users"),
            is_enabled=is_enabled,
        )
        return Section(name, title, hint=hint)
    rows = tuple((day.user_id, f"{day.day:%Y-%m-%d}", f"{day.share:.2%}", join_clauses(day.reasons)) for day in days)
    columns = (
        translate("user"), translate("date"), translate("share of all days that differ as much"),
        translate("reasons"),
    )  # fmt: skip
    heading = translate("Days that differ most from the earlier days of the user")
    return Section(name, title, (TextTable(heading, columns, rows),))


def preferences(preferences: tuple[PreferencesView, ...]) -> Section:
    """Mean preference shares over users."""
    name, title = "preferences", translate("Preferences")
    if not preferences:
        hint = translate(
            "Declare preference.categories, brands or items in a file of derive.profiles and run "
            "jobs/derive_profiles.py."
        )
        return Section(name, title, hint=hint)
    return Section(name, title, tuple(_preference_chart(view) for view in preferences))


def _preference_chart(view: PreferencesView) -> Chart:
    (largest, share), *_ = view.shares
    caption = translate(
        "Mean share of a user's preferences. All {users:,} users have equal weight; newer events have more weight. The "
        "largest share is {share:.1%} ({largest}). Values that are not shown have {others:.1%}.",
        users=view.users,
        share=share,
        largest=largest,
        others=view.others,
    )
    rows = tuple((value, f"{share:.2%}") for value, share in view.shares)
    title, heading, attribute = map(translate, _ATTRIBUTES[view.attribute])
    table = TextTable(heading, (attribute, translate("share")), rows)
    return Chart(title, caption, charts.preference_shares(view), table)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
