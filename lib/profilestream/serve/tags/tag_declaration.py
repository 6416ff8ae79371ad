"""What tags, RFM segments and loyalty tiers are: SQL over a user's row (people.py), in TOML."""

import json
from itertools import pairwise
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, StringConstraints, model_validator

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Frozen, Settings, fingerprint
from profilestream.derive.table_declaration import load_as

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Length = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,4}[hd]$")]
Facet = Literal["basic", "behavior", "preference", "interest", "social", "value", "risk"]
FACETS: tuple[str, ...] = get_args(Facet)
_WORDS = {"question", "facet", "demo"}


class Tag(Frozen):
    """What is said of a user while a condition holds.

    Args:
        question: that it answers, in words.
        facet: what it is about.
        where: SQL condition; it is gained when this is true.
        stays: SQL condition; once gained, it is kept while this or `where` is true.
        evidence: SQL, a short text with the numbers behind it.
        cool_down: so long after it ended it is not gained again.
        expires: so long after it was gained it ends; to be gained again, its condition must first have been false.
        demo: share of the demo's users who have it, or why none has.
    """

    question: str
    facet: Facet
    where: str
    stays: str = "false"
    evidence: str
    cool_down: Length | None = None
    expires: Length | None = None
    demo: str = ""

    @property
    def version(self) -> str:
        """Changes when what it says of anybody could."""
        return fingerprint(json.dumps(self.model_dump(exclude=_WORDS), sort_keys=True))


class Tier(Frozen):
    """A loyalty tier: entered at `enter` points, left below `leave`."""

    enter: float
    leave: float


class Loyalty(Frozen):
    """Tiers, from the lowest to the highest, by points: SQL over a user's row."""

    points: str
    tiers: dict[Name, Tier] = Field(min_length=1)

    @model_validator(mode="after")
    def _borders_rise(self) -> Self:
        if flapping := [name for name, tier in self.tiers.items() if tier.leave >= tier.enter]:
            raise ValueError(f"tiers that are left where they are entered, or above: {flapping}")
        for (_, lower), (name, higher) in pairwise(self.tiers.items()):
            if lower.enter >= higher.enter or lower.leave >= higher.leave:
                raise ValueError(f"tiers stand from the lowest to the highest: the borders of {name!r} do not rise")
        return self


class Groups(Frozen):
    """What a row of `user_groups` is made of.

    Args:
        recency_days, frequency, money: SQL over a user's row; who has no recency has no fifths.
        first_seen: SQL, the time of the first event.
        rfm: SQL conditions over these and the fifths, by the segment's name; the first that is true names it.
        loyalty: tiers.
    """

    recency_days: str
    frequency: str
    money: str
    first_seen: str
    rfm: dict[Name, str] = Field(min_length=1)
    loyalty: Loyalty

    @property
    def measures(self) -> dict[str, tuple[str, str]]:
        """What is told of a user's row, by column: SQL, type."""
        return {
            "recency_days": (self.recency_days, "double"),
            "frequency": (self.frequency, "double"),
            "money": (self.money, "double"),
            "first_seen": (self.first_seen, "timestamp"),
            "points": (self.loyalty.points, "double"),
        }


class Tags(Frozen):
    """A file of tags: the groups of users, and the tags by name."""

    groups: Groups
    tags: dict[Name, Tag] = Field(min_length=1)


def load(file: str, names: dict[str, str]) -> Tags:
    """What a file declares.

    Args:
        names: settings that its SQL may use: `${shop_timezone}`.

    Raises:
        BadSettings: no such file, not TOML, or keys or values that do not fit; all of them in one message.
    """
    return load_as(Tags, file, names)


def named(settings: Settings) -> Tags:
    """What the file declares that the settings name.

    Raises:
        BadSettings: they name none; and as for load.
    """
    if not settings.serve.tags.file:
        do = 'name one, such as file = "tags.toml"'
        raise BadSettings("no file declares tags", where="serve.tags.file", do=do)
    return load(settings.serve.tags.file, settings.derive.names)
