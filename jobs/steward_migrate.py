"""Bring the stored tables to the columns of this version of the code; run it after an upgrade, while no job runs.

reads, writes: the logs of all tables; rows are not changed
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.steward import migrate


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    spark = open_session("steward_migrate", settings.spark.properties)
    if args.check:
        return
    found = migrate.changes(spark, settings) if args.dry_run else migrate.migrate(spark, settings)
    for change in found:
        print(change.text)
    print(f"{'tables that would change or be refused' if args.dry_run else 'changed tables'}: {len(found)}")


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    parser.add_argument("--dry-run", action="store_true", help="print what would change or be refused; write nothing")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
