"""Settings of the learners."""

from dataclasses import fields
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field

from profilestream.base.settings.frozen_model import Frozen

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ParamsT = TypeVar("ParamsT", bound="DataclassInstance")


class Effect(StrEnum):
    """What another value of a learner's setting changes."""

    STATE = "all rows, so the stage must be rebuilt"
    LATER = "rows of later batches"
    EVALUATION = "metrics and rankings only"


class LearnerSettings(Frozen):
    """Settings of a learner; a field without an `Effect` has Effect.STATE.

    Args:
        enabled: whether the stage of the learner runs.
    """

    enabled: bool = False

    @property
    def parameters(self) -> dict[str, Any]:
        """All settings except `enabled`."""
        return self.model_dump(exclude={"enabled"})

    def params_of(self, kind: type[ParamsT]) -> ParamsT:
        """The parameters that a dataclass has as fields, as this dataclass."""
        return kind(**{each.name: self.parameters[each.name] for each in fields(kind)})

    def with_effect(self, effect: Effect) -> dict[str, Any]:
        """The parameters with an effect."""
        effects = {
            name: next((one for one in field.metadata if isinstance(one, Effect)), Effect.STATE)
            for name, field in type(self).model_fields.items()
        }
        return {name: value for name, value in self.parameters.items() if effects[name] == effect}


class Factors(LearnerSettings):
    """The factorization of users and items (docs/learners.md). Some defaults depend on the mode.

    Args:
        mode: `implicit` learns from weighted events; `explicit` learns from ratings and adds a bias to each vector.
        k: length of a vector, without the bias.
        unobserved_weight: implicit: total weight of the user-item pairs without an event, per user; one pair weighs at
            most 1.
        regularization: L2 penalty of a vector, times the total weight of its observations; explicit: times the square
            root of that weight. Default: implicit 0.015, explicit 1.
        bias_regularization: explicit: the same for a bias.
        half_life_days: half-life of an item's normal equations, in event time. Default: implicit 45, explicit no decay.
        popularity_half_life_days: half-life of an item's popularity, in event time.
        max_events_per_user: number of latest events stored per user; older ones are summarized in `tail_weight`.
            Default: implicit 100, explicit 200.
        reweighted_events: number of a user's latest stored events whose contributions to items are replaced when the
            user vector changes.
        popularity_weight, category_weight, neighbor_weight: weights of these rankers in the blend.
        max_neighbors: number of neighbors stored per item, those with the highest decayed counts; 0: none.
        neighbor_history: number of a user's latest items that become neighbors of the user's next new item.
        full_passes: number of full passes over all events whenever their number has doubled; 0: none.
        first_full_passes: number of full passes over the first batch; 0: none.
        eval_users: approximate number of users per batch whose ranking is evaluated before the batch is learned; 0:
            none.
    """

    mode: Literal["implicit", "explicit"] = "implicit"
    k: int = Field(default=32, ge=1, le=512)
    unobserved_weight: float = Field(default=800.0, gt=0)
    regularization: float | None = Field(default=None, gt=0)
    bias_regularization: float = Field(default=0.3, gt=0)
    half_life_days: float | None = Field(default=None, gt=0)
    popularity_half_life_days: float = Field(default=14.0, gt=0)
    max_events_per_user: Annotated[int | None, Effect.LATER] = Field(default=None, ge=1)
    reweighted_events: Annotated[int, Effect.LATER] = Field(default=10, ge=0)
    popularity_weight: Annotated[float, Effect.EVALUATION] = Field(default=0.15, ge=0)
    category_weight: Annotated[float, Effect.EVALUATION] = Field(default=0.0, ge=0)
    neighbor_weight: Annotated[float, Effect.EVALUATION] = Field(default=0.03, ge=0)
    max_neighbors: Annotated[int, Effect.LATER] = Field(default=50, ge=0, le=1000)
    neighbor_history: Annotated[int, Effect.LATER] = Field(default=20, ge=1)
    full_passes: Annotated[int, Effect.LATER] = Field(default=2, ge=0, le=100)
    first_full_passes: Annotated[int, Effect.LATER] = Field(default=10, ge=0, le=100)
    eval_users: Annotated[int, Effect.EVALUATION] = Field(default=2000, ge=0)

    @property
    def parameters(self) -> dict[str, Any]:
        """With the defaults of the mode."""
        defaults: dict[str, Any] = {"regularization": 0.015, "half_life_days": 45.0, "max_events_per_user": 100}
        if self.mode == "explicit":
            defaults = {"regularization": 1.0, "half_life_days": None, "max_events_per_user": 200}
        values = super().parameters
        return values | {name: default for name, default in defaults.items() if values[name] is None}


