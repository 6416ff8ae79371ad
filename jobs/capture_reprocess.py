"""Rejected rows -> events, put through again after a mapping was mended; each row once.

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
    for name in names:
        capture_checks.one_source(spark, settings, name)
        if not args.check:
            done = reprocess.run(spark, settings, name, args.rule)
            print(f"{name}: {done.rows_in:,} rejected rows put through again, {done.rows_out:,} are clean now")


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    parser.add_argument("--source", help="one source of the settings; all when left out")
    parser.add_argument("--rule", action="append", help="only rows rejected by this rule; repeatable")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
