"""Events -> sessions: one row a session, exact however late an event is.

reads:  events
writes: sessions; stage_batches
"""

import argparse
import sys

from profilestream import flow
from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.derive import sessions


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session("derive_sessions", settings.spark.properties)
    sessions.check(spark, settings)
    if not args.check:
        flow.run_stage(spark, sessions.STAGE, settings, job.options(args))


def main(argv: list[str]) -> int:
    parser = job.stream_parser(__doc__)
    again = "empty the table and derive it from all events again"
    parser.add_argument("--rebuild", action="store_const", const=sessions.STAGE, default="", help=again)
    parser.add_argument("--cascade", action="store_true", help="with --rebuild: the stages that follow it too")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
