"""One HTML page with plots of what is in the tables; it needs no network.

reads:  every table, the registry of MLflow
writes: report.html beside the warehouse, or as serve.report.path says
"""

import argparse
import sys

from profilestream.base import job
from profilestream.base.session import open_session
from profilestream.serve.report import write_report


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    if args.check:
        return
    spark = open_session(write_report.STAGE, settings.spark.properties)
    print(f"open in a browser: {write_report.run(spark, settings, args.out)}")


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    parser.add_argument("--out", default="", metavar="FILE", help="where the page goes, instead of serve.report.path")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
