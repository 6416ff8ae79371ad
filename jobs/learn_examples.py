"""Training rows: features of users as of times, and labels, what they did from then on, once that is known.

reads:  user_hours, or what the settings name as the tiles of users; events
writes: training_examples
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.learn import leakage_check, training_examples


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session(training_examples.STAGE, settings.spark.properties)
    training_examples.check(spark, settings)
    if args.check:
        return
    if args.verify:
        rows = leakage_check.verify(spark, settings, args.verify)
        print(f"{rows:,} rows; as of {args.verify} times none knows what came then or later")
        return
    rows = training_examples.run(spark, settings, rebuild=args.rebuild)
    name = settings.learn.examples.set_name
    print(f"{rows:,} rows of the set {name} are in {settings.paths.warehouse}/{training_examples.NAME}")


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    instead = parser.add_mutually_exclusive_group()
    look = "only look for leaks: features of the stored rows again, as of so many times, from a log that ends there"
    instead.add_argument("--verify", type=int, metavar="TIMES", help=look)
    again = "empty the table first, with the rows of all sets"
    instead.add_argument("--rebuild", action="store_true", help=again)
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
