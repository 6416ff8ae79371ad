"""serve_audience on a small table `users`: lists, changes, suppressed and erased users, crashes, invalid conditions."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from profilestream.base import commits, files
from profilestream.base.settings import Settings
from profilestream.base.tables import AUDIENCE_USERS
from profilestream.serve.audiences import audience_files
from profilestream.serve.plain_tables import users_table
from pyspark.sql import SparkSession

from jobs import serve_audience
from tests.builders import Shop

SPENT = {"a": 300.0, "b": 200.5, "c": 150.0, "d": 20.0, "e": None}
MEMBERS = "spent_net > 100"


class Export:
    """The job on the table `users` of a shop."""

    def __init__(self, spark: SparkSession, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.shop, self.spark, self.home, self._capsys = Shop(home), spark, home, capsys
        self.table = users_table.table(self.settings)

    @property
    def settings(self) -> Settings:
        """The settings of the shop."""
        return self.shop.settings()

    def set_users(self, spent: dict[str, float | None], **columns: Any) -> None:
        """Replace the rows of `users`: net spend by user, and equal other columns."""
        self.table.create(self.spark, self.settings.paths)
        commits.delete(self.spark, self.table, self.settings.paths, where="true")
        as_of = {"as_of": datetime(2026, 1, 1, tzinfo=UTC), "currency": "EUR"}
        rows = [{"user_id": f"shop:{user}", "spent_net": value, **as_of, **columns} for user, value in spent.items()]
        commits.append_untracked(self.spark, self.table.arrow_rows(rows), self.table, self.settings.paths)

    def run(self, *flags: str, name: str = "buyers") -> tuple[int, list[str]]:
        """Exit code, and the lines on both outputs; without flags the audience is MEMBERS."""
        self._capsys.readouterr()
        arguments = ["--config", str(self.shop.config()), "--name", name, *(flags or ("--where", MEMBERS))]
        code = serve_audience.main(arguments)
        output = self._capsys.readouterr()
        assert "Traceback" not in output.err
        return code, [line for line in (output.out + output.err).splitlines() if line]

    def lists(self, name: str = "buyers") -> tuple[str, str, str]:
        """The complete, the added and the removed list: the last letters of the ids."""
        path = self.home / "audiences" / f"{name}.csv"
        paths = (path, *(audience_files.change_list(path, change) for change in ("added", "removed")))
        complete, added, removed = ("".join(pl.read_csv(one)["user_id"].cast(str).str.slice(-1)) for one in paths)
        return complete, added, removed

    def stored(self, name: str = "buyers") -> dict[str, bool]:
        """The rows of `audience_users` of an audience: `is_delivered` by the last letter of the id."""
        rows = AUDIENCE_USERS.read(self.spark, self.settings.paths).where(f"audience = '{name}'").collect()
        return {row["user_id"][-1]: row["is_delivered"] for row in rows}


@pytest.fixture
def export(spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Export:
    """The users of SPENT, before the first export."""
    export = Export(spark, tmp_path, capsys)
    export.set_users(SPENT)
    return export


def _delivered(users: Iterable[str]) -> dict[str, bool]:
    return dict.fromkeys(users, True)


def test_three_exports_contain_the_changes_since_the_one_before(export: Export) -> None:
    path, settings = export.home / "audiences" / "buyers.csv", export.settings
    before = files.listing(export.spark, str(export.home))
    assert export.run("--where", MEMBERS, "--dry-run") == (0, [
        "3 users, 60.0% of all 5; spent_net 650.50 EUR", "since the last export: 3 added, 0 removed, 0 erased",
        "0 suppressed; suppression lists: 0 ids, 0 of users", f"dry run: nothing was written to {path}",
    ])  # fmt: skip
    assert files.listing(export.spark, str(export.home)).keys() == before.keys()

    assert export.run()[0] == 0
    assert (export.lists(), export.stored()) == (("abc", "abc", ""), _delivered("abc"))
    export.set_users({**SPENT, "b": 1.0, "d": 101.0})
    assert export.run()[1][:2] == [
        "3 users, 60.0% of all 5; spent_net 551.00 EUR", "since the last export: 1 added, 1 removed, 0 erased",
    ]  # fmt: skip
    assert (export.lists(), export.stored()) == (("acd", "d", "b"), _delivered("acd"))
    version = commits.version(export.spark, AUDIENCE_USERS, settings.paths)
    assert export.run()[0] == 0
    assert (export.lists(), export.stored()) == (("acd", "", ""), _delivered("acd"))
    assert commits.version(export.spark, AUDIENCE_USERS, settings.paths) == version

    assert export.run(name="others")[0] == 0
    assert (export.lists("others"), export.stored()) == (("acd", "acd", ""), _delivered("acd"))
    assert [name for name in os.listdir(path.parent) if name.startswith(".")] == []


def test_suppressed_users_are_never_exported_and_removed_once(export: Export) -> None:
    (export.home / "objections.csv").write_text("when,user_id\n2026,shop:a\n2026, shop:e \n2026,shop:unknown\n")
    pl.DataFrame({"user_id": ["shop:b", "shop:a"]}).write_parquet(export.home / "more.parquet")
    assert export.run()[0] == 0
    # Spark updates audience_users, as for a large audience.
    export.shop.extra_settings = "[stream]\nlocal_max_rows = 0\n"
    export.shop.extra_settings += '[serve.audience]\nsuppression = ["objections.csv", "more.parquet"]\n'
    assert export.run("--where", "true")[1][:3] == [
        "2 users, 40.0% of all 5; spent_net 170.00 EUR", "since the last export: 1 added, 2 removed, 0 erased",
        "3 suppressed; suppression lists: 4 ids, 3 of users",
    ]  # fmt: skip
    assert (export.lists(), export.stored()) == (("cd", "d", "ab"), _delivered("cd"))
    assert export.run("--where", "true")[0] == 0
    assert export.lists() == ("cd", "", "")


LISTS = {
    "missing.csv": (None, "there is no suppression list"),
    "list.txt": ("user_id\nshop:a\n", "is neither .csv nor .parquet"),
    "no_header.csv": ("shop:a\nshop:b\n", "has no column user_id"),
    "semicolons.csv": ("user_id;mail\nshop:a;x\n", "has no column user_id"),
    "empty.csv": ("", "it is damaged, or it is not a file of this format in UTF-8"),
    "long_row.csv": ("user_id,mail\nshop:a,x\nshop:b,x,y\n", "Row #3: Expected 2 columns, got 3"),
    "latin.csv": ("user_id\nshop:käthe\n".encode("latin-1"), "not a file of this format in UTF-8"),
    "text.parquet": ("user_id\nshop:a\n", "it is damaged"),
    "without_namespace.csv": ('user_id\nshop:a\nb\n""\n', "2 id(s) without a namespace, the first one in row 2"),
}


@pytest.mark.parametrize("flag", ["--check", "--dry-run"])
def test_a_missing_or_damaged_suppression_list_is_an_error_without_ids(export: Export, flag: str) -> None:
    for name, (content, message) in LISTS.items():
        if content is not None:
            (export.home / name).write_bytes(content.encode() if isinstance(content, str) else content)
        export.shop.extra_settings = f'[serve.audience]\nsuppression = ["{name}"]\n'
        code, lines = export.run("--where", "true", flag)
        assert code == 2 and message in lines[0] and "shop:" not in lines[0], lines


def test_an_erased_user_is_in_no_list_and_not_in_the_state(export: Export) -> None:
    assert export.run()[0] == 0
    commits.delete(export.spark, export.table, export.settings.paths, where="user_id = 'shop:b'")
    assert export.run()[1][1:4] == [
        "since the last export: 0 added, 0 removed, 1 erased", "0 suppressed; suppression lists: 0 ids, 0 of users",
        "erased users are in no list: replace the receiver's list by the complete one",
    ]  # fmt: skip
    assert (export.lists(), export.stored()) == (("ac", "", ""), _delivered("ac"))
    commits.delete(export.spark, AUDIENCE_USERS, export.settings.paths, where="user_id = 'shop:a'")
    commits.delete(export.spark, export.table, export.settings.paths, where="true")
    code, lines = export.run()
    assert (code, lines[0]) == (2, "failed: the table users has no rows")
    assert (export.lists(), export.stored()) == (("ac", "", ""), _delivered("c"))


def _crash(*_: object) -> None:
    raise KeyboardInterrupt


def test_after_a_crash_the_next_run_repeats_the_changes(
    export: Export, monkeypatch: pytest.MonkeyPatch, at_length: bool
) -> None:
    """The crashed run adds d and removes a; before the next run, d leaves again, e is added, and b is removed."""
    crashed_users = {**SPENT, "a": 0.0, "d": 101.0}
    next_users = {**crashed_users, "b": 0.0, "d": 0.0, "e": 500.0}
    replace, merge = os.replace, commits.merge
    merges: list[object] = []

    def crash_at_second_merge(*args: Any, **more: Any) -> Any:
        merges.append(args)
        return _crash() if len(merges) == 2 else merge(*args, **more)

    def crash_at_complete_list(source: Path, target: Path) -> None:
        _crash() if target.name == "between.csv" else replace(source, target)

    crashes = {
        "before": (audience_files, "write", _crash),
        "between": (os, "replace", crash_at_complete_list),
        "after": (commits, "merge", crash_at_second_merge),
    }
    names = [*crashes] if at_length else ["between"]
    for name in names:
        assert export.run(name=name)[0] == 0
    export.set_users(crashed_users)
    for name in names:
        module, function, crash = crashes[name]
        with monkeypatch.context() as patch:
            patch.setattr(module, function, crash)
            assert export.run(name=name)[0] == 130
        merges.clear()
        visible = {"before": ("abc", "abc", ""), "between": ("abc", "d", "a"), "after": ("bcd", "d", "a")}
        assert export.lists(name) == visible[name]
        assert export.stored(name) == {"a": False, "b": True, "c": True, "d": False}
    export.set_users(next_users)
    for name in names:
        assert export.run(name=name)[0] == 0
        assert (export.lists(name), export.stored(name)) == (("ce", "e", "abd"), _delivered("ce")), name


def test_tags_segments_and_lists_of_texts(export: Export) -> None:
    export.shop.extra_settings = '[serve.audience]\ncolumns = ["tags", "user_id"]\n'
    export.set_users({"a": 1.0}, tags=["-10%", "weekly"], segment="at weekends", rfm_segment="champions")
    for flags in (("--tag", "weekly"), ("--segment", "at weekends"), ("--segment", "champions")):
        out = str(export.home / "out" / "buyers.parquet")
        assert export.run(*flags, "--out", out)[1][0] == "1 users, 100.0% of all 1; spent_net 1.00 EUR"
        assert pl.read_parquet(out).rows() == [(["-10%", "weekly"], "shop:a")]
    code, lines = export.run("--tag", "monthly")
    assert (code, lines[0], lines[-1]) == (
        2,
        "failed: there is no tag 'monthly'",
        "  what to do: use one of: -10%, weekly",
    )
    assert export.run("--segment", "losers")[1][-1] == "  what to do: use one of: at weekends, champions"

    code, lines = export.run("--tag", "weekly")
    message = "failed: texts that a spreadsheet would run as formulas: 1 in tags, such as one with '-'"
    assert (code, lines[0]) == (2, message) and not (export.home / "audiences").exists()
    export.set_users({"a": 1.0}, tags=["10%", "weekly"])
    assert export.run("--tag", "weekly")[0] == 0
    assert (export.home / "audiences" / "buyers.csv").read_text() == '"tags","user_id"\n"10%|weekly","shop:a"\n'


CONDITIONS = {
    "spent_net >> > 1": "is not valid, line 1, character 14: [PARSE_SYNTAX_ERROR] Syntax error at or near '>'.",
    "true; DROP TABLE users": "is not valid, line 1, character 5: [PARSE_SYNTAX_ERROR] Syntax error at or near ';'.",
    "DROP TABLE users": "is not valid, line 1, character 12: [PARSE_SYNTAX_ERROR]",
    " ": "is not valid, line 1, character 2: [PARSE_EMPTY_STATEMENT]",
    "orders > 1 AND\n spent > 1": "is not valid, line 2, character 2: [UNRESOLVED_COLUMN",
    "spent_net": "is not valid: [DATATYPE_MISMATCH.FILTER_NOT_BOOLEAN]",
    "sum(spent_net) > 1": "is not valid: [INVALID_WHERE_CONDITION]",
    "EXISTS (SELECT 1)": "contains a subquery",
    "rand() < 0.5": "contains a function whose result can change",
    "reflect('java.lang.System', 'exit', 3) = 1": "contains a function whose result can change",
}


def test_an_invalid_condition_is_reported_with_its_position_and_the_columns(export: Export) -> None:
    for sql, message in CONDITIONS.items():
        code, lines = export.run("--where", sql, "--check")
        assert code == 2 and message in lines[0], lines
        assert "may use the columns user_id, first_seen, last_seen, orders, spent_net" in lines[-1], lines
    assert export.run("--where", "orders > 1", "--check") == (0, [])
    code, lines = export.run("--where", "cast(user_id AS INT) > 1")
    assert (code, lines[0]) == (
        2,
        "failed: the condition 'cast(user_id AS INT) > 1' fails on a row: CAST_INVALID_INPUT",
    )
    export.shop.extra_settings = '[serve.audience]\ncolumns = ["user_id", "mail"]\n'
    code, lines = export.run("--where", "orders > 1", "--check")
    assert (code, lines[0]) == (2, "failed: users has no columns ['mail']")
    assert lines[-1].startswith("  what to do: use some of user_id, first_seen, last_seen")
