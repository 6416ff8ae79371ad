"""Tags gained, kept, lost and expired over runs of a few users; fifths and tiers against plain Python."""

import tomllib
from dataclasses import dataclass
from datetime import datetime
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
from profilestream.base.settings import Settings
from profilestream.base.tables import USER_GROUPS, USER_TAGS
from profilestream.serve.tags import assign_tags, rfm, tag_checks, tag_declaration
from profilestream.serve.tags.tag_declaration import Tags, Tier
from profilestream.serve.users import user_frame
from profilestream.serve.users.user_frame import People
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

ROOT = Path(__file__).parent.parent.parent
DAY = 86_400_000_000
GROUPS = """
[groups]
recency_days = "recency"
frequency = "x"
money = "10 * x"
first_seen = "timestamp'2026-01-01 00:30:00'"
[groups.rfm]
best = "recency_quintile = 5"
others = "recency_quintile >= 1"
[groups.loyalty]
points = "x"
tiers = { silver = { enter = 10, leave = 5 } }
"""
LIVELY = """
[tags.lively]
question = "Who is here?"
facet = "behavior"
where = "x > 10"
evidence = "format_string('x is %.0f', x)"
"""


Told = tuple[str, str, int, int | None, str | None, str]


class Story:
    """A user's tags from day to day; the rows of user_tags are kept in frames."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark = spark
        self.stored = spark.createDataFrame([], USER_TAGS.schema)

    def day(self, day: int, rules: str, **users: float) -> list[Told]:
        """The newest event is at the beginning of the day; of each user the number x. Gives rows as `told` does."""
        rows = self.spark.createDataFrame(list(users.items()), "user_id string, x double")
        declared = Tags.model_validate(tomllib.loads(GROUPS + rules))
        found = assign_tags.decided(rows, declared, self.stored, day * DAY).where(rfm.CHANGED).select(USER_TAGS.columns)
        others = self.stored.join(found, list(USER_TAGS.key), "left_anti")
        self.stored = materialize(others.unionByName(found).coalesce(1))
        return told(self.stored)


def told(stored: DataFrame) -> list[Told]:
    """Of user_tags: user, tag, since and until as days, why it ended, the evidence."""
    days = [(F.unix_micros(name) / DAY).cast("int") for name in ("since", "until")]
    return sorted(tuple(row) for row in stored.select("user_id", "tag", *days, "ended", "evidence").collect())


@pytest.fixture
def story(spark: SparkSession) -> Story:
    return Story(spark)


def test_who_has_a_tag_keeps_it_while_it_stays_and_who_has_it_not_does_not_gain_it_so(story: Story) -> None:
    rules = LIVELY + 'stays = "x > 5"\n'
    assert story.day(0, rules, a=12.0, b=7.0) == [("a", "lively", 0, None, None, "x is 12")]
    kept = ("a", "lively", 0, None, None, "x is 12")
    assert story.day(1, rules, a=7.0, b=7.0, c=11.0) == [kept, ("c", "lively", 1, None, None, "x is 11")]
    assert story.day(2, rules, a=5.0, b=13.0) == [
        ("a", "lively", 0, 2, "lost", "x is 12"),
        ("b", "lively", 2, None, None, "x is 13"),
        ("c", "lively", 1, 2, "lost", "x is 11"),
    ]
    have = [
        {row["user_id"] for row in assign_tags.held(story.stored, F.timestamp_micros(F.lit(at))).collect()}
        for at in (-1, 0, DAY, 2 * DAY - 1, 2 * DAY)
    ]
    assert have == [set(), {"a"}, {"a", "c"}, {"a", "c"}, {"b"}]


def test_a_tag_rests_after_its_end_and_one_that_expired_waits_until_its_condition_was_false(story: Story) -> None:
    rules = LIVELY.replace("lively", "rests") + 'cool_down = "3d"\n'
    rules += LIVELY.replace("lively", "brief") + 'expires = "2d"\n'
    x = {0: 12.0, 1: 4.0, 2: 13.0, 3: 14.0, 5: 15.0, 6: 16.0, 7: 4.0, 8: 17.0, 20: 3.0}
    seen = {day: story.day(day, rules, a=value) for day, value in x.items()}
    first = [("a", "brief", 0, 1, "lost", "x is 12"), ("a", "rests", 0, 1, "lost", "x is 12")]
    assert seen[1] == first
    assert seen[3] == sorted([*first, ("a", "brief", 2, None, None, "x is 13")])
    expired = [*first, ("a", "brief", 2, 4, "expired", "x is 13"), ("a", "rests", 5, None, None, "x is 15")]
    assert seen[5] == seen[6] == sorted(expired)
    over = [*first, ("a", "brief", 2, 4, "over", "x is 13"), ("a", "rests", 5, 7, "lost", "x is 15")]
    assert seen[7] == sorted(over)
    assert seen[8] == sorted([*over, ("a", "brief", 8, None, None, "x is 17")])
    # Its time was up long before the run that found its condition false.
    assert seen[20] == sorted([*over, ("a", "brief", 8, 10, "over", "x is 17")])


def test_a_changed_rule_keeps_whom_it_holds_of_with_new_evidence_and_a_rule_that_is_gone_ends(story: Story) -> None:
    gone = LIVELY.replace("lively", "gone")
    story.day(0, LIVELY + gone, a=12.0, b=30.0)
    assert story.day(1, LIVELY.replace("> 10", "> 20").replace("x is", "now"), a=12.0, b=31.0) == [
        ("a", "gone", 0, 1, "lost", "x is 12"),
        ("a", "lively", 0, 1, "lost", "x is 12"),
        ("b", "gone", 0, 1, "lost", "x is 30"),
        ("b", "lively", 0, None, None, "now 31"),
    ]


@dataclass
class Kept:
    """Runs over made-up users, and the tables that they leave."""

    spark: SparkSession
    settings: Settings
    monkeypatch: pytest.MonkeyPatch

    def run(self, day: int, **users: float) -> None:
        """A run whose newest event is at the beginning of a day; of each user the number x."""
        rows = self.spark.createDataFrame(list(users.items()), "user_id string, x double")
        made = rows.withColumns({"at": F.timestamp_micros(F.lit(day * DAY)), "recency": F.lit(1.0)})
        self.monkeypatch.setattr(user_frame, "known", lambda *_: People(made, day * DAY))
        assign_tags.run(self.spark, self.settings)

    def rows(self) -> list[Told]:
        """Of user_tags."""
        return told(USER_TAGS.read(self.spark, self.settings.paths))

    def versions(self) -> list[int]:
        """Commits of both tables."""
        return [commits.version(self.spark, table, self.settings.paths) for table in (USER_GROUPS, USER_TAGS)]


@pytest.fixture
def kept(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """In a warehouse of its own, with the one tag `lively`."""
    (tmp_path / "tags.toml").write_text(GROUPS + LIVELY)
    names = {"paths.warehouse": "warehouse", "paths.checkpoints": "checkpoints", "serve.tags.file": "tags.toml"}
    given = [f"{key}={tmp_path / name}" for key, name in names.items()]
    return Kept(spark, settings_module.load(str(ROOT / "conf" / "demo.toml"), given), monkeypatch)


def test_a_run_that_broke_off_is_finished_and_one_that_changes_nothing_makes_no_commit(kept: Kept) -> None:
    kept.run(0, a=12.0, b=1.0)
    merge = commits.merge

    def breaks(rows: Any, table: Any, *given: Any, **more: Any) -> Any:
        if table == USER_TAGS:
            raise RuntimeError("killed")
        return merge(rows, table, *given, **more)

    with kept.monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(commits, "merge", breaks)
        kept.run(1, a=3.0, b=12.0)
    assert kept.versions() == [2, 1]
    for _ in range(2):
        kept.run(1, a=3.0, b=12.0)
        assert kept.rows() == [("a", "lively", 0, 1, "lost", "x is 12"), ("b", "lively", 1, None, None, "x is 12")]
        assert kept.versions() == [2, 2]


def test_a_user_who_is_no_more_has_no_group_and_no_tag_and_the_newest_time_may_fall(kept: Kept) -> None:
    kept.run(2, a=12.0, b=11.0)
    kept.run(1, a=9.0)
    assert kept.rows() == [("a", "lively", 2, 2, "lost", "x is 12"), ("b", "lively", 2, 2, "lost", "x is 11")]
    since, at = (datetime(1970, 1, day) for day in (3, 2))
    fields = (1.0, 9.0, 90.0, 5, 1, 1, "best", "silver", since, "2026-01", at)
    assert [tuple(row) for row in USER_GROUPS.read(kept.spark, kept.settings.paths).collect()] == [("a", *fields)]


def test_an_expression_that_fails_on_a_row_is_told_with_the_file(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "tags.toml").write_text(GROUPS + LIVELY.replace("x > 10", "x / (x - 12) > 1"))
    with pytest.raises(BadSettings, match=r"fails on a user's row: \[DIVIDE_BY_ZERO\]") as told:
        kept.run(0, a=12.0)
    assert told.value.where == str(tmp_path / "tags.toml")


def test_fifths_are_those_of_a_count_but_for_values_next_to_a_border(spark: SparkSession) -> None:
    """Of 500 buyers, most of whom bought once, and a user who bought nothing; in 1 and in 7 partitions."""
    rows: list[tuple[str, float | None, float, float]] = [("none", None, 0.0, -5.0)]
    for n in range(500):
        rows.append((f"u{n}", float(n * 37 % 211), float(1 + n % 9 // 5 * n % 13), 1.03 ** (n * 7 % 500) - 20))
    made = spark.createDataFrame(rows, "user_id string, recency_days double, frequency double, money double")
    found = [
        {row["user_id"]: row.asDict() for row in rfm.with_quintiles(made.repartition(parts)).collect()}
        for parts in (1, 7)
    ]
    assert found[0] == found[1]
    assert [found[0]["none"][fifth] for fifth in rfm.QUINTILES] == [None, None, None]
    buyers = [row for row in found[0].values() if row["user_id"] != "none"]
    for fifth, name in rfm.QUINTILES.items():
        values = sorted(row[name] for row in buyers)
        borders = [values[len(values) * n // 5 - 1] for n in (1, 2, 3, 4)]
        for row in buyers:
            value = row[name]
            below = sum(border < value for border in borders)
            is_near = any(abs(border - value) <= 0.045 * abs(border) and border != value for border in borders)
            want = 5 - below if name == "recency_days" else 1 + below
            assert row[fifth] == want or is_near, (name, value, borders)
        assert {row[fifth] for row in buyers} >= {1, 3, 5}


TIERS = {"bronze": Tier(enter=10, leave=5), "silver": Tier(enter=20, leave=12), "gold": Tier(enter=40, leave=30)}
STEPS = st.lists(st.floats(0, 1), min_size=1, max_size=8)
BANDS = [(tier.leave, tier.enter) for tier in TIERS.values()]


def _tier(points: float, earlier: str | None) -> str | None:
    """The highest tier that is entered, or kept."""
    names = list(TIERS)
    rank = -1 if earlier is None else names.index(earlier)
    fits = [n for n, t in enumerate(TIERS.values()) if points >= t.enter or (rank >= n and points >= t.leave)]
    return names[max(fits)] if fits else None


@hypothesis_settings(max_examples=3, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), STEPS), min_size=50, max_size=80))
def test_points_that_wander_between_the_borders_of_a_tier_never_change_it(
    _session: SparkSession, walks: list[tuple[int, list[float]]]
) -> None:
    """Each walk lies between the borders of one tier, after a first step anywhere; fifty walks are one query."""
    rows = []
    for band, steps in walks:
        leave, enter = BANDS[band]
        between = [min(leave + step * (enter - leave), enter - 1e-9) for step in steps]
        rows.append(([steps[0] * 50, *between],))
    points = _session.createDataFrame(rows, "points array<double>")
    start = F.array(F.lit(None).cast("string"))

    def step(path: Any, value: Any) -> Any:
        return F.concat(path, F.array(rfm.tier(value, F.element_at(path, -1), TIERS)))

    for row in points.select("points", F.aggregate("points", start, step).alias("tiers")).collect():
        naive: list[str | None] = [None]
        for value in row["points"]:
            naive.append(_tier(value, naive[-1]))
        assert row["tiers"] == naive
        assert len(set(row["tiers"][2:])) == 1


def test_every_place_among_the_fifths_has_a_name(spark: SparkSession) -> None:
    shipped = tag_declaration.load(str(ROOT / "conf" / "tags.toml"), {}).groups.rfm
    rows = spark.createDataFrame(list(product(range(1, 6), repeat=3)), list(rfm.QUINTILES))
    named = {tuple(row)[:3]: row["rfm"] for row in rows.withColumn("rfm", rfm.segment(shipped)).collect()}
    assert set(named.values()) == set(shipped)
    places = (5, 5, 5), (1, 5, 5), (5, 1, 1), (3, 3, 3), (2, 3, 1), (2, 1, 1), (1, 1, 1)
    assert [named[place] for place in places] == [
        "champions", "cannot_lose", "new", "loyal", "at_risk", "hibernating", "lost",
    ]  # fmt: skip


SHIPPED = (ROOT / "conf" / "tags.toml").read_text()


@pytest.mark.parametrize(
    ("was", "becomes", "flags", "key", "words"),
    [
        ("social.reviews >= 3", "social.review >= 3", [], "tags.reviewer.where", "FIELD_NOT_FOUND"),
        ("social.reviews >= 3", "social.reviews", [], "tags.reviewer.where", "is a bigint"),
        ("concat('in ', basic.region)", "length(basic.region)", [], "tags.abroad.evidence", "is a int"),
        ("recency_quintile = 2", "recency_fifths = 2", [], "groups.rfm.hibernating", "UNRESOLVED_COLUMN"),
        ('"behavior.spent - ', '"behavior.types - ', [], "groups.money", "is not understood"),
        ("", "", ["derive.windows.enabled=false"], "tags.looks_only.where", "`features`"),
    ],
)  # fmt: skip
def test_a_wrong_expression_is_told_with_file_and_key_before_anything_is_read(
    spark: SparkSession, tmp_path: Path, was: str, becomes: str, flags: list[str], key: str, words: str
) -> None:
    assert was in SHIPPED
    file = tmp_path / "tags.toml"
    file.write_text(SHIPPED.replace(was, becomes, 1))
    settings = settings_module.load(str(ROOT / "conf" / "demo.toml"), [f"serve.tags.file={file}", *flags])
    with pytest.raises(BadSettings) as told:
        tag_checks.check(spark, settings)
    assert told.value.where == f"{file}, {key}" and words in str(told.value)
    assert not flags or "once derive.windows.enabled is true" in told.value.do
