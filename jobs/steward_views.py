"""Write views.duckdb, with a view of each table for BI tools, and views.sql, which registers the tables in Spark.

reads:  the logs of all tables
writes: views.duckdb, views.sql
"""

import argparse
import sys

from profilestream.base import job
from profilestream.steward import warehouse_views


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    if args.check:
        warehouse_views.check(settings, args.out)
        return
    database, script, names = warehouse_views.write(settings, args.out)
    print(f"{len(names)} views: {database}\nstatements for a catalog of Spark: {script}")


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__, "conf/demo.toml")
    parser.add_argument(
        "--out", default="", metavar="FOLDER", help="folder of both files; default: the folder of the warehouse"
    )
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
