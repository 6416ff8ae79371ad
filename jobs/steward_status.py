"""Print the state of a warehouse: row accounting, rejected rows, alarms, tables, and commands to query them.

reads:  all tables
writes: nothing
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.steward import status


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session("steward_status", settings.spark.properties)
    if not args.check:
        status.show(spark, settings.paths, print)
        status.show_queries(spark, settings, print)


def main(argv: list[str]) -> int:
    return job.run(body, job.parser(__doc__), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
