"""Examples of outcomes whose horizon has passed: features of users at weekly times, and labels from events after them.

reads:  customer_hours, or the table that the settings name as the tiles of customers; events
writes: outcome_examples
"""

import argparse
import sys

from profilestream.base import console, job
from profilestream.base.session import open_session
from profilestream.learn.outcomes import matured_examples


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session(matured_examples.STEP, settings.spark.properties)
    matured_examples.check(spark, settings)
    if args.check:
        return
    rows = matured_examples.run(spark, settings, rebuild=args.rebuild)
    console.line(f"{matured_examples.STEP}: {rows:,} new rows in {matured_examples.TABLE.path(settings.paths)}")


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    parser.add_argument("--rebuild", action="store_true", help="empty the table first")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
