"""What changed in a user's behavior, and what is unusual in it, in words and natural units."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from profilestream.base import language
from profilestream.base.finite import finite_items
from profilestream.base.language import join_clauses, join_list, message, translate
from profilestream.derive import population
from profilestream.derive.fold import Fold
from profilestream.derive.table_declaration import DerivedTable
from profilestream.learn.segments import rule_words
from profilestream.serve.users.value_text import days_text

# A dimension is unusual from this many standard deviations of the population, and drifts from this many per period.
_UNUSUAL_DEVIATIONS, _DRIFT_DEVIATIONS = 2.0, 0.5
# A user is far from the segment center above this multiple of the typical distance.
_FAR_DISTANCE = 2.0
_DRIFT_DAYS = (7, 30)
_NO_DRIFT = message("unchanged")


@dataclass(frozen=True)
class VectorWords:
    """Words for the dimensions of the profile vector.

    Args:
        derived: declares the dimensions and their words.
        means, variances: of all users, by dimension.
    """

    derived: DerivedTable
    means: Mapping[str, float]
    variances: Mapping[str, float]

    @classmethod
    def read(cls, derived: DerivedTable, stats: DataFrame | None) -> "VectorWords | None":
        """The words with the statistics of the population; null without its row."""
        row = None if stats is None else stats.select("means", "variances").first()
        return None if row is None else cls(derived, finite_items(row["means"]), finite_items(row["variances"]))

    def compare(self, name: str, value: float, other: float, other_name: str) -> tuple[str, str]:
        """`rule_words.compare_in_words` of two values of the profile vector."""
        assert self.derived.population is not None
        values = (self._natural(name, value), self._natural(name, other))
        words = self.derived.population.words_in(language.current())
        sql = self.derived.vector.dimensions.get(name, "")
        return rule_words.compare_in_words(name, values, other_name, words, sql)

    def _natural(self, name: str, deviation: float) -> float:
        """The mean of a dimension that is this many weighted standard deviations from all users."""
        assert self.derived.population is not None
        weight = self.derived.population.weights.get(name, 1.0)
        scale = math.sqrt(max(0.0, self.variances.get(name, 0.0))) / weight if weight else 0.0
        return self.means.get(name, 0.0) + deviation * scale


def drift(
    events: DataFrame, vector: Mapping[str, float] | None, stats: DataFrame | None, words: VectorWords | None,
    as_of: datetime,
) -> dict[str, Any]:  # fmt: skip
    """Large changes of the profile vector in 7 and 30 days, in words; empty for a new user.

    Args:
        events: of the user.
        vector: at `as_of`.
        stats: the row of population_stats that the vector was computed from.
    """
    if not vector or stats is None or words is None or words.derived.population is None:
        return {}
    fold = Fold(words.derived).for_statistic(words.derived.population.of)
    drifts: dict[str, Any] = {}
    for days in _DRIFT_DAYS:
        earlier = events.where(F.col("event_time") < as_of - timedelta(days=days))
        row = population.profile_vectors(fold.read(fold.partials(earlier)), stats, words.derived).first()
        if row is not None and row["vector"] is not None:
            drifts[days_text(days)] = changes_text(finite_items(vector), finite_items(row["vector"]), words)
    return {"drift": drifts} if drifts else {}


def changes_text(vector: Mapping[str, float], before: Mapping[str, float], words: VectorWords) -> str:
    """Large changes between two vectors, the largest first, such as `more than before: at weekends (weekend 64%, before
    16%)`."""
    changes = {name: vector[name] - before[name] for name in vector.keys() & before.keys()}
    large = [name for name in changes if abs(changes[name]) >= _DRIFT_DEVIATIONS]
    texts = []
    for name in sorted(large, key=lambda name: (-abs(changes[name]), name)):
        side, both = words.compare(name, vector[name], before[name], translate("before"))
        texts.append(translate("{text} ({label})", text=side, label=both) if both else side)
    return translate("more than before: {texts}", texts=join_list(texts)) if texts else translate(_NO_DRIFT)


def unusual(sections: Mapping[str, Any], words: VectorWords | None) -> dict[str, Any]:
    """Large deviations: from all users (largest first), and from the user's segment."""
    vector = finite_items(sections.get("vector")) if words else {}
    large = [name for name in vector if abs(vector[name]) >= _UNUSUAL_DEVIATIONS]
    texts: dict[str, str] = {}
    for name in sorted(large, key=lambda name: -abs(vector[name])):
        assert words is not None
        side, both = words.compare(name, vector[name], 0.0, translate("all users"))
        text = message("{deviation:.1f} standard deviations below all users")
        if vector[name] > 0:
            text = message("{deviation:.1f} standard deviations above all users")
        texts[side] = join_clauses([both, translate(text, deviation=abs(vector[name]))])
    segment = sections.get("segment", {})
    if segment.get("typical_distance"):
        ratio = segment["distance_to_center"] / segment["typical_distance"]
        if _FAR_DISTANCE < ratio < math.inf:
            text = translate("distance to the center is {ratio:.1f} times the typical distance", ratio=ratio)
            texts[translate("segment")] = text
    return {"unusual": texts} if texts else {}
