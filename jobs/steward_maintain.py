"""Maintain the tables: combine small files, and remove files, log entries and payloads that no reader needs.

reads:  all tables, the checkpoints
writes: all tables, without a change of rows; payloads of rejected_events become null
"""

import argparse
import sys
from datetime import UTC, datetime

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.steward import maintain


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    maintain.check(settings, args.table)
    if args.check:
        return
    spark = open_session("steward_maintain", settings.spark.properties)
    report = maintain.run(spark, settings, datetime.now(UTC), args.table, is_dry_run=args.dry_run)
    print(report.as_json() if args.json else report.as_text())


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    parser.add_argument("--dry-run", action="store_true", help="print what a run would do; change nothing")
    parser.add_argument("--table", action="append", default=[], metavar="NAME", help="only this table; repeatable")
    parser.add_argument("--json", action="store_true", help="JSON instead of text")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
