"""Reprocess rejected rows after a mapping was corrected; each row once.

reads:  rejected_events
writes: events, rejected_events, capture_batches
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.capture import capture_checks, ingest, reprocess


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    names = ingest.chosen_sources(settings, args.source)
    spark = open_session("capture_reprocess", settings.spark.properties)
    capture_checks.check_sources(spark, settings, names)
    if not args.check:
        for name in names:
            result = reprocess.run(spark, settings, name, args.rule)
            print(f"{name}: rejected rows reprocessed: {result.rows_in:,}, now clean: {result.rows_out:,}")


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    parser.add_argument("--source", help="one source of the settings; default: all sources")
    parser.add_argument("--rule", action="append", help="only rows rejected by this rule; repeatable")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
