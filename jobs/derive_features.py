"""Events -> tiles: statistics per user, item and category, by the hour.

reads:  events
writes: the tables that derive.features declares, such as user_hours, item_hours, category_hours; stage_batches
"""

import argparse
import sys

from profilestream import flow
from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.derive import tiles


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session("derive_features", settings.spark.properties)
    tiles.check(spark, settings)
    if not args.check:
        flow.run_stage(spark, tiles.STAGE, settings, job.options(args))


def main(argv: list[str]) -> int:
    parser = job.stream_parser(__doc__)
    again = "empty the tables and derive them from all events again"
    parser.add_argument("--rebuild", action="store_const", const=tiles.STAGE, default="", help=again)
    parser.add_argument("--cascade", action="store_true", help="with --rebuild: the stages that follow it too")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
