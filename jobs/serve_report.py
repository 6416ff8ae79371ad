"""Write one self-contained HTML page with charts of all tables.

reads:  all tables, the MLflow model registry
writes: serve.report.path, or report.html in the parent folder of the warehouse
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
    spark = open_session(write_report.STEP, settings.spark.properties)
    print(f"open in a browser: {write_report.run(spark, settings, args.out)}")


def main(argv: list[str]) -> int:
    parser = job.parser(__doc__)
    parser.add_argument("--out", default="", metavar="FILE", help="path of the page; overrides serve.report.path")
    job.add_language(parser)
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
