"""Topics as a source without a broker: settings, secrets, and the comparison of read with available offsets."""

from pathlib import Path
from typing import Any

import pytest
from profilestream.base import settings
from profilestream.base.errors import BadSettings
from profilestream.base.settings import Kafka
from profilestream.capture.sources import kafka_client, kafka_gaps
from profilestream.capture.sources.kafka_client import Topic
from profilestream.capture.sources.kafka_gaps import Gap

CONFIG = """
[paths]
warehouse = "w"
checkpoints = "c"
[capture.sources.clicks]
mapping = "clicks.toml"
[capture.sources.clicks.kafka]
bootstrap_servers = "broker:9092"
topics = ["clicks"]
"""


def load(folder: Path, more: str = "") -> Kafka:
    config = folder / "settings.toml"
    config.write_text(CONFIG + more)
    kafka = settings.load(str(config), []).capture.sources["clicks"].kafka
    assert kafka is not None
    return kafka


def error_of(folder: Path, more: str) -> str:
    with pytest.raises(BadSettings) as raised:
        load(folder, more)
    return raised.value.what


def test_topics_are_read_from_their_start_and_only_committed_records(tmp_path: Path) -> None:
    kafka = load(tmp_path)
    assert (kafka.starting_offsets, kafka.isolation_level) == ("earliest", "read_committed")
    assert load(tmp_path, 'starting_offsets = { clicks = { "0" = 7 } }').starting_offsets == {"clicks": {"0": 7}}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('starting_offsets = "newest"', "kafka.starting_offsets"),
        ('starting_offsets = { clicks = { first = 7 } }', "partitions are numbers: ['first']"),
        ("max_offsets_per_trigger = 0", "kafka.max_offsets_per_trigger: Input should be greater than or equal to 1"),
        ('options = { "isolation.level" = "x" }', "capture sets these options itself: ['isolation.level']"),
        ('options = { "ssl.key.password" = "hunter2" }', "values of ['ssl.key.password'] are secret"),
        ('secrets = { "sasl.jaas.config" = "hunter2" }', 'write "env:NAME" or "file:/PATH" instead of the value'),
        ('secrets = { "sasl.jaas.config" = "file:hunter2" }', 'write "env:NAME" or "file:/PATH" instead of the value'),
        ('password = "hunter2"', "kafka.password: no such key"),
    ],
)  # fmt: skip
def test_an_invalid_setting_is_reported_without_values(tmp_path: Path, more: str, message: str) -> None:
    text = error_of(tmp_path, more)
    assert message in text and "hunter2" not in text


def test_a_secret_in_another_invalid_part_of_a_source_is_not_shown(tmp_path: Path) -> None:
    assert "hunter2" not in error_of(
        tmp_path, 'secrets = "hunter2"\n[capture.sources."a b"]\npath = "p"\nmapping = "m"'
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("[capture.sources.other]\nmapping = 'm'", "sources.other.path: path or kafka is required"),
        (
            "[capture.sources.other]\nmapping = 'm'\npath = 'p'\nkafka = { bootstrap_servers = 'b:1', topics = ['t'] }",
            "sources.other.path: path and kafka exclude each other",
        ),
    ],
)
def test_a_source_has_a_path_or_topics(tmp_path: Path, source: str, message: str) -> None:
    assert message in error_of(tmp_path, source)


def test_secrets_are_read_from_the_environment_and_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("from a file\n")
    monkeypatch.setenv("CLICKS_JAAS", "from the environment")
    kafka = load(
        tmp_path,
        'options = { "security.protocol" = "SASL_SSL" }\n'
        f'secrets = {{ "sasl.jaas.config" = "env:CLICKS_JAAS", "ssl.key.password" = "file:{tmp_path}/secret" }}',
    )
    assert kafka_client.connection_options(kafka, "here") == {
        "bootstrap.servers": "broker:9092",
        "isolation.level": "read_committed",
        "security.protocol": "SASL_SSL",
        "sasl.jaas.config": "from the environment",
        "ssl.key.password": "from a file",
    }
    assert "from the environment" not in repr(kafka) and "from a file" not in repr(kafka)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("env:NOT_SET", "the environment variable NOT_SET is not set"),
        ("file:/nowhere", "cannot read /nowhere: No such file or directory"),
    ],
)
def test_a_missing_secret_is_reported_by_its_reference(tmp_path: Path, reference: str, message: str) -> None:
    kafka = load(tmp_path, f'secrets = {{ "sasl.jaas.config" = "{reference}" }}')
    with pytest.raises(BadSettings, match=message):
        kafka_client.connection_options(kafka, "here")


def topic(*ranges: tuple[int, int], id: str = "a") -> Topic:
    return Topic(
        id,
        {str(n): earliest for n, (earliest, _) in enumerate(ranges)},
        {str(n): latest for n, (_, latest) in enumerate(ranges)},
    )


@pytest.mark.parametrize(
    ("next_offsets", "now", "gaps", "starts"),
    [
        pytest.param({"0": 5}, topic((5, 9)), [], {"0": 5}, id="records after the last one are available"),
        pytest.param({"0": 5}, topic((0, 5)), [], {"0": 5}, id="nothing new"),
        pytest.param({"0": 5, "1": 0}, topic((7, 9), (0, 3)), [(0, 5, 6, "retention")], {"0": 7, "1": 0}, id="old"),
        pytest.param({"0": 5}, topic((9, 9)), [(0, 5, 8, "retention")], {"0": 9}, id="all records are deleted"),
        pytest.param({"0": 5}, topic((0, 9), id="b"), [(0, 5, None, "recreated")], {"0": 0}, id="another id"),
        pytest.param({"0": 5}, topic((0, 3)), [(0, 5, None, "recreated")], {"0": 0}, id="an end before it"),
        pytest.param({"0": 5}, topic((0, 5), (0, 2)), [], {"0": 5, "1": 0}, id="an added partition"),
        pytest.param({"0": 5}, topic((0, 5), (2, 4)), [(1, 0, 1, "retention")], {"0": 5, "1": 2}, id="added, deleted"),
        pytest.param({"0": 5, "1": 3}, topic((0, 5)), [(1, 3, None, "removed")], {"0": 5}, id="a removed partition"),
    ],
)  # fmt: skip
def test_gaps_are_offsets_that_were_not_read_and_are_not_available(
    next_offsets: dict[str, int], now: Topic, gaps: list[Any], starts: dict[str, int]
) -> None:
    actual_gaps, actual_starts = kafka_gaps.compare({"t": next_offsets}, {"t": "a"}, {"t": now})
    assert actual_gaps == [Gap("t", *gap) for gap in gaps]
    assert actual_starts == {"t": starts}


def test_a_topic_that_the_settings_no_longer_name_is_a_gap() -> None:
    gaps, starts = kafka_gaps.compare({"t": {"0": 5}, "old": {"0": 2}}, {}, {"t": topic((0, 5))})
    assert (gaps, starts) == ([Gap("old", 0, 2, None, "removed")], {"t": {"0": 5}})
