"""Write the last days of users that differ from their earlier days, with reasons.

reads:  events
writes: unusual_activity
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.serve.scores import unusual_activity


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session(unusual_activity.STEP, settings.spark.properties)
    if not args.check:
        print(
            f"{unusual_activity.run(spark, settings):,} days are unusual in {settings.paths.warehouse}/unusual_activity"
        )


def main(argv: list[str]) -> int:
    return job.run(body, job.parser(__doc__), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
