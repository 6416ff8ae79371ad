"""The declaration of outcomes in TOML: input features, and per outcome the horizon and how it is learned."""

from functools import cached_property
from typing import Any, Literal

from pydantic import Field, model_validator

from profilestream.base.errors import BadSettings
from profilestream.base.settings import Frozen, Settings, fingerprint
from profilestream.derive.table_declaration import load_as
from profilestream.learn.examples.labels import LabelDefinition
from profilestream.learn.outcomes.kernels.first_order_rules import FirstOrder
from profilestream.learn.outcomes.kernels.model_inputs import InputFeature, ModelInputs
from profilestream.learn.outcomes.kernels.newton_rule import Newton
from profilestream.learn.outcomes.kernels.outcome_model import OutcomeRule
from profilestream.learn.outcomes.kernels.projections import InputProjection

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


class DeclaredProjection(Frozen):
    """See kernels.projections.InputProjection."""

    kind: Literal["pca", "lda"]
    components: int = Field(default=1, ge=1)


class DeclaredOutcome(Frozen):
    """An outcome.

    Args:
        label: name of the label, which is converted to a number; true is 1.
        horizon_days: the label is computed from the events of this many days from the time of a row on.
        population: SQL over the features; other users have no row.
        loss: `logistic` for labels 0 and 1, `poisson` for amounts and counts.
        rule: `newton`, or a kind of kernels.first_order_rules.
        half_life_days: of the sums, in event time; null: no decay.
        ridge: penalty of Newton, in rows.
        rate, l1, l2, shards: of first-order rules.
        calibration: `isotonic` corrects probabilities while that lowers the log loss of recent rows.
        monotonic: if not empty, the only features of the model, of the rule `newton`, with the directions of
            scikit-learn's `monotonic_cst`. 1: the prediction never decreases with the feature; -1: it never
            increases; 0: any.
        projection: a model of the rule `newton` uses only components of its inputs: `pca`, or with squared loss and a
            boolean label `lda`, which has one component.
        value_days: the score is the customer value of this many days, at most twice the horizon; every user has one.
    """

    label: str
    horizon_days: int = Field(ge=1, le=3650)
    population: str = "true"
    loss: Literal["logistic", "poisson", "squared", "hinge"] = "logistic"
    rule: Literal["newton", "sgd", "adagrad", "adam", "ftrl", "pa1", "pa2"] = "newton"
    half_life_days: float | None = Field(default=182.0, gt=0)
    ridge: float = Field(default=300.0, ge=0)
    rate: float = Field(default=0.1, gt=0)
    l1: float = Field(default=0.0, ge=0)
    l2: float = Field(default=0.0, ge=0)
    shards: int = Field(default=1, ge=1)
    calibration: Literal["none", "isotonic"] = "none"
    monotonic: dict[str, Literal[-1, 0, 1]] = {}
    projection: DeclaredProjection | None = None
    value_days: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check_loss(self) -> "DeclaredOutcome":
        allowed = _LOSSES.get(self.rule, ("logistic", "hinge", "squared"))
        if self.loss not in allowed:
            raise ValueError(f"the rule {self.rule!r} has no loss {self.loss!r}: use one of {allowed}")
        if self.calibration != "none" and self.loss != "logistic":
            raise ValueError(f"loss {self.loss!r} has no probability that can be calibrated")
        return self

    @model_validator(mode="after")
    def _check_projection(self) -> "DeclaredOutcome":
        if self.projection is None:
            return self
        if self.rule != "newton" or self.monotonic:
            raise ValueError("a projection needs the rule 'newton', and no monotonic features")
        if self.projection.kind == "lda" and (self.loss != "squared" or self.projection.components > 1):
            raise ValueError("the projection 'lda' needs the loss 'squared', and has one component: two classes")
        return self

    @model_validator(mode="after")
    def _check_value(self) -> "DeclaredOutcome":
        if self.monotonic and self.rule != "newton":
            raise ValueError(f"the rule {self.rule!r} has no monotonic features: use 'newton'")
        if self.value_days is not None:
            if self.value_days > 2 * self.horizon_days:
                raise ValueError(f"value_days {self.value_days} is more than twice horizon_days: use a longer horizon")
            if self.loss != "poisson" or self.population != "true":
                raise ValueError("a customer value needs the loss 'poisson' and the population \"true\"")
        return self

    @property
    def extrapolation(self) -> float:
        """Scores are this many times the prediction for the horizon."""
        return 1.0 if self.value_days is None else self.value_days / self.horizon_days

    @property
    def identity(self) -> str:
        """Fingerprint of what the sums depend on besides the columns: with another one, the outcome begins again."""
        inputs = (sorted(self.monotonic.items()),) if self.monotonic else ()
        return fingerprint(repr((self.label, self.horizon_days, self.population, self.loss, self.rule, *inputs)))

    def rule_of(self, inputs: ModelInputs) -> OutcomeRule:
        """The rule with its parameters."""
        min_rows = inputs.min_rows
        if self.rule == "newton":
            assert self.loss != "hinge"
            signs = [self.monotonic.get(name) for name in inputs.feature_names] if self.monotonic else []
            projection = None if self.projection is None else InputProjection(**self.projection.model_dump())
            return Newton(
                self.loss, self.half_life_days, self.ridge, min_rows, signs=tuple(signs), projection=projection
            )
        assert self.loss != "poisson"
        return FirstOrder(
            self.rule, self.rate, self.loss, self.half_life_days, min_rows, l1=self.l1, l2=self.l2, shards=self.shards
        )


