"""Numbers to what a person reads: title, key figures and sections in order. Pure; page.py makes HTML of it."""

from profilestream.serve.report import sections_pipeline, sections_users
from profilestream.serve.report.components import Section, Tile
from profilestream.serve.report.view_model import Numbers, utc


def title(found: Numbers) -> str:
    """Whose page it is, and as of when."""
    return "Nothing was captured yet" if found.log is None else f"The shop up to {utc(found.log.last)}"


def lead(found: Numbers) -> str:
    """One sentence of what the page covers."""
    if found.log is None:
        return "There are no events. Run jobs/capture_events.py or jobs/run_pipeline.py first."
    sources = ", ".join(dict.fromkeys(one.source for one in found.health.accounts))
    what = f"{found.log.events:,} clean events of {sources or 'one log'}"
    zone = f"Days, weeks and hours are those of the shop's clock, {found.log.zone}; other times are UTC."
    return f"{what}, from {utc(found.log.first)} to {utc(found.log.last)}. {zone}"


def tiles(found: Numbers) -> list[Tile]:
    """The key figures that there are."""
    told: list[Tile] = []
    health, log, users = found.health, found.log, found.users
    if health.accounts:
        told += [
            Tile("rows_in", "rows came in", health.total("rows_in")),
            Tile("rows_clean", "clean", health.total("rows_clean")),
            Tile("rows_rejected", "rejected", health.total("rows_rejected")),
            Tile("rows_duplicate", "duplicate", health.total("rows_duplicate")),
            Tile("alarms", "alarms", health.alarm_count),
        ]
    if log is not None:
        told.append(Tile("events", "events", log.events, note=f"{log.guests:,} by guests" if log.guests else ""))
    if users is not None:
        told.append(Tile("known_users", "known users", max(users.steps.values())))
        told += [Tile("buyers", "buyers", users.steps["bought"])] if "bought" in users.steps else []
    if log is not None and log.value:
        told.append(Tile("value", "bought for", log.value, note=log.currency or "price times quantity"))
    if found.segments is not None:
        told.append(Tile("segments", "segments", len(found.segments.now), note=f"{found.segments.users:,} users"))
    if found.tags is not None:
        held = sum(one.users for one in found.tags.tags)
        told.append(Tile("tags_held", "tags held", held, note=f"{len(found.tags.tags)} different ones"))
    if found.recall:
        best, value = sections_pipeline.best(found.recall)
        told.append(Tile("recall_20", "recall at 20", value, f"{value:.1%}", best))
    return told


def sections(found: Numbers) -> list[Section]:
    """All sections in order, those without numbers too."""
    return [
        sections_pipeline.rows(found),
        sections_pipeline.work(found),
        sections_users.activity(found.users),
        sections_users.steps(found.users),
        sections_users.retention(found.users),
        sections_users.week(found.log),
        sections_users.segments(found),
        sections_users.tags(found.tags),
        sections_users.tastes(found),
        sections_pipeline.quality(found),
        sections_pipeline.champions(found),
    ]
