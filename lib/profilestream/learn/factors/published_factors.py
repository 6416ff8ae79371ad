"""Reading of published factors for scoring."""

import json
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession

from profilestream.base.settings import Settings
from profilestream.learn import publishing
from profilestream.learn.factors import factors_spec
from profilestream.learn.factors.factors_batch import FactorsState
from profilestream.learn.factors.factors_spec import FactorsSpec
from profilestream.learn.factors.kernels.als import AlsParams
from profilestream.learn.version_aliases import CHAMPION, VersionTags


@dataclass(frozen=True)
class PublishedFactors:
    """A published version of the factors.

    Args:
        model_version: its number in the registry.
        state: the rows of `factors` when it was published.
        params: that it was learned with, including the weights of the blend.
        ranker: that it was evaluated by; one of item_index.RANKERS.
    """

    model_version: int
    state: FactorsState[DataFrame]
    params: AlsParams
    ranker: str


def read_factors(spark: SparkSession, settings: Settings, which: str | int = CHAMPION) -> PublishedFactors:
    """A published version, by alias or number; raises as publishing.read."""
    version, rows = publishing.read(spark, settings, FactorsSpec(settings).publication, which)
    tags = VersionTags.of(version)
    params = AlsParams(**json.loads(tags.params))
    return PublishedFactors(version.number, factors_spec.state_of(rows, params), params, tags.model)
