"""Declaration of tags, RFM segments and loyalty tiers in TOML: SQL over the columns of all_users.UserFrame."""

import json
from itertools import pairwise
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, StringConstraints, model_validator

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Frozen, Settings, fingerprint
from profilestream.derive.table_declaration import load_as

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Duration = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,4}[hd]$")]
Facet = Literal["basic", "behavior", "preference", "interest", "social", "value", "risk"]
FACETS: tuple[str, ...] = get_args(Facet)
_DOCUMENTATION_KEYS = {"question", "facet", "demo_share"}


class TagRule(Frozen):
    """When a user gains, keeps and loses a tag.

    The conditions are false while the log has less than `needs_days` days.

    Args:
        question: the business question that the tag answers.
        facet: subject of the tag.
        enter_when: SQL condition; a user without the tag gains it when this is true.
        hold_when: SQL condition; a user with the tag keeps it while this or `enter_when` is true.
        evidence: SQL, a short text with the numbers behind the tag.
        cooldown: the user cannot gain the tag again for this long after it ended, such as `7d` or `12h`.
        expires_after: the tag ends this long after it was gained. The user can gain it again only after a run in which
            both conditions were false.
        starts_at: SQL timestamp from which the events show the condition; null, or without it: the time of the run.
        needs_days: number of days that the log must have.
        needs_people: whether the tag has a meaning only if a user id is a person, and not a session.
        demo_share: share of the demo's users who have the tag, or the reason why there are none.
    """

    question: str
    facet: Facet
    enter_when: str
    hold_when: str = "false"
    evidence: str
    cooldown: Duration | None = None
    expires_after: Duration | None = None
    starts_at: str = "NULL"
    needs_days: int | None = Field(default=None, ge=1)
    needs_people: bool = False
    demo_share: str = ""

    @property
    def version(self) -> str:
        """Fingerprint of all keys that affect rows of `user_tags`."""
        return fingerprint(json.dumps(self.model_dump(exclude=_DOCUMENTATION_KEYS), sort_keys=True))


class LoyaltyTier(Frozen):
    """A loyalty tier: a user enters it at `enter_at` points or more and leaves it below `leave_below` points."""

    enter_at: float
    leave_below: float


class LoyaltyDeclaration(Frozen):
    """Loyalty tiers, from the lowest to the highest.

    Args:
        points: SQL over a user's row.
    """

    points: str
    tiers: dict[Name, LoyaltyTier] = Field(min_length=1)

    @model_validator(mode="after")
    def _thresholds_ascend(self) -> Self:
        if invalid := [name for name, tier in self.tiers.items() if tier.leave_below >= tier.enter_at]:
            raise ValueError(f"tiers whose leave_below is not less than enter_at: {invalid}")
        for (_, lower), (name, higher) in pairwise(self.tiers.items()):
            if lower.enter_at >= higher.enter_at or lower.leave_below >= higher.leave_below:
                raise ValueError(f"order the tiers from lowest to highest: the thresholds of {name!r} do not increase")
        return self


class GroupDeclaration(Frozen):
    """Columns of `user_groups`.

    Args:
        recency_days, frequency, monetary: SQL over a user's row. Without a recency a user has no quintiles.
        first_event_time: SQL, time of the first event.
        rfm_segments: SQL conditions over these measures and their quintiles, by segment; the first true one applies.
        loyalty: points and tiers.
    """

    recency_days: str
    frequency: str
    monetary: str
    first_event_time: str
    rfm_segments: dict[Name, str] = Field(min_length=1)
    loyalty: LoyaltyDeclaration

    @property
    def measures(self) -> dict[str, tuple[str, str]]:
        """SQL and type of every value that is read from a user's row."""
        return {
            "recency_days": (self.recency_days, "double"),
            "frequency": (self.frequency, "double"),
            "monetary": (self.monetary, "double"),
            "first_event_time": (self.first_event_time, "timestamp"),
            "points": (self.loyalty.points, "double"),
        }


class TagDeclaration(Frozen):
    """A declaration file: groups of users, and tag rules by name.

    Args:
        all_users: SQL aggregates over the rows of all users, by name; the other expressions may use them.
    """

    all_users: dict[Name, str] = {}
    groups: GroupDeclaration
    tags: dict[Name, TagRule] = Field(min_length=1)

    def for_sessions(self) -> Self:
        """Without the tags that need people, and with null measures of purchases, for user ids that are sessions."""
        measures = dict.fromkeys(("recency_days", "frequency", "monetary"), "NULL")
        loyalty = self.groups.loyalty.model_copy(update={"points": "NULL"})
        groups = self.groups.model_copy(update={**measures, "loyalty": loyalty})
        tags = {name: tag for name, tag in self.tags.items() if not tag.needs_people}
        return self.model_copy(update={"groups": groups, "tags": tags})


def load(file: str, names: dict[str, str]) -> TagDeclaration:
    """The declaration in a TOML file.

    Args:
        names: values of `${name}` in its SQL, such as `${shop_timezone}`.

    Raises:
        BadSettings: the file does not exist, is not TOML, or has invalid keys or values; all of them in one message.
    """
    return load_as(TagDeclaration, file, names)


def from_settings(settings: Settings) -> TagDeclaration:
    """The declaration in the file `serve.tags.file`, as load_for.

    Raises:
        BadSettings: the setting is empty; and as for load.
    """
    if not settings.serve.tags.file:
        do = 'set it, such as file = "tags.toml"'
        raise BadSettings("no file declares tags", where="serve.tags.file", do=do)
    return load_for(settings, settings.serve.tags.file)


def load_for(settings: Settings, file: str) -> TagDeclaration:
    """The declaration in a TOML file, as load; with `serve.user_ids = "sessions"`, without what needs people."""
    declaration = load(file, settings.derive.names)
    return declaration.for_sessions() if settings.serve.user_ids == "sessions" else declaration
