"""The versions of the models and tables that one run of serve_scores reads."""

from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from profilestream.base import commits
from profilestream.base.errors import BadSettings, SourceMissing
from profilestream.base.settings import Settings
from profilestream.base.tables import BASKET_COUNTS, EVENTS
from profilestream.derive import profiles
from profilestream.learn.factors import factors_spec, published_factors
from profilestream.learn.factors.factors_batch import FactorsState
from profilestream.learn.factors.factors_spec import FactorsSpec
from profilestream.learn.factors.kernels.als import AlsParams

FOR_YOU = "for_you"


@dataclass(frozen=True)
class PinnedFactors:
    """A version of the factors.

    Args:
        state: rows and global sums.
        model_version: `factors@<version of the Delta table>` or `published:<version of the registered model>`.
    """

    state: FactorsState[DataFrame]
    params: AlsParams
    model_version: str


@dataclass(frozen=True)
class PinnedVersions:
    """What one run reads.

    Args:
        factors: null without `for_you`.
        profile_version: version of the profile table; null when there is none.
        events_version: version of `events`.
        counts_version: version of `basket_counts`; null without lists by the rankers.
        newest: newest event time of the factors, else of `basket_counts`, microseconds.
    """

    factors: PinnedFactors | None
    profile_version: int | None
    events_version: int
    counts_version: int | None
    newest: int

    @property
    def for_you(self) -> PinnedFactors:
        """The factors of a run with `for_you`."""
        assert self.factors is not None
        return self.factors


def pin_versions(spark: SparkSession, settings: Settings) -> PinnedVersions:
    """The current versions of the profile table and of the models that the lists use.

    Raises:
        SourceMissing: a model has not been learned, or no published version has the alias.
        BadSettings: the lists contain `for_you`, and learn.factors is not enabled.
    """
    paths, profile_table, profile_version = settings.paths, profiles.find_profile_table(settings), None
    if profile_table is not None and profile_table.table.exists(spark, paths):
        profile_version = commits.version(spark, profile_table.table, paths)
    counts_version = None
    if basket_purposes(settings) and settings.learn.rankers.enabled and BASKET_COUNTS.exists(spark, paths):
        counts_version = commits.version(spark, BASKET_COUNTS, paths)
    factors = pin_factors(spark, settings) if FOR_YOU in settings.serve.scores.purposes else None
    if factors is not None:
        newest = factors.state.global_sums.as_of
    elif counts_version is not None:
        times = BASKET_COUNTS.read(spark, paths, version=counts_version).agg(F.max(F.unix_micros("as_of")))
        newest = times.collect()[0][0] or 0
    else:
        do = "enable learn.rankers and run jobs/learn_rankers.py, or add for_you to serve.scores.purposes"
        raise SourceMissing("no counts of baskets were learned", where=paths.warehouse, do=do)
    return PinnedVersions(factors, profile_version, commits.version(spark, EVENTS, paths), counts_version, newest)


def pin_factors(spark: SparkSession, settings: Settings) -> PinnedFactors:
    """The factors of the alias in the settings.

    Raises:
        SourceMissing: they have not been learned, or no published version has the alias.
        BadSettings: learn.factors is not enabled.
    """
    alias, table = settings.serve.scores.model, FactorsSpec(settings).table
    if alias != "newest":
        published = published_factors.read_factors(spark, settings, alias)
        return PinnedFactors(published.state, published.params, f"published:{published.model_version}")
    if not settings.learn.factors.enabled:
        do = "set it to true and run jobs/learn_factors.py, or remove for_you from serve.scores.purposes"
        raise BadSettings("no model is learned", where="learn.factors.enabled", do=do)
    if not table.exists(spark, settings.paths):
        do = "run jobs/learn_factors.py first, or remove for_you from serve.scores.purposes"
        raise SourceMissing("nothing was learned yet", where=settings.paths.warehouse, do=do)
    version = commits.version(spark, table, settings.paths)
    state = factors_spec.read_state(spark, settings, version)
    return PinnedFactors(state, FactorsSpec(settings).params, f"factors@{version}")


def basket_purposes(settings: Settings) -> tuple[str, ...]:
    """The purposes whose lists the rankers of `basket_counts` give."""
    return tuple(purpose for purpose in settings.serve.scores.purposes if purpose != FOR_YOU)
