"""A topic is captured exactly once under kills of the pipeline and of the broker; `make kafka-chaos` kills 20 times."""

from pathlib import Path

from pyspark.sql import SparkSession

from tests.flow import kafka_chaos


def test_tables_of_a_topic_are_those_of_an_undisturbed_run_after_kills(spark: SparkSession, tmp_path: Path) -> None:
    summary = kafka_chaos.run(spark, tmp_path, kills=2, seed=1)
    assert "'both': 1, 'broker': 1" in summary
