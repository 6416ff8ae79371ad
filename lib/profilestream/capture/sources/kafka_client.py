"""What capture needs to know of topics in addition to Spark's connector: their ids, and their first and last offsets.

Kafka's AdminClient in the JVM reads it, with the options of the connector. Secret options are read here, when a run
connects; they are passed to the JVM through a socket and are in no file, log line or command line.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

from profilestream.base.errors import BadSettings, ProfilestreamError, SourceMissing, SourceUnavailable
from profilestream.base.jvm import java_class
from profilestream.base.settings import Kafka

# The connector writes offsets in this form: by topic, by number of the partition as text.
Offsets = dict[str, dict[str, int]]

_ADMIN = "org.apache.kafka.clients.admin"
# Of requests when a run starts; by default Kafka tries for a minute to reach a broker that does not exist.
_TIMEOUTS = {"default.api.timeout.ms": "15000", "request.timeout.ms": "10000"}


@dataclass(frozen=True)
class Topic:
    """A topic as its brokers describe it.

    Args:
        id: changes when the topic is created again.
        earliest: first available offset by partition.
        latest: the offset after the last record that can be read now, by partition.
    """

    id: str
    earliest: dict[str, int]
    latest: dict[str, int]


def connection_options(kafka: Kafka, where: str) -> dict[str, str]:
    """The options of Kafka's clients, with the values of secret options.

    Args:
        where: key of the settings, for errors.

    Raises:
        BadSettings: an environment variable or a file of a secret does not exist.
    """
    secrets = {name: _secret(reference, f"{where}.secrets") for name, reference in kafka.secrets.items()}
    own = {"bootstrap.servers": kafka.bootstrap_servers, "isolation.level": kafka.isolation_level}
    return {**kafka.options, **secrets, **own}


@contextmanager
def calls_not_logged() -> Iterator[None]:
    """No messages of Py4J during the block: at the level DEBUG, it logs the arguments of every call."""
    logger = logging.getLogger("py4j")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _secret(reference: str, where: str) -> str:
    kind, _, name = reference.partition(":")
    try:
        if kind == "env":
            return os.environ[name]
        with open(name) as file:
            return file.read().rstrip("\r\n")
    except KeyError:
        raise BadSettings(f"the environment variable {name} is not set", where=where, do="set it for the job") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text in UTF-8"
        raise BadSettings(f"cannot read {name}: {reason}", where=where, do="name a readable file") from None


def describe(spark: SparkSession, kafka: Kafka, where: str) -> dict[str, Topic]:
    """The topics of a source, by name.

    Raises:
        SourceMissing: there is no such topic.
        SourceUnavailable: the brokers cannot be reached, or refuse the client.
        BadSettings: an option is invalid, or a secret does not exist.
    """
    with _admin(spark, kafka, where) as admin:
        descriptions = _descriptions(spark, admin, kafka)
        partitions = {name: [int(one.partition()) for one in d.partitions()] for name, d in descriptions.items()}
        earliest = _offsets(spark, admin, kafka, partitions, "earliest")
        latest = _offsets(spark, admin, kafka, partitions, "latest")
        return {name: Topic(str(d.topicId()), earliest[name], latest[name]) for name, d in descriptions.items()}


def topic_ids(spark: SparkSession, kafka: Kafka, where: str) -> dict[str, str]:
    """The ids of the topics of a source, by name; raises as `describe`."""
    with _admin(spark, kafka, where) as admin:
        return {name: str(d.topicId()) for name, d in _descriptions(spark, admin, kafka).items()}


def _descriptions(spark: SparkSession, admin: Any, kafka: Kafka) -> dict[str, Any]:
    names = java_class(spark, "java.util.ArrayList")()
    for name in kafka.topics:
        names.add(name)
    descriptions = admin.describeTopics(names).allTopicNames().get()
    return {name: descriptions.get(name) for name in kafka.topics}


def _offsets(
    spark: SparkSession, admin: Any, kafka: Kafka, partitions: Mapping[str, list[int]], which: str
) -> dict[str, dict[str, int]]:
    """The earliest or latest offset by topic and partition; of committed records if only they are read."""
    spec = getattr(java_class(spark, f"{_ADMIN}.OffsetSpec"), which)()
    level = java_class(spark, "org.apache.kafka.common.IsolationLevel").valueOf(kafka.isolation_level.upper())
    options = java_class(spark, f"{_ADMIN}.ListOffsetsOptions")(level)
    topic_partition = java_class(spark, "org.apache.kafka.common.TopicPartition")
    keys = {name: {str(n): topic_partition(name, n) for n in numbers} for name, numbers in partitions.items()}
    requested = java_class(spark, "java.util.HashMap")()
    for by_partition in keys.values():
        for key in by_partition.values():
            requested.put(key, spec)
    offsets = admin.listOffsets(requested, options).all().get()
    return {
        name: {number: int(offsets.get(key).offset()) for number, key in by_partition.items()}
        for name, by_partition in keys.items()
    }


@contextmanager
def _admin(spark: SparkSession, kafka: Kafka, where: str) -> Iterator[Any]:
    options = java_class(spark, "java.util.HashMap")()
    with calls_not_logged():
        for name, value in {**_TIMEOUTS, **connection_options(kafka, where)}.items():
            options.put(name, value)
    try:
        admin = java_class(spark, f"{_ADMIN}.AdminClient").create(options)
        try:
            yield admin
        finally:
            admin.close()
    except Py4JJavaError as error:
        raise _explained(error, kafka, where) from None


def _explained(error: Py4JJavaError, kafka: Kafka, where: str) -> ProfilestreamError:
    """The error for a user; the text of the original one may contain values of options."""
    cause = error.java_exception
    while cause.getCause() is not None:
        cause = cause.getCause()
    name = str(cause.getClass().getSimpleName())
    topics = ", ".join(kafka.topics)
    if name == "UnknownTopicOrPartitionException":
        return SourceMissing(
            f"there is no topic {topics} on {kafka.bootstrap_servers}", where=f"{where}.topics",
            do="correct topics, or create the topic",
        )  # fmt: skip
    if name == "ConfigException":
        option = next((option for option in {**kafka.options, **kafka.secrets} if option in str(cause)), "")
        return BadSettings(
            f"Kafka does not accept the options {option or sorted({**kafka.options, **kafka.secrets})} "
            f"or bootstrap_servers = {kafka.bootstrap_servers!r}",
            where=where,
            do="correct the options; host names must be known, and values must be those of Kafka's documentation",
        )
    return SourceUnavailable(
        f"the brokers {kafka.bootstrap_servers} do not answer, or refuse the request ({name})", where=where,
        do=f"check the address, the options of security, and the permission to read and describe {topics}",
    )  # fmt: skip
