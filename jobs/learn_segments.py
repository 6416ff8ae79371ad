"""Profiles to segments that move with every batch: groups of users who are alike, by incremental k-means.

reads:  the change feed of the profile table that derive.profiles declares, population_stats
writes: segments, user_segments, segment_descriptions, model_metrics, stage_batches
"""

import argparse
import sys

from profilestream import flow
from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.base.settings import Settings
from profilestream.learn import choose_k, describe_segments, segments
from pyspark.sql import SparkSession


def body(args: argparse.Namespace) -> None:
    if args.try_k and not args.check:
        return try_k(job.load(args), *args.try_k)
    flow.run_stage(args, segments.STAGE, describe)


def describe(spark: SparkSession, settings: Settings) -> None:
    describe_segments.run(spark, settings)
    print("\n".join(describe_segments.told(spark, settings)))


def try_k(settings: Settings, fewest: int, most: int) -> None:
    spark = open_session(segments.STAGE, settings.spark.properties)
    points = describe_segments.sampled(spark, settings)
    print(f"{len(points):,} users; cost 1 is the cost of one segment for all users\n   k   cost  silhouette")
    for one in choose_k.tried(points, range(fewest, most + 1), settings.learn.segments.seed):
        print(f"{one.k:>4}  {one.cost:.3f}  {one.silhouette:>10.3f}", flush=True)


def main(argv: list[str]) -> int:
    parser = job.stage_parser(__doc__, segments.STAGE)
    parser.add_argument(
        "--try-k", nargs=2, type=int, metavar=("FROM", "TO"),
        help="print cost and silhouette for each number of segments, over a sample of profiles; write nothing",
    )  # fmt: skip
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
