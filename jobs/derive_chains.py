"""Changes of sessions -> decayed counts of what follows what, of all users and of each.

reads:  the change feed of sessions
writes: user_transitions, event_transitions; stage_batches
"""

import argparse
import sys

from profilestream.base import job, stream
from profilestream.base.session import open_session
from profilestream.derive import transitions


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session("derive_chains", settings.spark.properties)
    transitions.check(spark, settings)
    if not args.check:
        stream.run(spark, transitions.queries(settings), settings, job.options(args))


def main(argv: list[str]) -> int:
    parser = job.stream_parser(__doc__)
    again = "empty the tables and derive them from all sessions again"
    parser.add_argument("--rebuild", action="store_const", const=transitions.STAGE, default="", help=again)
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
