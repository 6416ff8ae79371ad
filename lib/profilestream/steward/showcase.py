"""Three customers whose profiles show what a profile can say."""

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from profilestream.base.settings import Settings
from profilestream.derive.fold import Fold
from profilestream.serve import person, portrait
from profilestream.steward.status import Tell

_CHOSEN_BY = {
    "who spent the most": "behaviour.spent",
    "who returned the most": "behaviour.returned",
    "who came last": "basic.first_seen",
}


def show(spark: SparkSession, settings: Settings, config: str, tell: Tell) -> None:
    """Tell the profiles of three customers, and how to see any other."""
    derived = person.declared(settings)
    said = Fold(derived).read(derived.table.read(spark, settings.paths))
    told: list[str] = []
    tell("\nthree customers")
    for why, path in _CHOSEN_BY.items():
        others = said.where(~F.col("user_id").isin(told)) if told else said
        best = others.orderBy(F.desc(path), "user_id").select("user_id").first()
        if best is not None:
            told.append(best["user_id"])
            tell(f"\nthe customer {why}: {portrait.as_text(person.of(spark, settings, told[-1]))}")
    if told:
        tell("\nany other, as of now or of an earlier time:")
        tell(f"  .venv/bin/python jobs/serve_user.py --config {config} --user {told[0]} --as-of 2011-06-01")