class Segments(LearnerSettings):
    """Segments of users with similar profile vectors (docs/learners.md). Another k or half-life needs a rebuild.

    Args:
        k: number of segments.
        half_life_days: days of event time in which the weight of a user's contribution halves; inf: no decay.
        init_passes: assignment passes over the first batch.
        passes: assignment passes over every later batch.
        max_split_merges: maximum number of split/merge moves per batch.
        min_gain: a move must save at least this many times its cost.
        init_size: users of the first batch from which the initial centers are chosen; also the users in the sample for
            descriptions and --try-k.
        seed: seed of the hash that selects these users, and of the choice of centers.
    """

    k: int = Field(default=8, ge=2, le=500)
    half_life_days: float = Field(default=90.0, gt=0)
    init_passes: Annotated[int, Effect.LATER] = Field(default=10, ge=1, le=100)
    passes: Annotated[int, Effect.LATER] = Field(default=1, ge=1, le=10)
    max_split_merges: Annotated[int, Effect.LATER] = Field(default=2, ge=0, le=10)
    min_gain: Annotated[float, Effect.LATER] = Field(default=1.1, ge=1)
    init_size: Annotated[int, Effect.LATER] = Field(default=10_000, ge=100, le=100_000)
    seed: Annotated[int, Effect.LATER] = 0


class Rankers(LearnerSettings):
    """Rankings of items by decayed counts of baskets (docs/learners.md).

    Args:
        event_types: events of these types are counted, each with weight 1.
        basket_gap_minutes: a longer pause between two of these events of a user begins another basket.
        half_life_days: half-life of the counts of a user, of transitions and of rules, in event time.
        popularity_half_life_days: half-life of an item's popularity, in event time.
        max_items: number of items stored per user, those with the highest decayed counts.
        max_followers: number of followers stored per item, and of items in its rules, those with the highest decayed
            counts.
    """

    event_types: tuple[str, ...] = Field(default=("purchase",), min_length=1)
    basket_gap_minutes: float = Field(default=30.0, gt=0)
    half_life_days: float = Field(default=90.0, gt=0)
    popularity_half_life_days: float = Field(default=14.0, gt=0)
    max_items: Annotated[int, Effect.LATER] = Field(default=1000, ge=1)
    max_followers: Annotated[int, Effect.LATER] = Field(default=100, ge=1, le=1000)


class Demand(LearnerSettings):
    """Forecasts of units per item and week, and per category and day (docs/learners.md).

    Args:
        event_types: events of these types are sales; their quantity is the demand, 1 if it is missing.
        half_life_weeks: half-life of a week in the ridge regression of items, in event time.
        level_half_life_days: half-life of the level of a category, in event time.
        profile_half_life_weeks: half-life of the day-of-week profile of a category, in event time.
        history_days: forecasts are computed from this many days.
        error_days: the error of a forecast is measured over this many days.
    """

    event_types: tuple[str, ...] = Field(default=("purchase",), min_length=1)
    half_life_weeks: Annotated[float, Effect.LATER] = Field(default=26.0, gt=0)
    level_half_life_days: Annotated[float, Effect.LATER] = Field(default=10.0, gt=0)
    profile_half_life_weeks: Annotated[float, Effect.LATER] = Field(default=6.0, gt=0)
    history_days: Annotated[int, Effect.LATER] = Field(default=730, ge=28)
    error_days: Annotated[int, Effect.EVALUATION] = Field(default=91, ge=7)


class Outcomes(LearnerSettings):
    """Models of outcomes, such as a purchase in 28 days.

    Args:
        file: the declaration of labels, features and outcomes.
    """

    file: Annotated[str, Effect.LATER] = ""


class BatchModels(Frozen):
    """Models of outcomes that `learn_batch_models` fits again from stored examples (docs/learners.md).

    Args:
        enabled: whether `run_pipeline` runs the step after its stages.
        kinds: `boosting`: small boosted trees; `mlp`: a neural network with one hidden layer.
        retrain_days: a version is fitted once in each period of this many days.
        history_days: a version learns the examples that have matured in this many days before it.
        max_rows: examples that a version learns at most, of users that are selected by a hash.
        min_rows: examples that a version, and a comparison with the linear model, need at least.
        margin: a kind is served if its loss is lower than that of the linear model by more than this share, at the
            lower end of the 90 % interval.
        seed: seed of the hash and of the network.
    """

    enabled: bool = False
    kinds: tuple[Literal["boosting", "mlp"], ...] = Field(default=("boosting", "mlp"), min_length=1)
    retrain_days: int = Field(default=28, ge=1)
    history_days: int = Field(default=364, ge=1)
    max_rows: int = Field(default=100_000, ge=100)
    min_rows: int = Field(default=1000, ge=100)
    margin: float = Field(default=0.005, ge=0)
    seed: int = Field(default=0, ge=0)
