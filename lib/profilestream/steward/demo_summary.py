"""Results of the demo on the console: recall of the rankers, one user profile, and the path of the report."""

from collections.abc import Callable

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from profilestream.base import tables
from profilestream.base.settings import Settings
from profilestream.derive import profiles
from profilestream.derive.fold import Fold
from profilestream.serve.report import write_report
from profilestream.serve.users import profile_renderer, user_view, value_text

_METRIC = "recall_20"


def show_metrics(spark: SparkSession, settings: Settings, print_line: Callable[[str], None]) -> None:
    """Print recall@20 per batch and its mean, one line per ranker; nothing before the first evaluated batch."""
    if not tables.MODEL_METRICS.exists(spark, settings.paths):
        return
    rows = tables.MODEL_METRICS.read(spark, settings.paths).where(F.col("metric") == _METRIC)
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows.orderBy("state_as_of", "batch_id").collect():
        points.setdefault(row["model"], []).append((row["value"], row["weight"]))
    if not points:
        return
    maximum = max(value for series in points.values() for value, _ in series)
    print_line("\nrecall@20 per batch: the share of a user's new items that are among the first 20 of the ranking")
    for model, series in sorted(points.items()):
        mean = sum(value * weight for value, weight in series) / sum(weight for _, weight in series)
        bars = value_text.bars([value for value, _ in series], maximum)
        print_line(f"  {model.ljust(10)}  {bars}  mean {mean:.3f}")


def show_newest_user(spark: SparkSession, settings: Settings, config: str, print_line: Callable[[str], None]) -> None:
    """Print the profile of the user whose first event is the newest, and the command that shows another user."""
    derived = profiles.profile_table(settings)
    rows = Fold(derived).read(derived.table.read(spark, settings.paths))
    first = rows.agg(
        *[F.max_by("user_id", F.struct(path, "user_id")) for path in ("basic.first_seen", "behavior.spent")]
    ).head()
    assert first is not None
    newest, other = first
    if newest is None:
        return
    text = profile_renderer.as_text(user_view.read(spark, settings, newest))
    print_line(f"\nthe newest user: {text}")
    print_line("\nto show another user, as of now or of an earlier time:")
    print_line(f"  .venv/bin/python jobs/serve_user.py --config {config} --user {other} --as-of 2011-06-01")


def show_report_path(settings: Settings, print_line: Callable[[str], None]) -> None:
    """Print the path of the report, if it is enabled."""
    if settings.serve.report.enabled:
        print_line(f"\nreport with charts, works offline: open {write_report.path(settings)} in a browser")
