"""Print the state of a warehouse: stages, alerts, row accounting, rejected rows, alarms, tables, and query commands.

With --json or --watch: only stages, steps, models and alerts, from the exported metrics, without Spark. The exit code
is 4 if an alert of severity `warning` is active, and 5 if one is `critical`.

reads:  the exported metrics; without --json and --watch, all tables
writes: the state of the alerts
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.steward import operation_status, status


def body(args: argparse.Namespace) -> int:
    settings = job.load(args)
    if args.check:
        return 0
    if args.json or args.watch is not None:
        return operation_status.show(settings, seconds=args.watch, as_json=args.json)
    spark = open_session("steward_status", settings.spark.properties)
    status.show(spark, settings.paths, print)
    exit_code = operation_status.show(settings, is_optional=True)
    status.show_queries(spark, settings, print)
    return exit_code


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    parser.add_argument("--json", action="store_true", help="stages, steps, models and alerts as JSON, without Spark")
    watch = "the same as a table that is refreshed until Ctrl-C, every 2 seconds or as given"
    parser.add_argument("--watch", type=float, nargs="?", const=2.0, metavar="SECONDS", help=watch)
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
