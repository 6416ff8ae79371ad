"""All stages and steps of the flow, in order, in one application.

reads:  the sources named in the settings
writes: every table
"""

import argparse
import sys

from profilestream import flow
from profilestream.base import job
from profilestream.base.session import open_session


def body(args: argparse.Namespace) -> None:
    settings, options = job.load(args), job.options(args)
    spark = open_session("run_pipeline", settings.spark.properties)
    flow.check(spark, settings, options)
    if not args.check:
        flow.run_with_summary(spark, settings, options)


def main(argv: list[str]) -> int:
    parser = job.stream_parser(__doc__)
    rebuild = "remove the checkpoint of a stage, empty its tables, and derive them again from all events"
    parser.add_argument("--rebuild", choices=flow.derived_stages(), default="", help=rebuild)
    job.add_cascade(parser)
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
