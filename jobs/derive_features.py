"""Events -> tiles: statistics per user, item and category, by the hour.

reads:  events
writes: the tables that derive.features declares, such as user_hours, item_hours, category_hours; stage_batches
"""

import argparse
import sys

from profilestream.base import job, stream
from profilestream.base.session import open_session
from profilestream.derive import tiles


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session("derive_features", settings.spark.properties)
    tiles.check(spark, settings)
    if not args.check:
        stream.run(spark, tiles.queries(settings), settings, job.options(args))


def main(argv: list[str]) -> int:
    parser = job.stream_parser(__doc__)
    again = "empty the tables and derive them from all events again"
    parser.add_argument("--rebuild", action="store_const", const=tiles.STAGE, default="", help=again)
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
