"""Events -> profiles: one row a user, kept up to date.

reads:  events
writes: the tables that derive.profiles declares, such as user_profiles; stage_batches
"""

import argparse
import sys

from profilestream.base import job, stream
from profilestream.base.session import open_session
from profilestream.derive import profiles


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session("derive_profiles", settings.spark.properties)
    profiles.check(spark, settings)
    if not args.check:
        stream.run(spark, profiles.queries(settings), settings, job.options(args))


def main(argv: list[str]) -> int:
    parser = job.stream_parser(__doc__)
    again = "empty the tables and derive them from all events again"
    parser.add_argument("--rebuild", action="store_const", const=profiles.STAGE, default="", help=again)
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
