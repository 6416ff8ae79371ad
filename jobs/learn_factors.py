"""Events to vectors of users and items: a matrix factorization that is updated with every micro-batch.

reads:  events
writes: factors, model_metrics, stage_batches
"""

import argparse
import sys

from profilestream import flow
from profilestream.base import job
from profilestream.base.settings import Settings
from profilestream.learn import stage
from profilestream.learn.factors.factors_spec import FactorsSpec
from pyspark.sql import SparkSession


def body(args: argparse.Namespace) -> None:
    def full_passes(spark: SparkSession, settings: Settings) -> None:
        if args.full_pass:
            print(f"full pass over {stage.run_full_pass(spark, settings, FactorsSpec):,} events")

    flow.run_stage(args, FactorsSpec.stage_name(), full_passes)


def main(argv: list[str]) -> int:
    parser = job.stage_parser(__doc__, FactorsSpec.stage_name())
    parser.add_argument("--full-pass", action="store_true", help="afterwards, solve all vectors again from all events")
    return job.run(body, parser, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
