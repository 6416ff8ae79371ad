"""All stages of the flow, in order, in one application.

reads:  the sources named in the settings
writes: every table
"""

import argparse
import sys

from profilestream import flow
from profilestream.base import job
from profilestream.base.session import open_session


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session("run_pipeline", settings.spark.properties)
    options = job.options(args)
    flow.check(spark, settings, options)
    if not args.check:
        flow.run(spark, settings, options)


def main(argv: list[str]) -> int:
    parser = job.stream_parser(__doc__)
    again = "empty the tables of a stage and derive them from all events again"
    parser.add_argument("--rebuild", choices=flow.derived_stages(), default="", help=again)
    parser.add_argument("--cascade", action="store_true", help="with --rebuild: the stages that follow it too")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
