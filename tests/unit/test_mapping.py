"""Validation of mappings when they are read, without Spark."""

import re
import tomllib
from pathlib import Path

import pytest
from profilestream.base.errors import BadSettings
from profilestream.capture import cleaning_rules, failing_rows, text_parsers
from profilestream.capture import mapping as mappings
from profilestream.capture.mapping import Mapping

from tests.builders import SHOP

CONF = Path(__file__).resolve().parents[2] / "conf" / "sources"


def refused(tmp_path: Path, text: str) -> BadSettings:
    path = tmp_path / "shop.toml"
    path.write_text(text)
    with pytest.raises(BadSettings) as raised:
        cleaning_rules.check_names(mappings.load(str(path)), str(path))
    assert raised.value.where == str(path)
    return raised.value


@pytest.mark.parametrize(
    ("pattern", "text", "zones"),
    [
        ("'LOG' yyyy-MM-dd HH:mm z", "LOG 2026-07-01 10:00 UTC", ("UTC",)),
        ("'LOG' yyyy-MM-dd HH:mm z", "LOG 2026-07-01 10:00 LOG", None),
        ("yyyy-MM-dd'T'HH:mm[:ss][.SSS]XXX", "2026-07-01T10:00:00.123+02:00", ("+02:00",)),
        ("MMM d yyyy h 'o''clock' a[ VV]", "Jul 1 2026 10 o'clock AM Europe/Berlin", ("Europe/Berlin",)),
        ("MMM d yyyy h 'o''clock' a[ VV]", "Jul 1 2026 10 o'clock AM", (None,)),
        ("MMM d yyyy h 'o''clock' a[ VV]", "Jul 1 2026 10 o'clock AM EST", None),
        ("dd.MM.yyyy HH:mm '['zzzz']'", "01.07.2026 10:00 [Pacific Standard Time]", None),
        ("dd.MM.yyyy HH:mm '['zzzz']'", "01.07.2026 10:00 [GMT+1]", ("GMT+1",)),
        ("yyyyMMddHHmmssZ", "20260701100000+0200", ("+0200",)),
        ("yyyy年M月d日 HH:mm[ O[ z", "2026年7月1日 10:00 gmt+8", ("gmt+8", None)),
    ],
)
def test_a_pattern_finds_the_zone_of_a_time(pattern: str, text: str, zones: tuple[str | None, ...] | None) -> None:
    match = re.search(text_parsers.time_regex(pattern), text)
    assert (match and match.groups()) == zones


def test_the_regex_of_a_pattern_is_fast_for_a_long_text() -> None:
    for text in ("1" * 100, "1" * 14 + "x" * 86, "a/" * 50):
        assert re.search(text_parsers.time_regex("yyyyMMddHHmmssSSSSSSVV"), text) is None


def test_only_an_error_of_java_can_be_caused_by_an_expression() -> None:
    job = "Job aborted due to stage failure: Task 0 in stage 1.0 failed 1 times: "
    for cause in ("java.lang.StackOverflowError", "java.lang.OutOfMemoryError: Java heap space",
                  "Cannot grow BufferHolder by size 9"):  # fmt: skip
        assert failing_rows.is_java_error(ValueError(job + cause))
    for cause in ("java.io.IOException: No space left on device", "java.io.FileNotFoundException: a.parquet",
                  "ExecutorLostFailure (executor 1 exited)", "o.a.spark.memory.SparkOutOfMemoryError"):  # fmt: skip
        assert not failing_rows.is_java_error(ValueError(job + cause))


def mapping_of(text: str) -> Mapping:
    return Mapping.model_validate(tomllib.loads(text))


@pytest.mark.parametrize("name", ["complete_journey", "online_retail", "otto", "rees46"])
def test_the_shipped_mappings_are_valid(name: str) -> None:
    mapping = mappings.load(str(CONF / f"{name}.toml"))
    cleaning_rules.check_names(mapping, name)
    assert {"event_type", "event_time"} <= mapping.columns.keys()


def test_all_invalid_keys_of_a_mapping_are_reported_in_one_error(tmp_path: Path) -> None:
    error = refused(
        tmp_path,
        'timezone = "Europe/Londn"\nuser_namespace = "a b"\nodd = 1\n'
        '[input]\nformat = "xml"\ncolumns = "a string"\nseparator = "||"\n'
        '[columns]\nevent_type = "a"\nuserid = "a"\n[bots]\nmax_events_per_minute = 0\n[reject.x]\nreason = "r"\n',
    )
    lines = error.what.splitlines()
    assert lines[0] == f"{tmp_path}/shop.toml has 8 invalid setting(s)"
    assert [line.split(": ")[0].strip() for line in lines[1:]] == [
        "input.separator", "input.format", "timezone", "user_namespace", "columns", "reject.x.when",
        "bots.max_events_per_minute", "odd",
    ]  # fmt: skip
    assert "  timezone: no such time zone; write a name such as Europe/London (got 'Europe/Londn')" in lines
    assert "  odd: no such key (got 1)" in lines
    assert lines[5].startswith(
        "  columns: not columns that can be set here: ['userid']; allowed: event_id, event_type, "
    )
    assert error.do == "correct the keys listed above"


def test_a_mapping_without_type_or_time_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, SHOP.replace('event_time = "at"\n', ""))
    assert "  columns: expressions are required for ['event_time'] (got " in error.what


@pytest.mark.parametrize(
    ("section", "column"),
    [
        ("[text]\nprice = ['trim']", "price"),
        ("[scale]\nitem_id = 2.0", "item_id"),
        ("[clip.item_id]\nmin = 0", "item_id"),
        ("[fill]\nuser_id = \"'u'\"", "user_id"),
        ("[fill]\nposition = \"'p'\"", "position"),
    ],
)
def test_a_cleaning_step_for_a_column_that_does_not_allow_it_is_refused(
    tmp_path: Path, section: str, column: str
) -> None:
    assert (
        f"not columns that can be set here: ['{column}']; allowed: " in refused(tmp_path, f"{SHOP}\n{section}\n").what
    )


@pytest.mark.parametrize(
    ("section", "rule"),
    [
        ("[reject.price_negative]\nwhen = 'price < 1'", "price_negative"),
        ("[reject.unparseable]\nwhen = 'price < 1'", "unparseable"),
        ("[reject.id_reused]\nwhen = 'price < 1'", "id_reused"),
        ("[reject.event_id_missing]\nwhen = 'price < 1'", "event_id_missing"),
        ("[fill]\nbrand = \"'b'\"\n[warn.filled_brand]\nwhen = 'price < 1'", "filled_brand"),
        ("[bots]\nmax_events_per_minute = 1\n[warn.bot_suspected]\nwhen = 'price < 1'", "bot_suspected"),
    ],
)
def test_a_rule_of_the_mapping_cannot_have_the_name_of_another_rule(tmp_path: Path, section: str, rule: str) -> None:
    error = refused(tmp_path, f"{SHOP}\n{section}\n")
    assert error.what == f"rule names that are already in use: ['{rule}']"
    assert error.do == "give the rules other names"


def test_event_types_of_the_mapping_extend_the_built_in_ones() -> None:
    assert mapping_of('event_types = ["refer"]\n' + SHOP).allowed_event_types == (*mappings.EVENT_TYPES, "refer")
