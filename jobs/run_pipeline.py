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
    flow.check(spark, settings)
    if not args.check:
        flow.run(spark, settings, job.options(args))


def main(argv: list[str]) -> int:
    return job.run(body, job.stream_parser(__doc__), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
