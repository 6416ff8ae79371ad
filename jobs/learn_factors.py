"""Events to vectors of users and items that move with every batch, by a factorization of who did what with which item.

reads:  events
writes: factors, model_metrics, stage_batches
"""

import argparse
import sys

from profilestream.base import job, stream
from profilestream.base.session import open_session
from profilestream.learn import factors


def body(args: argparse.Namespace) -> None:
    settings = job.load(args)
    if not args.check:
        spark = open_session(factors.STAGE, settings.spark.properties)
        stream.run(spark, factors.queries(settings), settings, job.options(args))
        if args.sweep:
            print(f"swept over {factors.full_pass_now(spark, settings):,} events")


def main(argv: list[str]) -> int:
    parser = job.stream_parser(__doc__)
    parser.add_argument("--rebuild", action="store_const", const=factors.STAGE, default="", help="learn all anew")
    parser.add_argument("--sweep", action="store_true", help="then solve everything anew from the whole log")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
