"""Scores of outcomes for the report, as plain values."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class ScoreGroup:
    """Rows with similar scores: the means of their predictions and of what happened."""

    predicted: float
    observed: float


@dataclass(frozen=True)
class ScoredOutcome:
    """How the scores of an outcome fit what happened, over its newest matured examples.

    Args:
        question: of the label.
        is_amount: whether the label is an amount, and not true or false.
        rows: number of examples.
        mean: of the labels.
        metrics: by name, as in `model_metrics`.
        groups: of equal size, by ascending score.
        gains: shares of the examples, those with the highest scores first, and their shares of the sum of labels.
    """

    name: str
    question: str
    horizon_days: int
    is_amount: bool
    rows: int
    mean: float
    metrics: dict[str, float]
    groups: tuple[ScoreGroup, ...]
    gains: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class ScoredUser:
    """A user with one of the highest scores, which are probabilities, or else expected amounts or margins."""

    outcome: str
    user_id: str
    score: float
    is_probability: bool
    reasons: tuple[str, ...]

    @property
    def score_text(self) -> str:
        """A probability in percent, any other score as a number."""
        return f"{self.score:.1%}" if self.is_probability else f"{self.score:,.2f}"


@dataclass(frozen=True)
class OutcomesView:
    """Outcomes whose models have scored matured examples, and the users with the highest scores.

    Args:
        weeks: length of the time range of the examples.
        as_of: of the scores of users; null without any.
    """

    outcomes: tuple[ScoredOutcome, ...]
    users: tuple[ScoredUser, ...]
    weeks: int
    as_of: datetime | None
