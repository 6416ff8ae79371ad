"""Profiles -> segments of users with similar behavior, by incremental k-means, updated with every micro-batch.

reads:  the change feed of the user profile table, population_stats
writes: segments, user_segments, segment_descriptions, model_metrics, stage_batches
"""

import argparse
import sys

from profilestream import flow
from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.base.settings import Settings
from profilestream.learn.segments import choose_k, describe_segments
from profilestream.learn.segments.segments_spec import SegmentsSpec
from pyspark.sql import SparkSession


def body(args: argparse.Namespace) -> None:
    if args.try_k and not args.check:
        return print_k_scores(job.load(args), *args.try_k)
    flow.run_stage(args, SegmentsSpec.stage_name(), describe)


def describe(spark: SparkSession, settings: Settings) -> None:
    describe_segments.run(spark, settings)
    for line in describe_segments.description_lines(spark, settings):
        print(line)


def print_k_scores(settings: Settings, min_k: int, max_k: int) -> None:
    spark = open_session(SegmentsSpec.stage_name(), settings.spark.properties)
    points = describe_segments.sample_points(spark, settings)
    print(f"{len(points):,} users; cost is relative to one segment for all users\n   k   cost  silhouette")
    for score in choose_k.score_each_k(points, range(min_k, max_k + 1), settings.learn.segments.seed):
        print(f"{score.k:>4}  {score.cost:.3f}  {score.silhouette:>10.3f}", flush=True)


def main(argv: list[str]) -> int:
    parser = job.stage_parser(__doc__, SegmentsSpec.stage_name())
    parser.add_argument(
        "--try-k", nargs=2, type=int, metavar=("FROM", "TO"),
        help="print cost and silhouette for each number of segments, over a sample of profiles; write nothing",
    )  # fmt: skip
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
