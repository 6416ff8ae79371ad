"""Tiles of users -> user_features: one row a user, features as of the newest event.

reads:  user_hours, or what the settings name as the tiles of users; events
writes: user_features; stage_batches
"""

import argparse
import sys

from profilestream.base import job, stream
from profilestream.base.session import open_session
from profilestream.derive import user_features


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session("derive_windows", settings.spark.properties)
    user_features.check(spark, settings)
    if not args.check:
        stream.run(spark, user_features.queries(settings), settings, job.options(args))


def main(argv: list[str]) -> int:
    parser = job.stream_parser(__doc__)
    again = "empty the table and derive it from all events again"
    parser.add_argument("--rebuild", action="store_const", const=user_features.STAGE, default="", help=again)
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
