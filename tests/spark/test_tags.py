"""Tags gained, held, lost and expired over several runs; quintiles and loyalty tiers against plain Python."""

import tomllib
from dataclasses import dataclass
from datetime import date, datetime
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from profilestream.base import commits
from profilestream.base import settings as settings_module
from profilestream.base.errors import BadSettings
from profilestream.base.session import materialize
from profilestream.base.settings import Derive, Settings
from profilestream.base.tables import USER_GROUPS, USER_TAGS
from profilestream.derive import table_declaration
from profilestream.derive.fold import Fold
from profilestream.serve.tags import assign_tags, rfm, tag_checks, tag_declaration
from profilestream.serve.tags.tag_declaration import LoyaltyTier, TagDeclaration
from profilestream.serve.users import all_users
from profilestream.serve.users.all_users import UserFrame
from profilestream.serve.users.log_span import LogSpan
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

ROOT = Path(__file__).parent.parent.parent
DAY = 86_400_000_000
GROUPS = """
[groups]
recency_days = "recency"
frequency = "x"
monetary = "10 * x"
first_event_time = "timestamp'2026-01-01 00:30:00'"
[groups.rfm_segments]
best = "recency_quintile = 5"
others = "recency_quintile >= 1"
[groups.loyalty]
points = "x"
tiers = { silver = { enter_at = 10, leave_below = 5 } }
"""
ACTIVE = """
[tags.active]
question = "Who is here?"
facet = "behavior"
enter_when = "x > 10"
evidence = "format_string('x is %.0f', x)"
"""


# Row of user_tags: user, tag, valid_from and valid_to in days, end_reason, evidence.
TagRow = tuple[str, str, int, int | None, str | None, str]


