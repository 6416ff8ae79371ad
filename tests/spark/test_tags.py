"""Tags gained, kept, lost and expired over runs of a few users; fifths and tiers against plain Python."""

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
from profilestream.base.settings import Settings
from profilestream.base.tables import USER_GROUPS, USER_TAGS
from profilestream.serve import declaration, groups, people, tags, tags_check
from profilestream.serve.declaration import Tier
from profilestream.serve.people import People
from pyspark.sql import Row, SparkSession
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
best = "recency_fifth = 5"
others = "recency_fifth >= 1"
[groups.loyalty]
points = "x"
tiers = { silver = { enter = 10, leave = 5 } }
"""
LIVELY = """
[tags.lively]
question = "Who is here?"
facet = "behaviour"
where = "x > 10"
evidence = "format_string('x is %.0f', x)"
"""


class Story:
    """Runs of serve_tags over made-up users, and what they leave."""

    def __init__(self, spark: SparkSession, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spark, self.home, self.monkeypatch = spark, home, monkeypatch
        self.rules = LIVELY

    @property
    def settings(self) -> Settings:
        """Those of the demo, in a warehouse of its own, with these rules."""
        (self.home / "tags.toml").write_text(GROUPS + self.rules)
        sets = {"paths.warehouse": "warehouse", "paths.checkpoints": "checkpoints", "serve.tags.file": "tags.toml"}
        given = [f"{key}={self.home / name}" for key, name in sets.items()]
        return settings_module.load(str(ROOT / "conf" / "demo.toml"), given)

    def run(self, day: int, **users: float | None) -> None:
        """A run whose newest event is at the beginning of a day; of each user the number x."""
        at = F.timestamp_micros(F.lit(day * DAY))
        rows = [(name, x and float(x), x and 1.0) for name, x in users.items()]
        made = self.spark.createDataFrame(rows, "user_id string, x double, recency double").withColumn("at", at)
        self.monkeypatch.setattr(people, "known", lambda *_: People(made, day * DAY))
        tags.run(self.spark, self.settings)

    def rows(self) -> list[tuple[Any, ...]]:
        """Of user_tags: user, tag, since and until as days, why it ended, the evidence."""
        stored = USER_TAGS.read(self.spark, self.settings.paths)
        days = [(F.unix_micros(name) / DAY).cast("int") for name in ("since", "until")]
        return sorted(map(tuple, stored.select("user_id", "tag", *days, "ended", "evidence").collect()))

    def versions(self) -> list[int]:
        """Commits of both tables."""
        return [commits.version(self.spark, table, self.settings.paths) for table in (USER_GROUPS, USER_TAGS)]


@pytest.fixture
def story(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    return Story(spark, tmp_path, monkeypatch)


def test_who_has_a_tag_keeps_it_while_it_stays_and_who_has_it_not_does_not_gain_it_so(story: Story) -> None:
    story.rules += 'stays = "x > 5"\n'
    story.run(0, a=12, b=7, c=None)
    assert story.rows() == [("a", "lively", 0, None, None, "x is 12")]
    story.run(1, a=7, b=7, c=11)
    assert story.rows() == [("a", "lively", 0, None, None, "x is 12"), ("c", "lively", 1, None, None, "x is 11")]
    story.run(2, a=5, b=13, c=None)
    assert story.rows() == [
        ("a", "lively", 0, 2, "lost", "x is 12"),
        ("b", "lively", 2, None, None, "x is 13"),
        ("c", "lively", 1, 2, "lost", "x is 11"),
    ]
    stored = USER_TAGS.read(story.spark, story.settings.paths)
    have = [
        {row["user_id"] for row in tags.held(stored, F.timestamp_micros(F.lit(at))).collect()}
        for at in (-1, 0, DAY, 2 * DAY - 1, 2 * DAY)
    ]
    assert have == [set(), {"a"}, {"a", "c"}, {"a", "c"}, {"b"}]


def test_a_tag_rests_after_its_end_and_one_that_expired_waits_until_its_condition_was_false(story: Story) -> None:
    story.rules = LIVELY.replace("lively", "rests") + 'cool_down = "3d"\n' + LIVELY.replace("lively", "brief")
    story.rules += 'expires = "2d"\n'
    x = {0: 12, 1: 4, 2: 12, 3: 13, 5: 14, 6: 15, 7: 4, 8: 16, 20: 3}
    seen = {}
    for day, value in x.items():
        story.run(day, a=value)
        seen[day] = story.rows()
    first = [("a", "brief", 0, 1, "lost", "x is 12"), ("a", "rests", 0, 1, "lost", "x is 12")]
    assert seen[1] == first
    assert seen[3] == sorted([*first, ("a", "brief", 2, None, None, "x is 12")])
    expired = [*first, ("a", "brief", 2, 4, "expired", "x is 12"), ("a", "rests", 5, None, None, "x is 14")]
    assert seen[5] == seen[6] == sorted(expired)
    over = [*first, ("a", "brief", 2, 4, "over", "x is 12"), ("a", "rests", 5, 7, "lost", "x is 14")]
    assert seen[7] == sorted(over)
    assert seen[8] == sorted([*over, ("a", "brief", 8, None, None, "x is 16")])
    # Its time was up long before the run that found its condition false.
    assert seen[20] == sorted([*over, ("a", "brief", 8, 10, "over", "x is 16")])


def test_a_changed_rule_keeps_whom_it_holds_of_with_new_evidence_and_a_rule_that_is_gone_ends(story: Story) -> None:
    gone = LIVELY.replace("lively", "gone")
    story.rules = LIVELY + gone
    story.run(0, a=12, b=30)
    before = story.versions()
    story.rules = LIVELY.replace("Who is here?", "Who?") + gone
    story.run(0, a=12, b=30)
    assert story.versions() == before
    story.rules = LIVELY.replace("> 10", "> 20").replace("x is", "now")
    story.run(1, a=12, b=31)
    assert story.rows() == [
        ("a", "gone", 0, 1, "lost", "x is 12"),
        ("a", "lively", 0, 1, "lost", "x is 12"),
        ("b", "gone", 0, 1, "lost", "x is 30"),
        ("b", "lively", 0, None, None, "now 31"),
    ]


def test_a_run_that_changes_nothing_makes_no_commit_and_one_that_broke_off_is_finished(story: Story) -> None:
    story.run(0, a=12, b=1)
    merge = commits.merge

    def breaks(rows: Any, table: Any, *given: Any, **more: Any) -> Any:
        if table == USER_TAGS:
            raise RuntimeError("killed")
        return merge(rows, table, *given, **more)

    with story.monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(commits, "merge", breaks)
        story.run(1, a=3, b=12)
    assert story.versions() == [2, 1]
    story.run(1, a=3, b=12)
    assert story.rows() == [("a", "lively", 0, 1, "lost", "x is 12"), ("b", "lively", 1, None, None, "x is 12")]
    assert story.versions() == [2, 2]
    story.run(1, a=3, b=12)
    assert story.versions() == [2, 2]


def test_a_user_who_is_no_more_has_no_group_and_no_tag_and_the_newest_time_may_fall(story: Story) -> None:
    story.run(2, a=12, b=11)
    story.run(1, a=12)
    assert story.rows() == [("a", "lively", 2, None, None, "x is 12"), ("b", "lively", 2, 2, "lost", "x is 11")]
    kept = USER_GROUPS.read(story.spark, story.settings.paths).collect()
    since, at = (datetime(1970, 1, day) for day in (3, 2))
    fields = (1.0, 12.0, 120.0, 5, 1, 1, "best", "silver", since, "2026-01", at)
    assert kept == [Row(**dict(zip(USER_GROUPS.columns, ("a", *fields), strict=True)))]


def test_an_expression_that_fails_on_a_row_is_told_with_the_file(story: Story) -> None:
    story.rules = LIVELY.replace("x > 10", "x / (x - 12) > 1")
    with pytest.raises(BadSettings, match=r"fails on a user's row: \[DIVIDE_BY_ZERO\]") as told:
        story.run(0, a=12)
    assert told.value.where == str(story.home / "tags.toml")


def test_fifths_are_those_of_a_count_but_for_values_next_to_a_border(spark: SparkSession) -> None:
    """Of 500 buyers, most of whom bought once, and a user who bought nothing; in 1 and in 7 partitions."""
    rows: list[tuple[str, float | None, float, float]] = [("none", None, 0.0, -5.0)]
    for n in range(500):
        rows.append((f"u{n}", float(n * 37 % 211), float(1 + n % 9 // 5 * n % 13), 1.03 ** (n * 7 % 500) - 20))
    made = spark.createDataFrame(rows, "user_id string, recency_days double, frequency double, money double")
    found = [
        {row["user_id"]: row.asDict() for row in groups.with_fifths(made.repartition(parts)).collect()}
        for parts in (1, 7)
    ]
    assert found[0] == found[1]
    assert [found[0]["none"][fifth] for fifth in groups.FIFTHS] == [None, None, None]
    buyers = [row for row in found[0].values() if row["user_id"] != "none"]
    for fifth, name in groups.FIFTHS.items():
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
        return F.concat(path, F.array(groups.tier(value, F.element_at(path, -1), TIERS)))

    for row in points.select("points", F.aggregate("points", start, step).alias("tiers")).collect():
        naive: list[str | None] = [None]
        for value in row["points"]:
            naive.append(_tier(value, naive[-1]))
        assert row["tiers"] == naive
        assert len(set(row["tiers"][2:])) == 1


def test_every_place_among_the_fifths_has_a_name(spark: SparkSession) -> None:
    shipped = declaration.load(str(ROOT / "conf" / "tags.toml"), {}).groups.rfm
    rows = spark.createDataFrame(list(product(range(1, 6), repeat=3)), list(groups.FIFTHS))
    named = {tuple(row)[:3]: row["rfm"] for row in rows.withColumn("rfm", groups.segment(shipped)).collect()}
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
        ("recency_fifth = 2", "recency_fifths = 2", [], "groups.rfm.hibernating", "UNRESOLVED_COLUMN"),
        ('"behaviour.spent - ', '"behaviour.types - ', [], "groups.money", "is not understood"),
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
        tags_check.check(spark, settings)
    assert told.value.where == f"{file}, {key}" and words in str(told.value)
    assert not flags or "once derive.windows.enabled is true" in told.value.do
