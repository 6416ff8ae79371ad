"""Write the scores of all users by the models of outcomes, with reasons, as of the newest event.

reads:  published_outcome_models, else outcome_models; batch_models, customer_hours, events
writes: user_scores
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.serve.scores import user_scores


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session(user_scores.STEP, settings.spark.properties)
    user_scores.check(spark, settings)
    if not args.check:
        print(f"{user_scores.run(spark, settings):,} users have scores in {settings.paths.warehouse}/user_scores")


def main(argv: list[str]) -> int:
    return job.run(body, job.parser(__doc__), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
