"""Fit batch models of outcomes, such as boosted trees, to stored examples, and compare them with the linear models.

reads:  outcome_examples, outcome_models
writes: batch_models
"""

import argparse
import sys

from profilestream.base import console, job
from profilestream.base.session import open_session
from profilestream.learn.outcomes import batch_models


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session(batch_models.STEP, settings.spark.properties)
    batch_models.check(spark, settings)
    if args.check:
        return
    new = batch_models.run(spark, settings, rebuild=args.rebuild)
    for line in batch_models.summary(new):
        console.line(line)
    console.line(f"{batch_models.STEP}: {len(new):,} new versions in {batch_models.TABLE.path(settings.paths)}")


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    parser.add_argument("--rebuild", action="store_true", help="empty the table first")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