class DeclaredOutcomes(Frozen):
    """All outcomes of a file.

    Args:
        entity: of the features; its key is user_id.
        interval_days, offset_days: the times of rows are midnights (UTC), `offset_days` after multiples of
            `interval_days` since 1970-01-01, a Thursday: 7 and 4 are Mondays.
        label_grace_days: a row matures this long after the end of its horizon, so that late events are in its label.
        labels: statistics of the events of a horizon, by name.
        features: in the order of `outcome_examples.features`; new ones are added at the end.
        crossed: features whose squares and products are inputs, too.
    """

    entity: str = "customer"
    interval_days: int = Field(default=7, ge=1)
    offset_days: int = Field(default=4, ge=0)
    label_grace_days: int = Field(default=1, ge=0)
    labels: dict[str, LabelDefinition] = Field(min_length=1)
    features: dict[str, DeclaredFeature] = Field(min_length=1)
    crossed: tuple[str, ...] = ()
    outcomes: dict[str, DeclaredOutcome] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_crossed(self) -> "DeclaredOutcomes":
        if unknown := [name for name in self.crossed if name not in self.features or self.features[name].buckets]:
            raise ValueError(f"crossed contains names that are not features with numbers: {unknown}")
        return self

    @model_validator(mode="after")
    def _check_labels(self) -> "DeclaredOutcomes":
        if unknown := {name: one.label for name, one in self.outcomes.items() if one.label not in self.labels}:
            raise ValueError(f"outcomes with labels that are not declared: {unknown}")
        for name, one in self.outcomes.items():
            is_class = self.labels[one.label].type == "boolean"
            if one.projection is not None and one.projection.kind == "lda" and not is_class:
                raise ValueError(f"the projection 'lda' of {name!r} needs a boolean label, not {one.label!r}")
        return self

    @model_validator(mode="after")
    def _check_monotonic(self) -> "DeclaredOutcomes":
        numbers = {name for name, one in self.features.items() if not one.buckets} - {*self.crossed}
        if wrong := {
            name: bad for name, one in self.outcomes.items() if (bad := sorted(one.monotonic.keys() - numbers))
        }:
            raise ValueError(f"monotonic contains names that are not features with numbers, or are crossed: {wrong}")
        return self

    @cached_property
    def inputs(self) -> ModelInputs:
        """The columns of the models."""
        features: dict[str, dict[str, Any]] = {name: one.model_dump() for name, one in self.features.items()}
        return ModelInputs(tuple(InputFeature(name, **values) for name, values in features.items()), self.crossed)

    @cached_property
    def rules(self) -> dict[str, OutcomeRule]:
        """The rule of each outcome."""
        return {name: one.rule_of(self.inputs) for name, one in self.outcomes.items()}


def load(settings: Settings) -> DeclaredOutcomes:
    """The declared outcomes of the settings.

    Raises:
        BadSettings: no file is configured, or it is invalid.
    """
    file = settings.learn.outcomes.file
    if not file:
        raise BadSettings("no outcomes are declared", where="learn.outcomes.file", do="name a file like outcomes.toml")
    return load_as(DeclaredOutcomes, file, settings.derive.names)
