"""At most five questions at a terminal, each with a default; none elsewhere."""

import sys
import zoneinfo
from dataclasses import dataclass, replace

from rich.prompt import Prompt

from profilestream.capture.detection.column_roles import Candidate, Roles
from profilestream.capture.detection.proposal import Proposal
from profilestream.capture.mapping import EVENT_TYPES

_NONE = "none"


@dataclass(frozen=True)
class Answers:
    """What a person chose; empty texts where nothing was chosen."""

    roles: Roles
    timezone: str = ""
    event_type: str = ""


def is_terminal() -> bool:
    """Whether a person can answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask(proposal: Proposal, roles: Roles, timezone: str) -> Answers:
    """Questions on the lines that are unsure: time column, user, item, time zone, event type."""
    answers = Answers(roles, timezone)
    unsure = proposal.unsure()
    for target, words in (("event_time", "the time of the event"), ("user_id", "the user"), ("item_id", "the item")):
        candidates = roles.get(target, [])
        if f"columns.{target}" in unsure and len(candidates) > 1:
            names = [candidate.column.name for candidate in candidates[:6]] + (
                [] if target == "event_time" else [_NONE]
            )
            chosen = Prompt.ask(f"Which column contains {words}?", choices=names, default=names[0])
            answers = replace(answers, roles={**answers.roles, target: _first(candidates, chosen)})
    if "timezone" in unsure:
        answers = replace(answers, timezone=_ask_zone())
    if "columns.event_type" in unsure and not roles.get("event_type"):
        default = str(proposal.columns["event_type"].value).strip("'")
        default = default if default in EVENT_TYPES else "purchase"
        chosen = Prompt.ask("What type of event does the log contain?", choices=list(EVENT_TYPES), default=default)
        answers = replace(answers, event_type=chosen)
    return answers


def _first(candidates: list[Candidate], name: str) -> list[Candidate]:
    """The candidates with the chosen one first, as sure; none if none was chosen."""
    chosen = [replace(c, score=1.0, evidence="as chosen") for c in candidates if c.column.name == name]
    return chosen + [c for c in candidates if c.column.name != name] if chosen else []


def _ask_zone() -> str:
    while True:
        zone = Prompt.ask("In which time zone are the times (such as Europe/Berlin)?", default="UTC")
        if zone in zoneinfo.available_timezones():
            return zone