class TagRuns:
    """Successive runs over the tags of a few users; the rows of user_tags are in a frame."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark
        self.stored = spark.createDataFrame([], USER_TAGS.schema)

    def run(self, day: int, rules: str, last_run: float | None = None, **users: float) -> list[TagRow]:
        """All rows of user_tags after a run whose newest event is at the start of the day; the log has as many days.

        Args:
            last_run: day of the last run, which evaluated the same rules; null: none did.
            users: the value x by user.
        """
        rows = self.spark.createDataFrame(list(users.items()), "user_id string, x double")
        rows = rows.withColumn("log", LogSpan(date(1970, 1, 1), day, 0.0).column)
        declaration = TagDeclaration.model_validate(tomllib.loads(GROUPS + rules))
        micros = None if last_run is None else int(last_run * DAY)
        evaluated = declaration.tags
        tags = assign_tags.new_tags(rows, declaration, self.stored, day * DAY, last_run=micros, evaluated=evaluated)
        changed = tags.where(rfm.CHANGED).select(USER_TAGS.names)
        others = self.stored.join(changed, list(USER_TAGS.key), "left_anti")
        self.stored = materialize(others.unionByName(changed).coalesce(1))
        return tag_rows(self.stored)


def tag_rows(stored: DataFrame) -> list[TagRow]:
    """Rows of user_tags, sorted."""
    days = [(F.unix_micros(name) / DAY).cast("int") for name in ("valid_from", "valid_to")]
    return sorted(tuple(row) for row in stored.select("user_id", "tag", *days, "end_reason", "evidence").collect())


@pytest.fixture
def tag_runs(spark: SparkSession) -> TagRuns:
    return TagRuns(spark)


def test_a_tag_is_held_while_hold_when_is_true_but_gained_only_when_enter_when_is(tag_runs: TagRuns) -> None:
    rules = ACTIVE + 'hold_when = "x > 5"\n'
    assert tag_runs.run(0, rules, a=12.0, b=7.0) == [("a", "active", 0, None, None, "x is 12")]
    held = ("a", "active", 0, None, None, "x is 12")
    assert tag_runs.run(1, rules, a=7.0, b=7.0, c=11.0) == [held, ("c", "active", 1, None, None, "x is 11")]
    assert tag_runs.run(2, rules, a=5.0, b=13.0) == [
        ("a", "active", 0, 2, "lost", "x is 12"),
        ("b", "active", 2, None, None, "x is 13"),
        ("c", "active", 1, 2, "lost", "x is 11"),
    ]
    users = [
        {row["user_id"] for row in assign_tags.valid_at(tag_runs.stored, F.timestamp_micros(F.lit(at))).collect()}
        for at in (-1, 0, DAY, 2 * DAY - 1, 2 * DAY)
    ]
    assert users == [set(), {"a"}, {"a", "c"}, {"a", "c"}, {"b"}]


def test_a_tag_is_gained_again_only_after_its_cooldown_and_after_an_expired_one_was_reset(tag_runs: TagRuns) -> None:
    rules = ACTIVE.replace("active", "cooled") + 'cooldown = "3d"\n'
    rules += ACTIVE.replace("active", "brief") + 'expires_after = "2d"\n'
    x = {0: 12.0, 1: 4.0, 2: 13.0, 3: 14.0, 5: 15.0, 6: 16.0, 7: 4.0, 8: 17.0, 20: 3.0}
    after = {day: tag_runs.run(day, rules, a=value) for day, value in x.items()}
    first = [("a", "brief", 0, 1, "lost", "x is 12"), ("a", "cooled", 0, 1, "lost", "x is 12")]
    assert after[1] == first
    assert after[3] == sorted([*first, ("a", "brief", 2, None, None, "x is 13")])
    expired = [*first, ("a", "brief", 2, 4, "expired", "x is 13"), ("a", "cooled", 5, None, None, "x is 15")]
    assert after[5] == after[6] == sorted(expired)
    reset = [*first, ("a", "brief", 2, 4, "expired_reset", "x is 13"), ("a", "cooled", 5, 7, "lost", "x is 15")]
    assert after[7] == sorted(reset)
    assert after[8] == sorted([*reset, ("a", "brief", 8, None, None, "x is 17")])
    # The tag expired on day 10, long before the run in which its condition was false.
    assert after[20] == sorted([*reset, ("a", "brief", 8, 10, "expired_reset", "x is 17")])


def _starts(stored: DataFrame) -> dict[str, tuple[float, float | None]]:
    """valid_from and gained_after of the rows of user_tags in days, by user; one row per user."""
    days = [(F.unix_micros(name) / DAY).alias(name) for name in ("valid_from", "gained_after")]
    return {row[0]: (row[1], row[2]) for row in stored.select("user_id", *days).collect()}


def test_a_tag_starts_when_the_events_show_it_or_its_start_is_unknown_before_an_earlier_run(
    tag_runs: TagRuns,
) -> None:
    first_run = {"a": 12.0, "b": 95.0, "c": 60.0}
    rules = ACTIVE + 'starts_at = "IF(x > 20, timestamp_micros(bigint(x * 86400e6)), NULL)"\n'
    tag_runs.run(100, rules, **first_run)
    assert _starts(tag_runs.stored) == {"a": (100, None), "b": (95, 95), "c": (60, 60)}
    # d has no start in the events; e starts after the run that did not find it; f starts before it; g starts later.
    tag_runs.run(110, rules, last_run=100, **first_run, d=11.0, e=104.0, f=50.0, g=120.0)
    later = {"d": (110, 100), "e": (104, 104), "f": (110, 100), "g": (110, 100)}
    assert _starts(tag_runs.stored) == {"a": (100, None), "b": (95, 95), "c": (60, 60), **later}
    known = assign_tags.is_start_known(F.col("valid_from"), F.col("gained_after"))
    assert {row["user_id"] for row in tag_runs.stored.where(known).collect()} == set("bcdefg")

    # A run a year later does not know when h gained the tag; a tag that ended does not start again before its end.
    tag_runs.run(200, rules, last_run=110, b=5.0)
    tag_runs.run(500, rules, last_run=200, h=11.0, b=150.0)
    rows = {(row["user_id"], row["valid_from"].day) for row in tag_runs.stored.where(~known).collect()}
    assert {user for user, _ in rows} == {"a", "h", "b"}
    expires = rules + 'expires_after = "30d"\n'
    tag_runs.stored = tag_runs.stored.limit(0)
    tag_runs.run(100, expires, old=60.0, recent=95.0)
    assert _starts(tag_runs.stored) == {"old": (100, None), "recent": (95, 95)}


def test_a_tag_that_needs_days_waits_until_the_log_has_them(tag_runs: TagRuns) -> None:
    rules = ACTIVE + 'hold_when = "x > 5"\nneeds_days = 30\n'
    assert tag_runs.run(9, rules, a=12.0) == [] == tag_runs.run(29, rules, a=12.0)
    assert tag_runs.run(30, rules, a=12.0) == [("a", "active", 30, None, None, "x is 12")]


INTERESTS = ("preference.categories", "interest.categories_3d", "interest.categories_rise")


@pytest.mark.parametrize(("categories", "is_complete"), [(99, True), (120, False)])
def test_interests_are_the_same_in_one_batch_and_in_many_or_null_when_a_map_was_cut(
    spark: SparkSession, categories: int, is_complete: bool
) -> None:
    """A user with two views of each category in the last 40 days, and three more of one of them on the last day."""
    shipped = table_declaration.load(str(ROOT / "conf" / "derive" / "user_profiles.toml"), Derive().names)
    statistics = {path: one for path, one in shipped.statistics.items() if path in INTERESTS}
    readings = {path: one for path, one in shipped.readings.items() if path in INTERESTS}
    update = {"statistics": statistics, "readings": readings, "population": None}
    fold = Fold(shipped.model_copy(update=update))
    hours = [(n % categories, n * 480 // categories) for n in range(2 * categories)] + [(7, 959)] * 3
    events = [("u", "view", f"c{n}", f"e{at}-{i}", "s", at) for i, (n, at) in enumerate(hours)]
    ddl = "user_id string, event_type string, category string, event_id string, source string, hour bigint"
    rows = spark.createDataFrame(events, ddl).withColumn(
        "event_time", F.timestamp_micros(F.col("hour") * 3_600_000_000)
    )

    def interests(batches: int) -> Any:
        parts = [fold.partials(rows.where(F.col("hour") % batches == n)) for n in range(batches)]
        row = fold.read(fold.merge_rows(reduce(DataFrame.unionByName, parts))).first()
        assert row is not None
        return row["interest"]["categories_rise"]

    one, many = interests(1), interests(7)
    assert (one is not None, many is not None) == (is_complete, is_complete)
    assert not is_complete or (one == pytest.approx(many, rel=1e-9) and len(one) == categories)


def test_after_a_rule_change_held_tags_get_new_evidence_and_tags_of_removed_rules_are_lost(tag_runs: TagRuns) -> None:
    removed = ACTIVE.replace("active", "removed")
    tag_runs.run(0, ACTIVE + removed, a=12.0, b=30.0)
    assert tag_runs.run(1, ACTIVE.replace("> 10", "> 20").replace("x is", "now"), a=12.0, b=31.0) == [
        ("a", "active", 0, 1, "lost", "x is 12"),
        ("a", "removed", 0, 1, "lost", "x is 12"),
        ("b", "active", 0, None, None, "now 31"),
        ("b", "removed", 0, 1, "lost", "x is 30"),
    ]


@dataclass
class TagTables:
    """Runs of the step over generated users, and the tables that they write."""

    spark: SparkSession
    settings: Settings
    monkeypatch: pytest.MonkeyPatch

    def run(self, day: int, **users: float) -> None:
        """A run whose newest event is at the start of the day.

        Args:
            users: the value x by user.
        """
        rows = self.spark.createDataFrame(list(users.items()), "user_id string, x double")
        log = LogSpan(date(1970, 1, 1), day, 0.0).column
        rows = rows.withColumns({"at": F.timestamp_micros(F.lit(day * DAY)), "recency": F.lit(1.0), "log": log})
        self.monkeypatch.setattr(all_users, "all_users", lambda *_: UserFrame(rows, day * DAY))
        assign_tags.run(self.spark, self.settings)

    def rows(self) -> list[TagRow]:
        """Rows of user_tags, sorted."""
        return tag_rows(USER_TAGS.read(self.spark, self.settings.paths))

    def versions(self) -> list[int]:
        """Versions of user_groups and user_tags."""
        return [commits.version(self.spark, table, self.settings.paths) for table in (USER_GROUPS, USER_TAGS)]


@pytest.fixture
def tag_tables(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TagTables:
    """A separate warehouse with the single tag `active`."""
    (tmp_path / "tags.toml").write_text(GROUPS + ACTIVE)
    names = {"paths.warehouse": "warehouse", "paths.checkpoints": "checkpoints", "serve.tags.file": "tags.toml"}
    overrides = [f"{key}={tmp_path / name}" for key, name in names.items()]
    return TagTables(spark, settings_module.load(str(ROOT / "conf" / "demo.toml"), overrides), monkeypatch)


def test_a_run_after_a_crash_completes_the_update_and_a_run_without_changes_makes_no_commit(
    tag_tables: TagTables,
) -> None:
    tag_tables.run(0, a=12.0, b=1.0)
    merge = commits.merge

    def fail_on_user_tags(rows: Any, table: Any, *args: Any, **options: Any) -> Any:
        if table == USER_TAGS:
            raise RuntimeError("killed")
        return merge(rows, table, *args, **options)

    with tag_tables.monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(commits, "merge", fail_on_user_tags)
        tag_tables.run(1, a=3.0, b=12.0)
    assert tag_tables.versions() == [2, 1]
    for _ in range(2):
        tag_tables.run(1, a=3.0, b=12.0)
        assert tag_tables.rows() == [
            ("a", "active", 0, 1, "lost", "x is 12"),
            ("b", "active", 1, None, None, "x is 12"),
        ]
        assert tag_tables.versions() == [2, 2]


def test_a_deleted_user_loses_groups_and_tags_even_when_the_newest_event_time_decreases(tag_tables: TagTables) -> None:
    tag_tables.run(2, a=12.0, b=11.0)
    tag_tables.run(1, a=9.0)
    assert tag_tables.rows() == [("a", "active", 2, 2, "lost", "x is 12"), ("b", "active", 2, 2, "lost", "x is 11")]
    tier_from, as_of = (datetime(1970, 1, day) for day in (3, 2))
    fields = (1.0, 9.0, 90.0, 5, 1, 1, "best", "silver", tier_from, None, "2026-01", as_of)
    assert [tuple(row) for row in USER_GROUPS.read(tag_tables.spark, tag_tables.settings.paths).collect()] == [
        ("a", *fields)
    ]


def test_an_expression_that_fails_on_a_row_is_an_error_with_the_file(tag_tables: TagTables, tmp_path: Path) -> None:
    (tmp_path / "tags.toml").write_text(GROUPS + ACTIVE.replace("x > 10", "x / (x - 12) > 1"))
    with pytest.raises(BadSettings, match=r"fails on a user's row: \[DIVIDE_BY_ZERO\]") as error:
        tag_tables.run(0, a=12.0)
    assert error.value.where == str(tmp_path / "tags.toml")


def test_quintiles_are_exact_except_for_values_close_to_a_threshold(spark: SparkSession) -> None:
    """500 buyers, most of whom bought once, and a user without a purchase; in 1 and in 7 partitions."""
    rows: list[tuple[str, float | None, float, float]] = [("none", None, 0.0, -5.0)]
    for n in range(500):
        rows.append((f"u{n}", float(n * 37 % 211), float(1 + n % 9 // 5 * n % 13), 1.03 ** (n * 7 % 500) - 20))
    users = spark.createDataFrame(rows, "user_id string, recency_days double, frequency double, monetary double")
    results = [
        {row["user_id"]: row.asDict() for row in rfm.with_quintiles(users.repartition(partitions)).collect()}
        for partitions in (1, 7)
    ]
    assert results[0] == results[1]
    assert [results[0]["none"][quintile] for quintile in rfm.QUINTILES] == [None, None, None]
    buyers = [row for row in results[0].values() if row["user_id"] != "none"]
    for quintile, name in rfm.QUINTILES.items():
        values = sorted(row[name] for row in buyers)
        thresholds = [values[len(values) * n // 5 - 1] for n in (1, 2, 3, 4)]
        for row in buyers:
            value = row[name]
            below = sum(threshold < value for threshold in thresholds)
            is_close = any(abs(limit - value) <= 0.045 * abs(limit) and limit != value for limit in thresholds)
            expected = 5 - below if name == "recency_days" else 1 + below
            assert row[quintile] == expected or is_close, (name, value, thresholds)
        assert {row[quintile] for row in buyers} >= {1, 3, 5}


TIERS = {
    "bronze": LoyaltyTier(enter_at=10, leave_below=5),
    "silver": LoyaltyTier(enter_at=20, leave_below=12),
    "gold": LoyaltyTier(enter_at=40, leave_below=30),
}
STEPS = st.lists(st.floats(0, 1), min_size=1, max_size=8)
BANDS = [(tier.leave_below, tier.enter_at) for tier in TIERS.values()]


def _naive_tier(points: float, previous: str | None) -> str | None:
    """The highest tier that the user enters or does not leave."""
    names = list(TIERS)
    rank = -1 if previous is None else names.index(previous)
    reached = [
        n for n, tier in enumerate(TIERS.values())
        if points >= tier.enter_at or (rank >= n and points >= tier.leave_below)
    ]  # fmt: skip
    return names[max(reached)] if reached else None


@hypothesis_settings(max_examples=3)
@given(st.lists(st.tuples(st.integers(0, 2), STEPS), min_size=50, max_size=80))
def test_points_between_the_two_thresholds_of_a_tier_never_change_the_tier(
    _session: SparkSession, walks: list[tuple[int, list[float]]]
) -> None:
    """Each walk stays between the thresholds of one tier, after an arbitrary first step; 50 walks are one query."""
    rows = []
    for band, steps in walks:
        leave_below, enter_at = BANDS[band]
        between = [min(leave_below + step * (enter_at - leave_below), enter_at - 1e-9) for step in steps]
        rows.append(([steps[0] * 50, *between],))
    points = _session.createDataFrame(rows, "points array<double>")
    start = F.array(F.lit(None).cast("string"))

    def step(path: Any, value: Any) -> Any:
        return F.concat(path, F.array(rfm.loyalty_tier(value, F.element_at(path, -1), TIERS)))

    for row in points.select("points", F.aggregate("points", start, step).alias("tiers")).collect():
        naive: list[str | None] = [None]
        for value in row["points"]:
            naive.append(_naive_tier(value, naive[-1]))
        assert row["tiers"] == naive
        assert len(set(row["tiers"][2:])) == 1


def test_every_combination_of_quintiles_has_an_rfm_segment(spark: SparkSession) -> None:
    conditions = tag_declaration.load(str(ROOT / "conf" / "tags.toml"), {}).groups.rfm_segments
    quintiles = list(product(range(1, 6), range(1, 6), [None, *range(1, 6)]))
    # By length of the log: days since the last purchase for the recency quintiles 1 to 5.
    days = {9: [9, 7, 5, 3, 1], 60: [60, 45, 20, 10, 1], 400: [300, 120, 40, 10, 1]}
    users = [(*user, float(days[length][user[0] - 1]), length) for length in days for user in quintiles]
    ddl = "recency_quintile int, frequency_quintile int, monetary_quintile int, recency_days double, days int"
    rows = spark.createDataFrame(users, ddl).withColumn("log", F.struct("days"))
    with_segment = rows.withColumn("rfm_segment", rfm.rfm_segment(conditions))
    segment_of = {(row["days"], *tuple(row)[:3]): row["rfm_segment"] for row in with_segment.collect()}
    segments = {length: {one for user, one in segment_of.items() if user[0] == length} for length in days}
    expected = {9: {"champions", "loyal", "potential"}, 60: set(conditions) - {"lost"}, 400: set(conditions)}
    assert segments == expected
    examples = {
        (5, 5, 5): "champions", (5, 4, None): "champions", (1, 5, 5): "cannot_lose", (1, 5, None): "cannot_lose",
        (5, 1, 1): "new", (3, 3, 3): "loyal", (2, 3, 1): "at_risk", (2, 1, 1): "hibernating", (1, 1, 1): "lost",
        (1, 1, None): "lost", (4, 2, None): "potential",
    }  # fmt: skip
    assert {user: segment_of[400, *user] for user in examples} == examples


SHIPPED = (ROOT / "conf" / "tags.toml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "overrides", "key", "message"),
    [
        ("social.reviews >= 3", "social.review >= 3", [], "tags.reviewer.enter_when", "FIELD_NOT_FOUND"),
        ("social.reviews >= 3", "social.reviews", [], "tags.reviewer.enter_when", "has type bigint"),
        ("concat('in ', basic.region)", "length(basic.region)", [], "tags.abroad.evidence", "has type int"),
        ("recency_quintile = 1 AND", "recency_decile = 1 AND", [], "groups.rfm_segments.lost", "UNRESOLVED_COLUMN"),
        ("> 0, behavior.spent - ", "> 0, behavior.types - ", [], "groups.monetary", "is not valid"),
        ("(max(log.weekend_share)", "(log.weekend_share", [], "all_users.weekend_share", "is not valid"),
        ('starts_at = "basic.', 'starts_at = "', [], "tags.new_user.starts_at", "is not valid"),
        ("", "", ["derive.windows.enabled=false"], "tags.views_without_purchase.enter_when", "`features`"),
    ],
)  # fmt: skip
def test_an_invalid_expression_is_an_error_with_file_and_key_before_any_table_is_read(
    spark: SparkSession, tmp_path: Path, old: str, new: str, overrides: list[str], key: str, message: str
) -> None:
    assert old in SHIPPED
    file = tmp_path / "tags.toml"
    file.write_text(SHIPPED.replace(old, new, 1))
    settings = settings_module.load(str(ROOT / "conf" / "demo.toml"), [f"serve.tags.file={file}", *overrides])
    with pytest.raises(BadSettings) as error:
        tag_checks.check(spark, settings)
    assert error.value.where == f"{file}, {key}" and message in str(error.value)
    assert not overrides or "once derive.windows.enabled is true" in error.value.do
