"""The declaration of outcomes in TOML: input features, and per outcome the horizon and how it is learned."""

from functools import cached_property
from typing import Any, Literal

from pydantic import Field, model_validator

from profilestream.base.settings import Frozen, fingerprint
from profilestream.learn.outcomes.kernels.first_order_rules import FirstOrder
from profilestream.learn.outcomes.kernels.model_inputs import InputFeature, ModelInputs
from profilestream.learn.outcomes.kernels.newton_rule import Newton
from profilestream.learn.outcomes.kernels.outcome_model import OutcomeRule

_MAX = 1e12
_LOSSES = {"newton": ("logistic", "poisson", "squared"), "pa1": ("hinge",), "pa2": ("hinge",)}


class DeclaredFeature(Frozen):
    """A feature; see kernels.model_inputs.InputFeature."""

    is_log: bool = False
    lower: float = -_MAX
    upper: float = _MAX
    knots: tuple[float, ...] = ()
    buckets: int = Field(default=0, ge=0)
    min_rows: float = Field(default=0.0, ge=0)


class DeclaredOutcome(Frozen):
    """An outcome.

    Args:
        horizon_days: the label is computed from the events of this many days after the time of a row.
        loss: `logistic` for labels 0 and 1, `poisson` for amounts and counts.
        rule: `newton`, or a kind of kernels.first_order_rules.
        half_life_days: of the sums, in event time; null: no decay.
        ridge: penalty of Newton, in rows.
        rate, l1, l2, shards: of first-order rules.
    """

    horizon_days: int = Field(ge=1)
    loss: Literal["logistic", "poisson", "squared", "hinge"] = "logistic"
    rule: Literal["newton", "sgd", "adagrad", "adam", "ftrl", "pa1", "pa2"] = "newton"
    half_life_days: float | None = Field(default=182.0, gt=0)
    ridge: float = Field(default=300.0, ge=0)
    rate: float = Field(default=0.1, gt=0)
    l1: float = Field(default=0.0, ge=0)
    l2: float = Field(default=0.0, ge=0)
    shards: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check_loss(self) -> "DeclaredOutcome":
        allowed = _LOSSES.get(self.rule, ("logistic", "hinge", "squared"))
        if self.loss not in allowed:
            raise ValueError(f"the rule {self.rule!r} has no loss {self.loss!r}: use one of {allowed}")
        return self

    @property
    def identity(self) -> str:
        """Fingerprint of what the sums depend on besides the columns: with another one, the outcome begins again."""
        return fingerprint(repr((self.horizon_days, self.loss, self.rule)))

    def rule_of(self, min_rows: tuple[float, ...]) -> OutcomeRule:
        """The rule with its parameters."""
        if self.rule == "newton":
            assert self.loss != "hinge"
            return Newton(self.loss, self.half_life_days, self.ridge, min_rows)
        assert self.loss != "poisson"
        return FirstOrder(
            self.rule, self.rate, self.loss, self.half_life_days, min_rows, l1=self.l1, l2=self.l2, shards=self.shards
        )


class DeclaredOutcomes(Frozen):
    """All outcomes of a file.

    Args:
        features: in the order of `outcome_examples.features`; new ones are added at the end.
        crossed: features whose squares and products are inputs, too.
    """

    features: dict[str, DeclaredFeature] = Field(min_length=1)
    crossed: tuple[str, ...] = ()
    outcomes: dict[str, DeclaredOutcome] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_crossed(self) -> "DeclaredOutcomes":
        if unknown := [name for name in self.crossed if name not in self.features or self.features[name].buckets]:
            raise ValueError(f"crossed contains names that are not features with numbers: {unknown}")
        return self

    @cached_property
    def inputs(self) -> ModelInputs:
        """The columns of the models."""
        features: dict[str, dict[str, Any]] = {name: one.model_dump() for name, one in self.features.items()}
        return ModelInputs(tuple(InputFeature(name, **values) for name, values in features.items()), self.crossed)

    @cached_property
    def rules(self) -> dict[str, OutcomeRule]:
        """The rule of each outcome."""
        return {name: one.rule_of(self.inputs.min_rows) for name, one in self.outcomes.items()}
