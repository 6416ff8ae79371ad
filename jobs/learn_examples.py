"""Training examples: features of users at times t, and labels from events at or after t once their horizon has passed.

reads:  user_hours, or the table that the settings name as the tiles of users; events
writes: training_examples
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.learn.examples import leakage_check, training_examples


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session(training_examples.STAGE, settings.spark.properties)
    training_examples.check(spark, settings)
    if args.check:
        return
    if args.verify:
        rows = leakage_check.verify_stored_examples(spark, settings, args.verify)
        print(f"{rows:,} rows; no leakage at {args.verify} times")
        return
    rows = training_examples.run(spark, settings, rebuild=args.rebuild)
    name = settings.learn.examples.set_name
    print(f"wrote {rows:,} rows of the set {name} to {settings.paths.warehouse}/{training_examples.NAME}")


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    modes = parser.add_mutually_exclusive_group()
    verify = "check the stored rows for leakage: recompute the features of this many times from a log that ends there"
    modes.add_argument("--verify", type=int, metavar="TIMES", help=verify)
    rebuild = "empty the table first, including the rows of all other sets"
    modes.add_argument("--rebuild", action="store_true", help=rebuild)
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
