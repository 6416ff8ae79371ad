"""How good the model became, and two customers whose profiles show what a profile can say."""

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.derive import profiles
from profilestream.derive.fold import Fold
from profilestream.serve.report import write_report as report
from profilestream.serve.users import profile_renderer, user_view
from profilestream.steward.status import Tell

_CHOSEN_BY = {
    "who spent the most": "behavior.spent",
    "who came last": "basic.first_seen",
}


def show_quality(spark: SparkSession, settings: Settings, tell: Tell) -> None:
    """Tell how much of what customers did next stood among the first 20 of each ranking, before it was learned."""
    if not tables.MODEL_METRICS.exists(spark, settings.paths):
        return
    rows = tables.MODEL_METRICS.read(spark, settings.paths).where("recall_20 IS NOT NULL")
    curves: dict[str, list[tuple[float, int]]] = {}
    for row in rows.orderBy("as_of", "batch_id").collect():
        curves.setdefault(row["ranker"], []).append((row["recall_20"], row["users"]))
    if not curves:
        return
    most = max(recall for curve in curves.values() for recall, _ in curve)
    tell("\nof what customers did next, the share that was among the first 20 of a ranking, batch by batch")
    for name, curve in sorted(curves.items()):
        mean = sum(recall * users for recall, users in curve) / sum(users for _, users in curve)
        tell(f"  {name.ljust(10)}  {profile_renderer.bars([recall for recall, _ in curve], most)}  {mean:.3f} of all")


def show(spark: SparkSession, settings: Settings, config: str, tell: Tell) -> None:
    """Tell the profiles of two customers, and how to see any other."""
    derived = profiles.of_users(settings)
    said = Fold.of(derived).read(derived.table.read(spark, settings.paths))
    told: list[str] = []
    tell("\ntwo customers")
    for why, path in _CHOSEN_BY.items():
        others = said.where(~F.col("user_id").isin(told)) if told else said
        best = others.orderBy(F.desc(path), "user_id").select("user_id").first()
        if best is not None:
            told.append(best["user_id"])
            tell(f"\nthe customer {why}: {profile_renderer.as_text(user_view.of(spark, settings, told[-1]))}")
    if told:
        tell("\nany other, as of now or of an earlier time:")
        tell(f"  .venv/bin/python jobs/serve_user.py --config {config} --user {told[0]} --as-of 2011-06-01")


def show_page(settings: Settings, tell: Tell) -> None:
    """Tell where the page is, when there is one."""
    if settings.serve.report.enabled:
        tell(f"\nall of it as a page with plots, which needs no network: open {report.path(settings)} in a browser")
