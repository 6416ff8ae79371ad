"""Effect of a campaign on the treated users: matching and difference in differences (docs/campaigns.md).

Users are matched on events before the start of the campaign only: the profile vector, and earlier spend and orders.
The outcome is a change: during the campaign, or after it, minus a window of the same length right before the start
(Heckman, Ichimura and Todd 1997, Review of Economic Studies 64). Spend in the window before is not a covariate. Users
who are alike in it by chance return to their usual spend afterwards, and this regression to the mean would look like an
effect (Daw and Hatfield 2018, Health Services Research 53). A placebo repeats the analysis before the campaign, where
it should find no effect (Imbens and Rubin 2015, Causal Inference, chapter 21).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import Literal
from zoneinfo import ZoneInfo

from profilestream.base.errors import BadSettings
from profilestream.serve.campaigns import matching
from profilestream.serve.campaigns.matching import Bools, EffectEstimate, Floats, MatchingConfig, Pairs

OutcomeWindow = Literal["during", "after"]

MEASURES = ("spend", "orders")
_BEFORE = 0
_WINDOW_NUMBERS: dict[OutcomeWindow, int] = {"during": 1, "after": 2}
_MIN_USERS = 20


@dataclass(frozen=True)
class Campaign:
    """The days of a campaign.

    Args:
        start, end: first day, and the day after the last day, in the shop time zone.
        timezone: of the shop.

    Raises:
        BadSettings: the end is not after the start.
    """

    start: date
    end: date
    timezone: str

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise BadSettings(f"{self.start} is after the last day", where="--start, --end", do="use a later --end")

    @property
    def length(self) -> timedelta:
        """Length in full days."""
        return self.end - self.start

    @property
    def intervals(self) -> int:
        """Number of equal intervals of about a week that spend is summed by."""
        return max(1, round(self.length.days / 7))

    @property
    def placebo(self) -> "Campaign":
        """The window of the same length right before the campaign."""
        return Campaign(self.start - self.length, self.start, self.timezone)

    def boundary(self, lengths: int) -> datetime:
        """The start of the campaign shifted by a number of its lengths, in UTC; 1 is its end."""
        local = datetime.combine(self.start + lengths * self.length, time(), ZoneInfo(self.timezone))
        return local.astimezone(UTC)


@dataclass(frozen=True)
class CampaignOutcome:
    """Result for one measure and window.

    Args:
        treated_mean: mean of the matched treated users in the window.
        unmatched_difference: mean of all treated users minus mean of all untreated users in the window, without
            matching.
        effect: effect on the matched treated users.
    """

    measure: str
    window: OutcomeWindow
    treated_mean: float
    unmatched_difference: float
    effect: EffectEstimate

    @property
    def relative_effect(self) -> float | None:
        """Effect divided by the estimated mean without the campaign; null when that mean is not positive."""
        without_campaign = self.treated_mean - self.effect.value
        return self.effect.value / without_campaign if without_campaign > 0 else None


@dataclass(frozen=True)
class StudyUsers:
    """Covariates and outcomes of the treated and untreated users, one row per user.

    Args:
        covariate_names: names of the columns of `covariates`.
        spend: by interval: those of the window before, of the campaign, and of the window after it.
        orders: by window: before, during, after.
    """

    ids: list[str]
    is_treated: Bools
    covariate_names: list[str]
    covariates: Floats
    spend: Floats
    orders: Floats

    def by_window(self, measure: str) -> Floats:
        """Values of a measure with the columns before, during, after."""
        return self.orders if measure == "orders" else self.spend.reshape(len(self.ids), 3, -1).sum(axis=2)


@dataclass(frozen=True)
class CampaignStudy:
    """Users, matched pairs (row numbers of the users) and outcomes of a campaign or of its placebo."""

    campaign: Campaign
    users: StudyUsers
    pairs: Pairs
    outcomes: list[CampaignOutcome]

    @cached_property
    def balance(self) -> dict[str, tuple[float, float]]:
        """Standardized mean difference of each covariate, before and after matching."""
        users = self.users
        before = matching.mean_differences(users.is_treated, users.covariates)
        after = matching.mean_differences(users.is_treated, users.covariates, self.pairs)
        return {
            name: (float(difference), float(matched_difference))
            for name, difference, matched_difference in zip(users.covariate_names, before, after, strict=True)
        }


def run_study(
    users: StudyUsers, campaign: Campaign, config: MatchingConfig, windows: Sequence[OutcomeWindow]
) -> CampaignStudy:
    """Match the users and estimate the effect on every measure in every window.

    Raises:
        BadSettings: fewer than 20 treated, untreated or matched users, or no covariate that varies.
    """
    counts = {"treated": int(users.is_treated.sum()), "untreated": int((~users.is_treated).sum())}
    if min(counts.values()) < _MIN_USERS:
        do = f"at least {_MIN_USERS} of each are needed; check --users, --user-id and --where"
        raise BadSettings(f"users with events before {campaign.start}: {counts}", where="--users", do=do)
    if not users.covariate_names:
        what = f"all users are equal in all covariates before {campaign.start}"
        raise BadSettings(what, where="--start", do="use a campaign with more events before its start")
    pairs = matching.match_pairs(users.is_treated, users.covariates, config.caliper)
    if len(pairs) < _MIN_USERS:
        what = f"{len(pairs)} of {counts['treated']} treated users have a match; at least {_MIN_USERS} are needed"
        raise BadSettings(what, where="--caliper", do="use a larger caliper, or do not compare such different users")
    outcomes = [_outcome(users, pairs, measure, window, config) for window in windows for measure in MEASURES]
    return CampaignStudy(campaign, users, pairs, outcomes)


def _outcome(
    users: StudyUsers, pairs: Pairs, measure: str, window: OutcomeWindow, config: MatchingConfig
) -> CampaignOutcome:
    by_window = users.by_window(measure)
    values = by_window[:, _WINDOW_NUMBERS[window]]
    effect = matching.estimate_effect(values - by_window[:, _BEFORE], users.covariates, pairs, config)
    difference = values[users.is_treated].mean() - values[~users.is_treated].mean()
    return CampaignOutcome(measure, window, float(values[pairs[:, 0]].mean()), float(difference), effect)
