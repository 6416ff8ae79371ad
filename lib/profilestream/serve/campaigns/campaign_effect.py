"""What a campaign did to those whom it reached: matched difference in differences (docs/campaigns.md).

Whom a user is matched to hangs on events before the campaign's start alone: the profile vector, folded from them, and
what was spent. What came then is compared with as long a time right before the start, as a change (Heckman, Ichimura
and Todd 1997, Review of Economic Studies 64). What was spent in that time is not matched on, only what was earlier:
those who are alike in one time by chance go back to what is usual for them in the next, and that would pass for an
effect (Daw and Hatfield 2018, Health Services Research 53). The same on the time before the start, a placebo (Imbens
and Rubin 2015, Causal Inference, chapter 21), ought to tell no effect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Literal
from zoneinfo import ZoneInfo

from profilestream.base.errors import BadSettings
from profilestream.serve.campaigns import matching
from profilestream.serve.campaigns.matching import Bools, Effect, Floats, Matching, Places

Window = Literal["during", "after"]

MEASURES = ("spend", "visits")
_BEFORE = 0
_WINDOWS: dict[Window, int] = {"during": 1, "after": 2}
_FEWEST = 20


@dataclass(frozen=True)
class Campaign:
    """A time in which users were treated.

    Args:
        start, end: its first day and the first one after it, where the shop is.
        zone: of the shop.

    Raises:
        BadSettings: it ends before it begins.
    """

    start: date
    end: date
    zone: str

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise BadSettings(f"{self.start} is after the last day", where="--start, --end", do="name a later --end")

    @property
    def length(self) -> timedelta:
        """Whole days."""
        return self.end - self.start

    @property
    def steps(self) -> int:
        """Parts of about a week that it has."""
        return max(1, round(self.length.days / 7))

    @property
    def placebo(self) -> "Campaign":
        """As long a time right before it, in which nobody was treated by it."""
        return Campaign(self.start - self.length, self.start, self.zone)

    def moment(self, lengths: int) -> datetime:
        """The time so many lengths after its start."""
        local = datetime.combine(self.start + lengths * self.length, time(), ZoneInfo(self.zone))
        return local.astimezone(UTC)


@dataclass(frozen=True)
class Outcome:
    """How a measure went in a window.

    Args:
        level: mean of the matched treated users in the window.
        naive: treated less untreated users in the window, whoever they are: what matching is there to mend.
    """

    measure: str
    window: Window
    level: float
    naive: float
    effect: Effect

    @property
    def share(self) -> float | None:
        """The effect over what the treated would have had without it; null where that is nothing, or less."""
        without = self.level - self.effect.value
        return self.effect.value / without if without > 0 else None


@dataclass(frozen=True)
class Users:
    """What is known of the users who are compared; a row each.

    Args:
        names: of the covariates.
        spend: by step: those before the campaign, during it and after it.
        visits: by window, the one before first.
    """

    ids: list[str]
    treated: Bools
    names: list[str]
    covariates: Floats
    spend: Floats
    visits: Floats

    def by_window(self, measure: str) -> Floats:
        """Before, during, after."""
        return self.visits if measure == "visits" else self.spend.reshape(len(self.ids), 3, -1).sum(axis=2)


@dataclass(frozen=True)
class Study:
    """Users, which of them are a pair, and what came of it."""

    campaign: Campaign
    users: Users
    pairs: Places
    outcomes: list[Outcome]

    @cached_property
    def balance(self) -> dict[str, tuple[float, float]]:
        """Standardized mean difference of each covariate, before and after matching."""
        users = self.users
        told = [matching.balance(users.treated, users.covariates, pairs) for pairs in (None, self.pairs)]
        return {name: (float(was), float(now)) for name, was, now in zip(users.names, *told, strict=True)}


def compared(users: Users, campaign: Campaign, how: Matching, windows: Sequence[Window]) -> Study:
    """The study of users that were collected.

    Raises:
        BadSettings: too few treated, untreated or matched users, or users of whom nothing is known that differs.
    """
    sides = {"treated": int(users.treated.sum()), "untreated": int((~users.treated).sum())}
    if min(sides.values()) < _FEWEST:
        do = f"at least {_FEWEST} of each are needed; look at --users, --user-id and --where"
        raise BadSettings(f"of users known before {campaign.start} there are {sides}", where="--users", do=do)
    if not users.names:
        what = f"before {campaign.start} all users are alike in what is known of them"
        raise BadSettings(what, where="--start", do="name a campaign that lies further inside the log")
    pairs = matching.pairs(users.treated, users.covariates, how.caliper)
    if len(pairs) < _FEWEST:
        what = f"{len(pairs)} of {sides['treated']} treated users have a match; at least {_FEWEST} are needed"
        raise BadSettings(what, where="--caliper", do="the two sides differ too much to be compared; or widen it")
    told = [_outcome(users, pairs, measure, window, how) for window in windows for measure in MEASURES]
    return Study(campaign, users, pairs, told)


def _outcome(users: Users, pairs: Places, measure: str, window: Window, how: Matching) -> Outcome:
    values = users.by_window(measure)
    came = values[:, _WINDOWS[window]]
    effect = matching.effect(came - values[:, _BEFORE], users.covariates, pairs, how)
    naive = came[users.treated].mean() - came[~users.treated].mean()
    return Outcome(measure, window, float(came[pairs[:, 0]].mean()), float(naive), effect)
