"""Profiles to segments that move with every batch: groups of users who are alike, by incremental k-means.

reads:  the change feed of the profile table that derive.profiles declares, population_stats
writes: segments, user_segments, segment_descriptions, model_metrics, stage_batches
"""

import argparse
import sys

from profilestream.base import job, stream
from profilestream.base.session import open_session
from profilestream.learn import choose_k, describe_segments, segments


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session(segments.STAGE, settings.spark.properties)
    segments.check(spark, settings)
    if args.check:
        return
    if args.try_k:
        points = describe_segments.sampled(spark, settings)
        print(f"{len(points):,} users; cost is that of one segment for all = 1\n   k   cost  silhouette")
        for one in choose_k.tried(points, range(args.try_k[0], args.try_k[1] + 1), settings.learn.segments.seed):
            print(f"{one.k:>4}  {one.cost:.3f}  {one.silhouette:>10.3f}", flush=True)
        return
    stream.run(spark, segments.queries(settings), settings, job.options(args))
    describe_segments.run(spark, settings)
    print("\n".join(describe_segments.told(spark, settings)))


def main(argv: list[str]) -> int:
    parser = job.stream_parser(__doc__)
    parser.add_argument("--rebuild", action="store_const", const=segments.STAGE, default="", help="learn all anew")
    parser.add_argument(
        "--try-k", nargs=2, type=int, metavar=("FROM", "TO"),
        help="only tell cost and silhouette of so many segments, over a sample of profiles as they are now",
    )  # fmt: skip
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
